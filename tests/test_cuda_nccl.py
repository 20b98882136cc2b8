"""The NCCL transport over a NCCL made of NumPy: two ranks as threads, each with the fake device. What only NCCL can show is in
`tests.gpu`."""

import ctypes
import queue
import threading
import time
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
from ml_dtypes import bfloat16

import core
from core import backend, cuda
from core.errors import ArgumentError, DTypeError
from ddp.env import World
from ddp.errors import DDPError, DeadlineError
from ddp.group import Lane, ProcessGroup
from ddp.parallel import DistributedDataParallel
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
    """Where the ranks of one communicator meet, and messages wait."""

    def __init__(self, size):
        self.barrier, self.given = threading.Barrier(size), [None] * size
        self.messages = defaultdict(queue.Queue)  # by (source, destination)

    def exchange(self, rank, value):
        self.given[rank] = value
        self.barrier.wait(10)
        found = list(self.given)
        self.barrier.wait(10)
        return found


class FakeNccl:
    """Of ranks that are threads. Like NCCL's, the making of a communicator returns when all its ranks are there."""

    available = True
    NCCL_INT8, NCCL_UINT8, NCCL_INT32, NCCL_UINT32, NCCL_INT64, NCCL_UINT64 = range(6)
    NCCL_FLOAT16, NCCL_FLOAT32, NCCL_FLOAT64, NCCL_BFLOAT16 = 6, 7, 8, 9
    NCCL_SUM, NCCL_PROD, NCCL_MAX, NCCL_MIN, NCCL_AVG = range(5)

    def __init__(self):
        self.hubs, self.group, self.lock = {}, threading.local(), threading.Lock()
        self.aborted, self.error, self.ids, self.made = [], None, [], 0

    def get_unique_id(self):
        with self.lock:
            self.made += 1
            return bytes([self.made, *range(1, 128)])

    def NcclCommunicator(self, size, name, rank):
        with self.lock:
            self.ids.append(name)
            hub = self.hubs.setdefault(name, Hub(size))
        hub.barrier.wait(10)
        return Communicator(self, hub, rank)

    def groupStart(self):
        self.group.receives = []

    def groupEnd(self):
        receives, self.group.receives = self.group.receives, None
        for receive in receives:
            receive()


class Communicator:
    def __init__(self, nccl, hub, rank):
        self.nccl, self.hub, self.rank = nccl, hub, rank

    def _reduced(self, send, count, kind, op):
        every = np.stack([v.astype(np.float64) for v in self.hub.exchange(self.rank, at(send, count, kind).copy())])
        return (np.sum, np.prod, np.max, np.min, np.mean)[op](every, axis=0)

    def allReduce(self, send, recv, count, kind, op, stream):
        at(recv, count, kind)[:] = self._reduced(send, count, kind, op).astype(TYPES[kind])

    def reduce(self, send, recv, count, kind, op, root, stream):
        result = self._reduced(send, count, kind, op)
        if self.rank == root:
            at(recv, count, kind)[:] = result.astype(TYPES[kind])

    def broadcast(self, send, recv, count, kind, root, stream):
        at(recv, count, kind)[:] = self.hub.exchange(self.rank, at(send, count, kind).copy())[root]

    def allGather(self, send, recv, count, kind, stream):
        every = self.hub.exchange(self.rank, at(send, count, kind).copy())
        at(recv, count * len(every), kind)[:] = np.concatenate(every)

    def reduceScatter(self, send, recv, count, kind, op, stream):
        whole = self._reduced(send, count * len(self.hub.given), kind, op)
        at(recv, count, kind)[:] = whole[self.rank * count :][:count].astype(TYPES[kind])

    def send(self, pointer, count, kind, peer, stream):
        self.hub.messages[self.rank, peer].put(at(pointer, count, kind).copy())

    def recv(self, pointer, count, kind, peer, stream):
        def receive():
            at(pointer, count, kind)[:] = self.hub.messages[peer, self.rank].get(timeout=10)

        grouped = getattr(self.nccl.group, "receives", None)
        receive() if grouped is None else grouped.append(receive)

    def check_async_error(self):
        if self.nccl.error:
            raise RuntimeError(self.nccl.error)

    def abort(self):
        self.nccl.aborted.append(self.rank)


@pytest.fixture
def nccl(fake, monkeypatch):
    be, found = backend.get("cuda"), FakeNccl()
    monkeypatch.setattr(be, "nccl", lambda: found, raising=False)
    yield found
    State.graph = State.stream = Array.allocate = None


def call(name, array, detail=""):
    return Call(name, 0, array.dtype.name, array.size, detail)


def soon(timeout_s=10.0):
    return Deadline.after(timeout_s)


@pytest.fixture
def alone(nccl):
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
    assert nccl.ids == [bytes([1, *range(1, 128)])] * 2


def test_what_nccl_has_not_got(alone):
    for dtype in (bool, np.complex64, np.int16):
        with pytest.raises(DTypeError, match="expected a dtype that NCCL has"):
            alone.all_reduce(Array(np.zeros(2, dtype)), "sum", Call("all_reduce", 0, "bool", 2), soon())
    for op, dtype in (("bxor", np.int32), ("avg", np.int32)):
        with pytest.raises(ArgumentError, match="expected a reduce op that NCCL has for int32"):
            alone.all_reduce(Array(np.zeros(2, dtype)), op, Call("all_reduce", 0, "int32", 2), soon())


def pending(transport):
    return [p for channel in transport._channels.values() for p in list(channel.pending)]


def late(transport, monkeypatch):
    """From now on no collective ends."""
    monkeypatch.setattr(
        transport._cuda, "Event", lambda **options: SimpleNamespace(done=False, at_ms=0.0, record=lambda stream: None)
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
    assert any(x in p.arrays for p in pending(alone)) or not pending(alone)
    alone.synchronize(soon())
    until = time.monotonic() + 5
    while pending(alone) and time.monotonic() < until:
        time.sleep(0.01)
    assert not pending(alone)
    alone.close()
    with pytest.raises(DDPError, match="expected an open transport"):
        alone.all_reduce(x, "sum", call("all_reduce", x, "sum"), soon())


def test_nothing_is_watched_under_capture(alone, monkeypatch):
    x, stream = Array(np.ones(4, np.float32)), alone._cuda.Stream()
    waits = []
    with stream:
        stream.begin_capture()
        alone.all_reduce(x, "sum", call("all_reduce", x, "sum"), soon())
        alone.all_gather(x, call("all_gather", x), soon())
        alone.reduce_scatter(x, "sum", call("reduce_scatter", x, "sum"), soon())
        alone.all_to_all(x, call("all_to_all", x), soon())
        monkeypatch.setattr("tests.fake_cuda.Stream.wait_event", lambda self, event: waits.append(self.ptr))
        alone.flush(soon())
        alone.flush(soon())
        assert waits == [stream.ptr], "what is not part of the capture must not be waited for inside"
        stream.end_capture()
    assert not pending(alone) and len(alone._kept) == 4


# -- through process groups --------------------------------------------------------------------------------------------


def grouped(transport):
    """A process group over a transport, as `init_process_group` makes it."""
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


def moved(transport, dtype=np.float32):
    """Every other call of a group on device tensors, some of which are views that are not contiguous."""
    group, rank, size = grouped(transport), transport.rank, transport.size
    base = core.from_numpy(drawn(rank, 12)).to("cuda", core.bfloat16 if dtype is bfloat16 else core.float32)
    room = lambda *shape: core.zeros(*shape, dtype=base.dtype, device="cuda")
    found = {}

    def keep(name, *tensors, work=None):
        if work is not None:
            work.wait()
        found[name] = [t.cpu().float().numpy() for t in tensors]

    t = base.clone().reshape(3, 4).t()
    group.reduce(t, 1, "sum")
    keep("reduce", t)
    outs = [room(4, 3), room(3, 4).t()]
    keep("all_gather", *outs, work=group.all_gather(outs, base.reshape(3, 4).t(), async_op=True))
    outs = [room(12), room(12)] if rank == 1 else None
    group.gather(base, outs, 1)
    keep("gather", *(outs or ()))
    t = room(12)
    group.scatter(t, [base, base * 2] if rank == 1 else None, 1)
    keep("scatter", t)
    t = room(12)
    keep("reduce_scatter", t, work=group.reduce_scatter(t, [base, base * 2], "sum", async_op=True))
    outs = [room(12), room(12)]
    group.all_to_all(outs, [base, base * 2])
    keep("all_to_all", *outs)
    outs = [room(3 - rank), room(3 - rank)]
    group.all_to_all(outs, [base[:3], base[3:5]])
    keep("uneven", *outs)
    pair = [base.clone(), base[:4].clone().reshape(2, 2).t()]
    group.all_reduce_coalesced(pair, "sum")
    keep("coalesced", *pair)
    t = room(3, 4).t()
    group.send(base, 1, 5) if rank == 0 else group.recv(t, 0, 5)
    keep("recv", *([t] if rank else []))
    there, back = room(12), base.clone()
    group.connect([there, back], [1 - rank])
    works = [group.send(back, 1 - rank, 0, async_op=True), group.recv(there, 1 - rank, 0, async_op=True)]
    assert all(w.wait() for w in works)
    keep("exchanged", there)
    if size == 2:
        part = ProcessGroup(group.lane, group.world, [rank], 1 + rank, 10.0)
        outs = [room(12)]
        part.all_gather(outs, base)
        keep("subset", *outs)
        part = ProcessGroup(group.lane, group.world, [1, 0], 9, 10.0)
        outs = [room(12), room(12)]
        part.all_gather(outs, base)
        keep("turned", *outs)
    group.lane.close()
    return found


def check_moved(results):
    a, b = (drawn(k, 12) for k in range(2))
    turned = [v.reshape(3, 4).T for v in (a, b)]
    ours = {0: a, 1: b}
    for rank, found in enumerate(results):
        expected = {
            "reduce": [(a + b).reshape(3, 4).T if rank else turned[0]], "all_gather": turned,
            "gather": [a, b] if rank else [], "scatter": [b * (1 + rank)],
            "reduce_scatter": [(a + b) * (1 + rank)], "all_to_all": [a * (1 + rank), b * (1 + rank)],
            "uneven": [v[:3] if rank == 0 else v[3:5] for v in (a, b)],
            "coalesced": [a + b, (a + b)[:4].reshape(2, 2).T], "recv": [turned[0].reshape(4, 3)] if rank else [],
            "exchanged": [ours[1 - rank]], "subset": [ours[rank]], "turned": [b, a],
        }  # fmt: skip
        expected["recv"] = [a.reshape(4, 3)] if rank else []
        assert found.keys() == expected.keys()
        for name, arrays in expected.items():
            assert len(found[name]) == len(arrays), name
            for got, e in zip(found[name], arrays):
                np.testing.assert_array_equal(got, e, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, bfloat16])
def test_nothing_of_a_group_goes_by_the_host(nccl, monkeypatch, dtype):
    """Values are what they are on the host, and no array of the device is copied to it, but by the test."""
    plain, reads = Array.get, []
    monkeypatch.setattr(Array, "get", lambda self, *a, **k: (reads.append(self.dtype.name), plain(self, *a, **k))[1])
    results = run(2, lambda carrier: moved(NCCLTransport.over(carrier, 10.0), dtype), 30.0)
    check_moved(results)
    assert len(reads) == sum(len(arrays) for found in results for arrays in found.values())
    # the world, both directions of the pair, two subsets of one rank, one of two
    assert len(nccl.hubs) == 1 + 2 + 2 + 1


def test_results_are_copied_on_the_stream_that_makes_them(alone, monkeypatch):
    """A result is stored behind its collective, before anybody waits; its memory is kept until that has been done."""
    stores, plain = [], Array.__setitem__

    def store(self, index, value):
        stores.append(State.stream)
        plain(self, index, value)

    monkeypatch.setattr(Array, "__setitem__", store)
    late(alone, monkeypatch)
    group, x = grouped(alone), core.ones(3, 4, device="cuda")
    group.all_gather([core.zeros(3, 4, device="cuda")], x, async_op=True)
    group.all_reduce(core.ones(3, 4, device="cuda").t(), "sum", async_op=True)
    assert [s is alone._channels["all"].stream for s in stores[-2:]] == [True, True]
    assert len(pending(alone)) == 4


def test_behind_queued_calls_the_callers_stream_is_meant(alone, monkeypatch):
    """A call that waits for others runs in the transport's thread, and comes after the work of the stream that it was made on."""
    group, be, go, after = grouped(alone), backend.get("cuda"), threading.Event(), []
    plain = be.event
    monkeypatch.setattr(be, "event", lambda stream=None: (after.append(stream or State.stream), plain(stream))[1])
    group.lane.post(lambda: go.wait(10))
    threading.Timer(0.2, go.set).start()
    s = cuda.Stream()
    with cuda.stream(s):
        work = group.all_reduce(core.ones(3, device="cuda"), "sum", async_op=True)
    assert after[0] is s.raw and work.wait()
    group.lane.close()


def averaged(transport):
    """Gradients of a model on the GPU after a step of DistributedDataParallel, whose ranks see different data."""
    group = grouped(transport)
    core.manual_seed(0)
    net = core.nn.Sequential(core.nn.Linear(4, 8), core.nn.ReLU(), core.nn.Linear(8, 2)).cuda()
    model = DistributedDataParallel(net, process_group=group)
    x = core.from_numpy(drawn(transport.rank, 12)).reshape(3, 4).cuda()
    for _ in range(2):
        model.zero_grad()
        model(x).pow(2).mean().backward()
    found = [p.grad.cpu().numpy() for p in net.parameters()]
    group.lane.close()
    return found


def check_averaged(results):
    core.manual_seed(0)
    net = core.nn.Sequential(core.nn.Linear(4, 8), core.nn.ReLU(), core.nn.Linear(8, 2))
    for rank in range(2):
        x = core.from_numpy(drawn(rank, 12)).reshape(3, 4)
        (net(x).pow(2).mean() / 2).backward()
    for found in results:
        for got, p in zip(found, net.parameters(), strict=True):
            np.testing.assert_allclose(got, p.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_gradients_of_a_gpu_are_averaged(nccl):
    """Over NCCL from GPU to GPU, and through the host."""
    check_averaged(run(2, lambda carrier: averaged(NCCLTransport.over(carrier, 10.0)), 30.0))
    check_averaged(run(2, averaged, 30.0))


def test_a_message_that_nobody_takes_is_aborted(nccl, monkeypatch):
    def rank(carrier):
        transport = NCCLTransport.over(carrier, 10.0)
        x = Array(np.ones(4, np.float32))
        if transport.rank:
            transport.recv_pieces(0, x, Call("send", 3, "float32", 4), soon())
            carrier.barrier(Call("barrier", 7, "uint8", 0), soon())
            transport.close()
            return
        transport.send_pieces(1, x, Call("send", 3, "float32", 4), soon())
        transport.synchronize(soon())
        late(transport, monkeypatch)
        transport.send_pieces(1, x, Call("send", 4, "float32", 4), soon(0.2))
        with pytest.raises(DeadlineError, match=r"rank 0: send #4 .*expected the other rank to end it within 0.2 s"):
            transport.synchronize(soon())
        carrier.barrier(Call("barrier", 7, "uint8", 0), soon())
        transport.close()

    run(2, rank, 30.0)
    assert nccl.aborted.count(0) >= 3  # every communicator of the rank that gave up


def test_a_peer_that_does_not_come_to_the_meeting(nccl):
    def rank(carrier):
        transport = NCCLTransport.over(carrier, 10.0)
        if transport.rank == 0:
            with pytest.raises(DeadlineError, match=r"expected rank 1 within 0\.2 s"):
                transport.send_pieces(1, Array(np.ones(4, np.float32)), Call("send", 0, "float32", 4), soon(0.2))
        carrier.barrier(Call("barrier", 7, "uint8", 0), soon())
        transport.close()

    run(2, rank, 30.0)


def test_waiting_is_left_to_the_stream(alone, nccl, monkeypatch):
    """A collective is asked for at once, in the caller's thread and on its stream; `wait` does not stop the host."""
    late(alone, monkeypatch)
    group, waited = grouped(alone), []
    monkeypatch.setattr("tests.fake_cuda.Stream.wait_event", lambda self, event: waited.append(self.ptr))
    work = group.all_reduce(core.ones(3, device="cuda"), "sum", async_op=True)
    assert work.is_completed() and group.lane._thread is None and waited == [alone._channels["all"].stream.ptr]
    work.wait()
    assert waited == [alone._channels["all"].stream.ptr, 0] and len(pending(alone)) == 1


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
    check_moved(run(size, moved, 30.0))


def test_a_copy_that_never_ends_is_an_error(fake, monkeypatch):
    cuda.init()
    group = grouped(LoopbackTransport.open(World(), 5.0))
    group.timeout_s = 0.1
    monkeypatch.setattr(backend.get("cuda"), "event", lambda stream=None: SimpleNamespace(done=False, at_ms=0.0))
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


def test_groups_give_windows_arrays_of_the_device(fake):
    cuda.init()
    check_moved(run(2, lambda carrier: moved(IPCTransport(carrier, soon())), 30.0))
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
