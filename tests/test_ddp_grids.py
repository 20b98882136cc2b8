"""What scripts use besides the plain collectives: uneven all-to-all, ranks told as ranks of a group, meshes, collectives with
gradients, and names under which torch keeps things. On ranks as threads.
"""

import numpy as np
import pytest

import core
import ddp
import ddp.nn.functional as F
from core.errors import CoreError
from tests import jobs


def test_uneven_all_to_all():
    def body():
        rank, size = ddp.get_rank(), ddp.get_world_size()
        sent = [core.full((rank + 2 * r,), 10 * rank + r) for r in range(size)]
        out = [core.zeros(r + 2 * rank, dtype=core.int64) for r in range(size)]
        ddp.all_to_all(out, sent)
        assert [t.tolist() for t in out] == [[10 * r + rank] * (r + 2 * rank) for r in range(size)]
        # rows of one tensor, so many for each rank
        to, come = [rank + 1] * size, [r + 1 for r in range(size)]
        rows = core.full((sum(to), 2), float(rank))
        out = core.zeros(sum(come), 2)
        work = ddp.all_to_all_single(out, rows, come, to, async_op=True)
        work.wait()
        assert out[:, 1].tolist() == [float(r) for r in range(size) for _ in range(r + 1)]

    ddp.run_threads(3, body)
    ddp.run_threads(1, body)


def test_split_sizes_that_do_not_fit_are_named_on_every_rank():
    def body():
        rank = ddp.get_rank()
        out = core.zeros(4 if rank == 1 else 2)
        with pytest.raises(
            CoreError, match="expected rank 1 to await what rank 0 sends it, 1 elements, got room for 3"
        ):
            ddp.all_to_all_single(out, core.zeros(2), [3, 1] if rank == 1 else [1, 1], [1, 1])
        with pytest.raises(CoreError, match=r"first dimension divides into \[2, 1\], got shape \(2,\)"):
            ddp.all_to_all_single(core.zeros(3), core.zeros(2), [2, 1], [2, 1])
        with pytest.raises(TypeError, match="expected tensors of one dtype, got float32, float64"):
            ddp.all_to_all([core.zeros(1), core.zeros(2)], [core.zeros(1), core.zeros(2, dtype=core.float64)])

    ddp.run_threads(2, body)


def test_ranks_may_be_told_as_ranks_of_the_group():
    def body():
        me = ddp.get_rank()
        pair = ddp.new_group([1, 2])
        if me == 0:
            return
        assert pair.rank() == pair.rank == me - 1 and pair.size() == pair.size == 2
        t = core.tensor([float(me)])
        ddp.broadcast(t, group=pair, group_src=1)
        assert t.item() == 2.0
        ddp.reduce(t, group=pair, group_dst=0)
        assert t.item() == (4.0 if me == 1 else 2.0)
        ddp.gather(t, [core.zeros(1), core.zeros(1)] if me == 2 else None, group=pair, group_dst=1)
        out = core.zeros(1)
        ddp.scatter(out, [core.ones(1), core.ones(1) * 5] if me == 1 else None, group=pair, group_src=0)
        assert out.item() == (1.0 if me == 1 else 5.0)
        if me == 1:
            ddp.send(core.ones(1) * 7, group=pair, group_dst=1)
            ddp.isend(core.ones(1) * 8, group=pair, group_dst=1).wait()
            ddp.send_object_list([{"a": 1}, "b"], group=pair, group_dst=1)
        else:
            assert ddp.recv(out, group=pair, group_src=0) == 1 and out.item() == 7.0
            ddp.irecv(out, group=pair, group_src=0).wait()
            items = []
            assert (
                out.item() == 8.0 and ddp.recv_object_list(items, src=1, group=pair) == 1 and items == [{"a": 1}, "b"]
            )
        for call in (
            lambda: ddp.broadcast(out, group=pair, group_src=2),
            lambda: ddp.send(out, group=pair, group_dst=-1),
        ):
            with pytest.raises(CoreError, match="expected a group rank below 2"):
                call()
        ddp.barrier(pair, timeout=5)

    ddp.run_threads(3, body)


def test_device_mesh():
    def body():
        me = ddp.get_rank()
        mesh = ddp.init_device_mesh("cpu", (2, 3), mesh_dim_names=("dp", "tp"))
        row, column = divmod(me, 3)
        assert (
            mesh.get_coordinate() == (row, column)
            and mesh.get_local_rank("dp") == row
            and mesh.get_local_rank(1) == column
        )
        assert mesh.get_group("dp").ranks == (column, column + 3) and mesh.get_group("tp").ranks == (
            3 * row,
            3 * row + 1,
            3 * row + 2,
        )
        assert mesh["tp"].mesh.tolist() == [3 * row, 3 * row + 1, 3 * row + 2] and mesh["tp"].get_local_rank() == column
        assert mesh["tp", "dp"].mesh.tolist() == [[0, 3], [1, 4], [2, 5]] and (
            mesh.size(),
            mesh.size("tp"),
            mesh.ndim,
        ) == (6, 3, 2)
        t = core.ones(1) * me
        ddp.all_reduce(t, group=mesh["dp"].get_group())
        assert t.item() == 2 * column + 3
        for call, text in (
            (lambda: mesh.get_group(), "expected one of its dimensions, 'dp', 'tp', got None"),
            (lambda: mesh["pp"], "got 'pp'"),
            (lambda: ddp.init_device_mesh("cpu", (4,)), "expected a shape for 6 ranks"),
            (lambda: ddp.DeviceMesh("cpu", [[0, 0]]), "each once"),
            (lambda: ddp.DeviceMesh("cpu", [0, 1], mesh_dim_names=("a", "b")), "expected a name for each of 1"),
        ):
            with pytest.raises(CoreError, match=text):
                call()

    ddp.run_threads(6, body)


def of_all_ranks(x, weights, run):
    """What the ranks compute, in one process: `run(k, of all)` is rank k's loss."""
    leaves = [core.tensor(a, requires_grad=True) for a in x]
    sum(run(k, leaves, weights[k]) for k in range(len(x))).backward()
    return [np.zeros_like(a) if leaf.grad is None else leaf.grad.numpy() for a, leaf in zip(x, leaves)]


GRADIENTS = {  # what a rank computes; the same from the leaves of all ranks
    "all_reduce": (
        lambda x, w: (F.all_reduce(x * x) * w[0]).sum(),
        lambda k, x, w: (sum(each * each for each in x) * w[0]).sum(),
    ),
    "broadcast": (
        lambda x, w: (F.broadcast(x * 2, 1) ** 2 * w[0]).sum(),
        lambda k, x, w: ((x[1] * 2) ** 2 * w[0]).sum(),
    ),
    "all_gather": (
        lambda x, w: (core.stack(F.all_gather(x**3)) * w).sum(),
        lambda k, x, w: (core.stack([each**3 for each in x]) * w).sum(),
    ),
    "reduce_scatter": (
        lambda x, w: (F.reduce_scatter(core.empty(2), [x * (r + 1) for r in range(3)]) ** 2 * w[0]).sum(),
        lambda k, x, w: (sum(each * (k + 1) for each in x) ** 2 * w[0]).sum(),
    ),
    "all_to_all_single": (
        lambda x, w: (F.all_to_all_single(core.empty(6), core.cat([x, x * 2, x * 3])) ** 2 * w.reshape(-1)).sum(),
        lambda k, x, w: (core.cat([each * (k + 1) for each in x]) ** 2 * w.reshape(-1)).sum(),
    ),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_flow_through_ranks(name):
    mine, of_all = GRADIENTS[name]
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((3, 2)), [core.tensor(rng.standard_normal((3, 2))) for _ in range(3)]
    expected = of_all_ranks(x, weights, of_all)

    def body():
        k = ddp.get_rank()
        leaf = core.tensor(x[k], requires_grad=True)
        mine(leaf, weights[k]).backward()
        np.testing.assert_allclose(leaf.grad.numpy(), expected[k], rtol=1e-12)

    ddp.run_threads(3, body)


def test_a_reduction_without_a_gradient_is_refused():
    with pytest.raises(CoreError, match=r"expected ReduceOp\.SUM"):
        F.all_reduce(core.ones(1), ddp.ReduceOp.MAX)


def test_names_where_torch_keeps_them(monkeypatch):
    import ddp.distributed_c10d as c10d
    from ddp.elastic.multiprocessing.errors import record

    @record
    def main(x):
        return x + 1

    assert main(2) == 3
    assert c10d.all_gather_object is ddp.all_gather_object and ddp.reduce_op.SUM == ddp.ReduceOp.SUM
    assert issubclass(ddp.errors.DeadlineError, ddp.DistBackendError)
    assert not hasattr(c10d, "no_such_name") and not ddp.is_torchelastic_launched() and not ddp.is_xccl_available()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert ddp.is_torchelastic_launched() and ddp.supports_complex(ddp.ReduceOp.SUM) and not ddp.supports_complex("max")

    def body():
        ddp.new_group([0])
        return ddp.get_pg_count()

    assert ddp.run_threads(2, body) == [2, 2]


PROGRAM = """
import sys, ddp, core
store = ddp.HashStore() if sys.argv[1] == "store" else None
method = None if store else "file:///nowhere/at/all"
import os
ddp.init_process_group("cuda:NCCL,cpu:gloo", init_method=method, store=store, rank=int(os.environ["RANK"]), world_size=2)
t = core.ones(1)
ddp.all_reduce(t)
print(ddp.get_backend(), t.item())
"""


@pytest.mark.parametrize("how", ["store", "file"])
def test_ranks_of_a_launcher_need_no_store(how, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = jobs.run([*jobs.LAUNCHERS["ddprun"](2), str(program), how])
    assert sorted(done.stdout.splitlines()) == ["[0] zmq 2.0", "[1] zmq 2.0"]


def test_without_a_launcher_a_store_is_not_enough():
    for how in ({"store": ddp.HashStore()}, {"init_method": "file:///tmp/x"}):
        with pytest.raises(CoreError, match="expected ranks that ddprun, mpirun or srun started"):
            ddp.init_process_group("gloo", rank=0, world_size=2, **how)
    with pytest.raises(CoreError, match="got 'http://x'"):
        ddp.init_process_group("gloo", init_method="http://x", rank=0, world_size=2)
