"""Small programs as people write them on their first day; each must simply work."""

import pytest

import core
import core.nn as nn
import core.nn.functional as F
import core.optim as optim


def test_cubic_at_a_point():
    x = core.tensor(3.5, requires_grad=True)
    y = (x - 1) * (x - 2) * (x - 3)
    y.backward()
    assert x.grad.item() == 5.75


def test_parabola_value_and_gradient():
    x = core.tensor(3.5, requires_grad=True)
    z = 2 * x**2 + 3
    z.backward()
    assert (z.item(), x.grad.item()) == (27.5, 14.0)


def test_chain_rule_over_two_variables():
    a = core.tensor(2.0, requires_grad=True)
    b = core.tensor(1.0, requires_grad=True)
    x = 2 * a + 3 * b
    y = 5 * a * a + 3 * b * b * b
    z = 2 * x + 3 * y
    z.backward()
    assert (a.grad.item(), b.grad.item()) == (64.0, 33.0)


def test_sum_of_squares():
    x = core.arange(6.0).view(2, 3).requires_grad_()
    x.pow(2).sum().backward()
    assert x.grad.tolist() == [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]


class Net(nn.Module):
    """The network of PyTorch's first tutorial: two convolutions and three linear layers."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, self.num_flat_features(x))
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)

    def num_flat_features(self, x):
        features = 1
        for length in x.size()[1:]:
            features *= length
        return features


def test_first_network():
    net = Net()
    assert str(net) == (
        "Net(\n"
        "  (conv1): Conv2d(1, 6, kernel_size=(5, 5), stride=(1, 1))\n"
        "  (conv2): Conv2d(6, 16, kernel_size=(5, 5), stride=(1, 1))\n"
        "  (fc1): Linear(in_features=400, out_features=120, bias=True)\n"
        "  (fc2): Linear(in_features=120, out_features=84, bias=True)\n"
        "  (fc3): Linear(in_features=84, out_features=10, bias=True)\n"
        ")"
    )
    out = net(core.randn(1, 1, 32, 32))
    assert out.size() == (1, 10)
    net.zero_grad()
    out.backward(core.randn(1, 10))
    assert len(list(net.parameters())) == 10 and all(p.grad.shape == p.shape for p in net.parameters())

    optimizer = optim.SGD(net.parameters(), lr=0.01)
    x, target = core.randn(1, 1, 32, 32), core.randn(10).view(1, -1)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.MSELoss()(net(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)


def test_sequential_learns_a_plane():
    model = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1))
    x = core.randn(64, 3)
    y = x @ core.tensor([[1.0], [-2.0], [0.5]]) + 3
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(300):
        optimizer.zero_grad()
        loss = nn.MSELoss()(model(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01


def test_gradient_descent_by_hand():
    x = core.linspace(-1, 1, 50)
    y = 3 * x + 1
    params = core.zeros(2, requires_grad=True)
    for _ in range(200):
        loss = ((params[0] * x + params[1] - y) ** 2).mean()
        loss.backward()
        with core.no_grad():
            params -= 0.5 * params.grad
        params.grad = None
    assert core.allclose(params, core.tensor([3.0, 1.0]), atol=1e-3)


def test_gradients_accumulate_until_zeroed():
    w = core.ones(3, requires_grad=True)
    for times in (1, 2, 3):
        (w * 2).sum().backward()
        assert w.grad.tolist() == [2.0 * times] * 3
    w.grad.zero_()
    (w * 2).sum().backward()
    assert w.grad.tolist() == [2.0] * 3


def test_item_on_many_values():
    with pytest.raises(ValueError, match=r"item: expected a tensor with 1 element, got 3; use tolist"):
        core.ones(3).item()
