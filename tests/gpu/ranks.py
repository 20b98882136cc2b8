"""Ranks and devices, for `python -m tests.gpu`: NCCL with one rank, two processes on one GPU, staging, several GPUs in one process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import core
from core import cuda
from core._tensor import wrap
from tests.gpu import rehearsal
from tests.gpu.checks import Rows, drawn, gpu


def ranks(quick: bool) -> Rows:
    for dtype in ("float32", "float16", "bfloat16"):
        yield f"NCCL, one rank, {dtype}", lambda dtype=dtype: nccl(dtype)
    yield "NCCL under a process group", grouped
    yield "NCCL in a graph", captured
    for backend in ("ipc", "zmq", "nccl"):
        yield f"two processes over {backend}", lambda backend=backend: two_processes(backend)


def opened() -> Any:
    from ddp.env import World
    from ddp.transport.loopback import LoopbackTransport
    from ddp.transport.nccl import NCCLTransport

    return NCCLTransport.over(LoopbackTransport.open(World(), 30.0), 30.0)


def nccl(dtype: str) -> str:
    from ddp.transport.base import Call, Deadline

    transport = opened()
    try:
        x = gpu().from_numpy(drawn(dtype, 1000))
        before = x.get()
        for name in ("sum", "avg", "max"):
            transport.all_reduce(x, name, Call("all_reduce", 0, dtype, 1000, name), Deadline.after(30))
        transport.broadcast(x, 0, Call("broadcast", 1, dtype, 1000), Deadline.after(30))
        transport.reduce(x, "sum", 0, Call("reduce", 2, dtype, 1000), Deadline.after(30))
        found = [
            transport.all_gather(x, Call("all_gather", 3, dtype, 1000), Deadline.after(30)),
            transport.gather(x, 0, Call("gather", 4, dtype, 1000), Deadline.after(30)),
            transport.scatter(x, 0, Call("scatter", 5, dtype, 1000), Deadline.after(30)),
            transport.reduce_scatter(x, "sum", Call("reduce_scatter", 6, dtype, 1000), Deadline.after(30)),
            transport.all_to_all(x, Call("all_to_all", 7, dtype, 1000), Deadline.after(30)),
        ]
        transport.flush(Deadline.after(30))
        transport.synchronize(Deadline.after(30))
        for y in (x, *found):
            np.testing.assert_array_equal(y.get().reshape(-1), before)
    finally:
        transport.close()
    return "all_reduce, broadcast, reduce, all_gather, gather, scatter, reduce_scatter, all_to_all"


def grouped() -> str:
    """A process group's tensors go over NCCL as they are; views that are not contiguous are copied behind the call."""
    from ddp.env import World
    from ddp.group import Lane, ProcessGroup

    group = ProcessGroup(Lane(opened()), World(), [0], 0, 30.0)
    try:
        for k in range(20):  # a copy that did not wait would be seen now and then
            x, y = core.randn(300, 400).cuda(), core.zeros(400, 300).cuda()
            turned, flat = x.t(), core.zeros(300, 400).cuda()
            works = [
                group.all_gather([y], turned, async_op=True),
                group.reduce_scatter(flat, [x], "sum", async_op=True),
                group.all_reduce(turned, "sum", async_op=True),
            ]
            assert all(w.wait() for w in works)
            assert (y == turned).all() and (flat == x).all(), f"round {k}"
    finally:
        group.lane.close()
    return "all_gather, reduce_scatter and all_reduce of views, twenty times"


def captured() -> str:
    from ddp.transport.base import Call, Deadline

    if rehearsal.is_on():
        pytest.skip("its NCCL is not captured")
    transport = opened()
    try:
        x = core.ones(1000).cuda()
        call = Call("all_reduce", 0, "float32", 1000, "sum")
        transport.all_reduce(x._a, "sum", call, Deadline.after(30))
        transport.flush(Deadline.after(30))
        g = cuda.CUDAGraph()
        with cuda.graph(g):
            x += 1
            transport.all_reduce(x._a, "sum", call, Deadline.after(30))
            part = transport.reduce_scatter(x._a, "sum", call, Deadline.after(30))
            rows = transport.all_gather(part, call, Deadline.after(30))
            transport.flush(Deadline.after(30))
            y = wrap(rows[0]) * 2
        for _ in range(3):
            g.replay()
        cuda.synchronize()
        assert (y == 8).all() and (x == 4).all(), y[:3].tolist()
    finally:
        transport.close()
    return "all_reduce, reduce_scatter and all_gather between two kernels, three launches"


CHILD = """
import numpy as np, core, ddp
ddp.init_process_group(backend="BACKEND", timeout=30)
rank, size = ddp.get_rank(), ddp.get_world_size()
x = core.arange(300000.0).cuda() + rank
ddp.all_reduce(x)
expected = 2 * np.arange(300000.0) + 1
assert (x.cpu().numpy() == expected).all()
there = core.zeros(1000).cuda()
ops = [ddp.P2POp(ddp.irecv, there, 1 - rank), ddp.P2POp(ddp.isend, x[:1000] + rank, 1 - rank)]
for work in ddp.batch_isend_irecv(ops): work.wait()
assert (there.cpu().numpy() == expected[:1000] + 1 - rank).all(), "a message came otherwise than it was sent"
rows = [core.zeros(5).cuda() for _ in range(2)]
ddp.all_gather(rows, core.ones(5).cuda() * rank, group=ddp.new_group([0, 1]))
assert [row.sum().item() for row in rows] == [0, 5]
core.manual_seed(0)
model = ddp.DistributedDataParallel(core.nn.Linear(64, 64).cuda())
optimizer = core.optim.AdamW(model.parameters(), lr=1e-2)
data = core.randn(32, 64).cuda()[rank::size]
for _ in range(5):
    optimizer.zero_grad(); loss = model(data).pow(2).mean(); loss.backward(); optimizer.step()
mine = model.module.weight.detach().clone()
ddp.broadcast(mine, 0)
assert (mine == model.module.weight).all(), "the ranks' weights differ"
print("rank", rank, "loss", round(loss.item(), 4))
"""


def two_processes(backend: str) -> str:
    """Collectives, messages and DistributedDataParallel in two processes: over NCCL on two GPUs, else on one that they share."""
    if rehearsal.is_on():
        pytest.skip("two processes share no device that is a process's own")
    if backend == "nccl" and gpu().count() < 2:
        pytest.skip("one GPU")
    return run_child(CHILD.replace("BACKEND", backend))


def run_child(script: str) -> str:
    """A script on two ranks."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "child.py"
        path.write_text(script, encoding="utf-8")
        command = [sys.executable, "-m", "launch", "-n", "2", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-600:]
    return done.stdout


def devices(quick: bool) -> Rows:
    def parallel() -> str:
        if gpu().count() < 2:
            pytest.skip("one GPU")
        core.manual_seed(0)
        net = core.nn.Sequential(core.nn.Linear(16, 32), core.nn.GELU(), core.nn.Linear(32, 4)).cuda()
        model, x = core.nn.DataParallel(net), core.randn(33, 16).cuda()
        y = model(x)
        np.testing.assert_allclose(y.detach().cpu().numpy(), net(x).detach().cpu().numpy(), rtol=1e-3, atol=1e-4)
        y.sum().backward()
        return f"{gpu().count()} GPUs"

    def copies() -> str:
        where = gpu().count() - 1
        x = core.randn(1000).cuda()
        y = x.to(f"cuda:{where}")
        assert (y.cpu() == x.cpu()).all()
        return f"cuda:0 to cuda:{where}"

    def another() -> str:
        """The op table on a device that is not the current one."""
        if gpu().count() < 2:
            pytest.skip("one GPU")
        from tests import test_ops
        from tests.cases import IDS

        core.zeros(1).cuda()
        start_s, count = time.monotonic(), 0
        for name, number in IDS:
            if time.monotonic() - start_s < (8 if quick else 100):
                test_ops.check_device(name, number, "cuda:1")
                count += 1
            assert cuda.current_device() == 0
        return f"{count} rows of the op table on cuda:1 while cuda:0 is the current device"

    yield "DataParallel", parallel
    yield "a device that is not the current one", another
    yield "copies between devices", copies
