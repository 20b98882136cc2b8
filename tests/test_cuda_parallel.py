"""Several GPUs in one process, on the fake device: `nn.DataParallel`, copies from device to device, generators of each."""

import numpy as np
import pytest

import core
from core import cuda, nn
from core.errors import ArgumentError
from core.nn import data_parallel as dp
from tests import devices
from tests.fake_cuda import Array, Cuda, State

fake = devices.fake


@pytest.fixture
def three(fake, monkeypatch):
    monkeypatch.setattr(Cuda, "count", 3)
    cuda.init()
    yield "cuda"
    State.graph = State.streams = Array.allocate = None


class Net(nn.Module):
    """Several arguments and results, one parameter that is used twice, one that is not used, and running statistics."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)
        self.c, self.unused = self.a, nn.Parameter(core.ones(1))
        self.places = []

    def forward(self, x, scale=1.0, extra=None):
        self.places.append((x.device.index, cuda.current_device(), str(self.a.weight.device)))
        y = self.b(self.norm(self.a(x)).tanh() + self.c(x))
        y = y * scale if extra is None else y * scale + extra["bias"]
        return {"y": y, "rest": [(y * y).mean(), (x, 3)]}


def test_parts_are_computed_on_their_devices(three):
    core.manual_seed(0)
    net = Net()
    model = nn.DataParallel(net)
    assert model.device_ids == [0, 1, 2] and net.a.weight.is_cuda
    x = core.randn(9, 4, device="cuda").requires_grad_()
    bias = core.randn(9, 2, device="cuda").requires_grad_()
    result = model(x, scale=2.0, extra={"bias": bias})
    assert sorted(net.places) == [(k, k, f"cuda:{k}") for k in range(3)]
    y, (means, (back, three_)) = result["y"], result["rest"]
    assert y.shape == (9, 2) and means.shape == (3,) and (back == x).all() and three_ == 3 and y.device.index == 0
    (y.pow(2).sum() + means.sum() + back.sum()).backward()
    found = [t.grad.cpu().numpy() for t in (x, bias, *(p for p in net.parameters() if p is not net.unused))]
    assert net.unused.grad is None

    twin = Net().to("cuda")
    twin.load_state_dict(net.state_dict())
    xs, biases = x.detach().clone().requires_grad_(), bias.detach().clone().requires_grad_()
    losses, ys = [], []
    for rows in (slice(0, 3), slice(3, 6), slice(6, 9)):  # each part is normalised by itself
        r = twin(xs[rows], scale=2.0, extra={"bias": biases[rows]})
        losses.append(r["y"].pow(2).sum() + r["rest"][0] + xs[rows].sum())
        ys.append(r["y"])
    np.testing.assert_allclose(y.detach().cpu().numpy(), core.cat(ys).detach().cpu().numpy(), rtol=1e-5, atol=1e-6)
    sum(losses).backward()
    for got, t in zip(found, (xs, biases, *(p for p in twin.parameters() if p is not twin.unused)), strict=True):
        np.testing.assert_allclose(got, t.grad.cpu().numpy(), rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_one_device(three):
    core.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    model, x = nn.DataParallel(net, device_ids=[0, 2], dim=0), core.randn(5, 4).cuda()
    model(x).pow(2).sum().backward()
    found = [p.grad.cpu().numpy() for p in net.parameters()]
    net.zero_grad()
    net(x).pow(2).sum().backward()
    for got, p in zip(found, net.parameters()):
        np.testing.assert_allclose(got, p.grad.cpu().numpy(), rtol=1e-5, atol=1e-6)
    optimizer = core.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(x).pow(2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with core.no_grad():
        assert not model(x).requires_grad
    assert model(x[:1]).shape == (1, 3) and next(iter(model.state_dict())) == "module.0.weight"
    assert nn.DataParallel(net, device_ids=[0, 1], output_device=1)(x).device.index == 1


def test_statistics_of_the_first_device_are_kept(three):
    net = nn.BatchNorm1d(4)
    model = nn.DataParallel(net)
    x = core.randn(9, 4).cuda()
    model(x)
    expected = nn.BatchNorm1d(4).cuda()
    expected(x[:3])
    np.testing.assert_allclose(net.running_mean.cpu().numpy(), expected.running_mean.cpu().numpy(), rtol=1e-5)
    assert net.num_batches_tracked.item() == 1


def test_errors_name_the_replica(three):
    class Broken(nn.Module):
        def forward(self, x):
            if x.device.index == 1:
                raise ValueError("no")
            return x

    with pytest.raises(ValueError, match="no") as caught:
        nn.DataParallel(Broken())(core.ones(3, 2, device="cuda"))
    assert caught.value.__notes__ == ["in replica 1 of DataParallel, on cuda:1"]
    with pytest.raises(ArgumentError, match="expected tensors of one length along dimension 0, got \\[2, 3\\]"):
        nn.DataParallel(Net())(core.ones(3, 4, device="cuda"), core.ones(2, device="cuda"))


def test_the_pieces_by_themselves(three):
    x = core.arange(7.0, device="cuda").requires_grad_()
    parts = dp.scatter(({"x": x}, 5), [0, 1, 2])
    assert [p[0]["x"].tolist() for p in parts] == [[0, 1, 2], [3, 4, 5], [6]] and all(p[1] == 5 for p in parts)
    assert [p[0]["x"].device.index for p in parts] == [0, 1, 2]
    net = nn.Linear(2, 2)
    copies = dp.replicate(net.cuda(), [0, 1])
    outs = dp.parallel_apply(copies, [core.ones(1, 2, device=f"cuda:{k}") for k in range(2)], devices=[0, 1])
    joined = dp.gather(outs, 0)
    assert joined.shape == (2, 2) and joined.device.index == 0 and (joined[0] == joined[1]).all()


def test_copies_between_devices(three):
    x = core.randn(3, 2).cuda()
    y = x.to("cuda:2")
    assert y.device == core.device("cuda:2") and (y.cpu() == x.cpu()).all() and y.to("cuda:2") is y
    assert (x.t().to("cuda:1").cpu() == x.cpu().t()).all()
    with pytest.raises(RuntimeError, match="array device"):
        x + y
    with cuda.device(2):
        assert (y + y).device.index == 2 and core.ones(1, device="cuda").device.index == 2


def test_each_device_has_numbers_of_its_own(three):
    def drawn():
        found = []
        for k in range(2):
            with cuda.device(k):
                found.append(nn.functional.dropout(core.ones(64, device="cuda")).cpu())
        return found

    core.manual_seed(5)
    first = drawn()
    assert (first[0] == first[1]).all(), "they start alike, as in torch"
    with cuda.device(1):
        cuda.manual_seed(6)
    again = drawn()
    assert not (again[0] == again[1]).all() and len(cuda.get_rng_state_all()) == 3
