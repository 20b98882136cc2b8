"""Rooms that stand by themselves: derivatives of functions, recomputation, processes, profiles, comparisons, event files, einops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import core
from core import nn
from core.autograd import functional
from core.errors import ArgumentError, GraphError
from core.testing import assert_allclose, assert_close, make_tensor
from core.utils.checkpoint import checkpoint, checkpoint_sequential

X = np.random.default_rng(0).standard_normal((2, 3))


def close(y: Any, e: Any) -> None:
    np.testing.assert_allclose(y.detach().numpy(), e, rtol=1e-10, atol=1e-12)
    assert tuple(y.shape) == np.shape(e)


# -- torch.autograd.functional -----------------------------------------------------------------------------------------------


def test_jacobians_and_products_with_them() -> None:
    a, x, v, u = core.tensor(X), core.tensor(X[0]), core.tensor(X[1]), core.tensor(X[:, 0])
    f = lambda x: (a @ x).sin()
    j = np.cos(X @ X[0])[:, None] * X
    close(functional.jacobian(f, x), j)
    value, product = functional.jvp(f, x, v)
    close(value, np.sin(X @ X[0]))
    close(product, j @ X[1])
    value, product = functional.vjp(f, x, u)
    close(product, X[:, 0] @ j)
    assert not value.requires_grad and not product.requires_grad
    pair = functional.jacobian(lambda x, y: (x * y, y.sum()), (x, v))
    close(pair[0][0], np.diag(X[1]))
    close(pair[1][1], np.ones(3))
    close(pair[1][0], np.zeros(3))
    with pytest.raises(GraphError, match="strict"):
        functional.jacobian(lambda x, y: y.sum(), (x, v), strict=True)
    with pytest.raises(ArgumentError, match="v"):
        functional.vjp(f, x)


def test_hessians_and_products_with_them() -> None:
    x, v = core.tensor(X[0]), core.tensor(X[1])
    f = lambda x: (x**3).sum() + x[0] * x[1]
    h = np.diag(6 * X[0])
    h[0, 1] = h[1, 0] = 1
    close(functional.hessian(f, x), h)
    close(functional.hvp(f, x, v)[1], h @ X[1])
    close(functional.vhp(f, x, v)[1], X[1] @ h)
    blocks = functional.hessian(lambda x, y: (x * x * y).sum(), (x, v))
    close(blocks[0][1], np.diag(2 * X[0]))
    close(blocks[1][1], np.zeros((3, 3)))
    w = core.tensor(2.0, requires_grad=True)
    functional.hessian(lambda x: w * (x**3).sum(), core.ones(2), create_graph=True).sum().backward()
    assert w.grad.item() == 12
    with pytest.raises(ArgumentError, match="single element"):
        functional.hessian(lambda x: x, x)


@pytest.mark.parametrize("name", ["jacobian", "hessian", "vjp", "jvp", "vhp", "hvp"])
def test_functional_against_torch(name: str) -> None:
    torch = pytest.importorskip("torch")

    def called(lib: Any) -> Any:
        a, x = lib.tensor(X), lib.tensor(X[0])
        if name in ("hessian", "vhp", "hvp"):
            f, v = lambda x: ((a @ x) ** 3).sum(), lib.tensor(X[1])
        else:
            f, v = lambda x: (a @ x).exp(), lib.tensor(X[1] if name == "jvp" else X[:, 0])
        found = getattr(lib.autograd.functional, name)(f, x, *([v] if name not in ("jacobian", "hessian") else []))
        return found if isinstance(found, tuple) else (found,)

    for y, e in zip(called(core), called(torch)):
        close(y, e.numpy())


# -- torch.utils.checkpoint ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_recomputed_parts_give_the_same_gradients(use_reentrant: bool) -> None:
    runs: list[int] = []
    layer = nn.Linear(3, 3).double()

    def part(x: Any, factor: float, flag: None, extra: Any) -> Any:
        runs.append(1)
        assert flag is None and extra == ["kept"]
        return core.nn.functional.dropout(layer(x).tanh() * factor, 0.5)

    found = []
    for recomputed in (False, True):
        core.manual_seed(3)
        layer.zero_grad()
        x = core.tensor(X, requires_grad=True)
        args = (x, 2.0, None, ["kept"])
        y = checkpoint(part, *args, use_reentrant=use_reentrant) if recomputed else part(*args)
        after = core.rand(())
        y.sum().backward()
        found.append(
            [y.detach().numpy(), x.grad.numpy(), layer.weight.grad.numpy(), after.item(), core.rand(()).item()]
        )
    for a, b in zip(*found):
        np.testing.assert_array_equal(a, b)
    assert len(runs) == 3  # once plain; once and again


def test_the_two_ways_differ_as_torchs_do() -> None:
    w = core.ones(3, requires_grad=True)
    y = checkpoint(lambda x: x * w, core.ones(3), use_reentrant=False)  # no input wants a gradient, but w does
    y.sum().backward()
    assert w.grad.tolist() == [1, 1, 1]
    assert not checkpoint(lambda x: x * 2, core.ones(3), use_reentrant=True).requires_grad
    out = checkpoint(lambda x, k=1: x * k, core.ones(2, requires_grad=True), k=3, use_reentrant=False)
    assert out.tolist() == [3, 3]
    with pytest.raises(ArgumentError, match="use_reentrant=True"):
        checkpoint(lambda x, k=1: x * k, core.ones(2), k=3, use_reentrant=True)
    core.manual_seed(0)
    x = core.ones(1000, requires_grad=True)
    other = checkpoint(lambda x: core.nn.functional.dropout(x), x, use_reentrant=False, preserve_rng_state=False)
    core.rand(5)
    other.sum().backward()
    assert x.grad.tolist() != other.detach().tolist()  # drawn anew


def test_sequential_parts() -> None:
    core.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(5))).double()
    found = []
    for segments in (None, 2, 3):
        model.zero_grad()
        x = core.tensor(X, requires_grad=True)
        (
            model(x) if segments is None else checkpoint_sequential(model, segments, x, use_reentrant=False)
        ).sum().backward()
        found.append((x.grad.numpy(), model[0].weight.grad.numpy()))
    for other in found[1:]:
        for a, b in zip(found[0], other):
            np.testing.assert_array_equal(a, b)


# -- torch.multiprocessing.spawn -----------------------------------------------------------------------------------------------


def _work(rank: int, folder: str, how: str) -> None:
    if rank == 1:
        if how == "raise":
            raise KeyError("rank one is unwell")
        if how == "exit":
            os._exit(7)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    if how != "well":
        time.sleep(60)
    with open(os.path.join(folder, str(rank)), "w") as f:
        f.write("done")


@pytest.mark.parametrize(
    ("how", "message"),
    [("raise", "rank one is unwell"), ("exit", "process 1 terminated with exit code 7"), ("kill", "signal 9")],
)
def test_spawn_reports_the_process_that_failed_and_ends_the_others(tmp_path, how: str, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=message) as caught:
        core.multiprocessing.spawn(_work, args=(str(tmp_path), how), nprocs=3)
    assert time.monotonic() - start < 30 and not list(tmp_path.iterdir())
    if how == "raise":
        assert "Traceback" in str(caught.value) and "_work" in str(caught.value) and "Process 1" in str(caught.value)
        assert isinstance(caught.value, core.multiprocessing.ProcessRaisedException)


def test_spawn_waits_or_not(tmp_path) -> None:
    context = core.multiprocessing.spawn(_work, args=(str(tmp_path), "well"), nprocs=2, join=False)
    assert len(context.pids()) == 2
    while not context.join(timeout=30):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1"]
    assert core.multiprocessing.spawn(_work, args=(str(tmp_path), "well"), nprocs=1) is None


# -- torch.profiler --------------------------------------------------------------------------------------------------------------


def test_profile_counts_ops_and_writes_a_trace(tmp_path) -> None:
    from core.profiler import ProfilerActivity, profile, record_function

    x = core.ones(20, 20, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as p:
        with record_function("my block"):
            for _ in range(3):
                y = (x @ x).relu()
        y.sum().backward()
    rows = {e.key: e for e in p.key_averages()}
    assert rows["my block"].count == 1
    assert any("matmul" in k or "mm" in k for k in rows) and next(e.count for k, e in rows.items() if "relu" in k) >= 3
    table = p.key_averages().table(sort_by="cpu_time_total", row_limit=5)
    assert "my block" in table
    p.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())
    events = events["traceEvents"] if isinstance(events, dict) else events
    assert any(e.get("name") == "my block" and e["dur"] >= 0 for e in events)


def test_schedule_decides_which_steps_are_recorded(tmp_path) -> None:
    from core.profiler import ProfilerAction, profile, schedule, tensorboard_trace_handler

    plan = schedule(wait=1, warmup=1, active=2, repeat=1, skip_first=1)
    A = ProfilerAction
    assert [plan(i) for i in range(7)] == [A.NONE, A.NONE, A.WARMUP, A.RECORD, A.RECORD_AND_SAVE, A.NONE, A.NONE]
    seen = []
    with profile(
        schedule=schedule(wait=1, warmup=1, active=2, repeat=2), on_trace_ready=lambda p: seen.append(p.step_num)
    ) as p:
        for _ in range(9):
            core.ones(3).exp()
            p.step()
    assert len(seen) == 2
    with profile(
        schedule=schedule(wait=0, warmup=0, active=1, repeat=1), on_trace_ready=tensorboard_trace_handler(str(tmp_path))
    ) as p:
        core.ones(3).exp()
        p.step()
    assert len(list(tmp_path.iterdir())) == 1


# -- torch.testing -----------------------------------------------------------------------------------------------------------------


def test_assert_close() -> None:
    assert_close(core.tensor([1.0, 2.0]), core.tensor([1.0, 2.0 + 1e-6]))
    assert_close({"a": [core.ones(2), 1.0]}, {"a": [core.ones(2), 1.0]})
    assert_close(core.tensor([float("nan")]), core.tensor([float("nan")]), equal_nan=True)
    assert_close(core.ones(2), core.ones(2).double(), check_dtype=False)
    assert_allclose(core.ones(2), core.ones(2).double())
    for actual, expected, message in (
        (core.tensor([1.0, 2.0]), core.tensor([1.0, 3.0]), "Mismatched elements: 1 / 2"), (core.ones(2), core.ones(3), "shape"),
        (core.ones(2), core.ones(2).double(), "dtype"), ({"a": 1.0}, {"b": 1.0}, "keys"), ([1.0], [1.0, 2.0], "length"),
        (core.tensor([float("nan")]), core.tensor([float("nan")]), "not close"), (core.tensor([1]), core.tensor([2]), "not close"),
    ):  # fmt: skip
        with pytest.raises(AssertionError, match=message):
            assert_close(actual, expected)
    with pytest.raises(AssertionError, match=r"^mine$"):
        assert_close(core.ones(1), core.zeros(1), msg="mine")
    assert_close(core.ones(1), core.zeros(1), rtol=0, atol=1.5)


def test_make_tensor() -> None:
    core.manual_seed(0)
    x = make_tensor(3, 4, dtype=core.float32, low=-1, high=1, requires_grad=True)
    assert x.shape == (3, 4) and x.requires_grad and x.is_leaf and bool((x.abs() <= 1).all())
    i = make_tensor((50,), dtype=core.uint8, exclude_zero=True)
    assert i.dtype is core.uint8 and bool((i > 0).all()) and bool((i < 10).all())
    assert make_tensor(2, 3, dtype=core.complex64).is_complex() and make_tensor(5, dtype=core.bool).dtype is core.bool
    assert not make_tensor(3, 4, dtype=core.float64, noncontiguous=True).is_contiguous()


# -- other packages ------------------------------------------------------------------------------------------------------------------


def test_summary_writer_writes_what_tensorboard_reads(tmp_path) -> None:
    pytest.importorskip("tensorboard", reason="SummaryWriter needs the tensorboard package")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from core.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as w:
        for i in range(3):
            w.add_scalar("loss", core.tensor(0.5 * i), i)
        w.add_scalars("both", {"a": 1.0, "b": 2.0}, 0)
        w.add_histogram("weights", core.arange(10.0), 0)
        w.add_text("note", "hello", 0)
        w.add_image("picture", core.rand(3, 4, 4), 0)
        w.flush()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert "weights" in events.Tags()["histograms"] and "picture" in events.Tags()["images"]


EINOPS = """
import torch
from einops import einsum, pack, rearrange, reduce, repeat, unpack
from einops.layers.torch import EinMix, Rearrange, Reduce

x = torch.arange(24.0).reshape(2, 3, 4).requires_grad_()
assert torch.equal(rearrange(x, "a b c -> b (a c)"), x.permute(1, 0, 2).reshape(3, 8))
assert torch.equal(reduce(x, "a b c -> a c", "max"), x.amax(1))
assert repeat(x, "a b c -> a b c r", r=2).shape == (2, 3, 4, 2)
assert torch.equal(einsum(x, x, "a b c, a d c -> a b d"), x @ x.mT)
packed, shapes = pack([torch.ones(2, 3), torch.ones(2, 4, 5)], "i *")
assert packed.shape == (2, 23) and [t.shape for t in unpack(packed, shapes, "i *")] == [(2, 3), (2, 4, 5)]
model = torch.nn.Sequential(
    Rearrange("a b c -> a (b c)"), torch.nn.Linear(12, 6), Rearrange("a (h w) -> a h w", h=2), Reduce("a h w -> a w", "mean"),
    EinMix("a w -> a k", weight_shape="w k", bias_shape="k", w=3, k=5),
)
y = model(x)
y.sum().backward()
print(tuple(y.shape), tuple(x.grad.shape), type(x).__module__)
"""


def test_einops_and_its_layers(tmp_path) -> None:
    pytest.importorskip("einops", reason="einops is not installed")
    (tmp_path / "program.py").write_text(EINOPS)
    command = [sys.executable, "-m", "launch.as_torch", str(tmp_path / "program.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(2, 5) (2, 3, 4) core._tensor\n"
