"""Image datasets that are downloaded once, checked by digest, and read without any library.

Contract: nothing is fetched unless `download=True`; a file is used only if its MD5 is the published one; with no
network the error says which file to put where.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

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
