"""Image datasets that are downloaded once, checked by digest, and read without any library.

Contract: nothing is fetched unless `download=True`; a file is used only if its MD5 is the published one; with no
network the error says which file to put where.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from core import rng
from core._tensor import wrap
from core.errors import CoreError
from core.utils.data import Dataset


class DownloadError(CoreError, OSError, RuntimeError):
    """A file that is not here and could not be fetched, or is not what it should be."""


class MNIST(Dataset):
    """Handwritten digits: 60,000 images to train, 10,000 to test, 28 × 28, uint8. LeCun, Cortes & Burges 1998.

    `data` (N, 28, 28) uint8 and `targets` (N,) int64 are tensors; an item is (image, class), the image as (28, 28)
    uint8 or what `transform` makes of it.
    """

    mirrors = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    files = {  # (train, part) -> name, MD5
        (True, "images"): ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        (True, "labels"): ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
        (False, "images"): ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
        (False, "labels"): ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
    }

    def __init__(
        self, root: Any, train: bool = True, transform: Any = None, target_transform: Any = None, download: bool = False
    ):
        self.root, self.train, self.transform, self.target_transform = Path(root), train, transform, target_transform
        folder = self.root / type(self).__name__ / "raw"
        paths = [obtain(folder, *self.files[train, part], self.mirrors, download) for part in ("images", "labels")]
        self.data, self.targets = (wrap(read_idx(p)) for p in paths)
        self.targets = self.targets.long()

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image: Any = self.data[index]
        target: Any = int(self.targets[index])
        return (
            image if self.transform is None else self.transform(image),
            target if self.target_transform is None else self.target_transform(target),
        )

    def __len__(self) -> int:
        return len(self.data)


def obtain(folder: Path, name: str, md5: str, mirrors: tuple[str, ...], download: bool) -> Path:
    """The path of a file whose MD5 is right, fetched from the first mirror that has it."""
    path = folder / name
    if path.exists() and _md5(path.read_bytes()) == md5:
        return path
    if not download:
        state = "a file with another checksum" if path.exists() else "no file"
        raise DownloadError(f"dataset: expected {path} with MD5 {md5}, got {state}; pass download=True")
    failures = []
    for mirror in mirrors:
        try:
            with urllib.request.urlopen(mirror + name, timeout=30) as response:
                content = response.read()
        except (urllib.error.URLError, OSError, ValueError) as e:
            failures.append(f"{mirror}: {getattr(e, 'reason', e)}")
            continue
        if _md5(content) == md5:
            folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{name}.{os.getpid()}")
            partial.write_bytes(content)
            partial.replace(path)  # other processes see the whole file or none
            return path
        failures.append(f"{mirror}: expected MD5 {md5}, got {_md5(content)}")
    raise DownloadError(
        f"dataset: expected to download {name}, got {'; '.join(failures)}; without a network, put the file into {folder} by hand"
    )


def read_idx(path: Path) -> np.ndarray:
    """An IDX file, gzipped or not: two zero bytes, a type (8: uint8), the number of dimensions, their lengths (big-endian
    uint32), the data.
    """
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    ndim = raw[3] if len(raw) > 3 else 0
    shape = np.frombuffer(raw[4 : 4 + 4 * ndim], dtype=">u4").tolist()
    body = raw[4 + 4 * ndim :]
    if raw[:3] != b"\0\0\x08" or len(shape) != ndim or len(body) != int(np.prod(shape)):
        raise DownloadError(
            f"dataset: expected an IDX file of bytes, got {path} with header {raw[:4].hex()} and {len(body)} bytes of data"
        )
    return np.frombuffer(body, dtype=np.uint8).reshape(shape).copy()


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class FashionMNIST(MNIST):
    """Pictures of clothes in MNIST's form. Xiao, Rasul & Vollgraf 2017."""

    mirrors = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)
    files = {
        (True, "images"): ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        (True, "labels"): ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
        (False, "images"): ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
        (False, "labels"): ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
    }


class KMNIST(MNIST):
    """Cursive Japanese characters in MNIST's form. Clanuwat et al. 2018."""

    mirrors = ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",)
    files = {
        (True, "images"): ("train-images-idx3-ubyte.gz", "bdb82020997e1d708af4cf47b453dcf7"),
        (True, "labels"): ("train-labels-idx1-ubyte.gz", "e144d726b3acfaa3e44228e80efcd344"),
        (False, "images"): ("t10k-images-idx3-ubyte.gz", "5c965bf0a639b31b8f53240b1b52f4d7"),
        (False, "labels"): ("t10k-labels-idx1-ubyte.gz", "7320c461ea6c1c855c0b718fb2a4b134"),
    }


class CIFAR10(Dataset):
    """Colour photographs of 10 things: 50,000 to train, 10,000 to test, 32 × 32. Krizhevsky 2009.

    `data` is a uint8 array (N, 32, 32, 3), `targets` a list; an item is (array (32, 32, 3),
    class). Read from the binary version: no pickle.
    """

    mirrors = ("https://www.cs.toronto.edu/~kriz/",)
    archive = ("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")
    members = {True: [f"data_batch_{k}.bin" for k in range(1, 6)], False: ["test_batch.bin"]}
    label_bytes, label_at = 1, 0  # before each picture, and which of them is the class
    names = "batches.meta.txt"

    def __init__(
        self, root: Any, train: bool = True, transform: Any = None, target_transform: Any = None, download: bool = False
    ):
        self.root, self.train, self.transform, self.target_transform = Path(root), train, transform, target_transform
        path = obtain(self.root, *self.archive, self.mirrors, download)
        records = []
        with tarfile.open(path) as tar:
            found = {Path(m.name).name: m for m in tar.getmembers() if m.isfile()}
            for name in self.members[train]:
                records.append(
                    np.frombuffer(_member(tar, found, name), dtype=np.uint8).reshape(-1, self.label_bytes + 3072)
                )
            self.classes = _member(tar, found, self.names).decode().split()
        self.class_to_idx = {name: k for k, name in enumerate(self.classes)}
        rows = np.concatenate(records)
        self.targets = rows[:, self.label_at].astype(int).tolist()
        self.data = np.ascontiguousarray(rows[:, self.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image: Any = self.data[index]
        target: Any = self.targets[index]
        return (
            image if self.transform is None else self.transform(image),
            target if self.target_transform is None else self.target_transform(target),
        )

    def __len__(self) -> int:
        return len(self.data)


class CIFAR100(CIFAR10):
    """CIFAR-10's form with 100 classes."""

    archive = ("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8")
    members = {True: ["train.bin"], False: ["test.bin"]}
    label_bytes, label_at = 2, 1
    names = "fine_label_names.txt"


def _member(tar: tarfile.TarFile, found: dict[str, tarfile.TarInfo], name: str) -> bytes:
    file = tar.extractfile(found[name]) if name in found else None
    if file is None:
        raise DownloadError(f"dataset: expected {name} in the archive, got {', '.join(sorted(found))}")
    return file.read()


IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


def default_loader(path: Any) -> Any:
    """A PIL image in RGB."""
    from core.vision.transforms.functional import pil

    with open(path, "rb") as file:
        return pil("ImageFolder").open(file).convert("RGB")


class ImageFolder(Dataset):
    """root/CLASS/picture: an item is (PIL image, number of the class); classes are in alphabetical order."""

    def __init__(
        self,
        root: Any,
        transform: Any = None,
        target_transform: Any = None,
        loader: Any = default_loader,
        is_valid_file: Any = None,
    ):
        self.root, self.transform, self.target_transform, self.loader = Path(root), transform, target_transform, loader
        self.classes = sorted(p.name for p in self.root.iterdir() if p.is_dir()) if self.root.is_dir() else []
        if not self.classes:
            raise DownloadError(f"ImageFolder: expected a folder for each class in {root}, got none")
        self.class_to_idx = {name: k for k, name in enumerate(self.classes)}
        valid = is_valid_file or (lambda path: path.lower().endswith(IMAGE_EXTENSIONS))
        self.samples = [
            (str(p), k)
            for name, k in self.class_to_idx.items()
            for p in sorted((self.root / name).rglob("*"))
            if p.is_file() and valid(str(p))
        ]
        self.imgs = self.samples
        self.targets = [k for _, k in self.samples]

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, target = self.samples[index]
        image = self.loader(path)
        return (
            image if self.transform is None else self.transform(image),
            target if self.target_transform is None else self.target_transform(target),
        )

    def __len__(self) -> int:
        return len(self.samples)


class FakeData(Dataset):
    """Normal numbers as PIL images, the same for the same index; classes at random."""

    def __init__(
        self, size: int = 1000, image_size: Any = (3, 224, 224), num_classes: int = 10, transform: Any = None, target_transform: Any = None,
        random_offset: int = 0,
    ):  # fmt: skip
        self.size, self.image_size, self.num_classes = size, tuple(image_size), num_classes
        self.transform, self.target_transform, self.random_offset = transform, target_transform, random_offset

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"FakeData: expected an index from 0 to {len(self) - 1}, got {index}")
        with rng.fork_rng():
            rng.manual_seed(index + self.random_offset)
            picture = rng.randn(*self.image_size)
            target: Any = int(rng.randint(0, self.num_classes, size=(1,)).item())
        from core.vision.transforms.functional import to_pil_image

        image = to_pil_image(picture)
        return (
            image if self.transform is None else self.transform(image),
            target if self.target_transform is None else self.target_transform(target),
        )

    def __len__(self) -> int:
        return self.size
