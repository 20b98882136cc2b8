"""Bad input gets one clear message: `where: expected RULE, got VALUES; remedy`. A row for each mistake people make."""

import sys

import pytest

import core
import core.nn as nn
import core.nn.functional as F
import ddp
from core.errors import CoreError


def twice():
    x = core.ones(2, requires_grad=True)
    y = (x * x).sum()
    y.backward()
    y.backward()


def overwritten():
    x = core.ones(2, requires_grad=True)
    y = x.exp()
    y.add_(1)
    y.sum().backward()


def load(state):
    nn.Sequential(nn.Linear(2, 3)).load_state_dict(state)


ROWS = {
    "matmul": (
        lambda: core.ones(2, 3) @ core.ones(4, 5),
        RuntimeError, r"matmul: .*expected \(…, n, k\) @ \(…, k, m\), got \(2, 3\) @ \(4, 5\)",
    ),
    "broadcast": (lambda: core.ones(2, 3) + core.ones(4), RuntimeError, r"add: expected shapes that broadcast, got \(2, 3\) and \(4,\)"),
    "linear": (
        lambda: nn.Linear(3, 4)(core.ones(2, 5)),
        RuntimeError, r"linear: .*expected input \(…, 3\) for weight \(4, 3\), got input \(2, 5\)",
    ),
    "conv channels": (
        lambda: nn.Conv2d(3, 4, 3)(core.ones(1, 2, 8, 8)),
        RuntimeError, r"conv2d: expected input \(N, 3, \*\) for weight \(4, 3, 3, 3\) and groups 1, got \(1, 2, 8, 8\)",
    ),
    "conv too small": (
        lambda: nn.Conv2d(1, 1, 5)(core.ones(1, 1, 3, 3)),
        RuntimeError, r"conv2d: expected a padded input at least as large as the kernel \(5, 5\)",
    ),
    "loss shapes": (
        lambda: F.cross_entropy(core.ones(4, 3), core.tensor([0, 1])),
        RuntimeError, r"cross_entropy: expected target of shape \(4,\) for input \(4, 3\), got \(2,\)",
    ),
    "mse shapes": (
        lambda: F.mse_loss(core.ones(4), core.ones(3)),
        RuntimeError, r"mse_loss: expected input and target of equal shapes, got \(4,\) and \(3,\)",
    ),
    "class dtype": (
        lambda: F.cross_entropy(core.ones(2, 3), core.tensor([0.0, 1.0])),
        RuntimeError, r"cross_entropy: expected class indices of an integer dtype.*got core.float32",
    ),
    "label out of range": (
        lambda: F.cross_entropy(core.ones(2, 3), core.tensor([0, 3])),
        IndexError, r"cross_entropy: Target 3 is out of bounds: expected classes 0 to 2",
    ),
    "state_dict shape": (
        lambda: load({"0.weight": core.ones(3, 4), "0.bias": core.ones(3)}),
        RuntimeError, r"size mismatch for 0.weight: copying a param with shape core.Size\(\[3, 4\]\)",
    ),
    "state_dict names": (
        lambda: load({"0.weight": core.ones(3, 2), "1.bias": core.ones(3)}),
        RuntimeError, r'(?s)Unexpected key\(s\) in state_dict: "1.bias".*Missing key\(s\) in state_dict: "0.bias"',
    ),
    "non-scalar": (
        lambda: (core.ones(3, requires_grad=True) * 2).backward(),
        RuntimeError, r"backward: grad can be implicitly created only for scalar outputs: expected 1 element, got shape \(3,\)",
    ),
    "second backward": (
        twice,
        RuntimeError, r"backward: expected a graph that still has its saved values, got MulBackward0.*retain_graph",
    ),
    "overwritten value": (
        overwritten,
        RuntimeError, r"modified by an inplace operation: ExpBackward0 expected it at version 0, got version 1",
    ),
    "no graph": (lambda: core.ones(()).backward(), RuntimeError, r"does not require grad"),
    "device": (
        lambda: core.ones(2, device="tpu"),
        RuntimeError, r"device: expected a known device type, got 'tpu'; known: cpu, cuda",
    ),
    "backend": (
        lambda: ddp.init_process_group("smoke-signals"),
        ValueError, r"init_process_group: expected a known backend, got 'smoke-signals'; known: mpi, zmq",
    ),
    "no process group": (lambda: ddp.get_rank(), RuntimeError, r"expected init_process_group\(\) before this call"),
    "optimizer without parameters": (lambda: core.optim.SGD([], lr=0.1), ValueError, r"optimizer got an empty parameter list"),
    "learning rate": (lambda: core.optim.Adam([core.ones(1)], lr=-1), ValueError, r"Adam: Invalid lr: expected a number >= 0, got -1"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_one_clear_message(name):
    act, kind, message = ROWS[name]
    with pytest.raises(kind, match=message) as caught:
        act()
    assert isinstance(caught.value, CoreError)


@pytest.mark.parametrize(
    "library, act, line",
    [
        ("cupy", lambda: core.ones(1).cuda(), "pip install 'lockstep-ddp[cuda13]'"),
        ("mpi4py", lambda: ddp.init_process_group("mpi", rank=0, world_size=2), "pip install 'lockstep-ddp[mpi]'"),
    ],
)
def test_missing_library_says_how_to_get_it(library, act, line, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == library else find(name, *a))
    monkeypatch.setitem(sys.modules, library, None)  # import raises ImportError
    with pytest.raises(ImportError) as caught:
        act()
    assert line in str(caught.value)


def test_load_state_dict_changes_nothing_on_error():
    model = nn.Linear(2, 2)
    before = model.weight.tolist()
    with pytest.raises(RuntimeError):
        model.load_state_dict({"weight": core.zeros(2, 2), "bias": core.zeros(3)})
    assert model.weight.tolist() == before
