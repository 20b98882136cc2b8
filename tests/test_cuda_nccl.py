"""The NCCL transport over a NCCL made of NumPy: two ranks as threads, each with the fake device. What only NCCL can show is in
`tests.gpu`."""

import ctypes
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from ml_dtypes import bfloat16

import core
from core import backend, cuda
from core.errors import ArgumentError, DTypeError
from ddp.env import World
from ddp.errors import DDPError, DeadlineError
from ddp.transport import cuda_ipc
from ddp.transport.base import Call, Deadline
from ddp.transport.cuda_ipc import IPCTransport
from ddp.transport.loopback import LoopbackTransport
from ddp.transport.nccl import NCCLTransport
from ddp.transport.threads import run
from tests import devices
from tests.fake_cuda import OPEN_HANDLES, Array, State

fake = devices.fake

TYPES = {0: np.int8, 1: np.uint8, 2: np.int32, 4: np.int64, 6: np.float16, 7: np.float32, 8: np.float64, 9: bfloat16}


def at(pointer, count, kind):
    dtype = np.dtype(TYPES[kind])
    return np.ndarray(count, dtype, (ctypes.c_char * (count * dtype.itemsize)).from_address(pointer))


class Hub:
    """Where the ranks of one communicator meet."""

    def __init__(self, size):
        self.barrier, self.given = threading.Barrier(size), [None] * size

    def exchange(self, rank, value):
        self.given[rank] = value
        self.barrier.wait(10)
        found = list(self.given)
        self.barrier.wait(10)
        return found


class FakeNccl:
    available = True
    NCCL_INT8, NCCL_UINT8, NCCL_INT32, NCCL_UINT32, NCCL_INT64, NCCL_UINT64 = range(6)
    NCCL_FLOAT16, NCCL_FLOAT32, NCCL_FLOAT64, NCCL_BFLOAT16 = 6, 7, 8, 9
    NCCL_SUM, NCCL_PROD, NCCL_MAX, NCCL_MIN, NCCL_AVG = range(5)

    def __init__(self, size):
        self.hub, self.group = Hub(size), threading.local()
        self.aborted, self.error, self.ids = [], None, []

    def get_unique_id(self):
        return bytes(range(128))

    def NcclCommunicator(self, size, name, rank):
        self.ids.append(name)
        return Communicator(self, rank)

    def groupStart(self):
        self.group.sends, self.group.receives = [], []

    def groupEnd(self):
        found = self.hub.exchange(self.group.rank, list(self.group.sends))
        for pointer, count, kind, peer in self.group.receives:
            data = next(d for d, to in found[peer] if to == self.group.rank)
            at(pointer, count, kind)[:] = data
        self.hub.barrier.wait(10)


class Communicator:
    def __init__(self, nccl, rank):
        self.nccl, self.rank = nccl, rank

    def _reduced(self, send, count, kind, op):
        every = np.stack(
            [v.astype(np.float64) for v in self.nccl.hub.exchange(self.rank, at(send, count, kind).copy())]
        )
        return (np.sum, np.prod, np.max, np.min, np.mean)[op](every, axis=0)

    def allReduce(self, send, recv, count, kind, op, stream):
        at(recv, count, kind)[:] = self._reduced(send, count, kind, op).astype(TYPES[kind])

    def reduce(self, send, recv, count, kind, op, root, stream):
        result = self._reduced(send, count, kind, op)
        if self.rank == root:
            at(recv, count, kind)[:] = result.astype(TYPES[kind])

    def broadcast(self, send, recv, count, kind, root, stream):
        at(recv, count, kind)[:] = self.nccl.hub.exchange(self.rank, at(send, count, kind).copy())[root]

    def allGather(self, send, recv, count, kind, stream):
        every = self.nccl.hub.exchange(self.rank, at(send, count, kind).copy())
        at(recv, count * len(every), kind)[:] = np.concatenate(every)

    def reduceScatter(self, send, recv, count, kind, op, stream):
        whole = self._reduced(send, count * len(self.nccl.hub.given), kind, op)
        at(recv, count, kind)[:] = whole[self.rank * count :][:count].astype(TYPES[kind])

    def send(self, pointer, count, kind, peer, stream):
        self.nccl.group.rank = self.rank
        self.nccl.group.sends.append((at(pointer, count, kind).copy(), peer))

    def recv(self, pointer, count, kind, peer, stream):
        self.nccl.group.rank = self.rank
        self.nccl.group.receives.append((pointer, count, kind, peer))

    def check_async_error(self):
        if self.nccl.error:
            raise RuntimeError(self.nccl.error)

    def abort(self):
        self.nccl.aborted.append(self.rank)


@pytest.fixture
def nccl(fake, monkeypatch):
    be, found = backend.get("cuda"), FakeNccl(2)
    monkeypatch.setattr(be, "nccl", lambda: found, raising=False)
    yield found
    State.graph = State.stream = Array.allocate = None


def call(name, array, detail=""):
    return Call(name, 0, array.dtype.name, array.size, detail)


def soon(timeout_s=10.0):
    return Deadline.after(timeout_s)


@pytest.fixture
def alone(nccl):
    nccl.hub = Hub(1)
    transport = NCCLTransport.over(LoopbackTransport.open(World(), 5.0), 5.0)
    yield transport
    transport.close()
    transport.close()
    assert nccl.aborted


def drawn(rank, n, dtype=np.float32):
    return np.random.default_rng(rank).integers(-4, 5, n).astype(dtype)


def body(transport, dtype):
    """What one rank does; its results."""
    x = drawn(transport.rank, 6, dtype)
    found = {}
    for op in ("sum", "max", "avg"):
        a = Array(x.copy())
        transport.all_reduce(a, op, call("all_reduce", x, op), soon())
        found[op] = a
    a = Array(x.copy())
    transport.reduce(a, "sum", 1, call("reduce", x), soon())
    found["reduce"] = a
    a = Array(x.copy())
    transport.broadcast(a, 1, call("broadcast", x), soon())
    found["broadcast"] = a
    found["all_gather"] = transport.all_gather(Array(x), call("all_gather", x), soon())
    found["gather"] = transport.gather(Array(x), 1, call("gather", x), soon())
    found["scatter"] = transport.scatter(Array(x), 1, Call("scatter", 0, x.dtype.name, 3), soon())
    found["reduce_scatter"] = transport.reduce_scatter(Array(x), "sum", call("reduce_scatter", x), soon())
    found["all_to_all"] = transport.all_to_all(Array(x), call("all_to_all", x), soon())
    host = x.astype(np.float32)
    transport.all_reduce(host, "sum", call("all_reduce", host, "sum"), soon())
    found["host"] = Array(host)
    transport.flush(soon())
    if hasattr(transport, "synchronize"):
        transport.synchronize(soon())
    transport.barrier(Call("barrier", 0, "uint8", 0), soon())
    return {k: v if v is None else v.host.astype(np.float64) for k, v in found.items()}


def check_two_ranks(results, dtype):
    a, b = (drawn(k, 6, dtype).astype(float) for k in range(2))
    for k, r in enumerate(results):
        np.testing.assert_array_equal(r["sum"], a + b)
        np.testing.assert_array_equal(r["max"], np.maximum(a, b))
        np.testing.assert_array_equal(r["avg"], (a + b) / 2)
        np.testing.assert_array_equal(r["reduce"], a + b if k == 1 else a)
        np.testing.assert_array_equal(r["broadcast"], b)
        np.testing.assert_array_equal(r["all_gather"], [a, b])
        np.testing.assert_array_equal(r["scatter"], b[3 * k :][:3])
        np.testing.assert_array_equal(r["reduce_scatter"], (a + b)[3 * k :][:3])
        np.testing.assert_array_equal(r["all_to_all"], np.concatenate([v[3 * k :][:3] for v in (a, b)]))
        np.testing.assert_array_equal(r["host"], a + b)
    assert results[0]["gather"] is None
    np.testing.assert_array_equal(results[1]["gather"], [a, b])


@pytest.mark.parametrize("dtype", [np.float32, np.float16, bfloat16])
def test_two_ranks(nccl, dtype):
    def rank(carrier):
        transport = NCCLTransport.over(carrier, 10.0)
        results = body(transport, dtype)
        transport.close()
        return results

    results = run(2, rank, 30.0)
    check_two_ranks(results, dtype)
    assert nccl.ids == [bytes(range(128))] * 2


def test_what_nccl_has_not_got(alone):
    for dtype in (bool, np.complex64, np.int16):
        with pytest.raises(DTypeError, match="expected a dtype that NCCL has"):
            alone.all_reduce(Array(np.zeros(2, dtype)), "sum", Call("all_reduce", 0, "bool", 2), soon())
    for op, dtype in (("bxor", np.int32), ("avg", np.int32)):
        with pytest.raises(ArgumentError, match="expected a reduce op that NCCL has for int32"):
            alone.all_reduce(Array(np.zeros(2, dtype)), op, Call("all_reduce", 0, "int32", 2), soon())


def late(transport, monkeypatch):
    """From now on no collective ends."""
    monkeypatch.setattr(
        transport._cuda, "Event", lambda **options: SimpleNamespace(done=False, record=lambda stream: None)
    )


def test_a_collective_that_never_ends_is_aborted(alone, nccl, monkeypatch):
    late(alone, monkeypatch)
    x = Array(np.ones(4, np.float32))
    alone.all_reduce(x, "sum", call("all_reduce", x, "sum"), soon(0.2))
    with pytest.raises(
        DeadlineError, match=r"rank 0: all_reduce #0 .*expected all ranks to end it within 0.2 s; one is lost"
    ):
        alone.synchronize(soon())
    with pytest.raises(DeadlineError):
        alone.all_reduce(x, "sum", call("all_reduce", x, "sum"), soon())
    assert nccl.aborted == [0]


def test_an_error_of_nccl_is_raised(alone, nccl, monkeypatch):
    late(alone, monkeypatch)
    nccl.error = "NCCL_ERROR_REMOTE_ERROR"
    x = Array(np.ones(4, np.float32))
    alone.all_reduce(x, "sum", call("all_reduce", x, "sum"), soon())
    with pytest.raises(DDPError, match="NCCL_ERROR_REMOTE_ERROR"):
        alone.synchronize(soon())


def test_memory_is_kept_until_the_collective_has_ended(alone):
    x = Array(np.ones(4, np.float32))
    alone.all_reduce(x, "sum", call("all_reduce", x, "sum"), soon())
    assert any(x in p.arrays for p in list(alone._pending)) or not alone._pending
    alone.synchronize(soon())
    until = time.monotonic() + 5
    while alone._pending and time.monotonic() < until:
        time.sleep(0.01)
    assert not alone._pending
    alone.close()
    with pytest.raises(DDPError, match="expected an open transport"):
        alone.all_reduce(x, "sum", call("all_reduce", x, "sum"), soon())


def test_nothing_is_watched_under_capture(alone):
    x, stream = Array(np.ones(4, np.float32)), alone._cuda.Stream()
    with stream:
        stream.begin_capture()
        alone.all_reduce(x, "sum", call("all_reduce", x, "sum"), soon())
        alone.flush(soon())
        stream.end_capture()
    assert not alone._pending and alone._kept


# -- through process groups --------------------------------------------------------------------------------------------


def grouped(transport):
    """A process group over a transport, as `init_process_group` makes it."""
    from ddp.group import Lane, ProcessGroup

    world = World(transport.rank, transport.size, transport.rank, transport.size)
    return ProcessGroup(Lane(transport), world, range(transport.size), 0, 10.0)


def reduced(transport):
    """Device tensors through a group: whole, a view that is not contiguous, and one that only the host can reduce."""
    group = grouped(transport)
    found = []
    base = core.from_numpy(drawn(transport.rank, 12)).to("cuda")
    for t in (base.clone(), base.clone().reshape(3, 4).t()):
        group.all_reduce(t, "sum")
        found.append(t.cpu().numpy())
    one, two = base.clone(), base * 2
    works = [group.all_reduce(t, "avg", async_op=True) for t in (one, two)]
    assert all(w.wait() and w.is_success() for w in works)
    found += [one.cpu().numpy(), two.cpu().numpy()]
    t = base.clone()
    group.broadcast(t, 1)
    found.append(t.cpu().numpy())
    flags = core.from_numpy(drawn(transport.rank, 4) > 0).to("cuda")
    group.all_reduce(flags, "bor")
    found.append(flags.cpu().numpy())
    group.lane.close()
    return found


def check_reduced(results):
    a, b = (drawn(k, 12) for k in range(2))
    flags = (drawn(0, 4) > 0) | (drawn(1, 4) > 0)
    for found in results:
        for got, expected in zip(found, [a + b, (a + b).reshape(3, 4).T, (a + b) / 2, a + b, b, flags], strict=True):
            np.testing.assert_array_equal(got, expected)


def test_groups_give_nccl_arrays_of_the_device(nccl):
    check_reduced(run(2, lambda carrier: reduced(NCCLTransport.over(carrier, 10.0)), 30.0))


def test_waiting_is_left_to_the_stream(alone, nccl, monkeypatch):
    """A collective is asked for at once, in the caller's thread and on its stream; `wait` does not stop the host."""
    late(alone, monkeypatch)
    group, waited = grouped(alone), []
    monkeypatch.setattr("tests.fake_cuda.Stream.wait_event", lambda self, event: waited.append(self.ptr))
    work = group.all_reduce(core.ones(3, device="cuda"), "sum", async_op=True)
    assert work.is_completed() and group.lane._thread is None and waited == [alone._stream.ptr]
    work.wait()
    assert waited == [alone._stream.ptr, 0] and len(alone._pending) == 1


@pytest.mark.parametrize("size", [2])
def test_other_transports_get_pinned_arrays_of_the_host(fake, monkeypatch, size):
    seen = []

    def body(transport):
        plain = transport.all_reduce
        be = backend.get("cuda")
        monkeypatch.setattr(
            transport, "all_reduce", lambda array, *rest: (seen.append(be.is_pinned(array)), plain(array, *rest))[1]
        )
        return reduced(transport)

    cuda.init()
    check_reduced(run(size, body, 30.0))
    assert seen and all(seen)


def test_a_copy_that_never_ends_is_an_error(fake, monkeypatch):
    cuda.init()
    group = grouped(LoopbackTransport.open(World(), 5.0))
    group.timeout_s = 0.1
    monkeypatch.setattr(
        "tests.fake_cuda.Stream.record", lambda self, event=None: SimpleNamespace(done=False, at_ms=0.0)
    )
    with pytest.raises(DeadlineError, match=r"all_reduce #1 .*expected the GPU to copy within 0.1 s"):
        group.all_reduce(core.ones(3, device="cuda"), "sum")
    group.lane.close()


# -- several processes on one GPU --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float16, bfloat16])
@pytest.mark.parametrize("window", [16, 1 << 20])
def test_windows_of_one_gpu(fake, monkeypatch, dtype, window):
    monkeypatch.setattr(cuda_ipc, "WINDOW_BYTES", window)
    cuda.init()

    def rank(carrier):
        transport = IPCTransport(carrier, soon())
        try:
            return body(transport, dtype) | {"group": reduced(transport) if dtype == np.float32 else None}
        finally:
            transport.close()
            transport.close()

    results = run(2, rank, 60.0)
    check_two_ranks(results, dtype)
    if dtype == np.float32:
        check_reduced([r["group"] for r in results])
    assert not OPEN_HANDLES


def test_another_gpu_is_an_error(fake, monkeypatch):
    cuda.init()
    runtime = backend.get("cuda").xp.cuda.runtime

    def refuse(handle):
        raise RuntimeError("cudaErrorMapBufferObjectFailed: mapping of buffer object failed")

    monkeypatch.setattr(runtime, "ipcOpenMemHandle", refuse)
    with pytest.raises(
        DDPError, match=r"rank \d: transport ipc: expected rank \d to use the same GPU, got .*; use nccl"
    ):
        run(2, lambda carrier: IPCTransport(carrier, soon()), 30.0)


def test_nccl_wants_a_gpu_for_each_rank(nccl):
    with pytest.raises(ArgumentError, match="expected a GPU for each rank of this host, got 1 for 2"):
        NCCLTransport.open(World(0, 2, 0, 2), 5.0)
