"""torch.distributed's calls on tensors, DistributedDataParallel and its manners, on ranks as threads. Each body runs
as every rank.
"""

import threading

import numpy as np
import pytest

import core
import core.nn as nn
import ddp
from core.errors import CoreError

SIZES = [1, 2, 3, 5]


def rank_size():
    return ddp.get_rank(), ddp.get_world_size()


def each(size, value):
    """What value(rank) gives on every rank, as one list."""
    return [value(r) for r in range(size)]


# -- collectives
# -----------------------------------------------------------------------------------------------------------


def all_reduce():
    rank, size = rank_size()
    t = core.full((2, 3), float(rank + 1))
    ddp.all_reduce(t)
    assert t.tolist() == [[size * (size + 1) / 2] * 3] * 2
    for op, expected in [
        ("MAX", size),
        ("MIN", 1),
        ("AVG", (size + 1) / 2),
        ("PRODUCT", np.prod(np.arange(1, size + 1))),
    ]:
        t = core.tensor([float(rank + 1)])
        ddp.all_reduce(t, getattr(ddp.ReduceOp, op))
        assert t.item() == expected, op


def not_contiguous():
    rank, size = rank_size()
    base = core.zeros(4, 3)
    ddp.all_reduce(base.t()[1:], ddp.ReduceOp.SUM)
    t = core.arange(6.0).view(2, 3).t()
    ddp.all_reduce(t)
    assert t.tolist() == (np.arange(6.0).reshape(2, 3).T * size).tolist()


def broadcast():
    rank, size = rank_size()
    for src in range(size):
        t = core.tensor([rank, -rank])
        ddp.broadcast(t, src)
        assert t.tolist() == [src, -src]


def reduce():
    rank, size = rank_size()
    for dst in range(size):
        t = core.tensor([rank + 1])
        ddp.reduce(t, dst)
        assert t.item() == (size * (size + 1) // 2 if rank == dst else rank + 1)


def gathers():
    rank, size = rank_size()
    mine = core.tensor([[rank, rank + 10]])
    out = [core.zeros(1, 2, dtype=core.int64) for _ in range(size)]
    ddp.all_gather(out, mine)
    assert [t.tolist() for t in out] == each(size, lambda r: [[r, r + 10]])
    flat = core.zeros(size, 2, dtype=core.int64)
    ddp.all_gather_into_tensor(flat, mine)
    assert flat.tolist() == each(size, lambda r: [r, r + 10])
    for dst in range(size):
        out = [core.zeros(1, 2, dtype=core.int64) for _ in range(size)] if rank == dst else None
        ddp.gather(mine, out, dst)
        if rank == dst:
            assert [t.tolist() for t in out] == each(size, lambda r: [[r, r + 10]])


def scatters():
    rank, size = rank_size()
    for src in range(size):
        t = core.zeros(2)
        ddp.scatter(t, [core.full((2,), float(r)) for r in range(size)] if rank == src else None, src)
        assert t.tolist() == [rank, rank]
    out = core.zeros(2)
    ddp.reduce_scatter(out, [core.full((2,), float(r + rank)) for r in range(size)])
    assert out.tolist() == [sum(rank + r for r in range(size))] * 2
    out = core.zeros(1, 2)
    ddp.reduce_scatter_tensor(out, core.ones(size, 2) * (rank + 1))
    assert out.tolist() == [[size * (size + 1) / 2] * 2]


def all_to_all():
    rank, size = rank_size()
    out = [core.zeros(1, dtype=core.int64) for _ in range(size)]
    ddp.all_to_all(out, [core.tensor([100 * rank + r]) for r in range(size)])
    assert [t.item() for t in out] == each(size, lambda r: 100 * r + rank)
    single = core.zeros(size, dtype=core.int64)
    ddp.all_to_all_single(single, core.arange(size) + 100 * rank)
    assert single.tolist() == each(size, lambda r: 100 * r + rank)


def point_to_point():
    rank, size = rank_size()
    right, left = (rank + 1) % size, (rank - 1) % size
    if size == 1:
        return
    works = [ddp.isend(core.tensor([rank, tag]), right, tag=tag) for tag in (7, 8)]
    got = {tag: core.zeros(2, dtype=core.int64) for tag in (8, 7)}
    for tag, t in got.items():  # in the other order than sent
        assert ddp.recv(t, left, tag=tag) == left
        assert t.tolist() == [left, tag]
    for w in works:
        w.wait()


def asynchronous():
    _, size = rank_size()
    tensors = [core.full((50_000,), float(i)) for i in range(8)]
    works = [ddp.all_reduce(t, async_op=True) for t in tensors]
    last = core.ones(1)
    ddp.all_reduce(last)  # goes behind them
    assert all(w.is_completed() for w in works) and last.item() == size
    for i, (t, w) in enumerate(zip(tensors, works)):
        assert w.wait() and w.is_success() and t[0].item() == i * size


def sub_groups():
    rank, size = rank_size()
    evens, odds = ddp.new_group(range(0, size, 2)), ddp.new_group(range(1, size, 2)) if size > 1 else None
    mine = evens if rank % 2 == 0 else odds
    t = core.tensor([float(rank)])
    ddp.all_reduce(t, group=mine)
    assert t.item() == sum(range(rank % 2, size, 2))
    assert ddp.get_rank(mine) == rank // 2 and ddp.get_process_group_ranks(mine) == list(range(rank % 2, size, 2))
    ddp.broadcast(t, src=rank % 2, group=mine)
    ddp.barrier()


def each_key(size):
    return [[r] for r in range(size)]


def objects():
    rank, size = rank_size()
    out = [None] * size
    ddp.all_gather_object(out, {"rank": rank, "text": "ü" * rank})
    assert out == each(size, lambda r: {"rank": r, "text": "ü" * r})
    items = [rank, "x"] if rank == size - 1 else [None, None]
    ddp.broadcast_object_list(items, src=size - 1)
    assert items == [size - 1, "x"]
    ddp.all_gather_object(out, {rank: (core.ones(rank), np.float32(rank))})
    assert [list(each) for each in out] == each_key(size) and all(
        len(out[r][r][0]) == r == out[r][r][1] for r in range(size)
    )
    with pytest.raises(TypeError, match=r"all_gather_object: expected numbers, .* or tensors, got builtins\.object"):
        ddp.all_gather_object(out, object())


def coalesced():
    rank, size = rank_size()
    a, b = core.full((2, 2), float(rank)), core.arange(3.0).t()
    ddp.all_reduce_coalesced([a, b])
    assert a.tolist() == [[sum(range(size))] * 2] * 2 and b.tolist() == [0.0, size, 2.0 * size]
    out = [[core.zeros(2), core.zeros(1, dtype=core.int64)] for _ in range(size)]
    ddp.all_gather_coalesced(out, [core.full((2,), float(rank)), core.tensor([rank])])
    assert [[t.tolist() for t in ts] for ts in out] == each(size, lambda r: [[r, r], [r]])
    with pytest.raises(TypeError, match="expected tensors of one dtype"):
        ddp.all_reduce_coalesced([core.zeros(1), core.zeros(1, dtype=core.int64)])


def batch_of_point_to_point():
    rank, size = rank_size()
    if size == 1:
        return
    got = core.zeros(1, dtype=core.int64)
    ops = [ddp.P2POp(ddp.irecv, got, (rank - 1) % size), ddp.P2POp(ddp.isend, core.tensor([rank]), (rank + 1) % size)]
    for work in ddp.batch_isend_irecv(ops):
        work.wait()
    assert got.item() == (rank - 1) % size
    with pytest.raises(ValueError, match="expected op isend or irecv"):
        ddp.P2POp(ddp.send, got, 0)


def subgroups_of_neighbours():
    rank, size = rank_size()
    mine, groups = ddp.new_subgroups(1)
    assert ddp.get_process_group_ranks(mine) == [rank] and len(groups) == size
    mine, _ = ddp.new_subgroups()
    t = core.ones(1)
    ddp.all_reduce(t, group=mine)
    assert t.item() == size
    if size > 1:
        with pytest.raises(ValueError, match="expected a group_size that divides"):
            ddp.new_subgroups(size + 1)


def callbacks_of_futures():
    """They run before the next call, whenever that is made; what they call runs there, too."""
    _, size = rank_size()
    order = []

    def again(future):
        t = future.value()[0]
        ddp.all_reduce(t)
        order.append(t[0].item())
        return t[0].item()

    futures = [ddp.all_reduce(core.full((50_000,), float(i)), async_op=True).get_future().then(again) for i in range(4)]
    assert ddp.futures.wait_all(futures) == order == [i * size**2 for i in range(4)]

    def fails(future):
        raise KeyError("mine")

    future = ddp.all_reduce(core.ones(1), async_op=True).get_future()
    future.add_done_callback(fails)  # printed; the thread goes on
    future.wait()
    bad = ddp.all_reduce(core.ones(1), async_op=True).get_future().then(fails).then(lambda f: f.value())
    with pytest.raises(KeyError):
        bad.wait()


BODIES = [
    coalesced,
    batch_of_point_to_point,
    subgroups_of_neighbours,
    callbacks_of_futures,
    all_reduce,
    not_contiguous,
    broadcast,
    reduce,
    gathers,
    scatters,
    all_to_all,
    point_to_point,
    asynchronous,
    sub_groups,
    objects,
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("body", BODIES, ids=lambda f: f.__name__)
def test_calls(body, size):
    ddp.run_threads(size, body)


def test_world_of_one_without_launcher():
    ddp.init_process_group()
    try:
        assert rank_size() == (0, 1) and ddp.get_backend() == "loopback"
        for body in BODIES:
            body()
    finally:
        ddp.destroy_process_group()
    assert not ddp.is_initialized()


MISTAKES = {
    "different calls": (
        lambda rank: ddp.barrier() if rank else ddp.all_reduce(core.ones(2)),
        r"expected rank \d in the same call as rank \d, .*(barrier|all_reduce) #1.*, got (barrier|all_reduce) #1",
    ),
    "different shapes": (lambda rank: ddp.all_reduce(core.ones(2 + rank)), r"all_reduce #1 \(float32\[[23]\], sum\)"),
    "different dtypes": (
        lambda rank: ddp.all_reduce(core.ones(2, dtype=core.float64 if rank else core.float32)),
        r"float(32|64)\[2\].*got .*float(64|32)\[2\]",
    ),
    "different roots": (lambda rank: ddp.broadcast(core.ones(2), src=rank), r"broadcast #1 \(float32\[2\], root=[01]\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_ranks_that_disagree(name):
    act, message = MISTAKES[name]

    def body():
        with pytest.raises(CoreError, match=message):
            act(ddp.get_rank())
            ddp.barrier()  # the root of a broadcast is done before the others notice

    ddp.run_threads(2, body, timeout_s=20)


def test_futures():
    f, g = ddp.futures.Future(), ddp.futures.Future()
    both = ddp.futures.collect_all([f, g])
    after = f.then(lambda f: f.value() + 1)
    assert not f.done() and not both.done() and ddp.futures.collect_all([]).wait() == []
    with pytest.raises(CoreError, match="expected a future that is done"):
        f.value()
    f.set_result(1)
    assert after.wait() == 2 and not both.done()
    with pytest.raises(CoreError, match="set it once"):
        f.set_result(2)
    g.set_exception(KeyError("mine"))
    assert both.wait() == [f, g]
    for call in (g.wait, g.value, g.then(lambda g: g.value()).wait, lambda: ddp.futures.wait_all([f, g])):
        with pytest.raises(KeyError):
            call()


def test_names_that_scripts_ask_for():
    assert ddp.is_available() and ddp.is_gloo_available() and not ddp.is_ucc_available()
    assert ddp.is_nccl_available() is core.cuda.is_available()
    assert (
        ddp.is_backend_available("gloo")
        and ddp.is_backend_available("zmq")
        and not ddp.is_backend_available("carrier pigeon")
    )
    assert ddp.Backend("GLOO") == ddp.Backend.GLOO == "gloo" and ddp.default_pg_timeout.total_seconds() == 600
    assert ddp.group.WORLD is None and ddp.distributed_c10d.all_reduce is ddp.all_reduce

    def body():
        assert ddp.get_backend_config() == "cpu:threads,cuda:threads"
        ddp.all_reduce(core.ones(1), group=ddp.group.WORLD)
        assert ddp.new_group([0]) is not ddp.group.NON_GROUP_MEMBER or ddp.get_rank() == 1

    ddp.run_threads(2, body)


def test_monitored_barrier_names_who_is_missing():
    def body():
        if ddp.get_rank() == 1:
            late.wait(5)
        with pytest.raises(CoreError, match=r"expected rank 1 within 0\.2 s"):
            ddp.monitored_barrier(timeout=0.2)
        late.set()

    late = threading.Event()
    ddp.run_threads(3, body, timeout_s=20)


# -- DistributedDataParallel
# -------------------------------------------------------------------------------------------------

_building = threading.Lock()  # threads share the default random numbers


def network(seed=0):
    with _building:
        core.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).double()


def data(rank, n=6):
    rng = np.random.default_rng(rank)
    return core.tensor(rng.standard_normal((n, 4))), core.tensor(rng.standard_normal((n, 2)))


def local_gradients(size, passes=1):
    """What the average over `size` ranks must be, by one process."""
    grads = []
    for rank in range(size):
        net = network()
        for _ in range(passes):
            x, y = data(rank)
            nn.MSELoss()(net(x), y).backward()
        grads.append([p.grad.numpy() for p in net.parameters()])
    return [np.mean(g, axis=0) for g in zip(*grads)]


def assert_gradients(net, expected):
    for p, e in zip(net.parameters(), expected):
        np.testing.assert_allclose(p.grad.numpy(), e, rtol=1e-12)


@pytest.mark.parametrize("bucket_cap_mb", [25, 1e-4])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_gradients_are_the_average(size, bucket_cap_mb):
    def body():
        net = network(seed=ddp.get_rank())  # rank 0's values win
        model = ddp.DistributedDataParallel(net, bucket_cap_mb=bucket_cap_mb)
        for _ in range(2):
            model.zero_grad()
            x, y = data(ddp.get_rank())
            nn.MSELoss()(model(x), y).backward()
            assert_gradients(net, local_gradients(size))

    ddp.run_threads(size, body)


def test_accumulation_with_and_without_no_sync():
    def body():
        x, y = data(ddp.get_rank())
        for hold in (True, False):
            net = network()
            model = ddp.DistributedDataParallel(net)
            if hold:
                with model.no_sync():
                    nn.MSELoss()(model(x), y).backward()
            else:
                nn.MSELoss()(model(x), y).backward()
            nn.MSELoss()(model(x), y).backward()
            assert_gradients(net, local_gradients(2, passes=2))

    ddp.run_threads(2, body)


def test_no_sync_first_backward_alone_is_local():
    def body():
        net = network()
        model = ddp.DistributedDataParallel(net)
        x, y = data(ddp.get_rank())
        with model.no_sync():
            nn.MSELoss()(model(x), y).backward()
        mine = network()
        nn.MSELoss()(mine(x), y).backward()
        assert_gradients(net, [p.grad.numpy() for p in mine.parameters()])

    ddp.run_threads(2, body)


class Branches(nn.Module):
    """Uses one of its branches; `never` takes part in nothing."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.never = nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x, which):
        return (self.a if which == 0 else self.b)(x)


def test_unused_parameters_need_no_announcement():
    def body():
        with _building:
            core.manual_seed(0)
            net = Branches()
        model = ddp.DistributedDataParallel(net)
        rank = ddp.get_rank()
        for _ in range(2):
            model.zero_grad()
            model(core.ones(3, 4), which=rank).sum().backward()
            # each branch was used on one of two ranks: half of its gradient
            assert net.a.weight.grad.tolist() == net.b.weight.grad.tolist() == [[1.5] * 4] * 2
            assert net.never.weight.grad is None

    ddp.run_threads(2, body)


def test_shared_parameters_and_two_models():
    def body():
        net = network()
        net[0].bias = net[0].bias  # no change
        tied = nn.ModuleList([nn.Linear(3, 3).double(), nn.Linear(3, 3).double()])
        tied[1].weight = tied[0].weight
        one, two = ddp.DistributedDataParallel(net), ddp.DistributedDataParallel(tied_forward(tied))
        x, y = data(ddp.get_rank())
        (nn.MSELoss()(one(x), y) + two(core.ones(2, 3, dtype=core.float64)).sum()).backward()
        assert_gradients(net, local_gradients(2))
        assert tied[0].weight.grad is tied[1].weight.grad is not None

    ddp.run_threads(2, body)


def tied_forward(layers):
    return nn.Sequential(*layers)


class Counter(nn.Module):
    """Counts its forwards in a buffer."""

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(2, 2)
        self.register_buffer("seen", core.zeros(1))

    def forward(self, x):
        self.seen += float(x.sum())
        return self.lin(x)


@pytest.mark.parametrize("broadcast_buffers", [True, False])
def test_buffers_are_those_of_rank_0(broadcast_buffers):
    def body():
        net = Counter()
        model = ddp.DistributedDataParallel(net, broadcast_buffers=broadcast_buffers)
        rank = ddp.get_rank()
        for _ in range(2):
            model(core.full((1, 2), float(rank)))
        assert net.seen.item() == (2.0 * rank if broadcast_buffers else 4.0 * rank)

    ddp.run_threads(2, body)


@pytest.mark.parametrize(
    "build, message",
    [
        (
            lambda r: nn.Linear(3, 2 + r),
            r"at position 0 weight \(float32\[2, 3\]\) on rank 0 and weight \(float32\[3, 3\]\) on rank 1",
        ),
        (
            lambda r: nn.Linear(3, 2, bias=r == 0),
            r"at position 1 bias \(float32\[2\]\) on rank 0 and nothing on rank 1",
        ),
        (
            lambda r: nn.Linear(3, 2, dtype=core.float64 if r else None),
            r"weight \(float32\[2, 3\]\) on rank 0 and weight \(float64",
        ),
    ],
)
def test_models_that_differ_name_the_parameter(build, message):
    def body():
        with pytest.raises(ddp_error(), match=message):
            ddp.DistributedDataParallel(build(ddp.get_rank()))

    ddp.run_threads(2, body)


def ddp_error():
    from ddp.errors import MismatchError

    return MismatchError


def test_state_dict_names_have_torchs_prefix():
    def body():
        model = ddp.DistributedDataParallel(network())
        assert list(model.state_dict()) == [f"module.{k}" for k in model.module.state_dict()]

    ddp.run_threads(2, body)


def test_graph_of_gradients_is_refused_clearly():
    def body():
        model = ddp.DistributedDataParallel(network())
        x, y = data(0)
        with pytest.raises(RuntimeError, match="expected plain gradients, got one with a graph"):
            nn.MSELoss()(model(x), y).backward(create_graph=True)

    ddp.run_threads(2, body)


# -- DistributedSampler
# --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("n, size", [(10, 1), (10, 3), (9, 3), (2, 5)])
def test_sampler_covers_all(n, size, drop_last):
    parts = []
    for rank in range(size):
        s = ddp.DistributedSampler(range(n), size, rank, seed=3, drop_last=drop_last)
        s.set_epoch(4)
        parts.append(list(s))
        assert len(parts[-1]) == len(s)
    seen = [i for part in parts for i in part]
    assert len({len(p) for p in parts}) == 1
    if drop_last:
        assert len(seen) == len(set(seen)) == n // size * size
    else:
        assert set(seen) == set(range(n))
