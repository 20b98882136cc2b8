"""The Tensor: making it, promotion, indexing, dtypes and devices, values out, copies, messages."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import core
import core.nn.functional as F
from core.backend.cuda import is_available
from core.errors import ArgumentError, CoreError, DeviceError, DTypeError, GraphError, RangeError, ShapeError
from tests import devices

device, fake = devices.device, devices.fake

# -- making ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "dtype", "value"),
    [
        (1, core.int64, 1),
        (1.5, core.float32, 1.5),
        (True, core.bool, True),
        (1 + 2j, core.complex64, 1 + 2j),
        ([1, 2.5], core.float32, [1.0, 2.5]),
        ([[True], [False]], core.bool, [[True], [False]]),
        ([], core.float32, []),
        (np.arange(3), core.int64, [0, 1, 2]),
        (np.float64(0.5), core.float64, 0.5),
        (np.zeros((1, 2), np.int8), core.int8, [[0, 0]]),
        (range(3), core.int64, [0, 1, 2]),
    ],
)
def test_tensor_of_data(data: Any, dtype: Any, value: Any) -> None:
    t = core.tensor(data)
    assert t.dtype is dtype and t.tolist() == value
    assert core.tensor(t.tolist(), dtype=core.float64).dtype is core.float64 if dtype is not core.complex64 else True


def test_tensor_copies_and_as_tensor_does_not() -> None:
    a = np.zeros(3, np.float32)
    copied, shared = core.tensor(a), core.as_tensor(a)
    a[0] = 7
    assert copied[0].item() == 0 and shared[0].item() == 7
    assert core.as_tensor(shared) is shared
    stacked = core.tensor([core.tensor(1.0), core.tensor(2.0)])
    assert stacked.tolist() == [1.0, 2.0]


def test_bad_data() -> None:
    with pytest.raises(ArgumentError, match="equal lengths"):
        core.tensor([[1], [1, 2]])
    with pytest.raises(DTypeError, match="expected numbers"):
        core.tensor(["a"])
    with pytest.raises(DTypeError, match="expected one of"):
        core.from_numpy(np.zeros(2, dtype="datetime64[s]"))
    with pytest.raises(DTypeError, match=r"numpy\.ndarray"):
        core.from_numpy([1])  # type: ignore[arg-type]


def test_filled_and_ranges(device: str) -> None:
    kwargs = {"device": device}
    assert core.zeros(2, 1, **kwargs).tolist() == [[0.0], [0.0]] and core.ones(
        (2,), dtype=core.int32, **kwargs
    ).tolist() == [1, 1]
    assert core.full((2,), 7, **kwargs).dtype is core.int64 and core.full((1,), 0.5, **kwargs).tolist() == [0.5]
    assert core.eye(2, 3, **kwargs).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert core.arange(3, **kwargs).tolist() == [0, 1, 2] and core.arange(1, 2, 0.5, **kwargs).tolist() == [1.0, 1.5]
    assert core.arange(3, 0, -1, **kwargs).dtype is core.int64 and core.arange(2.0, **kwargs).dtype is core.float32
    assert core.linspace(0, 1, 3, **kwargs).tolist() == [0.0, 0.5, 1.0] and core.empty(2, 3, **kwargs).shape == (2, 3)
    x = core.zeros(2, dtype=core.float64, **kwargs)
    for made in (core.zeros_like(x), x.new_zeros(2), core.rand_like(x), core.full_like(x, 3), x.new_tensor([1, 2])):
        assert made.dtype is core.float64 and made.device == x.device and made.shape == (2,)
    with pytest.raises(ArgumentError, match="sign of step"):
        core.arange(3, 0)


# -- promotion: torch.result_type, written out -------------------------------------------------------------------------

I, F32, F64, H, BF, B, C = (
    core.int64,
    core.float32,
    core.float64,
    core.float16,
    core.bfloat16,
    core.bool,
    core.complex64,
)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (core.ones(2), 1, F32),
        (core.ones(2), 1.5, F32),
        (core.ones(2), 1j, C),
        (core.ones(2, dtype=I), 1.5, F32),
        (core.ones(2, dtype=I), True, I),
        (core.ones(2, dtype=B), 1, I),
        (core.ones(2, dtype=B), 1.5, F32),
        (core.ones(2, dtype=H), 1.5, H),
        (core.ones(2, dtype=BF), 1.5, BF),
        (core.ones(2, dtype=F64), 1j, core.complex128),
        (core.ones(2), core.tensor(1.0, dtype=F64), F32),
        (core.ones(2, dtype=I), core.tensor(1.0, dtype=F64), F64),
        (core.ones(2, dtype=core.int8), core.tensor(100), core.int8),
        (core.ones(2), core.tensor(1j, dtype=core.complex128), C),
        (core.ones(2), core.ones(2, dtype=F64), F64),
        (core.ones(2, dtype=H), core.ones(2, dtype=BF), F32),
        (core.ones(2, dtype=core.uint8), core.ones(2, dtype=core.int8), core.int16),
        (core.ones(2, dtype=I), core.ones(2, dtype=H), H),
        (core.ones(2, dtype=F64), core.ones(2, dtype=C), core.complex128),
        (core.tensor(1), 1.5, F32),
        (core.tensor(1.0, dtype=H), core.tensor(1.0), F32),
        (core.ones(2), np.float64(2), F32),
        (core.ones(2, dtype=I), np.float64(2), F32),
        (core.ones(2, dtype=core.int32), np.int64(2), core.int32),
    ],
)
def test_promotion(x: Any, y: Any, expected: Any) -> None:
    assert (x + y).dtype is (y + x).dtype is expected
    assert (x * y).dtype is expected and (x == y).dtype is B
    assert (x / y).dtype is (expected if expected is not I and expected.category > 1 else F32)


def test_numbers_out_of_range_are_an_error() -> None:
    with pytest.raises(DTypeError, match="can hold"):
        core.ones(2, dtype=core.uint8) + 300


def test_default_dtype() -> None:
    try:
        core.set_default_dtype(core.float64)
        assert core.tensor(1.5).dtype is core.zeros(1).dtype is (core.tensor([1]) * 1.5).dtype is core.float64
    finally:
        core.set_default_dtype(core.float32)
    with pytest.raises(DTypeError):
        core.set_default_dtype(core.int64)


def test_numbers_on_both_sides() -> None:
    x = core.tensor([1.0, 2.0, 4.0])
    assert (8 / x).tolist() == [8, 4, 2] and (2**x).tolist() == [2, 4, 16] and (1 - x).tolist() == [0, -1, -3]
    assert (
        (x // 3).tolist() == [0, 0, 1]
        and (9 // x).tolist() == [9, 4, 2]
        and (5 % x).tolist() == [0, 1, 1]
        and (x % 3).tolist() == [1, 2, 1]
    )
    assert (np.float64(2) * x).dtype is core.float32 and (3 > x).tolist() == [True, True, False]
    assert (-x).abs().tolist() == abs(-x).tolist() and (~(x > 1)).tolist() == [True, False, False]
    x //= 2
    assert x.tolist() == [0, 1, 2]


# -- indexing ----------------------------------------------------------------------------------------------------------

X = np.arange(60).reshape(3, 4, 5)
_mask = X[:, :, 0] % 3 == 0
INDICES: list[Any] = [
    0, -1, slice(1, None), slice(None, None, 2), ..., None, (0, 1), (0, 1, 2), (..., 1), (0, ...), (slice(None), 1),
        (None, 1, None), (..., None),
    (slice(0, 2), slice(1, 3), slice(4, 1)), (), (slice(-2, None), ..., -1), [0, 2], ([0, 2], [1, 3]), np.array([[0,
        1], [2, 0]]), (slice(None), [1, 2]),
    (slice(None), [0, 1], [2, 3]), (..., [0, 4]), ([0, 1], slice(None), [2, 3]), _mask, (_mask, 1), (slice(None),
        _mask[0]), X > 20, (None, [0, 1]),
    [True, False, True], (0, [1, 2]), ([1], ..., None), [], (slice(None), np.zeros(0, int)), ([[0], [1]], [0, 1]),
        np.int64(1), (1, np.array([0, -1])),
    ([-1, 0], slice(1, 3)),
]  # fmt: skip


def _key(i: Any, device: str) -> Any:
    """Arrays as tensors of the device."""
    if isinstance(i, tuple):
        return tuple(_key(e, device) for e in i)
    return core.tensor(i, device=device) if isinstance(i, np.ndarray) else i


@pytest.mark.parametrize("number", range(len(INDICES)))
def test_getitem_and_setitem(number: int, device: str) -> None:
    i = INDICES[number]
    plain = tuple(
        np.array(e, dtype=int) if isinstance(e, list) and not e else e for e in (i if isinstance(i, tuple) else (i,))
    )
    x, key = core.tensor(X, device=device), _key(i, device)
    expected = X[plain]
    assert x[key].tolist() == expected.tolist() and x[key].shape == expected.shape
    y = X.copy()
    y[plain] = -1
    x[key] = -1
    assert x.tolist() == y.tolist()
    values = np.arange(expected.size).reshape(expected.shape)
    y[plain] = values
    x[key] = core.tensor(values, device=device)
    assert x.tolist() == y.tolist()


def test_where_indexing_is_not_numpys() -> None:
    x = core.tensor(X)
    idx = core.tensor([0, 2])
    assert x[0, :, idx].shape == (4, 2)  # the integer acts first; NumPy moves the new dimension to the front
    assert x[0, :, idx].tolist() == X[0][:, [0, 2]].tolist()
    x[0, :, idx] = core.zeros(4, 2, dtype=core.int64)
    assert x[0, :, 2].tolist() == [0] * 4
    assert (
        x[True].shape == (1, 3, 4, 5) and x[False].shape == (0, 3, 4, 5) and x[core.tensor(True)].shape == (1, 3, 4, 5)
    )
    assert x[core.tensor(1)].tolist() == x[1].tolist()
    assert x[core.tensor([1, 0, 1], dtype=core.uint8)].shape == (2, 4, 5)  # torch's old masks
    y = core.zeros(2, 3)
    y[0] = core.ones(1, 1, 3)  # leading ones of the value go
    assert y.tolist() == [[1.0] * 3, [0.0] * 3]


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (3, RangeError, "out of bounds"),
        ((0, 0, 0, 0), RangeError, "too many indices"),
        ([0, 5], RangeError, "out of bounds"),
        ("a", DTypeError, "expected ints, slices"),
        (slice(None, None, -1), ArgumentError, r"use flip\(\)"),
        ((..., ...), RangeError, "at most one ellipsis"),
        (np.ones(2, bool), RangeError, "shape of the mask"),
        (np.ones((3, 5), bool), RangeError, "shape of the mask"),
        (np.ones(2), DTypeError, "long, int, byte or bool"),
    ],
)
def test_bad_indices(index: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        core.tensor(X)[_key(index, "cpu")]


def test_setitem_shape_error() -> None:
    x = core.zeros(3, 4)
    with pytest.raises(ShapeError, match="broadcast"):
        x[0] = core.ones(3)
    with pytest.raises(ShapeError, match="broadcast"):
        x[core.tensor([0, 1])] = core.ones(3)


# -- dtypes and devices ------------------------------------------------------------------------------------------------


def test_to() -> None:
    x = core.ones(2)
    assert x.to(core.float32) is x and x.float() is x and x.to("cpu") is x and x.to(x) is x
    assert x.to(core.float64).dtype is core.float64 and x.to(core.ones(1, dtype=core.int8)).dtype is core.int8
    assert x.to(dtype=core.int32, device="cpu").dtype is core.int32 and x.to("cpu", core.half).dtype is core.float16
    assert x.to(core.float32, copy=True) is not x
    assert x.type() == "core.FloatTensor" and x.type(core.int64).dtype is core.int64
    y = core.ones(2, requires_grad=True)
    y.double().sum().backward()
    assert y.grad is not None and y.grad.dtype is core.float32


def test_move_and_compute_on_a_device(fake: str) -> None:
    x = core.ones(2, 3, requires_grad=True)
    y = x.to("cuda")
    assert (
        y.device == core.device("cuda", 0)
        and y.is_cuda
        and not x.is_cuda
        and repr(y.detach()).endswith("device='cuda:0')")
    )
    assert y.cuda() is y and y.to("cuda:0") is y and y.cpu().device.type == "cpu" and x.cuda().is_cuda
    (y * 2).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[2.0] * 3] * 2 and not x.grad.is_cuda
    z = core.zeros(3, device="cuda", requires_grad=True)
    (z + core.tensor(1.0)).sum().backward()  # a 0-d CPU tensor is welcome, as a number is
    assert z.grad is not None and z.grad.is_cuda and z.data_ptr() and z.is_contiguous()
    assert y.type() == "core.cuda.FloatTensor" and core.rand(3, device="cuda").is_cuda
    assert copy.deepcopy(z).is_cuda and pickle.loads(pickle.dumps(z)).is_cuda


def test_device_mistakes(fake: str) -> None:
    x, y = core.ones(2), core.ones(2, device="cuda")
    with pytest.raises(
        DeviceError, match=r"add: expected all tensors on one device, got cpu, cuda:0; move them with \.to"
    ):
        x + y
    for make in (lambda: core.zeros(1, device="cuda:1"), lambda: x.to("cuda:1"), lambda: x.cuda(1)):
        with pytest.raises(DeviceError, match="cuda:1': expected an index below 1"):
            make()
    with pytest.raises(DTypeError, match=r"tensor\.cpu\(\)\.numpy\(\)"):
        y.numpy()
    assert y.numpy(force=True).tolist() == [1.0, 1.0]
    with pytest.raises(DeviceError, match="known: cpu, cuda"):
        x.to("tpu")
    with pytest.raises(DeviceError, match="index 0"):
        x.to("cpu:1")


def test_the_fake_device_is_no_numpy(fake: str) -> None:
    """The test double refuses what CuPy refuses."""
    a = core.ones(2, device="cuda")._a
    for mistake in (
        lambda: np.exp(a),
        lambda: np.asarray(a),
        lambda: a + np.ones(2),
        lambda: a[np.array([0])],
        lambda: a.reshape((2,), copy=False),
    ):
        with pytest.raises(TypeError):
            mistake()


@pytest.mark.skipif(is_available(), reason="there is a GPU")
def test_no_gpu_is_one_clear_error() -> None:
    code = "import core; core.ones(2).cuda()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 1
    assert "pip install 'lockstep-ddp[cuda13]'" in last or "expected an NVIDIA GPU" in last
    assert "During handling" not in run.stderr


def test_devices_are_values() -> None:
    d = core.device("cuda:1")
    assert (
        d == core.device("cuda", 1) == core.device(1) and hash(d) == hash(core.device("cuda:1")) and str(d) == "cuda:1"
    )
    assert (
        pickle.loads(pickle.dumps(d)) == d and core.device(d) is d and repr(core.device("cpu")) == "device(type='cpu')"
    )
    with pytest.raises(ArgumentError):
        core.device("cuda:x")
    with pytest.raises(AttributeError):
        d.index = 2


# -- values out --------------------------------------------------------------------------------------------------------


def test_python_values() -> None:
    x = core.tensor([[1.5]])
    assert (
        x.item() == float(x) == 1.5
        and int(x) == 1
        and bool(x)
        and complex(x) == 1.5
        and f"{core.tensor(1.25):.1f}" == "1.2"
    )
    assert (
        [10, 20][core.tensor(1)] == 20
        and len(core.zeros(3, 2)) == 3
        and core.tensor(2.5, dtype=core.bfloat16).item() == 2.5
    )
    assert [r.tolist() for r in core.tensor([[1, 2], [3, 4]])] == [[1, 2], [3, 4]] and 2 in core.tensor([1, 2])
    with pytest.raises(ArgumentError, match="item: expected a tensor with 1 element, got 2"):
        core.ones(2).item()
    with pytest.raises(ArgumentError, match=r"use \.any\(\) or \.all\(\)"):
        bool(core.ones(2))
    with pytest.raises(DTypeError, match="0-d"):
        len(core.tensor(1))
    with pytest.raises(DTypeError, match="0-d"):
        iter(core.tensor(1))
    with pytest.raises(DTypeError):
        [1, 2][core.tensor(1.0)]


def test_numpy_shares_memory() -> None:
    x = core.zeros(3)
    a = x.numpy()
    a[0] = 5
    x[1] = 6
    assert x.tolist() == a.tolist() == [5.0, 6.0, 0.0]
    assert np.asarray(x) is not None and np.shares_memory(np.asarray(x), a)
    with pytest.raises(GraphError, match=r"detach\(\)\.numpy\(\)"):
        core.ones(1, requires_grad=True).numpy()
    assert np.add(x.numpy(), x).tolist() == [10.0, 12.0, 0.0]


def test_metadata() -> None:
    x = core.zeros(2, 3, 4, dtype=core.float64)
    assert (
        x.shape == x.size() == (2, 3, 4)
        and x.size(-1) == 4
        and x.dim() == x.ndim == 3
        and x.numel() == core.numel(x) == 24
    )
    assert x.stride() == (12, 4, 1) and x.t if False else x.transpose(0, 2).stride() == (1, 4, 12)
    assert (
        x.is_contiguous() and not x.transpose(0, 1).is_contiguous() and x.transpose(0, 1).contiguous().is_contiguous()
    )
    assert x.element_size() == 8 and x.is_floating_point() and not x.is_complex() and core.is_tensor(x)
    assert repr(x.shape) == "core.Size([2, 3, 4])" and x.shape.numel() == 24 and isinstance(x.shape[1:], core.Size)
    with pytest.raises(RangeError, match="Dimension out of range"):
        x.size(3)


def test_equality_of_tensors() -> None:
    x = core.tensor([1.0, float("nan")])
    assert not core.equal(x, x) and core.equal(x[:1], x[:1]) and not core.equal(x, x[:1])
    assert (
        core.allclose(x, x, equal_nan=True)
        and not core.allclose(x, x)
        and core.allclose(core.ones(2), core.ones(2) + 1e-7)
    )
    a, b = core.broadcast_tensors(core.ones(3, 1), core.ones(4))
    assert a.shape == b.shape == (3, 4)


# -- copies ------------------------------------------------------------------------------------------------------------


def test_detach_and_data() -> None:
    x = core.ones(2, requires_grad=True)
    y = x * 2
    assert not y.detach().requires_grad and y.detach().data_ptr() == y.data_ptr() and y.detach()._version == y._version
    x.data[0] = 5
    assert x.tolist() == [5.0, 1.0] and x.is_leaf
    x.data = core.zeros(2)
    assert x.tolist() == [0.0, 0.0] and x.requires_grad
    y.detach_()
    assert y.is_leaf and not y.requires_grad


@pytest.mark.parametrize("through", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t)), copy.copy])
def test_copies(through: Any) -> None:
    x = core.tensor([1.0, 2.0], requires_grad=True)
    y = through(x)
    assert y.tolist() == [1.0, 2.0] and y.requires_grad and y.is_leaf
    if through is not copy.copy:
        y.data[0] = 9
        assert x[0].item() == 1.0


def test_deepcopy_keeps_gradients_and_identity() -> None:
    x = core.ones(2, requires_grad=True)
    x.sum().backward()
    x.note = {"a": 1}
    a, b = copy.deepcopy([x, x])
    assert a is b and a.grad is not None and a.grad.tolist() == [1.0, 1.0] and a.grad is not x.grad
    assert a.note == {"a": 1} and a.note is not x.note
    with pytest.raises(GraphError, match="deepcopy: expected a leaf"):
        copy.deepcopy(x * 2)
    with pytest.raises(GraphError, match="pickle: expected a leaf"):
        pickle.dumps(x * 2)


@pytest.mark.parametrize("d", core.dtypes.ALL, ids=str)
def test_dtypes_keep_their_identity(d: Any) -> None:
    assert pickle.loads(pickle.dumps(d)) is d and copy.deepcopy(d) is d and core.zeros(1, dtype=d).dtype is d
    t = pickle.loads(pickle.dumps(core.ones(2, dtype=d)))
    assert t.dtype is d and t.tolist() == core.ones(2, dtype=d).tolist()


# -- in place ----------------------------------------------------------------------------------------------------------


def test_in_place_operators() -> None:
    x = core.tensor([1.0, 2.0])
    y = x
    x += 1
    x *= core.tensor([2.0, 3.0])
    x -= 1
    x /= 2
    assert y is x and x.tolist() == [1.5, 4.0]
    m = core.tensor([True, False])
    m &= core.tensor([False, False])
    assert m.tolist() == [False, False]
    with pytest.raises(DTypeError, match="can't be cast"):
        core.ones(2, dtype=core.int64).add_(1.5)
    with pytest.raises(ShapeError, match="expected a result of shape"):
        core.ones(2).add_(core.ones(3, 2))
    x.copy_(core.tensor([7, 8]))
    assert x.dtype is core.float32 and x.fill_(2).tolist() == [2.0, 2.0] and x.zero_().tolist() == [0.0, 0.0]
    out = core.empty(2)
    assert core.add(x, 1, out=out) is out and out.tolist() == [1.0, 1.0]


def test_overlapping_memory() -> None:
    x = core.arange(6)
    x[1:].copy_(x[:-1])
    assert x.tolist() == [0, 0, 1, 2, 3, 4]
    y = core.arange(4).reshape(2, 2)
    y.copy_(y.t())
    assert y.tolist() == [[0, 2], [1, 3]]


# -- messages ----------------------------------------------------------------------------------------------------------

_x, _long = core.ones(2, 3), core.tensor([0, 1])
MISTAKES: dict[str, tuple[Any, type[Exception], str]] = {
    "broadcast": (lambda: core.ones(2) + core.ones(3), ShapeError, r"add: expected shapes that broadcast, got \(2,\) and \(3,\); .+"),
    "compare": (lambda: core.ones(2) < core.ones(3), ShapeError, r"lt: expected shapes that broadcast, got \(2,\) and \(3,\); .+"),
    "matmul": (lambda: _x @ _x, ShapeError, r"matmul: .*cannot be multiplied: expected .*, got \(2, 3\) @ \(2, 3\)"),
    "matmul batch": (lambda: core.ones(2, 3, 4) @ core.ones(3, 4, 5), ShapeError, "matmul: expected leading dimensions .*, got .*"),
    "matmul dtype": (lambda: _x @ core.ones(3, 2).double(), DTypeError, "matmul: expected m1 and m2 to have the same dtype, got .*; .*"),
    "matmul number": (lambda: _x @ core.tensor(1.0), ShapeError, "matmul: expected operands with dimensions, got .*"),
    "linear": (lambda: F.linear(_x, core.ones(4, 5)), ShapeError, r"linear: .*expected input \(…, 5\) .*, got input \(2, 3\)"),
    "linear bias": (lambda: F.linear(_x, core.ones(4, 3), core.ones(3)), ShapeError, r"linear: expected bias \(4,\) .*, got \(3,\)"),
    "conv channels": (lambda: F.conv2d(core.ones(1, 2, 5, 5), core.ones(4, 3, 3, 3)), ShapeError, "conv2d: expected input .*, got .*"),
    "conv dimensions": (lambda: F.conv2d(_x, core.ones(4, 3, 3, 3)), ShapeError, "conv2d: expected input of .*dimensions.*"),
    "conv small": (lambda: F.conv1d(core.ones(1, 1, 2), core.ones(1, 1, 3)), ShapeError, "conv1d: expected a padded input .*, got .*"),
    "conv stride": (lambda: F.conv1d(core.ones(1, 1, 4), core.ones(1, 1, 3), stride=0), ArgumentError, "conv1d: expected stride.*, got .*"),
    "pool": (lambda: F.max_pool2d(core.ones(1, 1, 2, 2), 3), ShapeError, "max_pool2d: expected an input that holds a window .*, got .*"),
    "loss shape": (lambda: F.nll_loss(_x, core.tensor([0])), ShapeError, r"nll_loss: expected target of shape \(2,\) .*, got \(1,\)"),
    "loss dtype": (lambda: F.nll_loss(_x, _long.float()), DTypeError, r"nll_loss: expected class indices .*, got .*; use target\.long\(\)"),
    "loss range": (lambda: F.cross_entropy(_x, core.tensor([0, 3])), RangeError, "cross_entropy: Target 3 .*expected classes 0 to 2"),
    "loss weight": (lambda: F.cross_entropy(_x, _long, weight=core.ones(2)), ShapeError, r".*expected shape \(3,\), got \(2,\)"),
    "loss reduction": (lambda: F.cross_entropy(_x, _long, reduction="avg"), ArgumentError, ".*expected reduction 'none', .*, got 'avg'"),
    "cross entropy float": (lambda: F.cross_entropy(_x, core.ones(2)), DTypeError, "cross_entropy: expected class indices .*; got .*"),
    "mse": (lambda: F.mse_loss(_x, core.ones(4)), ShapeError, "mse_loss: expected input and target of equal shapes, got .*"),
    "view": (lambda: _x.t().view(6), ShapeError, r"view: .*expected a shape that spans .*, got \(6,\); use reshape\(\)"),
    "reshape": (lambda: _x.reshape(4), ShapeError, r"reshape: expected a shape of 6 elements .*, got \(4,\)"),
    "cat": (lambda: core.cat([_x, core.ones(2, 2)]), ShapeError, "cat: Sizes of tensors must match .*expected .*, got .*"),
    "stack": (lambda: core.stack([_x, core.ones(2)]), ShapeError, "stack: expected tensors of equal shape, got .*"),
    "cat nothing": (lambda: core.cat([]), DTypeError, "cat: expected a Tensor, got nothing"),
    "dim": (lambda: _x.sum(dim=2), RangeError, "sum: Dimension out of range: expected -2 <= dim < 2, got 2"),
    "dim twice": (lambda: _x.sum(dim=(0, 0)), ArgumentError, "sum: expected each dimension once, got .*"),
    "mean dtype": (lambda: _long.mean(), ArgumentError, r"mean: expected a floating .*, got core\.int64; use x\.float\(\).*"),
    "embedding": (lambda: F.embedding(core.tensor([5]), _x), RangeError, "embedding: expected indices from 0 to 1, got 5"),
    "gather": (lambda: _x.gather(0, _long.float()[None]), DTypeError, r"gather: expected an integer index, got .*; use index\.long\(\)"),
    "argument": (lambda: core.sum(_x, dims=1), TypeError, "sum: expected parameters dim, keepdim, dtype, got 'dims'"),
    "not a tensor": (lambda: core.exp("a"), DTypeError, "exp: expected a Tensor, got str"),
    "complex order": (lambda: core.ones(2, dtype=C) < 1, DTypeError, "lt: expected real numbers.*"),
    "bool minus": (lambda: core.ones(2, dtype=B) - 1, DTypeError, "sub: .*expected numbers, got .*; use .*"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_messages(name: str) -> None:
    make, error, message = MISTAKES[name]
    with pytest.raises(error, match=f"^{message}$") as caught:
        make()
    if name != "argument":
        assert isinstance(caught.value, CoreError)


def test_a_loss_of_ignored_labels_is_nan() -> None:
    assert np.isnan(F.cross_entropy(core.ones(2, 3), core.tensor([-100, -100])).item())
    assert F.cross_entropy(core.ones(2, 3), core.tensor([-100, -100]), reduction="sum").item() == 0.0


def test_where_and_nonzero(device: str) -> None:
    x = core.tensor([[0, 1], [2, 0]], device=device)
    assert [i.tolist() for i in core.where(x > 0)] == [[0, 1], [1, 0]] and x.nonzero().tolist() == [[0, 1], [1, 0]]
    assert core.where(x > 0, 1.0, 0.0).dtype is core.float32 and core.where(x > 0, x, -1).tolist() == [[-1, 1], [2, -1]]
    assert [i.tolist() for i in x.nonzero(as_tuple=True)] == [[0, 1], [1, 0]]


def test_gradients_at_ties_and_at_the_origin() -> None:
    x = core.tensor([1.0, 3.0, 3.0], requires_grad=True)
    assert core.autograd.grad(x.max(), [x])[0].tolist() == [0.0, 0.5, 0.5]
    assert core.autograd.grad(x.max(0).values, [x])[0].tolist() == [0.0, 1.0, 0.0]
    assert core.autograd.grad(core.maximum(x, core.tensor(3.0)).sum(), [x])[0].tolist() == [0.0, 0.5, 0.5]
    z = core.zeros(2, requires_grad=True)
    assert core.autograd.grad(z.norm(), [z])[0].tolist() == [0.0, 0.0]
    assert core.autograd.grad(F.relu(z).sum(), [z])[0].tolist() == [0.0, 0.0]
    assert core.autograd.grad(z.abs().sum(), [z])[0].tolist() == [0.0, 0.0]
