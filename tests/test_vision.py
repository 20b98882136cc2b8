"""core.vision: transforms against closed forms, models by shape and names, datasets from files made here, grids."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile

import numpy as np
import pytest

import core
from core.vision import datasets, models, transforms, utils
from core.vision.transforms import functional as F

PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def test_to_tensor_scales_bytes() -> None:
    x = transforms.ToTensor()(PICTURE)
    assert x.shape == (3, 4, 6) and x.dtype is core.float32
    np.testing.assert_allclose(x.numpy(), PICTURE.transpose(2, 0, 1) / np.float32(255))
    assert transforms.PILToTensor()(PICTURE).dtype is core.uint8 and transforms.ToTensor()(PICTURE[:, :, 0]).shape == (
        1,
        4,
        6,
    )


def test_geometry() -> None:
    x = F.as_tensor(PICTURE)
    assert F.hflip(x).equal(x.flip(-1)) and F.vflip(x).equal(x.flip(-2)) and F.crop(x, 1, 2, 2, 3).equal(x[:, 1:3, 2:5])
    assert (
        F.crop(x, -1, 0, 2, 6)[:, 0].sum() == 0
        and F.center_crop(x, 2).equal(x[:, 1:3, 2:4])
        and F.center_crop(x, 8).shape == (3, 8, 8)
    )
    assert F.pad(x, [1, 2]).shape == (3, 8, 8) and F.pad(x, 1, padding_mode="reflect")[0, 0, 0] == x[0, 1, 1]
    assert F.rotate(x, 180).equal(x.flip(-1, -2)) and F.resize(x, 2, "nearest").shape == (3, 2, 3)


def test_colour() -> None:
    x = core.rand(3, 4, 4)
    assert core.allclose(F.adjust_brightness(x, 0.5), x * 0.5) and core.allclose(F.adjust_contrast(x, 1.0), x)
    assert core.allclose(F.adjust_hue(x, 0.0), x, atol=1e-6) and core.allclose(
        F.adjust_hue(F.adjust_hue(x, 0.5), 0.5), x, atol=1e-5
    )
    gray = F.rgb_to_grayscale(x, 3)
    assert core.allclose(gray[0], gray[2]) and core.allclose(F.adjust_saturation(x, 0.0), gray)


def test_normalize_and_erase() -> None:
    x = core.rand(3, 4, 4)
    assert core.allclose(transforms.Normalize((0.5,) * 3, (0.25,) * 3)(x), (x - 0.5) / 0.25)
    assert transforms.RandomErasing(p=1.0)(x).shape == x.shape
    with pytest.raises(core.errors.DTypeError, match="float"):
        F.normalize(F.as_tensor(PICTURE), (0.5,), (0.5,))


def test_random_transforms_repeat_with_the_seed() -> None:
    chain = transforms.Compose([
        transforms.RandomCrop(4, padding=1), transforms.RandomHorizontalFlip(), transforms.RandomVerticalFlip(),
        transforms.ColorJitter(0.2, 0.2, 0.2, 0.1),
        transforms.RandomRotation(30), transforms.RandomGrayscale(0.5), transforms.RandomApply([transforms.Lambda(lambda x: x)], 0.5),
        transforms.RandomResizedCrop(4), transforms.ToTensor(),
    ])  # fmt: skip
    core.manual_seed(1)
    first = chain(PICTURE)
    core.manual_seed(1)
    assert chain(PICTURE).equal(first) and first.shape == (3, 4, 4)


def test_draws_are_torchvisions() -> None:
    """crop: row, then column; flip: one number."""
    core.manual_seed(5)
    top, left = int(core.randint(0, 3, (1,))), int(core.randint(0, 5, (1,)))
    core.manual_seed(5)
    assert transforms.RandomCrop.get_params(PICTURE, (2, 2)) == (top, left, 2, 2)


def test_pil_images() -> None:
    image = pytest.importorskip("PIL.Image").fromarray(PICTURE)
    assert transforms.ToTensor()(image).equal(transforms.ToTensor()(PICTURE)) and np.array(
        F.to_pil_image(F.to_tensor(image))
    ).shape == (4, 6, 3)
    assert np.array_equal(np.array(F.hflip(image)), PICTURE[:, ::-1]) and F.resize(image, (2, 3)).size == (3, 2)
    assert (
        F.rgb_to_grayscale(image).mode == "L"
        and F.adjust_brightness(image, 1.0).size == (6, 4)
        and F.pad(image, 1).size == (8, 6)
    )


@pytest.mark.parametrize(
    ("make", "size", "count", "key"),
    [
        (models.resnet18, 32, 11_689_512, "layer4.1.bn2.running_var"),
        (models.resnet50, 32, 25_557_032, "layer1.0.downsample.0.weight"),
        (models.mobilenet_v2, 32, 3_504_872, "features.18.1.running_mean"),
    ],
)
def test_models_have_torchvisions_parameters(make, size, count, key) -> None:
    m = make().eval()
    assert sum(p.numel() for p in m.parameters()) == count and key in m.state_dict()
    with core.no_grad():
        assert m(core.zeros(1, 3, size, size)).shape == (1, 1000)
    with pytest.raises(core.errors.ArgumentError, match="load_state_dict"):
        make(weights="DEFAULT")


def test_vision_transformer_and_lenet() -> None:
    m = models.VisionTransformer(32, 16, 2, 2, 32, 64, num_classes=7)
    assert (
        m(core.zeros(2, 3, 32, 32)).shape == (2, 7) and "encoder.layers.encoder_layer_1.mlp.3.weight" in m.state_dict()
    )
    assert models.LeNet()(core.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_grid_and_file(tmp_path) -> None:
    x = core.rand(5, 1, 4, 4)
    grid = utils.make_grid(x, nrow=3)
    assert grid.shape == (3, 14, 20) and grid[:, 2:6, 2:6].equal(x[0].repeat(3, 1, 1)) and grid[0, 0].sum() == 0
    assert float(utils.make_grid(x * 9, normalize=True).max()) == 1.0
    if pytest.importorskip("PIL"):
        utils.save_image(x, tmp_path / "grid.png")
        assert (tmp_path / "grid.png").stat().st_size > 0


def test_cifar_from_an_archive(tmp_path, monkeypatch) -> None:
    records = np.random.default_rng(0).integers(0, 10, (3, 3073)).astype(np.uint8)
    files = {f"data_batch_{k}.bin": records.tobytes() for k in range(1, 6)} | {
        "test_batch.bin": records.tobytes(),
        "batches.meta.txt": b"cat\ndog\n",
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(stream.getvalue())
    with pytest.raises(datasets.DownloadError, match="checksum"):
        datasets.CIFAR10(tmp_path)
    monkeypatch.setattr(
        datasets.CIFAR10, "archive", ("cifar-10-binary.tar.gz", hashlib.md5(stream.getvalue()).hexdigest())
    )
    data = datasets.CIFAR10(tmp_path, transform=transforms.ToTensor())
    x, y = data[1]
    assert len(data) == 15 and x.shape == (3, 32, 32) and y == records[1, 0] and data.classes == ["cat", "dog"]
    np.testing.assert_array_equal(data.data[1].transpose(2, 0, 1).reshape(-1), records[1, 1:])


def test_fashion_mnist_from_files(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    images, labels = np.arange(2 * 28 * 28, dtype=np.uint8), np.array([3, 4], dtype=np.uint8)
    files = {}
    for part, a, shape in (("images", images, (2, 28, 28)), ("labels", labels, (2,))):
        raw = gzip.compress(bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes() + a.tobytes())
        (folder / f"{part}.gz").write_bytes(raw)
        files[True, part] = (f"{part}.gz", hashlib.md5(raw).hexdigest())
    monkeypatch.setattr(datasets.FashionMNIST, "files", files)
    x, y = datasets.FashionMNIST(tmp_path, transform=transforms.ToTensor())[1]
    assert x.shape == (1, 28, 28) and y == 4


def test_image_folder_and_fake_data(tmp_path) -> None:
    image = pytest.importorskip("PIL.Image").fromarray(PICTURE)
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "a.png")
    data = datasets.ImageFolder(tmp_path, transform=transforms.ToTensor())
    assert data.classes == ["cat", "dog"] and len(data) == 2 and data[1][1] == 1 and data[0][0].shape == (3, 4, 6)
    fake = datasets.FakeData(2, (3, 4, 4), transform=transforms.ToTensor())
    assert fake[1][0].equal(fake[1][0]) and len(fake) == 2
