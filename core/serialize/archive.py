"""The container of a .pth file, a zip whose records are stored as they are and begin on multiples of 64 bytes; and
files replaced at once.

Contract: a record goes out from the memory it is in and comes back into memory allocated at its own size, which the
file's size bounds: nothing is held twice, and no record is larger than the file. Reading checks names, bounds,
overlaps and checksums before it trusts a byte. Not here: what the records mean.
Source: PKWARE APPNOTE 6.3.9 (zip); caffe2/serialize/inline_container.cc (PyTorch's use of it).
"""

from __future__ import annotations

import io
import os
import secrets
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import CheckpointError

ALIGNMENT = 64
_UTF8, _STORED, _DATE = 0x0800, 0, 33  # flags; method; 1 January 1980: the same values make the same file
_LIMIT32 = 0xFFFFFFFF


# -- replacing a file at once ------------------------------------------------------------------------------------------


@contextmanager
def replaced(path: Any) -> Iterator[Any]:
    """A file to write, which takes the place of `path` when the block ends: before that, and if it fails, the old one
    stays.

    A process that is killed leaves the old file and `.NAME.XXXXXXXX.tmp` beside it.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    if target.exists() and not target.is_file():  # a pipe or a device: nothing to replace
        with open(target, "wb") as file:
            yield file
        return
    temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            os.chmod(temporary, target.stat().st_mode & 0o7777)
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if os.name == "posix":  # the new name is on the disk, too
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


# -- writing -----------------------------------------------------------------------------------------------------------


class Writer:
    """Records into a file object, front to back, without seeking. All names are under `root`."""

    def __init__(self, file: Any, root: str = "archive"):
        self.file, self.root = file, root
        self.position = 0
        self.directory: list[bytes] = []

    def add(self, name: str, data: Any) -> None:
        """One record, from anything that has contiguous bytes."""
        data = memoryview(data).cast("B")
        path, size, offset, checksum = f"{self.root}/{name}".encode(), data.nbytes, self.position, zlib.crc32(data)
        size32, offset32 = min(size, _LIMIT32), min(offset, _LIMIT32)
        long = struct.pack("<HHQQ", 1, 16, size, size) if size32 == _LIMIT32 else b""
        padding = -(offset + 30 + len(path) + len(long) + 4) % ALIGNMENT
        extra = long + struct.pack("<2sH", b"FB", padding) + bytes(padding)
        common = struct.pack("<5H3L", 45 if long else 20, _UTF8, _STORED, 0, _DATE, checksum, size32, size32)
        self._write(b"PK\3\4" + common + struct.pack("<2H", len(path), len(extra)) + path + extra)
        self._write(data)
        far = [size, size] if long else []
        far += [offset] if offset32 == _LIMIT32 else []
        extra = struct.pack(f"<HH{len(far)}Q", 1, 8 * len(far), *far) if far else b""
        lengths = struct.pack("<5H2L", len(path), len(extra), 0, 0, 0, 0, offset32)
        self.directory.append(b"PK\1\2" + struct.pack("<H", 45) + common + lengths + path + extra)

    def finish(self) -> None:
        """The directory, which makes the file whole."""
        start, count = self.position, len(self.directory)
        for entry in self.directory:
            self._write(entry)
        size, end = self.position - start, self.position
        if start >= _LIMIT32 or count >= 0xFFFF:
            self._write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start))
            self._write(struct.pack("<4sLQL", b"PK\6\7", 0, end, 1))
        count16 = min(count, 0xFFFF)
        self._write(
            struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count16, count16, min(size, _LIMIT32), min(start, _LIMIT32), 0)
        )

    def _write(self, data: Any) -> None:
        self.file.write(data)
        self.position += len(data)


# -- reading -----------------------------------------------------------------------------------------------------------


def length_of(file: Any) -> int:
    """Bytes of a seekable file."""
    here = file.tell()
    length = file.seek(0, io.SEEK_END)
    file.seek(here)
    return length


def read_exactly(file: Any, size: int, where: str) -> Any:
    """The next `size` bytes; the caller knows that the file has as many."""
    out = np.empty(size, dtype=np.uint8)
    view, done = out.data, 0
    while done < size:
        if hasattr(file, "readinto"):
            n = file.readinto(view[done:])
        else:
            piece = file.read(size - done)
            n = len(piece)
            view[done : done + n] = piece
        if not n:
            raise CheckpointError(
                f"{where}: expected {size} bytes, got {done}; the file is truncated: take another copy"
            )
        done += n
    return out


# what zipfile raises for a directory that makes no sense
_DAMAGED = (
    zipfile.BadZipFile,
    NotImplementedError,
    ValueError,
    EOFError,
    OSError,
    struct.error,
    IndexError,
    OverflowError,
)


class Reader:
    """The records of a zip, by name without the root."""

    def __init__(self, file: Any, where: str):
        self.file, self.where = file, where
        try:
            with zipfile.ZipFile(file) as z:
                entries = z.infolist()
        except _DAMAGED as error:
            raise CheckpointError(
                f"{where}: expected a whole zip archive, got a damaged one ({error}); take another copy"
            ) from error
        self._spans: dict[str, tuple[int, int, int]] = {}  # name -> start, size, checksum
        roots = {e.filename.partition("/")[0] for e in entries}
        if len(roots) != 1:
            raise CheckpointError(
                f"{where}: expected records under one folder, got {sorted(roots)[:5]}; no file of save or torch.save"
            )
        length, last, end = length_of(file), "the start of the file", 0
        for e in sorted(entries, key=lambda e: e.header_offset):
            start = self._start(e) if e.header_offset >= end else e.header_offset
            if e.header_offset < end or start + e.file_size > length:
                raise CheckpointError(
                    f"{where}: expected record {e.filename!r} between {last} and the end of the file at byte {length}, "
                    f"got bytes {e.header_offset} to {start + e.file_size}; take another copy"
                )
            name = e.filename.partition("/")[2]
            if name in self._spans:
                raise CheckpointError(
                    f"{where}: expected each record once, got {e.filename!r} twice; no file of save or torch.save"
                )
            last, end = f"{e.filename!r}", start + e.file_size
            self._spans[name] = (start, e.file_size, e.CRC)

    def _start(self, e: zipfile.ZipInfo) -> int:
        """Where a record's bytes begin, by its own header, which must agree with the directory."""
        where = f"{self.where}: record {e.filename!r}"
        if e.compress_type != _STORED or e.compress_size != e.file_size:
            raise CheckpointError(
                f"{where}: expected stored bytes, got compressed ones, as in a TorchScript program; save its "
                "state_dict() instead"
            )
        if e.flag_bits & 1:
            raise CheckpointError(f"{where}: expected plain bytes, got encrypted ones; decrypt the archive first")
        self.file.seek(e.header_offset)
        header = self.file.read(30)
        if len(header) < 30 or header[:4] != b"PK\3\4":
            raise CheckpointError(
                f"{where}: expected its header at byte {e.header_offset}, got other bytes; take another copy"
            )
        name_length, extra_length = struct.unpack("<2H", header[26:])
        name = self.file.read(name_length)
        if name != e.orig_filename.encode():
            raise CheckpointError(
                f"{where}: expected the same name in its header, got {name[:100]!r}; take another copy"
            )
        return e.header_offset + 30 + name_length + extra_length

    def __contains__(self, name: str) -> bool:
        return name in self._spans

    def span(self, name: str) -> tuple[int, int]:
        """Where a record starts in the file, and its bytes."""
        if name not in self._spans:
            raise CheckpointError(
                f"{self.where}: expected a record {name!r}, got none; the file is incomplete: take another copy"
            )
        return self._spans[name][:2]

    def read(self, name: str) -> Any:
        """A record's bytes (n,) uint8, checked against its checksum."""
        start, size = self.span(name)
        self.file.seek(start)
        data = read_exactly(self.file, size, f"{self.where}: record {name!r}")
        expected, got = self._spans[name][2], zlib.crc32(data)
        if got != expected:
            raise CheckpointError(
                f"{self.where}: record {name!r}: expected checksum {expected:08x}, got {got:08x}; the file is damaged: take another copy"
            )
        return data
