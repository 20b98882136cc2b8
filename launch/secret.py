"""The job's secret: readable by its ranks, and nowhere else.

Contract: it is never on a command line, in an environment or in a log. The ranks get the path of a file that holds it
as 64 hexadecimal digits, and may open that file as often as they like.
- On one host the launcher makes it for one run. On several each launcher derives it, for each run another, from a key
  that the user has brought to all of them: `--key-file`, made by `ddprun keygen`.
- On Linux the ranks' file is never on a disk: it lives in memory and has no name, and /dev/fd/N opens what a rank has
  inherited, each time from its start. Elsewhere, and where others start the ranks, it is a file of mode 0600 in a
  directory of mode 0700, gone at the end. (A launcher that is killed by kill -9 leaves it; it opens nothing any more.)
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from ddp.errors import WorldError


def new_key() -> bytes:
    return secrets.token_bytes(32)


def derived_key(key: bytes, run: str) -> bytes:
    """A run's own key: what a rank of yesterday's run knows opens no door of today's."""
    return hmac.digest(key, b"lockstep run\0" + run.encode(), hashlib.sha256)


def job_key(key: bytes) -> AbstractContextManager[tuple[str, tuple[int, ...]]]:
    """The path of a file that holds the key, and the descriptors that a rank must inherit to open it."""
    return _key_in_memory(key) if sys.platform == "linux" else key_in_private_file(key)


@contextmanager
def _key_in_memory(key: bytes) -> Iterator[tuple[str, tuple[int, ...]]]:
    fd = os.memfd_create("lockstep-key", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, key.hex().encode())
        # All ranks have the same file: none of them may change it for the others.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        yield f"/dev/fd/{fd}", (fd,)
    finally:
        os.close(fd)


@contextmanager
def key_in_private_file(key: bytes, parent: str | None = None) -> Iterator[tuple[str, tuple[int, ...]]]:
    with tempfile.TemporaryDirectory(prefix=".lockstep-", dir=parent) as directory:  # of mode 0700
        path = os.path.join(directory, "key")
        _write_new(path, key)
        yield path, ()


def read_key(path: str) -> bytes:
    """The 32 bytes in the user's key file. It must be for its owner's eyes only."""
    remedy = "make one with `ddprun keygen PATH` and copy it to all hosts, with its mode"
    try:
        with open(path, encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(66)  # 64 and a line end
    except (OSError, UnicodeDecodeError) as error:
        raise WorldError(f"--key-file: expected a readable key file, got {path!r}: {error}; {remedy}") from None
    if mode & 0o077:
        raise WorldError(
            f"--key-file: expected a file that only its owner can read, got mode {mode & 0o777:04o}; chmod 600 {path}"
        )
    return parse_key(text, f"--key-file {path}")


def parse_key(text: str, where: str) -> bytes:
    if not re.fullmatch("[0-9a-fA-F]{64}", text.strip()):
        raise WorldError(f"{where}: expected 64 hexadecimal digits, got something else; see `ddprun keygen`")
    return bytes.fromhex(text.strip())


def keygen(argv: Sequence[str]) -> int:
    """`ddprun keygen PATH`: a new key in a new file, whole or not at all. An existing file is never replaced."""
    parser = argparse.ArgumentParser(
        prog="ddprun keygen",
        description="Make a key for jobs on several hosts: 64 hexadecimal digits, in a file that only you can read. "
        "Copy it to all hosts (scp -p) and start with --key-file PATH.",
    )
    parser.add_argument("path", help="where the new file shall be")
    path = parser.parse_args(argv).path
    try:
        with tempfile.TemporaryDirectory(prefix=".keygen-", dir=os.path.dirname(path) or ".") as directory:
            whole = os.path.join(directory, "key")
            _write_new(whole, new_key())
            os.link(whole, path)  # unlike rename, refuses to replace
    except OSError as error:
        raise WorldError(f"keygen: expected to make a new file {path!r}, got: {error.strerror}") from None
    print(f"ddprun: {path} holds a new key, mode 0600; copy it to all hosts with scp -p", file=sys.stderr)
    return 0


def _write_new(path: str, key: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key.hex().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
