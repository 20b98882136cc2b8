"""What composes with DistributedDataParallel: buckets in their order, communication hooks, join, SyncBatchNorm, sharded
and averaging optimizers. Ranks are threads.
"""

import copy
import subprocess
import sys
import threading

import numpy as np
import pytest

import core
import core.nn as nn
import ddp
from core.errors import CoreError
from ddp import reducer
from ddp.algorithms import Join
from ddp.algorithms.ddp_comm_hooks import (
    debugging_hooks,
    default_hooks,
    post_localSGD_hook,
    powerSGD_hook,
    topk_hook,
)
from ddp.algorithms.model_averaging import averagers
from ddp.optim import DiLoCo, PostLocalSGDOptimizer, ZeroRedundancyOptimizer
from tests import devices, jobs

device = devices.device
_building = threading.Lock()  # threads share the default random numbers


def network(seed=0, width=8):
    with _building:
        core.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2)).double()


def data(rank, n=6, seed=0):
    rng = np.random.default_rng((seed, rank))
    return core.tensor(rng.standard_normal((n, 4))), core.tensor(rng.standard_normal((n, 2)))


def backward(model, rank, seed=0):
    x, y = data(rank, seed=seed)
    loss = ((model(x) - y) ** 2).mean()
    loss.backward()
    return loss


def average(size, build=network, seed=0):
    """The gradients that all ranks must end with."""
    grads = []
    for rank in range(size):
        net = build()
        backward(net, rank, seed)
        grads.append([p.grad.numpy() for p in net.parameters()])
    return [np.mean(g, axis=0) for g in zip(*grads)]


def assert_gradients(net, expected, rtol=1e-12):
    for p, e in zip(net.parameters(), expected):
        np.testing.assert_allclose(p.grad.numpy(), e, rtol=rtol, atol=rtol)


def values(net):
    return np.concatenate([p.detach().numpy().reshape(-1) for p in net.parameters()])


def same_everywhere(array):
    out = [None] * ddp.get_world_size()
    ddp.all_gather_object(out, np.asarray(array).tolist())
    return all(o == out[0] for o in out)


# -- buckets -----------------------------------------------------------------------------------------------------------


class Backwards(nn.Module):
    """Uses its layers in the reverse of their order, so that gradients arrive in the order of the parameters."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(4)])

    def forward(self, x):
        for layer in reversed(self.layers):
            x = layer(x)
        return x


def test_buckets_follow_the_order_of_arrival_on_rank_0():
    def body():
        with _building:
            core.manual_seed(0)
            net = Backwards()
        model = ddp.DistributedDataParallel(net, bucket_cap_mb=8e-5)
        before = [b.names for b in model._reducer.buckets]
        assert before[0][0].startswith("layers.3")
        for _ in range(3):
            model.zero_grad()
            model(core.ones(2, 4) * (ddp.get_rank() + 1)).sum().backward()
        after = [b.names for b in model._reducer.buckets]
        assert after[0][0].startswith("layers.0") and after[-1][0].startswith("layers.3")
        assert all(p.grad._a.base is b.flat._a for b in model._reducer.buckets for p in b.params)
        assert same_everywhere(np.concatenate([p.grad.numpy().reshape(-1) for p in net.parameters()]))

    ddp.run_threads(2, body)


def test_the_first_bucket_and_the_last_are_small_and_none_is_tiny():
    """What is reduced first starts early, and what is reduced last is hidden by nothing; a call has its price."""

    def packed(*mib, limit):
        members = [(i, str(i), core.empty(int(size * 2**18))) for i, size in enumerate(mib)]
        buckets = reducer._packed(members, int(limit * 2**20))
        assert [i for bucket in buckets for i, _, _ in bucket] == list(range(len(mib)))
        return [[mib[i] for i, _, _ in bucket] for bucket in buckets]

    assert packed(1, 2, 3, limit=6) == [[1, 2, 3]]
    assert packed(0.5, 0.5, 3, 3, 0.25, 0.5, limit=4) == [[0.5, 0.5], [3], [3], [0.25, 0.5]]
    assert packed(0.125, 9, 0.125, 9, 0.5, 2, 1, 0.5, limit=4) == [[0.125, 9], [0.125, 9], [0.5, 2, 1], [0.5]]
    assert packed(0.125, 1, 0.125, 2, limit=1) == [[0.125, 1], [0.125, 2]]


AT_HOME = """
import copy, gc, os
import numpy as np
import core, ddp
from core import nn

def build(width=300, **how):
    core.manual_seed(0)
    return ddp.DistributedDataParallel(nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 8)), **how)

def gradients(model, seed):
    core.manual_seed(seed + ddp.get_rank())
    model.zero_grad()
    model(core.randn(16, 64)).square().mean().backward()
    return [p.grad.clone() for p in model.parameters()]

ddp.init_process_group()
model, plain = build(), build()
plain.register_comm_hook(None, lambda group, bucket: ddp.all_reduce(bucket.buffer(), "avg", async_op=True).get_future())
for seed in range(3):
    mine, same = gradients(model, seed), gradients(plain, seed)
    assert all((a._a == b._a).all() for a, b in zip(mine, same)), seed
    assert seed == 0 or all(np.shares_memory(p.grad._a, bucket.homes[ddp.get_rank()])
               for bucket in model._reducer.buckets for p in bucket.params)
small = build(bucket_cap_mb=0.01)
for seed in range(3):
    assert all((a._a == b._a).all() for a, b in zip(gradients(small, seed), gradients(plain, seed))), seed
assert len(small._reducer.buckets) > 1
kept = [p.grad for p in model.parameters()]
if ddp.get_rank() == 0:
    copy.deepcopy(model)  # by one rank alone
open_files = len(os.listdir("/proc/self/fd"))
for _ in range(5):
    model = build()
    gradients(model, 0)
gc.collect()
assert len(os.listdir("/proc/self/fd")) <= open_files + 2, "homes are freed with their model"
assert all((a._a == b._a).all() for a, b in zip(kept, mine)), "gradients outlive the model"
ddp.destroy_process_group()
assert all((a._a == b._a).all() for a, b in zip(kept, mine)), "and the job"
print("ok")
"""


def test_ranks_of_one_host_reduce_buckets_where_they_are(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(AT_HOME)
    assert jobs.run([*jobs.LAUNCHERS["ddprun"](2), str(program)]).stdout.count("ok") == 2


def test_gradients_are_written_into_the_buckets():
    def body():
        model = ddp.DistributedDataParallel(network())
        with model.no_sync():
            backward(model, 0)
        assert all(p.grad._a.base is b.flat._a for b in model._reducer.buckets for p in b.params)

    ddp.run_threads(2, body)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_accumulate_across_a_rebuild(set_to_none):
    def body():
        net = Backwards()
        model = ddp.DistributedDataParallel(net, bucket_cap_mb=1e-4)
        x = core.ones(2, 4) * (ddp.get_rank() + 1)
        model(x).sum().backward()
        once = [p.grad.numpy().copy() for p in net.parameters()]
        model(x).sum().backward()
        assert_gradients(net, [2 * g for g in once], rtol=1e-5)
        model.zero_grad(set_to_none)
        model(x).sum().backward()
        assert_gradients(net, once, rtol=1e-5)

    ddp.run_threads(2, body)


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.narrow, self.wide = nn.Linear(4, 4), nn.Linear(4, 2).double()

    def forward(self, x):
        return self.wide(self.narrow(x.float()).double())


def test_mixed_dtypes_and_several_forwards():
    def build():
        core.manual_seed(0)
        return Mixed()

    def body():
        with _building:
            net, twice = build(), build()
        rank = ddp.get_rank()
        model = ddp.DistributedDataParallel(net)
        x, y = data(rank)
        (((model(x) - y) ** 2).mean() + ((model(2 * x) - y) ** 2).mean()).backward()
        expected = []
        for r in range(2):
            twice.zero_grad()
            x, y = data(r)
            (((twice(x) - y) ** 2).mean() + ((twice(2 * x) - y) ** 2).mean()).backward()
            expected.append([p.grad.numpy().copy() for p in twice.parameters()])
        assert_gradients(net, [np.mean(g, axis=0) for g in zip(*expected)], rtol=1e-5)

    ddp.run_threads(2, body)


def test_frozen_later_holds_nothing_up_and_keeps_no_gradient():
    def body():
        net = network()
        model = ddp.DistributedDataParallel(net)
        net[2].requires_grad_(False)  # the first bucket in order of arrival
        for _ in range(2):
            model.zero_grad()
            backward(model, ddp.get_rank())
            assert net[2].weight.grad is None and net[0].weight.grad is not None
            assert same_everywhere(net[0].weight.grad.numpy())

    ddp.run_threads(2, body)


class Choice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x, which):
        return (self.a if which == 0 else self.b)(x)


def test_static_graph_waits_for_nobody_and_says_when_it_is_not_static():
    def body():
        net = Choice()
        model = ddp.DistributedDataParallel(net, static_graph=True, bucket_cap_mb=1e-6)
        for _ in range(3):
            model.zero_grad()
            model(core.ones(1, 4), 0).sum().backward()
            assert net.b.weight.grad is None and net.a.weight.grad is not None
        assert [b.missing for b in model._reducer.buckets if "b.weight" in b.names] == [set()]
        with pytest.raises(RuntimeError, match=r"expected the parameters of the first backward, got b\.\w+ too"):
            model(core.ones(1, 4), 1).sum().backward()

    ddp.run_threads(2, body)


def test_an_error_in_backward_does_not_spoil_the_next():
    def body():
        net = network()
        model = ddp.DistributedDataParallel(net)

        class Raises(core.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x + 0

            @staticmethod
            def backward(ctx, g):
                raise KeyError("mine")

        x, y = data(ddp.get_rank())
        with pytest.raises(KeyError):
            model(Raises.apply(x.requires_grad_())).sum().backward()
        model.zero_grad()
        backward(model, ddp.get_rank())
        assert_gradients(net, average(2))

    ddp.run_threads(2, body)


def test_errors_name_step_bucket_and_parameters():
    def body():
        model = ddp.DistributedDataParallel(network())
        backward(model, 0)
        with pytest.raises(RuntimeError) as caught:
            if ddp.get_rank() == 0:
                backward(model, 0)
            else:
                ddp.barrier()
        if ddp.get_rank() == 0:
            assert "in backward 2 of DistributedDataParallel, reducing bucket 0" in "".join(caught.value.__notes__)
            assert "2.bias" in "".join(caught.value.__notes__)

    ddp.run_threads(2, body, timeout_s=20)


def test_a_model_converted_later_is_refused():
    def body():
        model = ddp.DistributedDataParallel(network())
        model.float()
        with pytest.raises(TypeError, match="convert the model before wrapping it"):
            model(core.ones(1, 4)).sum().backward()

    ddp.run_threads(2, body)


def test_copies():
    def body():
        model = ddp.DistributedDataParallel(network())
        twin = copy.deepcopy(model)
        backward(twin, ddp.get_rank())
        assert_gradients(twin, average(2))
        assert model.module[0].weight.grad is None

    ddp.run_threads(2, body)


# -- communication hooks -----------------------------------------------------------------------------------------------


def by_hand(state, bucket):
    """The user's own: a second call from a callback, and a list as the result."""
    work = ddp.all_reduce(bucket.buffer(), async_op=True)

    def halve(future):
        check = core.ones(1, device=bucket.buffer().device)
        ddp.all_reduce(check)
        return [future.value()[0] / check]

    return work.get_future().then(halve)


EXACT = {
    "allreduce": (None, default_hooks.allreduce_hook, 1e-12),
    "fp16": (None, default_hooks.fp16_compress_hook, 2e-3),
    "bf16": (None, default_hooks.bf16_compress_hook, 2e-2),
    "fp16 around": (None, default_hooks.fp16_compress_wrapper(default_hooks.allreduce_hook), 2e-3),
    "by hand": (None, by_hand, 1e-12),
}


@pytest.mark.parametrize("bucket_cap_mb", [25, 1e-4])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("name", EXACT)
def test_hooks_average(name, size, bucket_cap_mb):
    state, hook, tolerance = EXACT[name]

    def body():
        net = network()
        model = ddp.DistributedDataParallel(net, bucket_cap_mb=bucket_cap_mb)
        model.register_comm_hook(state, hook)
        for step in range(3):
            model.zero_grad()
            backward(model, ddp.get_rank(), seed=step)
            assert_gradients(net, average(size, seed=step), rtol=tolerance)

    ddp.run_threads(size, body)


def test_unused_parameters_with_a_hook():
    def body():
        net = Choice()
        model = ddp.DistributedDataParallel(net)
        model.register_comm_hook(None, default_hooks.allreduce_hook)
        model(core.ones(3, 4), which=ddp.get_rank()).sum().backward()
        assert net.a.weight.grad.tolist() == net.b.weight.grad.tolist() == [[1.5] * 4] * 2

    ddp.run_threads(2, body)


HOOK_MISTAKES = {
    "not a function": (lambda m: m.register_comm_hook(None, 3), "expected a function, got int"),
    "twice": (
        lambda m: [m.register_comm_hook(None, default_hooks.allreduce_hook) for _ in range(2)], "can only be called once",
    ),
    "wrong length": (
        lambda m: (m.register_comm_hook(None, wrong_length), backward(m, 0)),
        r"expected a future of a tensor of 58 elements, .*got shape \[3\]",
    ),
    "rank": (lambda m: powerSGD_hook.PowerSGDState(None, start_powerSGD_iter=1), "Expect `start_powerSGD_iter` > 1"),
    "ratio": (lambda m: topk_hook.TopKState(None, ratio=0), "expected 0 < ratio <= 1, got 0"),
}  # fmt: skip


def wrong_length(state, bucket):
    future = ddp.futures.Future()
    future.set_result(core.ones(3))
    return future


@pytest.mark.parametrize("name", HOOK_MISTAKES)
def test_hook_mistakes(name):
    act, message = HOOK_MISTAKES[name]

    def body():
        with pytest.raises(CoreError, match=message):
            act(ddp.DistributedDataParallel(network()))

    ddp.run_threads(2, body)


def lossy_states(start=2):
    return {
        "powerSGD": (powerSGD_hook.PowerSGDState(None, 2, start_powerSGD_iter=start), powerSGD_hook.powerSGD_hook),
        "powerSGD cold": (
            powerSGD_hook.PowerSGDState(None, 2, start_powerSGD_iter=start, warm_start=False), powerSGD_hook.powerSGD_hook,
        ),
        "powerSGD fp16": (
            powerSGD_hook.PowerSGDState(None, 2, start_powerSGD_iter=start),
            default_hooks.fp16_compress_wrapper(powerSGD_hook.powerSGD_hook),
        ),
        "topk": (topk_hook.TopKState(None, ratio=0.1, start_iter=start), topk_hook.topk_hook),
    }  # fmt: skip


@pytest.mark.parametrize("name", lossy_states())
def test_lossy_hooks_agree_everywhere_and_lose_nothing_in_the_end(name):
    """With error feedback the sum of what was applied follows the sum of the gradients: what is missing stays bounded."""

    def body():
        net = network(width=64)
        state, hook = lossy_states()[name]
        model = ddp.DistributedDataParallel(net)
        model.register_comm_hook(state, hook)
        total, steps = 0.0, 60
        for _ in range(2 + steps):
            model.zero_grad()
            backward(model, ddp.get_rank())
            grads = np.concatenate([p.grad.numpy().reshape(-1) for p in net.parameters()])
            total = total + grads if state.iter > 2 else 0.0
        assert same_everywhere(grads)
        expected = np.concatenate([g.reshape(-1) for g in average(2, lambda: network(width=64))])
        error = np.linalg.norm(total / steps - expected) / np.linalg.norm(expected)
        assert error < 0.15, error

    ddp.run_threads(2, body)


def test_powerSGD_is_exact_for_matrices_of_its_rank():
    def body():
        net = nn.Linear(32, 24, bias=False).double()
        model = ddp.DistributedDataParallel(net)
        model.register_comm_hook(
            powerSGD_hook.PowerSGDState(None, 2, start_powerSGD_iter=2), powerSGD_hook.powerSGD_hook
        )
        xs = [np.random.default_rng(r).standard_normal((1, 32)) for r in range(2)]
        for _ in range(4):
            model.zero_grad()
            model(core.tensor(xs[ddp.get_rank()])).sum().backward()
        expected = np.tile(np.mean(xs, axis=0), (24, 1))  # of rank 1
        np.testing.assert_allclose(net.weight.grad.numpy(), expected, rtol=1e-9)

    ddp.run_threads(2, body)


# -- averaging of weights ----------------------------------------------------------------------------------------------


def train(model, opt, steps, seed=0):
    for step in range(steps):
        opt.zero_grad()
        backward(model, ddp.get_rank(), seed=seed + step)
        opt.step()


def test_post_local_SGD():
    def body():
        net = network()
        model = ddp.DistributedDataParallel(net)
        state = post_localSGD_hook.PostLocalSGDState(None, None, 2, post_local_gradient_allreduce=False)
        model.register_comm_hook(state, post_localSGD_hook.post_localSGD_hook)
        opt = PostLocalSGDOptimizer(
            core.optim.SGD(model.parameters(), lr=0.1), averagers.PeriodicModelAverager(period=3, warmup_steps=2)
        )
        same = []
        for step in range(8):
            opt.zero_grad()
            backward(model, ddp.get_rank(), seed=step)
            opt.step()
            same.append(same_everywhere(values(net)))
        assert same == [True, True, True, False, False, True, False, False]
        again = PostLocalSGDOptimizer(core.optim.SGD(model.parameters(), lr=0.1), averagers.PeriodicModelAverager(3, 2))
        again.load_state_dict(opt.state_dict())
        assert again.averager.step == 8

    ddp.run_threads(2, body)


def test_local_gradients_with_noop():
    def body():
        net = network()
        model = ddp.DistributedDataParallel(net)
        model.register_comm_hook(None, debugging_hooks.noop_hook)
        backward(model, ddp.get_rank())
        mine = network()
        backward(mine, ddp.get_rank())
        assert_gradients(net, [p.grad.numpy() for p in mine.parameters()])

    ddp.run_threads(2, body)


def test_diloco_is_its_algorithm():
    def body():
        net = network()
        opt = DiLoCo(core.optim.SGD(net.parameters(), lr=0.1), period=2)
        train(net, opt, 4)
        locals_ = [network() for _ in range(2)]
        theta, v = values(locals_[0]), 0.0
        for outer in range(2):
            ends = []
            for rank, n in enumerate(locals_):
                inner = core.optim.SGD(n.parameters(), lr=0.1)
                for step in (2 * outer, 2 * outer + 1):
                    inner.zero_grad()
                    backward(n, rank, seed=step)
                    inner.step()
                ends.append(values(n))
            delta = theta - np.mean(ends, axis=0)
            v = 0.9 * v + delta
            theta = theta - 0.7 * (delta + 0.9 * v)
            for n in locals_:
                start = 0
                for p in n.parameters():
                    p.data = core.tensor(theta[start : start + p.numel()].reshape(p.shape))
                    start += p.numel()
        np.testing.assert_allclose(values(net), theta, rtol=1e-9)
        other = network()
        again = DiLoCo(core.optim.SGD(other.parameters(), lr=0.1), period=2)
        again.load_state_dict(opt.state_dict())
        other.load_state_dict(net.state_dict())
        train(net, opt, 2, seed=9)
        train(other, again, 2, seed=9)
        np.testing.assert_array_equal(values(net), values(other))

    ddp.run_threads(2, body)


# -- ZeRO --------------------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": (core.optim.SGD, {"lr": 0.1, "momentum": 0.9}), "Adam": (core.optim.Adam, {"lr": 0.01}),
    "AdamW": (core.optim.AdamW, {"lr": 0.01}),
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zero_equals_the_plain_optimizer(name, size):
    cls, options = OPTIMIZERS[name]

    def body():
        nets = [network(), network()]
        models = [ddp.DistributedDataParallel(n) for n in nets]
        zero = ZeroRedundancyOptimizer(models[0].parameters(), optimizer_class=cls, **options)
        plain = cls(models[1].parameters(), **options)
        schedulers = [core.optim.lr_scheduler.StepLR(o, 2, 0.5) for o in (zero, plain)]
        for _ in range(2):
            for m, o, s in zip(models, (zero, plain), schedulers):
                train(m, o, 2)
                s.step()
        np.testing.assert_array_equal(values(nets[0]), values(nets[1]))
        assert size == 1 or len(zero.state) < len(plain.state)
        for to in range(size):
            zero.consolidate_state_dict(to)
            if ddp.get_rank() == to:
                mine, theirs = zero.state_dict(), plain.state_dict()
                assert mine["param_groups"] == theirs["param_groups"] and mine["state"].keys() == theirs["state"].keys()
                for i, state in theirs["state"].items():
                    for k, v in state.items():
                        np.testing.assert_array_equal(np.asarray(mine["state"][i][k]), np.asarray(v))
            else:
                with pytest.raises(RuntimeError, match="has not been consolidated on this rank"):
                    zero.state_dict()
        again = ZeroRedundancyOptimizer(models[0].parameters(), optimizer_class=cls, **options)
        again.load_state_dict(plain.state_dict())  # of any number of ranks
        train(models[0], again, 2, seed=5)
        train(models[1], plain, 2, seed=5)
        np.testing.assert_array_equal(values(nets[0]), values(nets[1]))

    ddp.run_threads(size, body)


# -- join --------------------------------------------------------------------------------------------------------------


def reference(counts, divide_by_active):
    """One process that does what the ranks do together."""
    net = network()
    opt = core.optim.SGD(net.parameters(), lr=0.1)
    for step in range(max(counts)):
        sums = [0.0] * 4
        active = [r for r, n in enumerate(counts) if step < n]
        for rank in active:
            net.zero_grad()
            backward(net, rank, seed=step)
            sums = [s + p.grad.numpy() for s, p in zip(sums, net.parameters())]
        for p, s in zip(net.parameters(), sums):
            p.grad = core.tensor(s / (len(active) if divide_by_active else len(counts)))
        opt.step()
    return values(net)


@pytest.mark.parametrize("hook", [None, default_hooks.allreduce_hook])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("by_initial", [True, False])
@pytest.mark.parametrize("counts", [(3, 5), (4, 0, 2), (3, 3)])
def test_join_uneven_inputs(counts, by_initial, zero, hook):
    def body():
        net = network()
        model = ddp.DistributedDataParallel(net, bucket_cap_mb=1e-4)
        if hook is not None:
            model.register_comm_hook(None, hook)
        if zero:
            opt = ZeroRedundancyOptimizer(model.parameters(), core.optim.SGD, lr=0.1)
            block = Join([model, opt], divide_by_initial_world_size=by_initial)
        else:
            opt = core.optim.SGD(model.parameters(), lr=0.1)
            block = model.join(divide_by_initial_world_size=by_initial)
        with block:
            train(model, opt, counts[ddp.get_rank()])
        np.testing.assert_allclose(values(net), reference(counts, not by_initial), rtol=1e-10)
        assert same_everywhere(values(net))
        model.zero_grad()  # and on as usual
        backward(model, ddp.get_rank())
        assert same_everywhere(net[0].weight.grad.numpy())

    ddp.run_threads(len(counts), body, timeout_s=20)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 2)
        self.register_buffer("seen", core.zeros(1))

    def forward(self, x):
        self.seen += 1
        return self.lin(x)


def test_join_with_buffers_no_sync_and_evaluation():
    def body():
        rank = ddp.get_rank()
        net = Counting()
        model = ddp.DistributedDataParallel(net)
        with model.join():
            for i in range(3 + 3 * rank):
                x = core.ones(1, 4)
                if i % 3 == 0:
                    model(x).sum().backward()
                elif i % 3 == 1:
                    with model.no_sync():
                        model(x).sum().backward()
                else:
                    with core.no_grad():
                        model(x)
        assert same_everywhere(net.seen.numpy()) and net.seen.item() == 6

    ddp.run_threads(2, body, timeout_s=20)


def test_join_can_throw_instead():
    def body():
        model = ddp.DistributedDataParallel(network())
        with pytest.raises(RuntimeError, match="Detected at least one rank that exhausted inputs"):
            with model.join(throw_on_early_termination=True):
                for _ in range(2 + ddp.get_rank()):
                    backward(model, 0)

    ddp.run_threads(3, body, timeout_s=20)


# -- SyncBatchNorm -----------------------------------------------------------------------------------------------------

SHAPES = {"2d": (3,), "1d": (3, 5), "images": (3, 4, 2)}


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lengths", [(4, 4), (1, 5, 2), (3, 0)])
def test_sync_batchnorm_is_one_process_on_the_whole_batch(lengths, shape, momentum):
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((n, *SHAPES[shape])) * 3 + 7 for n in lengths]
    weights = [rng.standard_normal(p.shape) for p in parts]
    layer = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d}[len(SHAPES[shape])]

    def build():
        bn = layer(3, momentum=momentum).double()
        bn.weight.data = core.tensor([1.0, -2.0, 0.5], dtype=core.float64)
        return bn

    whole, x = build(), core.tensor(np.concatenate(parts)).requires_grad_()
    y = whole(x)
    (y * core.tensor(np.concatenate(weights))).sum().backward()

    evaluated = copy.deepcopy(whole).eval()(x.detach()).detach().numpy()

    def body():
        rank = ddp.get_rank()
        net = ddp.convert_sync_batchnorm(nn.Sequential(build()))
        assert isinstance(net[0], ddp.SyncBatchNorm)
        mine = core.tensor(parts[rank]).requires_grad_()
        out = net(mine)
        (out * core.tensor(weights[rank])).sum().backward()
        at = slice(sum(lengths[:rank]), sum(lengths[: rank + 1]))
        np.testing.assert_allclose(out.detach().numpy(), y.detach().numpy()[at], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(mine.grad.numpy(), x.grad.numpy()[at], rtol=1e-8, atol=1e-9)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            np.testing.assert_allclose(getattr(net[0], name).numpy(), getattr(whole, name).numpy(), rtol=1e-10)
        for name in ("weight", "bias"):
            g = getattr(net[0], name).grad
            ddp.all_reduce(g)
            np.testing.assert_allclose(g.numpy(), getattr(whole, name).grad.numpy(), rtol=1e-8)
        net.eval()
        np.testing.assert_allclose(net(mine.detach()).detach().numpy(), evaluated[at], rtol=1e-9)

    ddp.run_threads(len(lengths), body)


def test_sync_batchnorm_needs_two_values_and_plain_gradients():
    def body():
        bn = ddp.SyncBatchNorm(2)
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            bn(core.ones(1 - ddp.get_rank(), 2))
        with pytest.raises(RuntimeError, match="expected plain gradients"):
            bn(core.randn(3, 2).requires_grad_()).sum().backward(create_graph=True)

    ddp.run_threads(2, body)


# -- devices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, *EXACT, *lossy_states()])
def test_on_a_device(device, name, tmp_path):
    """The same results as on the CPU, and what was made there stays there."""

    def train_on(where):
        with _building:
            core.manual_seed(0)
            # a bias before a normalisation has the gradient 0, whose rounding errors Adam would make steps of
            net = nn.Sequential(nn.Linear(4, 64, bias=False), nn.BatchNorm1d(64), nn.Linear(64, 2)).to(where)
        net = ddp.convert_sync_batchnorm(net)
        model = ddp.DistributedDataParallel(net, bucket_cap_mb=1e-4)
        if name is not None:
            state, hook = {**EXACT, **lossy_states()}[name][:2]
            model.register_comm_hook(state, hook)
        opt = ZeroRedundancyOptimizer(model.parameters(), core.optim.Adam, lr=0.01)
        sentinel = ddp.Sentinel(net, every=2, optimizer=None)
        with Join([model, opt]):
            for step in range(4):
                opt.zero_grad()
                x, y = (t.float().to(where) for t in data(ddp.get_rank(), seed=step))
                ((model(x) - y) ** 2).mean().backward()
                assert all(p.grad.device == p.device for p in net.parameters())
                opt.step()
                sentinel.step()
        opt.consolidate_state_dict(0)
        ddp.checkpoint.Checkpointer(tmp_path / where, net=net, opt=opt).save(4)
        ddp.barrier()
        ddp.checkpoint.Checkpointer(tmp_path / where, net=net, opt=opt).restore()
        return np.concatenate([p.detach().cpu().numpy().reshape(-1) for p in net.parameters()])

    expected = ddp.run_threads(2, lambda: train_on("cpu"))[0]
    np.testing.assert_allclose(ddp.run_threads(2, lambda: train_on(device))[0], expected, rtol=2e-3, atol=2e-3)


# -- on processes, as a PyTorch script writes it -----------------------------------------------------------------------

PROGRAM = """
import torch
import torch.distributed as dist
import torch.nn as nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as powerSGD
from torch.distributed.algorithms.join import Join
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel as DDP
import torch.distributed.checkpoint as dcp

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(rank)
net = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 2))
model = DDP(net)
model.register_comm_hook(powerSGD.PowerSGDState(None, start_powerSGD_iter=2), powerSGD.powerSGD_hook)
opt = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=torch.optim.Adam, lr=0.01)
with Join([model, opt]):
    for _ in range(4 + 2 * rank):
        opt.zero_grad()
        model(torch.randn(8, 16)).pow(2).mean().backward()
        opt.step()
dcp.save({"net": net.state_dict()}, checkpoint_id=FOLDER)
sums = torch.stack([p.detach().double().sum() for p in net.parameters()])
everyone = [torch.zeros_like(sums) for _ in range(dist.get_world_size())]
dist.all_gather(everyone, sums)
assert all(torch.equal(s, sums) for s in everyone)
dist.destroy_process_group()
print("done")
"""


def test_a_pytorch_script_on_processes(tmp_path):
    program = tmp_path / "script.py"
    program.write_text(PROGRAM.replace("FOLDER", repr(str(tmp_path / "saved"))))
    argv = [sys.executable, "-m", "launch", "-n", "3", "--as-torch", str(program)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, env=jobs.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("done") == 3 and (tmp_path / "saved" / "manifest.json").exists()
