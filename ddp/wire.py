"""The frame: what stands before the bytes of an array on a wire.

Contract: pure functions, no I/O. A header has a fixed size and every field is checked, so `unpack` either returns a
`Frame` of this job or raises `WireError`; nothing is allocated from a length before the length was checked, and no
object is ever built from received bytes but numbers, short ASCII texts and arrays of a dtype in `DTYPES`.

The header, little-endian, 128 bytes:

    0  magic "LKST"   4  version  5  kind  6  dtype  7  zero       8  job (16 bytes)
    24 generation     28 sender   32 group 36 CRC-32 of the rest   40 number   48 count   56 nbytes   64 counter
    72 peer           76 name (20 bytes)   96 detail (32 bytes)

The checksum finds accidents and bugs. Against malice stands the encrypted, authenticated connection below
(`transport.zeromq`).
"""

from __future__ import annotations

import enum
import hashlib
import struct
import zlib
from typing import NamedTuple

import numpy as np

from ddp.errors import WireError
from ddp.transport.base import DTYPES, Call

MAGIC = b"LKST"
VERSION = 1
HEADER_BYTES = 128
MAX_PAYLOAD_BYTES = 1 << 30
MAX_TEXT_BYTES = 2000

_HEADER = struct.Struct("<4sBBBx16sIIIIqQQQI20s32s")
_CRC = slice(36, 40)
_NO_CRC = bytes(4)

Buffer = bytes | bytearray | memoryview
_NAMES = list(DTYPES)
_CODES = {name: code for code, name in enumerate(_NAMES)}


class Kind(enum.IntEnum):
    DATA = 1  # an array, or a piece of one
    HELLO = 2  # the first frame of a connection
    GOODBYE = 3  # the last one: the sender closed in good order
    ABORT = 4  # the sender's job is over because of rank `peer`; call.detail is its sort, the payload its text
    WAITING = 5  # the sender has been in `call` for a while, waiting for rank `peer`; if that is itself, it goes on
    LENT = 6  # as DATA, but the nbytes are in block `peer` of the sender's shared memory, and the payload is empty
    SHARE = 7  # the ranks of one host agree on shared memory


class Frame(NamedTuple):
    kind: Kind
    sender: int
    call: Call
    counter: int  # how many frames this sender sent to this receiver before
    nbytes: int = 0  # of the payload
    generation: int = 0  # frames of an earlier generation are stale
    peer: int = 0  # a third rank that the frame is about


def job_id(job: str) -> bytes:
    """The 16 bytes that stand for a job's name."""
    return hashlib.sha256(b"lockstep job\0" + job.encode()).digest()[:16]


def pack(frame: Frame, job: bytes) -> bytes:
    """The header of a frame. Raises WireError for what `unpack` would not accept."""
    call = frame.call
    name, detail = call.name.encode(), call.detail.encode()
    if call.dtype not in _CODES:
        raise WireError(f"frame: expected a dtype of {', '.join(_NAMES)}, got {call.dtype!r}")
    if len(name) > 20 or len(detail) > 32 or not (name + detail).isascii():
        raise WireError(f"frame: expected a name of at most 20 ASCII letters and a detail of at most 32, got {call}")
    try:
        header = bytearray(
            _HEADER.pack(
                *(MAGIC, VERSION, frame.kind, _CODES[call.dtype], job, frame.generation, frame.sender, call.group, 0),
                *(call.number, call.count, frame.nbytes, frame.counter, frame.peer, name, detail),
            )
        )
    except struct.error as error:
        raise WireError(f"frame: expected numbers that fit their fields, got {frame}: {error}") from None
    _check_length(frame.nbytes, call.dtype)
    header[_CRC] = zlib.crc32(header).to_bytes(4, "little")
    return bytes(header)


def unpack(header: Buffer, job: bytes) -> Frame:
    """The frame that a header describes."""
    if len(header) != HEADER_BYTES:
        raise WireError(f"frame: expected a header of {HEADER_BYTES} bytes, got {len(header)}")
    header = bytes(header)
    magic, version, kind, dtype, sender_job, generation, sender, group, crc, *rest = _HEADER.unpack(header)
    number, count, nbytes, counter, peer, name, detail = rest
    if magic != MAGIC:
        raise WireError(f"frame: expected magic {MAGIC!r}, got {magic!r}")
    if version != VERSION:
        raise WireError(f"frame: expected version {VERSION}, got {version}; run the same release on every host")
    if zlib.crc32(header[: _CRC.start] + _NO_CRC + header[_CRC.stop :]) != crc:
        raise WireError("frame: expected a header that fits its checksum, got another one")
    if sender_job != job:
        raise WireError(f"frame: expected job {job.hex()}, got {sender_job.hex()}")
    if kind not in Kind.__members__.values():
        raise WireError(f"frame: expected a kind of 1 … {len(Kind)}, got {kind}")
    if dtype >= len(_NAMES):
        raise WireError(f"frame: expected a dtype code below {len(_NAMES)}, got {dtype}")
    _check_length(nbytes, _NAMES[dtype])
    call = Call(_text(name), number, _NAMES[dtype], count, _text(detail), group)
    return Frame(Kind(kind), sender, call, counter, nbytes, generation, peer)


def payload(frame: Frame, buffer: Buffer) -> np.ndarray:
    """The array of a frame, 1-D, without a copy where the buffer is aligned for its dtype."""
    if len(buffer) != frame.nbytes:
        raise WireError(f"frame: expected {frame.nbytes} bytes after the header, got {len(buffer)}")
    array = np.frombuffer(buffer, DTYPES[frame.call.dtype])
    return array if array.flags.aligned else array.copy()


def _check_length(nbytes: int, dtype: str) -> None:
    if nbytes > MAX_PAYLOAD_BYTES or nbytes % DTYPES[dtype].itemsize:
        rule = f"at most {MAX_PAYLOAD_BYTES} bytes of whole {dtype} elements"
        raise WireError(f"frame: expected {rule}, got {nbytes}; send in pieces")


def _text(field: bytes) -> str:
    text = field.rstrip(b"\0")
    if not all(32 <= byte < 127 for byte in text):
        raise WireError(f"frame: expected printable ASCII, got {text!r}")
    return text.decode("ascii")
