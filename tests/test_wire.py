"""A header is a frame of this job or a WireError, whatever the bytes."""

from __future__ import annotations

import pickle
import zlib

import numpy as np
import pytest

from ddp import wire
from ddp.errors import WireError
from ddp.transport.base import DTYPES, Call
from ddp.wire import Frame, Kind, pack, payload, unpack

JOB = wire.job_id("a job")
CALL = Call("all_reduce", 12, "float32", 1000, "sum", 3)
FRAME = Frame(Kind.DATA, 2, CALL, 41, 4000, 5, 6)


def resealed(offset: int, new: bytes) -> bytes:
    """The header of FRAME with other bytes at `offset` and a checksum that fits them."""
    header = bytearray(pack(FRAME, JOB))
    header[offset : offset + len(new)] = new
    header[36:40] = bytes(4)
    header[36:40] = zlib.crc32(header).to_bytes(4, "little")
    return bytes(header)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", Kind)
def test_what_is_packed_is_unpacked(kind, dtype):
    frame = Frame(kind, 2**32 - 1, Call("send", -(2**63), dtype, 2**64 - 1, "x" * 32, 2**32 - 1), 7, 160, 8, 9)
    assert unpack(pack(frame, JOB), JOB) == frame
    assert len(pack(frame, JOB)) == wire.HEADER_BYTES


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_payload_is_an_array_without_a_copy(dtype):
    array = np.arange(6).astype(DTYPES[dtype])
    frame = FRAME._replace(call=CALL._replace(dtype=dtype), nbytes=array.nbytes)
    buffer = array.tobytes()
    got = payload(frame, buffer)
    assert got.dtype == array.dtype and (got == array).all()
    assert got.base is not None and not got.flags.writeable
    shifted = memoryview(b"x" + buffer)[1:]
    assert payload(frame, shifted).flags.aligned and (payload(frame, shifted) == array).all()


def test_every_flipped_bit_is_found():
    header = pack(FRAME, JOB)
    for bit in range(8 * len(header)):
        flipped = bytearray(header)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError):
            unpack(bytes(flipped), JOB)


@pytest.mark.parametrize("length", [0, 1, 64, 127, 129, 4096])
def test_a_header_has_one_length(length):
    with pytest.raises(WireError, match=f"expected a header of 128 bytes, got {length}"):
        unpack((pack(FRAME, JOB) * 40)[:length], JOB)


# Also with a checksum that fits: an authenticated peer with a bug, or of another release.
@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (0, b"HTTP", "expected magic"),
        (4, b"\2", "expected version 1, got 2; run the same release"),
        (5, b"\0", "expected a kind"),
        (5, b"\x63", "expected a kind"),
        (6, b"\xff", "expected a dtype code below 15, got 255"),
        (8, b"x", "expected job"),
        (56, (2**30 + 4).to_bytes(8, "little"), "expected at most 1073741824 bytes"),
        (56, b"\xff" * 8, "expected at most 1073741824 bytes"),
        (56, b"\x03", "of whole float32 elements, got 3843"),
        (76, b"\x00a", "expected printable ASCII"),
        (76, b"\x80", "expected printable ASCII"),
        (96, b"\n", "expected printable ASCII"),
    ],
)
def test_every_field_is_checked(offset, new, message):
    with pytest.raises(WireError, match=message):
        unpack(resealed(offset, new), JOB)


def test_a_frame_of_another_job_is_refused():
    with pytest.raises(WireError, match="expected job"):
        unpack(pack(FRAME, wire.job_id("another job")), JOB)


@pytest.mark.parametrize("length", [0, 3999, 4001])
def test_a_payload_has_the_length_of_its_header(length):
    with pytest.raises(WireError, match=f"expected 4000 bytes after the header, got {length}"):
        payload(FRAME, bytes(length))


def test_a_pickle_is_only_bytes():
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    trap = pickle.dumps(Trap())
    with pytest.raises(WireError):
        unpack(trap.ljust(128, b"\0")[:128], JOB)
    frame = FRAME._replace(call=CALL._replace(dtype="uint8"), nbytes=len(trap))
    assert payload(frame, trap).tobytes() == trap


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAME._replace(call=CALL._replace(dtype="object")), "expected a dtype of bool, int8"),
        (FRAME._replace(call=CALL._replace(name="x" * 21)), "name of at most 20"),
        (FRAME._replace(call=CALL._replace(detail="é")), "ASCII"),
        (FRAME._replace(nbytes=2**30 + 4), "send in pieces"),
        (FRAME._replace(sender=-1), "expected numbers that fit"),
        (FRAME._replace(call=CALL._replace(number=2**63)), "expected numbers that fit"),
    ],
)
def test_what_could_not_be_read_is_not_written(frame, message):
    with pytest.raises(WireError, match=message):
        pack(frame, JOB)
