"""Against PyTorch, where it is installed: the order of samples, SyncBatchNorm, join's and ZeRO's results, stores."""

import datetime
import tempfile

import numpy as np
import pytest

import core
import core.nn as nn
import ddp
from ddp.store import FileStore, HashStore

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("n, size", [(10, 1), (10, 3), (9, 3), (2, 5), (1000, 7)])
def test_sampler_order(n, size, shuffle, drop_last):
    from torch.utils.data.distributed import DistributedSampler

    for rank in range(size):
        args = (range(n), size, rank, shuffle, 3, drop_last)
        mine, theirs = ddp.DistributedSampler(*args), DistributedSampler(*args)
        for epoch in range(3):
            mine.set_epoch(epoch)
            theirs.set_epoch(epoch)
            assert list(mine) == list(theirs) and len(mine) == len(theirs)


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 4, 2)])
def test_sync_batchnorm_is_torchs_batchnorm_on_the_whole_batch(shape):
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((n, *shape)) for n in (4, 2)]
    weights = rng.standard_normal((6, *shape))
    theirs = {1: torch.nn.BatchNorm1d, 2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm2d}[len(shape)](3).double()
    x = torch.tensor(np.concatenate(parts), requires_grad=True)
    y = theirs(x)
    (y * torch.tensor(weights)).sum().backward()

    def body():
        rank = ddp.get_rank()
        bn = ddp.SyncBatchNorm(3).double()
        mine = core.tensor(parts[rank]).requires_grad_()
        at = slice(4 * rank, 4 * rank + len(parts[rank]))
        out = bn(mine)
        (out * core.tensor(weights[at])).sum().backward()
        np.testing.assert_allclose(out.detach().numpy(), y.detach().numpy()[at], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(mine.grad.numpy(), x.grad.numpy()[at], rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(bn.running_var.numpy(), theirs.running_var.numpy(), rtol=1e-12)
        ddp.all_reduce(bn.weight.grad)
        np.testing.assert_allclose(bn.weight.grad.numpy(), theirs.weight.grad.numpy(), rtol=1e-9)

    ddp.run_threads(2, body)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_training_in_parts_is_torchs_on_the_whole_batch(name):
    options = {"lr": 0.05, "momentum": 0.9} if name == "SGD" else {"lr": 0.01}
    xs = np.random.default_rng(0).standard_normal((5, 6, 4))
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    begin = {k: v.numpy().copy() for k, v in theirs.state_dict().items()}
    opt = getattr(torch.optim, name)(theirs.parameters(), **options)
    for x in xs:
        opt.zero_grad()
        theirs(torch.tensor(x)).pow(2).mean().backward()
        opt.step()

    def body():
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        net.load_state_dict({k: core.tensor(v) for k, v in begin.items()})
        model = ddp.DistributedDataParallel(net, bucket_cap_mb=1e-4)
        mine = ddp.optim.ZeroRedundancyOptimizer(model.parameters(), getattr(core.optim, name), **options)
        for x in xs:
            mine.zero_grad()
            model(core.tensor(x[2 * ddp.get_rank() :][:2])).pow(2).mean().backward()
            mine.step()
        for k, v in theirs.state_dict().items():
            np.testing.assert_allclose(net.state_dict()[k].numpy(), v.numpy(), rtol=1e-9)

    ddp.run_threads(3, body)


def script(s):
    """What a script sees of a store."""
    s.set("a", "1")
    s.append("l", "ab")
    s.append("l", "cd")
    s.multi_set(["p", "q"], ["1", "2"])
    return [
        s.get("a"), s.add("n", 5), s.get("n"), s.add("n", -2), s.compare_set("x", "q", "w"), s.check(["x"]), s.compare_set("x", "", "w"),
        s.compare_set("x", "w", "z"), s.compare_set("x", "no", "k"), s.get("x"), s.get("l"), s.multi_get(["l", "n"]),
        s.check(["a", "q"]),
    ]  # fmt: skip


def test_stores():
    with tempfile.TemporaryDirectory() as folder:
        pairs = [
            (HashStore(), torch.distributed.HashStore()),
            (FileStore(folder + "/mine"), torch.distributed.FileStore(folder + "/theirs", 1)),
        ]
        for mine, theirs in pairs:
            assert script(mine) == script(theirs)
            for s in (mine, theirs):
                with pytest.raises(RuntimeError):
                    s.wait(["never"], datetime.timedelta(seconds=0.05))
