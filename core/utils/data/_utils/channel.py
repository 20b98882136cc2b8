"""Messages between two processes of one machine: any object that can be pickled, arrays and tensors in shared memory.

A message is one frame: a table of lengths, the pickled object, and the bytes of its arrays out of band. A small frame
goes through the Unix socket as it is. A large one is written to an anonymous file in memory (memfd), of which only the
descriptor goes through the socket; the receiver maps each array and closes the descriptor. So no segment ever has a
name: whoever is killed, whenever, the kernel frees the memory, nothing stays in /dev/shm, and the size of /dev/shm (64
MiB in many containers) is no limit.
Both ends are the same program on the same machine; pickle is safe between them and nowhere else. Linux only.
"""

from __future__ import annotations

import ctypes
import functools
import io
import mmap
import os
import pickle
import select
import socket
import weakref
from collections import deque
from typing import Any

import numpy as np

from core._tensor import Tensor, wrap
from core.errors import MissingLibraryError

INLINE_BYTES = 16 << 10  # frames up to this go through the socket
_BULK_BYTES = 16 << 10  # arrays from this on are mapped one by one, so that keeping one keeps no other in memory
_ALIGN = 64

_open_channels: weakref.WeakSet[Channel] = weakref.WeakSet()


class Channel:
    """One end of a pair. The other end closed, or its process dead, reads as None."""

    def __init__(self, sock: socket.socket):
        self._sock = sock
        self._unsent: deque[Any] = deque()  # frames or descriptors that the socket had no room for
        _open_channels.add(self)

    def fileno(self) -> int:
        """The descriptor, for poll."""
        return self._sock.fileno()

    def send(self, message: Any) -> None:
        """Send, waiting for room. BrokenPipeError if nobody is there."""
        self._transmit(_pack(message), 0)

    def post(self, message: Any) -> None:
        """Send without waiting: what finds no room stays in `backlog` until `flush`. A dead receiver is no error."""
        self._unsent.append(_pack(message))
        self.flush()

    def flush(self) -> None:
        """Send what there is room for."""
        while self._unsent:
            try:
                self._transmit(self._unsent[0], socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                pass  # the reader of this channel learns of it when it receives
            self._unsent.popleft()

    @property
    def backlog(self) -> int:
        """How many messages wait for room."""
        return len(self._unsent)

    def _transmit(self, packed: bytearray | _Segment, flags: int) -> None:
        if isinstance(packed, _Segment):
            socket.send_fds(self._sock, [b"\0"], [packed.fd], flags)
            packed.close()
        else:
            self._sock.send(packed, flags)

    def receive(self) -> Any:
        """The next message, waiting for it; None if there will be none. (So None is no message.)"""
        frame = bytearray(INLINE_BYTES)
        space = socket.CMSG_SPACE(4)
        try:
            n, ancillary, flags, _ = self._sock.recvmsg_into([frame], space, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return None
        if not n:
            return None
        if flags & socket.MSG_CTRUNC:
            raise OSError("DataLoader: no file descriptor is free to receive a batch; raise the limit (ulimit -n)")
        if not ancillary:
            del frame[n:]
            return _unpack_frame(memoryview(frame))
        fd = int.from_bytes(ancillary[0][2][:4], "little")
        try:
            return _unpack_segment(fd)
        finally:
            os.close(fd)

    def hung_up(self) -> bool:
        """Whether the other end has said that it will send no more, whatever is still to be read."""
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        return bool(poll.poll(0))

    def end(self) -> None:
        """Say that nothing more will be sent."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other end is gone already

    def close(self) -> None:
        """Close this end and drop what was not sent."""
        _open_channels.discard(self)
        self._unsent.clear()
        self._sock.close()


def pair() -> tuple[Channel, socket.socket]:
    """Two ends: one for this process, and a socket to make the other `Channel` of, in the other process."""
    if not hasattr(os, "memfd_create"):
        raise MissingLibraryError(
            "DataLoader: expected Linux for num_workers > 0, got a system without memfd; use num_workers=0"
        )
    # whole messages, in order, and an end that is closed is seen
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(here), there


def _close_inherited() -> None:
    """In a forked child: let go of the parent's ends, or nobody would see when the parent dies."""
    for channel in list(_open_channels):
        channel.close()


os.register_at_fork(after_in_child=_close_inherited)

# -- frames ------------------------------------------------------------------------------------------------------------
#
#   u64 count | u64 length × count | part 0: the pickled object | part 1 … : bytes of arrays
#   parts begin at multiples of 64, in a segment those of 16 KiB and more at multiples of the page size


def _pack(message: Any) -> bytearray | _Segment:
    stream = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(message)
    parts = [stream.getbuffer(), *(b.raw() for b in buffers)]
    lengths = [p.nbytes for p in parts]
    table = np.array([len(parts), *lengths], dtype=np.uint64).tobytes()
    starts, end = _layout(lengths, bulk_align=_ALIGN)
    if end <= INLINE_BYTES:
        frame = bytearray(end)
        for start, part in zip((0, *starts), (memoryview(table), *parts)):
            frame[start : start + part.nbytes] = part
        return frame
    starts, _ = _layout(lengths, bulk_align=mmap.PAGESIZE)
    segment = _Segment()
    for start, part in zip((0, *starts), (memoryview(table), *parts)):
        segment.write(part, start)
    return segment


def _layout(lengths: list[int], bulk_align: int) -> tuple[list[int], int]:
    """Where each part begins, and where the last one ends."""
    starts, at = [], 8 * (1 + len(lengths))
    for n in lengths:
        align = bulk_align if n >= _BULK_BYTES else _ALIGN
        at = -(-at // align) * align
        starts.append(at)
        at += n
    return starts, at


def _unpack_frame(frame: memoryview) -> Any:
    count = int.from_bytes(frame[:8], "little")
    lengths = np.frombuffer(frame, dtype=np.uint64, count=count, offset=8).tolist()
    starts, _ = _layout(lengths, bulk_align=_ALIGN)
    head, *buffers = (frame[start : start + n] for start, n in zip(starts, lengths))
    return pickle.loads(head, buffers=buffers)


def _unpack_segment(fd: int) -> Any:
    count = int.from_bytes(os.pread(fd, 8, 0), "little")
    lengths = np.frombuffer(os.pread(fd, 8 * count, 8), dtype=np.uint64).tolist()
    starts, _ = _layout(lengths, bulk_align=mmap.PAGESIZE)
    head, *buffers = (
        _mapped(fd, start, n) if n >= _BULK_BYTES else bytearray(os.pread(fd, n, start))
        for start, n in zip(starts, lengths)
    )
    return pickle.loads(head, buffers=buffers)


class _Segment:
    """Memory without a name, held by its descriptor."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("lockstep-batch", os.MFD_CLOEXEC)

    def write(self, part: memoryview, at: int) -> None:
        """Copy bytes to a place: no page of the writer's is mapped for it."""
        part = part.cast("B")
        while part.nbytes:  # the kernel takes 2 GiB at most in one call
            n = os.pwrite(self.fd, part, at)
            part, at = part[n:], at + n

    def close(self) -> None:
        """Let go: the memory lives on in a mapping, or in a descriptor under way."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    __del__ = close


# -- arrays out of band ------------------------------------------------------------------------------------------------


class _Pickler(pickle.Pickler):
    """Pickles arrays and tensors of any dtype as (buffer, dtype, shape), without copying contiguous ones."""

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is Tensor and type(obj._a) is np.ndarray and not obj._requires_grad:
            return _tensor_from, _exported(obj._a)
        if kind is np.ndarray and not obj.dtype.hasobject:
            return _array_from, _exported(obj)
        return NotImplemented


def _exported(array: np.ndarray) -> tuple[pickle.PickleBuffer, np.dtype, tuple[int, ...]]:
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return pickle.PickleBuffer(flat.data), array.dtype, array.shape


def _array_from(buffer: Any, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    return np.ndarray(shape, dtype, buffer)


def _tensor_from(buffer: Any, dtype: np.dtype, shape: tuple[int, ...]) -> Tensor:
    return wrap(np.ndarray(shape, dtype, buffer))


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.restype = ctypes.c_int
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


def _mapped(fd: int, start: int, n: int) -> Any:
    """n bytes of a file as a writable buffer, unmapped when its last user is gone.

    Python's own mmap keeps a duplicate of the descriptor, so a few thousand batches kept by the user would use up all
    descriptors.
    """
    libc = _libc()
    flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
    address = libc.mmap(None, n, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, start)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(
            ctypes.get_errno(), f"DataLoader: cannot map {n} bytes of a batch: {os.strerror(ctypes.get_errno())}"
        )
    buffer = (ctypes.c_char * n).from_address(address)
    weakref.finalize(buffer, libc.munmap, address, n).atexit = False
    return buffer
