"""Ranks and devices, for `python -m tests.gpu`: NCCL with one rank, two processes on one GPU, staging, several GPUs in one process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import core
from core import cuda
from tests.gpu import rehearsal
from tests.gpu.checks import Rows, drawn, gpu


def ranks(quick: bool) -> Rows:
    for dtype in ("float32", "float16", "bfloat16"):
        yield f"NCCL, one rank, {dtype}", lambda dtype=dtype: nccl(dtype)
    yield "NCCL in a graph", captured
    for backend in ("ipc", "zmq"):
        yield f"two processes on one GPU over {backend}", lambda backend=backend: two_processes(backend)


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
        gathered = transport.all_gather(x, Call("all_gather", 2, dtype, 1000), Deadline.after(30))
        transport.flush(Deadline.after(30))
        transport.synchronize(Deadline.after(30))
        np.testing.assert_array_equal(x.get(), before)
        np.testing.assert_array_equal(gathered.get()[0], before)
    finally:
        transport.close()
    return "all_reduce, broadcast, all_gather"


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
            transport.flush(Deadline.after(30))
            y = x * 2
        for _ in range(3):
            g.replay()
        cuda.synchronize()
        assert (y == 8).all() and (x == 4).all(), y[:3].tolist()
    finally:
        transport.close()
    return "an all_reduce between two kernels, three launches"


CHILD = """
import numpy as np, core, ddp
ddp.init_process_group(backend="BACKEND", timeout=30)
rank, size = ddp.get_rank(), ddp.get_world_size()
x = core.arange(300000.0).cuda() + rank
ddp.all_reduce(x)
expected = 2 * np.arange(300000.0) + 1
assert (x.cpu().numpy() == expected).all()
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
    """DistributedDataParallel in two processes that share the GPU."""
    if rehearsal.is_on():
        pytest.skip("two processes share no device that is a process's own")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "launch", "-n", "2", "--", sys.executable, "-c", CHILD.replace("BACKEND", backend)]
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

    yield "DataParallel", parallel
    yield "copies between devices", copies
