"""Downloads: once, from whichever mirror works, and only what has the published checksum. The mirrors are folders here."""

import gzip
import hashlib

import numpy as np
import pytest

from core.vision import datasets
from core.vision.datasets import MNIST, DownloadError


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
    return gzip.compress(head + array.astype(np.uint8).tobytes(), mtime=0)


@pytest.fixture
def mirrors(tmp_path, monkeypatch):
    """Two mirrors, the first of which has nothing; a dataset of three images."""
    rng = np.random.default_rng(0)
    contents = {"images": idx(rng.integers(0, 256, (3, 28, 28))), "labels": idx(np.array([7, 2, 1]))}
    good, bad = tmp_path / "good", tmp_path / "bad"
    for folder in (good, bad):
        folder.mkdir()
    files = {}
    for part, content in contents.items():
        (good / f"{part}.gz").write_bytes(content)
        for train in (True, False):
            files[train, part] = (f"{part}.gz", hashlib.md5(content).hexdigest())
    monkeypatch.setattr(MNIST, "files", files)
    monkeypatch.setattr(MNIST, "mirrors", (f"{bad.as_uri()}/", f"{good.as_uri()}/"))
    return good, bad


def test_second_mirror_and_only_once(mirrors, tmp_path):
    good, _ = mirrors
    first = MNIST(tmp_path / "root", download=True)
    for f in good.iterdir():
        f.unlink()
    again = MNIST(tmp_path / "root", download=True)
    assert first.data.shape == (3, 28, 28) and len(again) == 3
    image, target = again[1]
    assert target == 2 and image.tolist() == first.data[1].tolist()
    assert again.targets.tolist() == [7, 2, 1]


def test_wrong_checksum_is_not_used(mirrors, tmp_path):
    good, bad = mirrors
    for f in good.iterdir():
        (bad / f.name).write_bytes(f.read_bytes()[:-1] + b"x")
    assert len(MNIST(tmp_path / "root", download=True)) == 3  # from the second
    for f in good.iterdir():
        f.unlink()
    with pytest.raises(DownloadError, match=r"expected MD5 .*, got .*"):
        MNIST(tmp_path / "other", download=True)
    assert not list((tmp_path / "other").rglob("*.gz"))


def test_offline_says_which_file_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", ("http://127.0.0.1:1/", "file:///nowhere/"))
    with pytest.raises(DownloadError, match=r"train-images-idx3-ubyte.gz, got .*without a network, put the file into .*raw by hand"):
        MNIST(tmp_path, download=True)
    with pytest.raises(DownloadError, match="got no file; pass download=True"):
        MNIST(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\0\0\x08", b"\0\0\x0d\x01\0\0\0\x01\0", b"\0\0\x08\x01\0\0\0\x05\0\0"])
def test_a_file_that_is_no_idx_file(content, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(DownloadError, match="expected an IDX file of bytes"):
        datasets.read_idx(path)
