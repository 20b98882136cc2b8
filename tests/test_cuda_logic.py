"""The CUDA backend's own logic, on the fake device: who computes, products as cuBLASLt sees them, capture, memory, streams, mixed
precision."""

import contextlib
import ctypes
import gc
import weakref
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from ml_dtypes import bfloat16

import core
import core.nn.functional as F
from core import backend, cuda
from core.backend.cuda import gemm, memory, optimizers, pointwise
from core.backend.switches import SWITCHES, Switches
from core.errors import ArgumentError, CoreError, DeviceError, ShapeError
from tests import devices, test_ops
from tests.cases import IDS
from tests.fake_cuda import Array, Graph, State, _do

fake = devices.fake


@pytest.fixture(autouse=True)
def nothing_is_left_capturing(monkeypatch):
    for name, value in vars(Switches()).items():
        monkeypatch.setattr(SWITCHES, name, value)
    yield
    State.graph = State.stream = Array.allocate = None


# -- products: a cuBLASLt made of NumPy --------------------------------------------------------------------------------


class FakeLt:
    """Descriptors as dictionaries; `matmul` does in NumPy, column by column, what cuBLASLt is documented to do."""

    class cuBLASLtError(Exception):
        pass

    MatmulDescAttribute = SimpleNamespace(
        TRANSA=3, TRANSB=4, EPILOGUE=7, BIAS_POINTER=8, EPILOGUE_AUX_POINTER=11, EPILOGUE_AUX_LD=12
    )  # fmt: skip
    MatrixLayoutAttribute = SimpleNamespace(BATCH_COUNT=5, STRIDED_BATCH_OFFSET=6)
    ComputeType = SimpleNamespace(COMPUTE_32F=68, COMPUTE_64F=70, COMPUTE_32F_FAST_TF32=77)
    Epilogue = SimpleNamespace(RELU=2, BIAS=4, RELU_BIAS=6, GELU=32, GELU_BIAS=36, GELU_AUX_BIAS=164)

    class MatmulPreferenceAttribute:
        MAX_WORKSPACE_BYTES = 1

        def __class_getitem__(cls, name):
            return {"A": 5, "B": 6, "C": 7, "D": 8}[name[len("MIN_ALIGNMENT_")]]

    def __init__(self):
        self.objects, self.calls, self.algorithms = [{}], 0, 1

    def made(self, **fields):
        self.objects.append(fields)
        return len(self.objects) - 1

    def create(self):
        return self.made()

    def matmul_desc_create(self, compute, scale):
        return self.made(compute=compute, scale=scale)

    def matrix_layout_create(self, kind, rows, columns, ld):
        assert ld >= rows, "cuBLASLt refuses a leading dimension below the number of rows"
        return self.made(kind=kind, rows=rows, columns=columns, ld=ld)

    def matmul_preference_create(self):
        return self.made()

    def matmul_preference_destroy(self, handle):
        pass

    def get_matmul_desc_attribute_dtype(self, attribute):
        return np.int64 if attribute in (8, 11, 12) else np.int32

    get_matrix_layout_attribute_dtype = get_matmul_preference_attribute_dtype = lambda self, attribute: np.int64

    def matmul_desc_set_attribute(self, handle, attribute, pointer, size):
        self.objects[handle][attribute] = int.from_bytes(ctypes.string_at(pointer, size), "little", signed=True)

    matrix_layout_set_attribute = matmul_preference_set_attribute = matmul_desc_set_attribute

    def MatmulHeuristicResult(self, n):
        return SimpleNamespace(ptr=12345)

    def matmul_algo_get_heuristic(self, handle, product, a, b, c, d, preference, n, found, count):
        ctypes.c_int32.from_address(count).value = self.algorithms

    def matmul(self, handle, product, alpha, a, ad, b, bd, beta, c, cd, d, dd, algorithm, workspace, size, stream):
        self.calls += 1
        # as they are now: a graph keeps what it was given
        p, (al, bl, dl) = dict(self.objects[product]), (dict(self.objects[i]) for i in (ad, bd, dd))
        _do(lambda: self._multiply(p, a, al, b, bl, d, dl))

    def _multiply(self, p, a, al, b, bl, d, dl):
        for k in range(dl.get(5, 1)):
            x, y = self.matrix(a, al, k), self.matrix(b, bl, k)
            z = (x.T if p.get(3) else x).astype(np.float64) @ (y.T if p.get(4) else y).astype(np.float64)
            out = self.matrix(d, dl, k)
            if p.get(7, 0) & 4:
                z = z + self.vector(p[8], dl)[:, None]
            if p.get(7, 0) & 128:
                assert p[12] % 8 == 0, "cuBLASLt refuses such a leading dimension of the second result"
                self.matrix(p[11], {**dl, "ld": p[12]}, k)[...] = z.astype(out.dtype)
            if p.get(7, 0) & 2:
                z = np.maximum(z, 0)
            if p.get(7, 0) & 32:
                z = z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
            out[...] = z.astype(out.dtype)

    KINDS = {0: np.float32, 1: np.float64, 2: np.float16, 14: bfloat16}

    def matrix(self, pointer, layout, k):
        dtype = np.dtype(self.KINDS[layout["kind"]])
        at = pointer + k * layout.get(6, 0) * dtype.itemsize
        raw = (
            ctypes.c_char * (((layout["columns"] - 1) * layout["ld"] + layout["rows"]) * dtype.itemsize)
        ).from_address(at)
        return np.ndarray(
            (layout["rows"], layout["columns"]), dtype, raw, strides=(dtype.itemsize, layout["ld"] * dtype.itemsize)
        )

    def vector(self, pointer, layout):
        dtype = np.dtype(self.KINDS[layout["kind"]])
        return np.ndarray(
            layout["rows"], dtype, (ctypes.c_char * (layout["rows"] * dtype.itemsize)).from_address(pointer)
        ).astype(float)


@pytest.fixture
def lt(monkeypatch):
    import sys

    found = FakeLt()
    bindings = SimpleNamespace(cublasLt=found, cublas=SimpleNamespace(ComputeType=FakeLt.ComputeType))
    monkeypatch.setitem(sys.modules, "nvmath", SimpleNamespace(bindings=bindings))
    monkeypatch.setitem(sys.modules, "nvmath.bindings", bindings)
    return found


@pytest.fixture
def product(lt, fake):
    be = backend.get("cuda")
    be.gemm = gemm.Gemm(be.xp)
    return be


def drawn(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(dtype)


HEADS = drawn(2, 5, 3, 4, 8)  # (B, L, 3, H, E): what a fused projection of queries, keys and values gives
PRODUCTS = {
    "plain": (drawn(3, 4), drawn(4, 5)),
    "both transposed": (drawn(4, 3).T, drawn(5, 4).T),
    "column and row": (drawn(3, 1), drawn(1, 5)),
    "inner": (drawn(1, 4), drawn(4, 1)),
    "slices of rows": (drawn(9, 8)[::2, 1:5], drawn(4, 10)[:, 2:7]),
    "steps of columns": (drawn(3, 8)[:, ::2], drawn(4, 5)[:, ::-1]),
    "batch": (drawn(6, 3, 4), drawn(6, 4, 5)),
    "batch times one": (drawn(6, 3, 4), drawn(4, 5)),
    "one times batch": (drawn(3, 4), drawn(6, 4, 5)),
    "broadcast batches": (drawn(2, 1, 3, 4), drawn(7, 4, 5)),
    "expanded": (np.broadcast_to(drawn(3, 4), (6, 3, 4)), drawn(6, 4, 5)),
    "heads": (HEADS[:, :, 0].swapaxes(1, 2), HEADS[:, :, 1].transpose(0, 2, 3, 1)),
    "many batches that do not merge": (drawn(40, 4, 2, 8)[:, ::2].swapaxes(1, 2), drawn(40, 2, 8, 3)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, bfloat16])
@pytest.mark.parametrize("name", PRODUCTS)
def test_products(product, lt, name, dtype):
    x, y = (
        np.asarray(a, dtype) if a.dtype != dtype and not a.flags.c_contiguous else a.astype(dtype)
        for a in PRODUCTS[name]
    )
    if dtype == np.float32:
        x, y = PRODUCTS[name]
    z = product.matmul(Array(x), Array(y))
    assert lt.calls and z.shape == np.matmul(x.astype(float), y.astype(float)).shape and z.dtype == dtype
    tolerance = {2: 2e-2, 4: 1e-5, 8: 1e-12}[np.dtype(dtype).itemsize]
    np.testing.assert_allclose(
        z.host.astype(float), np.matmul(x.astype(float), y.astype(float)), rtol=tolerance, atol=tolerance
    )


def test_heads_are_not_copied(product, lt, monkeypatch):
    x, y = PRODUCTS["heads"]
    monkeypatch.setattr(product.xp, "ascontiguousarray", None, raising=False)
    product.matmul(Array(x), Array(y))
    assert lt.calls == 2  # one batch of heads for each sample


def test_vectors_and_refusals(product, lt):
    x, v = drawn(3, 4), drawn(4)
    np.testing.assert_allclose(product.matmul(Array(x), Array(v)).host, x @ v, rtol=1e-5)
    np.testing.assert_allclose(product.matmul(Array(v), Array(x.T)).host, x @ v, rtol=1e-5)
    assert product.matmul(Array(v), Array(v)).shape == ()
    calls = lt.calls
    whole = np.arange(12).reshape(3, 4)
    assert (
        product.matmul(Array(whole), Array(whole.T)).host.tolist() == (whole @ whole.T).tolist() and lt.calls == calls
    )
    lt.algorithms = 0
    np.testing.assert_allclose(
        product.matmul(Array(drawn(7, 4)), Array(drawn(4, 7))).host, drawn(7, 4) @ drawn(4, 7), rtol=1e-5
    )
    assert lt.calls == calls


def test_bias_and_gelu_are_epilogues(product, lt):
    x, w, b = drawn(2, 3, 4), drawn(6, 4), drawn(6)
    y = product.linear(Array(x), Array(w), Array(b))
    np.testing.assert_allclose(y.host, x @ w.T + b, rtol=1e-4, atol=1e-5)
    y = product.linear_relu(Array(x), Array(w), Array(b))
    np.testing.assert_allclose(y.host, np.maximum(x @ w.T + b, 0), rtol=1e-4, atol=1e-5)
    assert lt.calls == 2
    w, b = drawn(8, 4), drawn(8)
    y, z = product.linear_gelu(Array(x), Array(w), Array(b))
    expected = x @ w.T + b
    np.testing.assert_allclose(z.host, expected, rtol=1e-4, atol=1e-5)
    expected = F.gelu(core.from_numpy(expected), approximate="tanh").numpy()
    np.testing.assert_allclose(y.host, expected, rtol=1e-4, atol=1e-5)
    assert lt.calls == 3 and product.gemm.linear_gelu(Array(x), Array(drawn(6, 4).T), Array(drawn(6))) is None


def test_a_captured_product_has_a_workspace_of_its_graph(product, lt, monkeypatch):
    """Launches of the graph may run beside later work of the stream that it was captured on."""
    seen, x = [], core.randn(4, 4).cuda()
    monkeypatch.setattr(lt, "matmul", lambda *args: seen.append(args[-3]))
    s, g = cuda.Stream(), cuda.CUDAGraph()
    with s:
        x @ x
    with cuda.graph(g, stream=s):
        x @ x
    with s:
        x @ x
    assert seen[0] == seen[2] != seen[1]


def test_plans_are_kept_and_tf32_is_a_switch(product, lt):
    x = Array(drawn(4, 4))
    for _ in range(3):
        product.matmul(x, x)
    assert sum("compute" in o for o in lt.objects) == 1
    core.backends.cuda.matmul.allow_tf32 = True
    product.matmul(x, x)
    assert [o["compute"] for o in lt.objects if "compute" in o] == [68, 77]


@pytest.mark.parametrize("error", [FakeLt.cuBLASLtError, RuntimeError])
def test_a_library_that_does_not_open_is_absent(lt, fake, monkeypatch, error):
    """cuBLASLt that does not fit the driver says so by an error of its own kind; CuPy's products answer then."""

    def fails():
        raise error("the library was not initialized (CUBLAS_STATUS_NOT_INITIALIZED)")

    monkeypatch.setattr(lt, "create", fails)
    assert gemm.opened(backend.get("cuda").xp) is None


def test_switches_reach_the_backend(fake):
    be = backend.get("cuda")
    be._dnn = SimpleNamespace()
    cudnn = core.backends.cudnn
    assert be.dnn is be._dnn and cudnn.enabled and cudnn.allow_tf32 and not cudnn.benchmark
    with cudnn.flags(enabled=False, deterministic=True):
        assert be.dnn is None and SWITCHES.deterministic
    assert be.dnn is be._dnn and not SWITCHES.deterministic
    cudnn.allow_tf32 = False
    core.use_deterministic_algorithms(True)
    core.set_float32_matmul_precision("high")
    core.backends.cuda.enable_cudnn_sdp(False)
    assert (SWITCHES.conv_tf32, SWITCHES.deterministic, SWITCHES.matmul_tf32, SWITCHES.cudnn_attention) == (
        False,
        True,
        True,
        False,
    )
    assert core.backends.cuda.matmul.allow_tf32 and core.backends.cuda.matmul.fp32_precision == "tf32"
    core.set_float32_matmul_precision("highest")
    core.use_deterministic_algorithms(False)
    assert not core.backends.cuda.matmul.allow_tf32


# -- dispatch ----------------------------------------------------------------------------------------------------------


def test_without_kernels_the_plain_ones_compute(fake):
    x = core.randn(4, 8, device="cuda")
    assert backend.get("cuda").launch is None
    np.testing.assert_allclose(F.softmax(x, -1).sum(-1).cpu().numpy(), 1, rtol=1e-6)
    assert pointwise.run(backend.get("cuda"), "gelu", (x._a,)) is None


def test_bfloat16(fake):
    x = core.randn(3, 4).to(core.bfloat16)
    y = x.cuda().requires_grad_()
    (F.gelu(y @ y.T)).sum().backward()
    index = core.tensor([0, 0, 2], device="cuda")
    e = F.embedding(index, y)
    e.sum().backward()
    assert y.grad is not None and y.grad.dtype == core.bfloat16 and y.grad.is_cuda


def test_device_index_errors(fake):
    cuda.init()
    for question in (
        lambda: cuda.set_device(3),
        lambda: cuda.get_device_name(1),
        lambda: cuda.memory_allocated("cuda:2"),
        lambda: core.zeros(1, device="cuda:1"),
        lambda: cuda.synchronize(7),
    ):
        with pytest.raises(DeviceError, match="expected an index below 1"):
            question()
    assert cuda.get_device_name() == "Fake" and cuda.get_device_capability() == (9, 0)
    assert cuda.get_device_properties(0).total_memory == 1 << 30
    cuda.set_device(-1)


# -- attention: a cuDNN made of NumPy ---------------------------------------------------------------------------------


class FakeDnn:
    """Attention as cuDNN is documented to compute it: in float32, and NaN in a row whose scores are all minus infinity."""

    def __init__(self, plans_back=True):
        self.calls, self.plans_back = [], plans_back

    def attends(self, q, k, v):
        return q.dtype.itemsize == 2 and q.ndim == 4

    def scores(self, q, k, bias, causal, scale):
        s = q.host.astype(np.float32) @ k.host.astype(np.float32).swapaxes(-1, -2) * scale
        if bias is not None:
            assert bias.dtype == np.float32 and bias.shape[3] == k.shape[2] and np.isfinite(bias.host).all()
            s = s + bias.host
        return np.where(np.tri(*s.shape[-2:], dtype=bool), s, -np.inf) if causal else s

    def attention(self, q, k, v, bias, causal, scale):
        self.calls.append("forward")
        s = self.scores(q, k, bias, causal, scale)
        stats = np.log(np.exp(s - s.max(-1, keepdims=True)).sum(-1, keepdims=True)) + s.max(-1, keepdims=True)
        return Array((np.exp(s - stats) @ v.host.astype(np.float32)).astype(q.dtype)), Array(stats)

    def attention_grad(self, g, q, k, v, y, stats, bias, causal, scale):
        self.calls.append("backward")
        if not self.plans_back:
            return None
        g, y, q_, k_, v_ = (a.host.astype(np.float32) for a in (g, y, q, k, v))
        p = np.exp(self.scores(q, k, bias, causal, scale) - stats.host)
        ds = p * (g @ v_.swapaxes(-1, -2) - (g * y).sum(-1, keepdims=True)) * scale
        found = ds @ k_, ds.swapaxes(-1, -2) @ q_, p.swapaxes(-1, -2) @ g
        return tuple(Array(a.astype(q.dtype)) for a in found)


def mask_of(kind, dtype):
    """For scores (2, 3, 6, 5); in some a row sees nobody."""
    shape = {"rows": (6, 5), "padding": (2, 1, 1, 5), "full": (2, 3, 6, 5)}[kind.split()[0]]
    seen = np.random.default_rng(3).random(shape) < 0.6
    seen[..., 0] = True
    if shape[-2] == 6:
        seen[..., 2, :] = False
    if kind.endswith("bool"):
        return core.from_numpy(seen)
    return core.from_numpy(np.where(seen, drawn(*shape), -np.inf).astype(np.float32)).to(dtype)


@pytest.mark.parametrize("plans_back", [True, False])
@pytest.mark.parametrize("dtype", [core.bfloat16, core.float16])
@pytest.mark.parametrize(
    "kind", ["causal", "none", *(f"{s} {k}" for s in ("rows", "padding", "full") for k in ("bool", "added"))]
)
def test_attention_by_cudnn(fake, kind, dtype, plans_back):
    """With every kind of mask the values and gradients of the CPU."""
    be = backend.get("cuda")
    be._dnn = FakeDnn(plans_back)
    results = []
    for device in ("cpu", "cuda"):
        q, k, v = (
            core.from_numpy(drawn(2, n, 3, 8, seed=n)).to(device, dtype).transpose(1, 2).requires_grad_()
            for n in (6, 5, 5)
        )
        mask = None if kind in ("causal", "none") else mask_of(kind, dtype).to(device)
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=kind == "causal")
        g = core.from_numpy(drawn(2, 3, 6, 8, seed=9)).to(device, dtype)
        grads = core.autograd.grad(y, (q, k, v), g)
        results.append([t.float().cpu().detach().numpy() for t in (y, *grads)])
    for got, expected in zip(*reversed(results)):
        np.testing.assert_allclose(got, expected, rtol=0, atol=0.04)
    assert be._dnn.calls == ["forward", "backward"]
    if kind.startswith(("rows", "full")):
        assert (results[1][0][:, :, 2] == 0).all() and (results[1][1][:, :, 2] == 0).all(), "who sees nobody is zeros"


def test_what_attention_keeps_for_itself(fake):
    """With dropout masks have our own bits, and what cuDNN cannot see computes as everywhere."""
    be = backend.get("cuda")
    be._dnn = FakeDnn()
    q = core.randn(2, 3, 6, 8).cuda().to(core.bfloat16)
    F.scaled_dot_product_attention(q, q, q, dropout_p=0.5)
    F.scaled_dot_product_attention(q.float(), q.float(), q.float())
    with core.backends.cudnn.flags(enabled=False):
        F.scaled_dot_product_attention(q, q, q)
    assert not be._dnn.calls
    net = core.nn.MultiheadAttention(16, 2, batch_first=True).cuda().to(core.bfloat16)
    x = core.randn(2, 6, 16).cuda().to(core.bfloat16)
    padding = core.tensor([[False] * 6, [False] * 3 + [True] * 3]).cuda()
    net(x, x, x, key_padding_mask=padding, need_weights=False)[0].sum().backward()
    assert be._dnn.calls == ["forward", "backward"]


LOW = {  # functions that CuPy has not got for bfloat16, and what they are in float32
    "where": lambda xp, x, y: xp.where(x > 0, x, y),
    "where, number": lambda xp, x, y: xp.where(x > 0, 0.5, x),
    "where, whole": lambda xp, x, y: xp.where(x > 0, x, (y > 0)),
    "where, turned": lambda xp, x, y: xp.where(x.T > 0, x.T, y.T),
    "clip": lambda xp, x, y: xp.clip(x, -0.5, 0.7),
    "clip below": lambda xp, x, y: xp.clip(x, y, None),
    "tril": lambda xp, x, y: xp.tril(x, 1),
    "triu": lambda xp, x, y: xp.triu(x, -1),
    "cumsum": lambda xp, x, y: xp.cumsum(x, axis=1),
    "cumprod": lambda xp, x, y: xp.cumprod(x, axis=0, dtype=x.dtype),
    "round": lambda xp, x, y: xp.round(x, 1),
    "copyto": lambda xp, x, y: (xp.copyto(x, y, where=y > 0), x)[1],
    "argsort": lambda xp, x, y: xp.argsort(x, axis=1, kind="stable"),
    "searchsorted": lambda xp, x, y: xp.searchsorted(xp.arange(3).astype(x.dtype), y.reshape(-1), side="right"),
    "unique": lambda xp, x, y: xp.unique(xp.round(x)),
}


@pytest.mark.parametrize("name", LOW)
def test_bfloat16_where_cupy_has_none(fake, name):
    xp, (x, y) = backend.get("cuda").xp, (drawn(5, 5, seed=k).astype(bfloat16) for k in range(2))
    found = LOW[name](xp, Array(x), Array(y))
    expected = LOW[name](np, x.astype(np.float32), y.astype(np.float32))
    assert found.dtype == (np.int64 if name in ("argsort", "searchsorted") else bfloat16)
    np.testing.assert_allclose(found.host.astype(np.float32), expected.astype(np.float32), rtol=1e-2)
    wide = LOW[name](xp, Array(x.astype(np.float32)), Array(y.astype(np.float32)))
    assert wide.dtype == np.asarray(expected).dtype


def test_bfloat16_in_ops(fake):
    """Ops whose array code needs a function that CuPy has not got for bfloat16."""
    wanted = set(
        "where masked_fill clamp tril triu cumsum cumprod round sort argsort relu6 hardswish leaky_relu maximum attention".split()
    )
    rows = [(name, number) for name, number in IDS if name.removeprefix("F.") in wanted]
    assert len({name for name, _ in rows}) > 8
    for name, number in rows:
        with contextlib.suppress(pytest.skip.Exception):
            test_ops.check_bfloat16(name, number, fake)


# -- memory ------------------------------------------------------------------------------------------------------------


def test_memory_is_counted(fake):
    assert cuda.memory_allocated() == cuda.max_memory_allocated() == 0 and not cuda.is_initialized()
    assert cuda.memory_stats() == {} and cuda.memory_summary() == "no GPU has been used"
    x = core.zeros(1000, device="cuda")
    y = x + 1
    assert cuda.memory_allocated() == 8000 and cuda.max_memory_allocated() >= 8000
    del x, y
    gc.collect()
    assert cuda.memory_allocated() == 0 and cuda.max_memory_allocated("cuda:0") >= 8000
    cuda.reset_peak_memory_stats()
    assert cuda.max_memory_allocated() == 0
    stats = cuda.memory_stats()
    assert stats["allocation.all.freed"] == stats["allocation.all.allocated"] >= 2
    assert cuda.memory_reserved() >= 8000 and "MiB" in cuda.memory_summary()
    cuda.empty_cache()
    assert cuda.memory_reserved() == 0 and cuda.mem_get_info() == ((1 << 30) - 7, 1 << 30)
    with pytest.raises(ArgumentError, match=r"expected a fraction in 0 … 1, got 2"):
        cuda.set_per_process_memory_fraction(2)


def test_blocks_may_die_in_the_midst_of_booking(fake):
    counter = memory.Counter(backend.get("cuda").xp)
    freed = []

    def malloc(size):
        freed.append(size)
        if len(freed) == 3:
            blocks.clear()  # as the garbage collector would
        return SimpleNamespace(ptr=4096, mem=SimpleNamespace(device_id=0))

    allocate = counter.counted(malloc)
    blocks = [allocate(100), allocate(50)]
    last = allocate(7)
    s = counter.statistics(0)
    assert (s.bytes, s.blocks, s.peak_bytes, s.allocations) == (7, 1, 150, 3)
    assert last.ptr == 4096 and counter.counted(malloc)(0).ptr == 4096


def test_memory_that_another_stream_uses_is_kept(fake, monkeypatch):
    """`record_stream`: the pool gets a block back when that stream is done, not when the tensor is gone."""
    be, s, events = backend.get("cuda"), cuda.Stream(), []

    def event(**how):
        events.append(SimpleNamespace(done=False, record=lambda stream: events[-1].__dict__.update(stream=stream)))
        return events[-1]

    x, y = core.zeros(100, device="cuda"), core.zeros(100, device="cuda")
    x.record_stream(s)
    monkeypatch.setattr(be.xp.cuda, "Event", event, raising=False)
    del x, y
    gc.collect()
    assert cuda.memory_allocated() == 0 and len(be.memory._held) == 1 and not events
    core.zeros(1, device="cuda")
    core.zeros(1, device="cuda")
    assert len(be.memory._held) == 1 and [e.stream for e in events] == [s.raw]
    events[0].done = True
    core.zeros(1, device="cuda")
    assert not be.memory._held
    core.zeros(1).record_stream(None)


def test_pinned_memory(fake):
    be = backend.get("cuda")
    x = drawn(3, 4)
    p = be.pinned(x)
    assert be.is_pinned(p) and be.is_pinned(p[1:]) and not be.is_pinned(x) and be.pinned(p) is p
    np.testing.assert_array_equal(p, x)
    y = be.from_numpy(p, 0, non_blocking=True)
    np.testing.assert_array_equal(y.get(), x)
    assert be.pinned(np.empty(0)).size == 0


def test_tensors_are_pinned_and_copied_while_the_host_goes_on(fake, monkeypatch):
    waits = []
    be = backend.get("cuda")
    plain = be.xp.asarray
    monkeypatch.setattr(be.xp, "asarray", lambda a, blocking=False: (waits.append(blocking), plain(a))[1])
    x = core.randn(3, 4)
    p = x.pin_memory()
    assert p.is_pinned() and not x.is_pinned() and p.pin_memory() is p and (p == x).all()
    for t, options, waited in ((x, {}, False), (p, {}, True), (p, {"non_blocking": True}, False)):
        waits.clear()
        assert (t.to("cuda", **options).cpu() == x).all() and waits == [waited]
    waits.clear()
    assert (p.cuda(non_blocking=True).cpu() == x).all() and (p.to("cuda", core.float32, True).cpu() == x).all()
    assert waits == [False, False]
    with pytest.raises(DeviceError, match="expected a tensor of the CPU"):
        p.cuda().pin_memory()
    copy = x.to("cpu", core.float32, False, True)
    assert copy is not x and x.to("cpu", core.float32, True) is x


def test_pinned_arrays_are_kept_until_they_have_been_read(fake, monkeypatch):
    be = backend.get("cuda")
    y = be.xp.empty((4,), np.float32)
    monkeypatch.setattr(be, "event", lambda stream=None: SimpleNamespace(done=False))
    be.fill_(y, be.pinned(drawn(4)))
    be.fill_(y, drawn(4))
    be.fill_(y, be.pinned(drawn(4, seed=1)))
    assert len(be._read) == 2
    for when, _ in be._read:
        when.done = True
    be.fill_(y, be.pinned(drawn(4, seed=2)))
    assert len(be._read) == 1 and (y.get() == drawn(4, seed=2)).all()


class Pair(NamedTuple):
    x: Any
    y: str


class Sample:
    def __init__(self, x):
        self.x = x

    def pin_memory(self):
        return Sample(self.x.pin_memory())


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_pins_batches(fake, workers):
    data = [{"a": core.ones(2) * k, "b": Pair(core.ones(1), "text"), "c": [1, core.zeros(3)]} for k in range(4)]
    cuda.init()
    for batch in core.utils.data.DataLoader(data, batch_size=2, pin_memory=True, num_workers=workers):
        assert batch["a"].is_pinned() and batch["b"].x.is_pinned() and batch["c"][1].is_pinned()
        assert list(batch["b"].y) == ["text", "text"] and type(batch["b"]) is Pair
    (found,) = core.utils.data.DataLoader([core.ones(2)], batch_size=None, pin_memory=True)
    assert found.is_pinned()
    (found,) = core.utils.data.DataLoader([core.ones(2)], collate_fn=lambda xs: Sample(xs[0]), pin_memory=True)
    assert found.x.is_pinned()
    (found,) = core.utils.data.DataLoader([core.ones(2)], batch_size=None)
    assert not found.is_pinned()


# -- streams -----------------------------------------------------------------------------------------------------------


def test_streams_and_events(fake):
    s, t = cuda.Stream(), cuda.Stream()
    assert s != t and s == cuda.Stream(raw=s.raw) and len({s, t}) == 2
    assert cuda.current_stream() == cuda.default_stream() and cuda.default_stream().cuda_stream == 0
    with cuda.stream(s):
        assert cuda.current_stream() == s
        with t:
            assert cuda.current_stream() == t
        with cuda.stream(None):
            assert cuda.current_stream() == s
    start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    start.record()
    t.wait_stream(s)
    end.record(t)
    end.wait()
    end.synchronize()
    assert start.elapsed_time(end) >= 0 and s.query() and end.query()


def test_events_that_were_never_recorded(fake):
    e = cuda.Event()
    assert e.query() and e.synchronize() is None
    cuda.Stream().wait_event(e)
    with pytest.raises(CoreError, match="Both events must be recorded before calculating elapsed time"):
        cuda.Event(enable_timing=True).elapsed_time(e)


# -- capture -----------------------------------------------------------------------------------------------------------


def test_a_graph_repeats_work(fake):
    x, total = core.ones(3, device="cuda"), core.zeros(3, device="cuda")
    g = cuda.CUDAGraph()
    with cuda.graph(g):
        assert cuda.is_current_stream_capturing()
        y = (x * 2)[1:]
        total += x
    assert total.tolist() == [0.0] * 3, "capturing does nothing"
    x.fill_(5)
    g.replay()
    assert y.tolist() == [10.0] * 2 and total.tolist() == [5.0] * 3
    g.replay()
    assert total.tolist() == [10.0] * 3 and not cuda.is_current_stream_capturing()
    with pytest.raises(CoreError, match="expected a graph that holds nothing"), cuda.graph(g):
        pass
    g.reset()
    with pytest.raises(CoreError, match="expected a graph that was captured"):
        g.replay()


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.tolist(),
        lambda x: core.ones(2).cuda(),
        lambda x: cuda.synchronize(),
        lambda x: cuda.current_stream().synchronize(),
    ],
)
def test_what_cannot_be_captured(fake, wait):
    x = core.ones(3, device="cuda")
    g = cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"), cuda.graph(g):
        wait(x)
    assert gc.isenabled() and State.graph is None and cuda.current_stream() == cuda.default_stream()


def test_memory_of_a_capture_is_the_graphs_own(fake):
    """What is made while capturing comes from the graph's pool, and nothing after it does; two graphs may share one."""
    x, xp = core.ones(1000, device="cuda"), backend.get("cuda").xp
    pool = cuda.graph_pool_handle()
    g, h = cuda.CUDAGraph(), cuda.CUDAGraph()
    before = xp.get_default_memory_pool().total
    with cuda.graph(g, pool=pool):
        y = x * 2 + 1
    assert pool.total >= 8000 and xp.get_default_memory_pool().total == before and g.pool() is pool
    held = pool.total
    with cuda.graph(h, pool=g.pool()):
        z = x - 1
    assert pool.total > held
    held = pool.total
    core.zeros(50, device="cuda")
    assert pool.total == held and xp.get_default_memory_pool().total > before
    g.replay()
    h.replay()
    assert (y == 3).all() and (z == 0).all()
    other = cuda.CUDAGraph()
    with cuda.graph(other):
        x + x
    assert other.pool() is not pool and other.pool().total > 0


def test_inputs_of_a_graphed_step_are_static(fake):
    """What is given is copied into the tensors that were captured; the caller's own are not touched, and may change."""
    graphed = cuda.GraphedStep(lambda x, k: x * k, core.ones(3, device="cuda"), core.tensor(2.0, device="cuda"))
    x = core.ones(3, device="cuda")
    for value in (1.0, 5.0):
        x.fill_(value)
        assert graphed(x, core.tensor(3.0)).tolist() == [3 * value] * 3 and x.tolist() == [value] * 3
    pinned = core.full((3,), 7.0).pin_memory()
    assert graphed(pinned, core.tensor(1.0).pin_memory()).tolist() == [7.0] * 3


def test_a_graphed_step_keeps_its_model(fake):
    """Launches write to the parameters: they must not be freed while there is the graph."""

    model, optimizer = made("cuda")
    alive = weakref.ref(model)
    x, y = core.randn(5, 4).cuda(), core.randn(5, 1).cuda()
    graphed = cuda.GraphedStep(step_of(model, optimizer), x, y)
    del model, optimizer
    gc.collect()
    assert alive() is not None and graphed(x, y).item() > graphed(x, y).item()
    del graphed
    gc.collect()
    assert alive() is None
    net = core.nn.BatchNorm1d(3).cuda()
    alive, run = weakref.ref(net), cuda.make_graphed_callables(net, (core.ones(2, 3, device="cuda"),))
    del net
    gc.collect()
    assert alive() is not None and run(core.ones(2, 3, device="cuda")).shape == (2, 3)


def step_of(model, optimizer):
    def step(x, y):
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


def made(device):
    core.manual_seed(0)
    model = core.nn.Sequential(core.nn.Linear(4, 8), core.nn.GELU(), core.nn.LayerNorm(8), core.nn.Linear(8, 1)).to(
        device
    )
    return model, core.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def test_a_captured_step_trains_as_an_eager_one(fake):
    data = [(core.randn(5, 4), core.randn(5, 1)) for _ in range(4)]
    model, optimizer = made("cpu")
    step = step_of(model, optimizer)
    expected = [step(*(data[0] if k < 2 else data[k - 2])).item() for k in range(6)][2:]
    model, optimizer = made("cuda")
    graphed = cuda.GraphedStep(step_of(model, optimizer), *(t.cuda() for t in data[0]), warm_up=2)
    losses = [graphed(*(t.cuda() for t in data[0])).item(), *(graphed(*pair).item() for pair in data[1:])]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    with pytest.raises(
        ShapeError,
        match=r"expected core.float32 of shape \(5, 4\), as when it was captured, got core.float32 of shape \(6, 4\)",
    ):
        graphed(core.ones(6, 4), data[0][1])
    with pytest.raises(ArgumentError, match="expected 2 tensors, got 1"):
        graphed(data[0][0])


def test_graphed_callables_take_part_in_autograd(fake):
    core.manual_seed(0)
    model = core.nn.Sequential(core.nn.Linear(4, 8), core.nn.Tanh(), core.nn.Linear(8, 2)).to("cuda")
    x = core.randn(3, 4, device="cuda").requires_grad_()
    model(x).pow(2).sum().backward()
    expected = [t.grad.clone() for t in (x, *model.parameters())]
    x.grad = None
    model.zero_grad()
    graphed = cuda.make_graphed_callables(model, (core.zeros(3, 4, device="cuda").requires_grad_(),))
    y = graphed(x)
    np.testing.assert_allclose(y.detach().cpu().numpy(), model(x).detach().cpu().numpy(), rtol=1e-6)
    y.pow(2).sum().backward()
    for t, e in zip((x, *model.parameters()), expected):
        np.testing.assert_allclose(t.grad.cpu().numpy(), e.cpu().numpy(), rtol=1e-5)


# -- mixed precision and optimizers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [core.bfloat16, core.float16])
def test_autocast_and_grad_scaler(fake, dtype):
    model, optimizer = made("cuda")
    scaler = core.amp.GradScaler("cuda", init_scale=4.0)
    x = core.randn(5, 4, device="cuda")
    before = [p.detach().clone() for p in model.parameters()]
    with core.amp.autocast("cuda", dtype=dtype):
        y = model[0](x)
        assert y.dtype == dtype and y.is_cuda
        loss = model(x).float().pow(2).mean()
    scaler.scale(loss).backward()
    assert all(p.grad.dtype == core.float32 for p in model.parameters())
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 4.0 and any((p != b).any() for p, b in zip(model.parameters(), before))
    before = [p.detach().clone() for p in model.parameters()]
    next(model.parameters()).grad.fill_(float("inf"))
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0 and all((p == b).all() for p, b in zip(model.parameters(), before))


def test_optimizer_records(fake, monkeypatch):
    """Pieces and launches of the multi-tensor kernels, without running any."""
    be, launched = backend.get("cuda"), []
    be.launch = lambda *args: launched.append(args)
    xs = [Array(drawn(n)) for n in (1 << 14, (1 << 14) + 1, 5, *[1] * 63)]
    assert (
        be.serves_updates(xs)
        and not be.serves_updates([*xs, Array(drawn(3, 4).T)])
        and not be.serves_updates([Array(np.arange(3))])
    )
    be.sgd_(xs, xs, None, lr=0.5, control=optimizers.Control(found_inf=Array(np.zeros((), np.float32))))
    (of, kernel, grid, block, many, hyper, control), second = launched
    assert (str(of), kernel, grid) == ("optimizers<float32>", "sgd", (1 + 2 + 62,)) and second[2] == (2,)
    assert (
        many["first"][:5].tolist() == [0, 1, 3, 4, 5]
        and many["count"] == 64
        and many["x"][2] == xs[2].data.ptr
        and many["a"][0] == 0
    )
    assert hyper["lr"] == 0.5 and control["found_inf"] and not control["lr"]
    assert many.nbytes + hyper.nbytes + control.nbytes < 4096, "kernel arguments end at 4 KB"


def test_graph_of_the_fake_is_what_the_recorder_says():
    g = Graph()
    State.graph = g
    x = Array(np.ones(2))
    y = x + 1
    State.graph = None
    x.host[...] = 3
    g.launch()
    assert y.host.tolist() == [4, 4]
