"""Several GPUs in one process, on the fake device: `nn.DataParallel`, copies from device to device, generators of each."""

import numpy as np
import pytest

import core
import core.nn.functional as F
from core import backend, cuda, nn
from core.cuda import guard
from core.errors import ArgumentError, DeviceError
from core.nn import data_parallel as dp
from tests import devices, test_ops
from tests.cases import IDS
from tests.fake_cuda import Array, Cuda, State

fake = devices.fake


@pytest.fixture
def three(fake, monkeypatch):
    monkeypatch.setattr(Cuda, "count", 3)
    cuda.init()
    yield "cuda"
    guard.remove()
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
    with pytest.raises(
        RuntimeError,
        match=r"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cuda:2!",
    ):
        x + y
    with cuda.device(2):
        assert (y + y).device.index == 2 and core.ones(1, device="cuda").device.index == 2


@pytest.fixture
def elsewhere(three):
    """Tensors have come to a second device; the first is the current one."""
    core.zeros(1, device="cuda:0"), core.zeros(1, device="cuda:1")
    yield "cuda:1"
    assert cuda.current_device() == 0


SWEPT = """
    add mul matmul linear conv conv_input_grad max_pool sum_pool softmax cross_entropy_rows standardize rms_norm gelu attention lstm_layer
    embedding index_put where cat split linalg.svdvals fft.stft F.avg_pool2d F.one_hot F.cross_entropy
""".split()


def test_ops_compute_where_their_tensors_lie(elsewhere):
    """Of every op named here all rows; the fake device refuses whatever does not compute on the device of its arrays."""
    rows = [(name, number) for name, number in IDS if name in SWEPT]
    assert {name for name, _ in rows} == set(SWEPT)
    for name, number in rows:
        test_ops.check_device(name, number, elsewhere)


def test_work_goes_to_the_stream_of_its_device(elsewhere, monkeypatch):
    launched = []
    monkeypatch.setattr(
        backend.get("cuda"), "launch", lambda *a: launched.append((cuda.current_device(), State.stream))
    )
    with cuda.device(1):
        s = cuda.Stream()
        s.__enter__()
    x = core.ones(4, device=elsewhere)
    F.silu(x)
    assert launched == [(1, s.raw)], "the kernel goes to the stream that is current on its device"
    with cuda.device(1):
        s.__exit__(None, None, None)


def test_a_stream_brings_its_device(elsewhere):
    """As in torch: `with stream(s)` makes the device of s the current one, and events are of the device they are recorded on."""
    s = cuda.Stream(device=1)
    with cuda.stream(s):
        assert cuda.current_device() == 1 and cuda.current_stream() == s
        with s:
            x = core.ones(2, device="cuda")
    assert cuda.current_device() == 0 and x.device.index == 1
    event = s.record_event()
    cuda.current_stream().wait_event(event)
    assert event.query()


@pytest.mark.parametrize(
    "mixed",
    [
        lambda x, y: x + y,
        lambda x, y: x @ y,
        lambda x, y: core.cat([x, y]),
        lambda x, y: F.linear(x, y),
        lambda x, y: x.mul_(y),
    ],
)
def test_tensors_of_two_devices_do_not_mix(elsewhere, mixed):
    x, y = core.ones(2, 2, device="cuda:0"), core.ones(2, 2, device=elsewhere)
    with pytest.raises(
        DeviceError,
        match=r": Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cuda:1! Move",
    ):
        mixed(x, y)
    assert (y + core.tensor(1.0)).device.index == 1, "a number of the CPU goes anywhere"


@pytest.mark.parametrize("rule", [core.optim.SGD, core.optim.RMSprop, core.optim.AdamW])
def test_a_model_on_two_devices_trains(elsewhere, rule):
    """Layers on two devices, with a copy in between, as in a pipeline; all the while the first device is the current one."""

    def trained(first, second):
        core.manual_seed(0)
        a = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8)).to(first)
        b = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3)).to(second)
        optimizer = rule([*a.parameters(), *b.parameters()], lr=0.01)
        x, target, losses = core.randn(5, 1, 6, 6).to(first), core.tensor([0, 1, 2, 0, 1]).to(second), []
        for _ in range(3):
            optimizer.zero_grad()
            loss = F.cross_entropy(b(a(x).to(second)), target)
            loss.backward()
            nn.utils.clip_grad_norm_(b.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        return losses

    np.testing.assert_allclose(trained("cuda:1", "cuda:0"), trained("cpu", "cpu"), rtol=1e-5)


def test_a_scale_reaches_every_device(elsewhere):
    """One loss scale for parameters on two devices; what one device finds leaves out the step on both."""
    ps = [core.nn.Parameter(core.ones(3, device=f"cuda:{k}")) for k in range(2)]
    optimizer, scaler = core.optim.SGD(ps, lr=1.0), core.amp.GradScaler("cuda", init_scale=4.0)
    for bad, expected in ((False, [0.0, 0.0]), (True, [0.0, 0.0])):
        optimizer.zero_grad()
        scaler.scale((ps[0] * ps[0]).sum() / 2 + (ps[1] * ps[1]).sum().to("cuda:0") / 2 + ps[0].sum() * 0).backward()
        if bad:
            ps[1].grad[0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        assert [p.sum().item() for p in ps] == expected
    assert scaler.get_scale() == 2.0


def test_without_an_index_the_current_device_is_meant(elsewhere):
    x = core.ones(2, device="cuda:1")
    assert x.to("cuda").device.index == 0 and x.cuda().device.index == 0 and x.to("cuda:1") is x and x.float() is x
    with cuda.device(1):
        assert x.to("cuda") is x


def test_one_device_is_not_guarded(three):
    with cuda.device(2):
        x = core.ones(3, device="cuda")
        (x * x).sum()
    assert not guard.installed


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
