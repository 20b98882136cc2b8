"""Objects travel as data: what arrives is what was sent, with its types, and bytes that nobody packed build nothing."""

from __future__ import annotations

import collections
import json
import random

import ml_dtypes
import numpy as np
import pytest

import core
from core.errors import DTypeError
from ddp.errors import WireError
from ddp.group import Number
from ddp.packing import packed, unpacked

VALUES = {
    "nothing": None,
    "numbers": [True, False, 0, -(10**30), 1.5, float("inf"), -0.0, 2 + 3j],
    "text": ["", "ü\n\0", "\ud800"],
    "bytes": [b"", b"\0\xff" * 9],
    "series": [[], (), (1, (2, [3])), {1, "a", (2, 3)}, set()],
    "mappings": {1: "int", "1": "text", (1, 2): {None: {}}, True and 2: [b"x"]},
    "ordered": collections.OrderedDict([("b", 1), ("a", collections.OrderedDict())]),
}


@pytest.mark.parametrize("name", VALUES)
def test_what_arrives_is_what_was_sent(name):
    value = VALUES[name]
    assert repr(unpacked(packed(value))) == repr(value)


def test_arrays_scalars_and_tensors():
    arrays = [
        np.arange(6.0).reshape(2, 3),
        np.zeros((0, 2), np.int8),
        np.array(3, np.uint16),
        np.ones(2, ml_dtypes.bfloat16),
    ]
    for sent, came in zip(arrays, unpacked(packed(arrays))):
        assert (
            type(came) is np.ndarray and came.dtype == sent.dtype and came.shape == sent.shape and (came == sent).all()
        )
        came[...] = 1  # it is one's own
    scalar = unpacked(packed(np.float32(1.5)))
    assert type(scalar) is np.float32 and scalar == 1.5
    leaf = core.arange(6.0).reshape(2, 3).t().requires_grad_()
    came = unpacked(packed({"w": leaf}))["w"]
    assert isinstance(came, core.Tensor) and came.tolist() == leaf.tolist() and not came.requires_grad
    state = core.nn.Linear(2, 3).state_dict()
    assert {k: v.tolist() for k, v in unpacked(packed(state)).items()} == {k: v.tolist() for k, v in state.items()}


def test_plain_things_in_disguise():
    shape = core.zeros(2, 3).shape
    came = unpacked(packed([Number(3), shape]))
    assert came == [3, (2, 3)] and [type(each) for each in came] == [int, tuple]


Point = collections.namedtuple("Point", "x y")
ITSELF: list = []
ITSELF.append(ITSELF)


@pytest.mark.parametrize(
    "value, told",
    [
        (object(), r"got builtins\.object; send what it is made of"),
        ([{"a": len}], r"got builtins\.builtin_function_or_method"),
        (Point(1, 2), r"got .*\.Point"),
        (np.array([object()]), "got an array of object"),
        (np.array(["a"]), "got an array of <U1"),
        (core.nn.Linear(1, 1), r"got core\.nn.*\.Linear"),
        (ITSELF, "of a size that can be sent"),
    ],
)
def test_what_cannot_be_sent_is_named(value, told):
    with pytest.raises(DTypeError, match=f"here: expected .*{told}"):
        packed(value, "here")


def bytes_of(text, rest=b""):
    text = text.encode()
    return np.frombuffer(len(text).to_bytes(4, "little") + text + rest, np.uint8)


@pytest.mark.parametrize(
    "data",
    [
        np.empty(0, np.uint8),
        bytes_of("[")[:-1],
        bytes_of("nothing"),
        bytes_of("{}"),
        bytes_of("[]"),
        bytes_of('["eval", "1"]'),
        bytes_of('["bytes", 5]', b"1234"),
        bytes_of('["bytes", -1]'),
        bytes_of('["bytes", 1.0]', b"1"),
        bytes_of('["bytes", 1]', b"12"),
        bytes_of('["array", "object", 1]', bytes(8)),
        bytes_of('["array", "float64", 4294967296, 4294967296]', bytes(8)),
        bytes_of('["array", "int8", -1, -2]', bytes(2)),
        bytes_of('["set", ["list"]]'),
        bytes_of('["dict", [1]]'),
        bytes_of("[" * 100_000),
        bytes_of('["list",' * 5000 + '["list"]' + "]" * 5000),
        np.full(8, 255, np.uint8),
    ],
)
def test_bytes_that_nobody_packed(data):
    with pytest.raises(WireError, match="unpacked: expected"):
        unpacked(data)


def test_flipped_bytes_build_data_or_nothing():
    rng = random.Random(0)
    good = packed([{"a": (1, np.arange(3))}, b"xyz", core.ones(2)])
    for _ in range(2000):
        bad = good.copy()
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        try:
            json.dumps(unpacked(bad), default=repr, skipkeys=True)
        except WireError:
            pass
