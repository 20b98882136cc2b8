"""The job's secret: made for one run, readable by its ranks, and nowhere else.

Contract: it is never on a command line, in an environment or in a log. The ranks get the path of a file that holds it
as 64 hexadecimal digits, and may open that file as often as they like.
On Linux it is never on a disk either: the file lives in memory and has no name, and /dev/fd/N opens what a rank has
inherited, each time from its start. Elsewhere it is a file of mode 0600 in a directory of mode 0700, gone at the end.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


def job_key() -> AbstractContextManager[tuple[str, tuple[int, ...]]]:
    """The path of a new key's file, and the descriptors that a rank must inherit to open it."""
    return _key_in_memory() if sys.platform == "linux" else _key_in_private_file()


@contextmanager
def _key_in_memory() -> Iterator[tuple[str, tuple[int, ...]]]:
    fd = os.memfd_create("lockstep-key", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, _new_key())
        # All ranks have the same file: none of them may change it for the others.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        yield f"/dev/fd/{fd}", (fd,)
    finally:
        os.close(fd)


@contextmanager
def _key_in_private_file() -> Iterator[tuple[str, tuple[int, ...]]]:
    with tempfile.TemporaryDirectory(prefix="lockstep-") as directory:  # of mode 0700
        path = os.path.join(directory, "key")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(_new_key())
        yield path, ()


def _new_key() -> bytes:
    return secrets.token_hex(32).encode()
