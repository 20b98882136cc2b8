"""The layers and functions of `core.nn` against PyTorch, where it is installed: the tables of `tests.test_nn`."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import numpy as np
import pytest

import core
from core import nn
from core.errors import CoreError
from core.nn.utils import parametrizations, prune
from core.nn.utils import rnn as packing
from tests.cases import n
from tests.test_nn import (
    Function,
    Layer,
    evaluated,
    every_function,
    every_layer,
    function_inputs,
    inputs_of,
    made,
    run,
)  # fmt: skip

torch = pytest.importorskip("torch")
torch_prune = pytest.importorskip("torch.nn.utils.prune")
pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own


def near(ours: Any, theirs: Any, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    """Equal dtype and shape, values as near as float32 sums are."""
    assert str(ours.dtype).removeprefix("core.") == str(theirs.dtype).removeprefix("torch.")
    assert tuple(ours.shape) == tuple(theirs.shape)
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=rtol, atol=atol)


def weights(like: Any) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(tuple(like.shape)).astype(np.float32)


def total(results: list[Any], lib: Any) -> Any:
    """A number that every smooth result is part of."""
    return sum((y * lib.from_numpy(weights(y)).to(y.dtype)).sum() for y in results if y.requires_grad)


def same_gradients(ours: list[Any], theirs: list[Any], leaves: list[Any], their_leaves: list[Any]) -> None:
    assert [y.requires_grad for y in ours] == [y.requires_grad for y in theirs]
    assert len(leaves) == len(their_leaves)
    if not leaves or not any(y.requires_grad for y in theirs):
        return
    got = core.autograd.grad(total(ours, core), leaves, allow_unused=True)
    expected = torch.autograd.grad(total(theirs, torch), their_leaves, allow_unused=True)
    for g, e in zip(got, expected):
        if e is None or g is None:  # torch fills in zeros for some inputs that do not matter
            assert all(t is None or not t.any() for t in (g, e))
        else:
            near(g, e, 1e-4, 1e-4)


@every_layer
def test_layer(row: Layer) -> None:
    module, other = made(row, core), made(row, torch)
    assert type(module).__module__.removeprefix("core") == type(other).__module__.removeprefix("torch")
    assert repr(module).replace("core.", "torch.") == repr(other)
    args, named, leaves = inputs_of(row, core, core.float32)
    their_args, their_named, their_leaves = inputs_of(row, torch, torch.float32)
    state, their_state = module.state_dict(), other.state_dict()
    assert list(state) == list(their_state)
    if "Lazy" not in row.make:
        for (key, p), q in zip(state.items(), their_state.values()):
            np.testing.assert_array_equal(p.numpy(), q.numpy(), err_msg=key)
        assert [key for key, _ in module.named_parameters()] == [key for key, _ in other.named_parameters()]
    if row.random:
        assert [tuple(y.shape) for y in run(module, row, args, named, core)] == [
            tuple(y.shape) for y in run(other, row, their_args, their_named, torch)
        ]
        if "FractionalMaxPool" in row.make:
            return
        module.eval()
        other.eval()
    ys, es = run(module, row, args, named, core), run(other, row, their_args, their_named, torch)
    assert len(ys) == len(es)
    for y, e in zip(ys, es):
        near(y, e)
    assert repr(module).replace("core.", "torch.") == repr(other)
    leaves += [p for p in module.parameters() if p.requires_grad]
    their_leaves += [p for p in other.parameters() if p.requires_grad]
    same_gradients(ys, es, leaves, their_leaves)
    for key, q in other.state_dict().items():  # running statistics
        near(module.state_dict()[key], q)
    ys, es = run(module.eval(), row, args, named, core), run(other.eval(), row, their_args, their_named, torch)
    for y, e in zip(ys, es):
        near(y, e)


@every_function
def test_function(row: Function) -> None:
    values, leaves = function_inputs(row, core, core.float32)
    their_values, their_leaves = function_inputs(row, torch, torch.float32)
    ys, es = evaluated(row, core, values), evaluated(row, torch, their_values)
    assert [(tuple(y.shape), str(y.dtype)[5:]) for y in ys] == [(tuple(e.shape), str(e.dtype)[6:]) for e in es]
    if row.random:
        return
    for y, e in zip(ys, es):
        near(y, e)
    same_gradients(ys, es, leaves, their_leaves)
    for key, v in values.items():  # running statistics
        if hasattr(v, "dtype"):
            near(v, their_values[key])


# -- the same errors
# -----------------------------------------------------------------------------------------------------

ERRORS = """
nn.Linear(3, 4)(R(2, 5))
nn.Conv2d(3, 4, 3)(R(1, 2, 8, 8))
nn.Conv2d(3, 4, 3)(R(1, 3, 2, 2))
nn.Conv2d(3, 4, 3, groups=2)
nn.Conv2d(4, 4, 3, padding_mode='mirror')
nn.Conv2d(4, 4, 3, stride=2, padding='same')
nn.Conv2d(4, 4, 3, padding='all')
nn.ConvTranspose2d(4, 4, 3, stride=2, output_padding=2)(R(1, 4, 3, 3))
nn.ConvTranspose2d(4, 4, 3, padding_mode='reflect')
nn.ConvTranspose2d(4, 4, 3, stride=2)(R(1, 4, 3, 3), output_size=(20, 20))
nn.BatchNorm1d(4)(R(2, 4, 3, 3))
nn.BatchNorm1d(4)(R(1, 4))
nn.BatchNorm2d(4)(R(2, 3, 3, 3))
nn.LayerNorm(4)(R(2, 3))
nn.GroupNorm(3, 4)
nn.InstanceNorm2d(4)(R(2, 4, 1, 1))
nn.functional.batch_norm(R(2, 3), None, None)
nn.Dropout(1.5)
nn.Dropout(-0.1)
nn.Embedding(4, 3)(T([5]))
nn.Embedding(4, 3, padding_idx=4)
nn.EmbeddingBag(4, 3)(T([1, 2]))
nn.EmbeddingBag(4, 3, mode='median')(T([[1, 2]]))
nn.LSTM(3, 4)(R(5, 2, 4))
nn.LSTM(3, 4)(R(5, 2, 3), (R(1, 2, 5), R(1, 2, 4)))
nn.GRU(3, 4)(R(5, 2, 3), R(2, 2, 4))
nn.LSTM(3, 4, proj_size=4)
nn.RNN(3, 4, nonlinearity='elu')
nn.RNN(3, 0)
nn.LSTM(3, 4, dropout=1.5)
nn.LSTM(3, 4)(R(1, 5, 2, 3))
nn.LSTMCell(3, 4)(R(2, 5))
nn.MultiheadAttention(5, 2)
nn.MultiheadAttention(4, 2)(R(3, 2, 4), R(3, 2, 4), R(2, 2, 4))
nn.MultiheadAttention(4, 2)(R(3, 2, 4), R(3, 2, 4), R(3, 2, 4), attn_mask=R(2, 2))
nn.TransformerEncoderLayer(4, 2, activation='tanh')
nn.Transformer(4, 2, 1, 1, 8)(R(3, 2, 4), R(3, 3, 4))
nn.functional.scaled_dot_product_attention(R(2, 3, 4), R(2, 3, 4), R(2, 3, 4), R(3, 3), is_causal=True)
nn.functional.scaled_dot_product_attention(R(2, 3, 4), R(2, 3, 5), R(2, 3, 4))
nn.functional.gelu(R(3), approximate='cubic')
nn.functional.glu(R(3))
nn.functional.prelu(R(2, 3), R(2))
nn.functional.softshrink(R(3), -1)
nn.Hardtanh(1, -1)
nn.functional.celu(R(3), alpha=0.0)
nn.functional.binary_cross_entropy(R(3), R(4))
nn.functional.binary_cross_entropy_with_logits(R(3), R(2, 3))
nn.functional.cross_entropy(R(3, 4), T([0, 1, 4]))
nn.functional.cross_entropy(R(3, 4), T([0, 1]))
nn.functional.nll_loss(R(3, 4), R(3))
nn.functional.mse_loss(R(3), R(3), reduction='median')
nn.functional.multi_margin_loss(R(3, 4), T([0, 1, 2]), p=3)
nn.functional.triplet_margin_loss(R(3), R(3), R(3), margin=-1)
nn.functional.triplet_margin_loss(R(3, 2), R(3), R(3))
nn.functional.margin_ranking_loss(R(3), R(3), R(3, 1))
nn.functional.huber_loss(R(3), R(3), delta=0)
nn.functional.smooth_l1_loss(R(3), R(3), beta=-1)
nn.functional.gaussian_nll_loss(R(3), R(3), R(3) * 0 - 1)
nn.functional.ctc_loss(R(3, 2, 4), T([[1], [2]]), (3, 4), (1, 1))
nn.functional.pad(R(2, 3), (1, 2, 3), mode='reflect')
nn.functional.pad(R(1, 2, 3), (3, 0), mode='reflect')
nn.functional.pad(R(1, 2, 3), (4, 0), mode='circular')
nn.functional.pad(R(1, 2, 3), (1, 0), mode='mirror')
nn.ReflectionPad2d((1, 2, 3))(R(1, 2, 3, 3))
nn.functional.interpolate(R(1, 2, 3), scale_factor=2, mode='bilinear')
nn.functional.interpolate(R(1, 2, 3), scale_factor=2, size=3)
nn.functional.interpolate(R(1, 2, 3))
nn.functional.interpolate(R(1, 2, 3), scale_factor=2, mode='nearest', align_corners=True)
nn.functional.grid_sample(R(1, 2, 3, 3), R(1, 2, 2, 3), align_corners=False)
nn.functional.grid_sample(R(1, 2, 3, 3), R(1, 2, 2, 2), mode='cubic', align_corners=False)
nn.functional.pixel_shuffle(R(1, 3, 2, 2), 2)
nn.functional.pixel_unshuffle(R(1, 3, 3, 2), 2)
nn.ChannelShuffle(2)(R(1, 3, 2, 2))
nn.functional.fold(R(1, 4, 5), (3, 3), 2)
nn.functional.unfold(R(1, 2, 2, 2), 3)
nn.functional.one_hot(T([0, 3]), 3)
nn.functional.one_hot(T([-1]))
nn.functional.one_hot(R(3))
nn.MaxPool2d(3)(R(1, 1, 2, 2))
nn.MaxPool2d(2, padding=2)(R(1, 1, 4, 4))
nn.AdaptiveAvgPool2d(2)(R(4, 4))
nn.FractionalMaxPool2d(2)
nn.FractionalMaxPool2d(2, output_ratio=1.5)
nn.functional.max_unpool2d(R(1, 1, 2, 2), T([[[[0, 1], [2, 99]]]]), 2)
nn.Softmax2d()(R(2, 2))
nn.AdaptiveLogSoftmaxWithLoss(4, 5, [5])
nn.Unflatten(1, (2, 2))(R(2, 5))
nn.Sequential(nn.Linear(1, 1))['a']
nn.ModuleList([nn.Linear(1, 1)])[1]
nn.ModuleDict({'a.b': nn.Linear(1, 1)})
nn.Linear(1, 1).load_state_dict({'weight': R(2, 1)})
nn.Linear(1, 1).get_submodule('a.b')
nn.Linear(1, 1).train('yes')
nn.Module(3)
nn.init.xavier_uniform_(R(3))
nn.init.eye_(R(3))
nn.init.dirac_(R(3, 3))
nn.init.orthogonal_(R(3))
nn.init.calculate_gain('swish')
nn.utils.rnn.pack_padded_sequence(R(4, 2, 3), [2, 4])
nn.utils.rnn.pack_padded_sequence(R(4, 2, 3), [2, 0])
nn.utils.prune.l1_unstructured(nn.Linear(2, 2), 'weight', 1.5)
nn.utils.prune.l1_unstructured(nn.Linear(2, 2), 'weight', 99)
nn.utils.prune.remove(nn.Linear(2, 2), 'weight')
nn.utils.parametrize.register_parametrization(nn.Linear(2, 2), 'missing', nn.Identity())
""".strip().splitlines()


@pytest.mark.parametrize("text", ERRORS)
def test_errors_are_errors_there_too(text: str) -> None:
    """Each line is a mistake; PyTorch has an error for it, and ours is one that its users would catch."""
    raised = []
    for lib in (torch, core):
        scope = {"nn": lib.nn, "T": lib.tensor, "R": lib.rand}
        try:
            eval(text, scope)
            raised.append(None)
        except Exception as error:
            raised.append(error)
    theirs, ours = raised
    assert theirs is not None, "PyTorch takes it"
    assert ours is not None, f"no error; PyTorch says {theirs}"
    assert isinstance(ours, (CoreError, TypeError, KeyError, AttributeError, RuntimeError, IndexError)), repr(ours)
    same = isinstance(ours, type(theirs)) or (isinstance(theirs, (RuntimeError, ValueError)) and isinstance(ours,
        (RuntimeError, ValueError)))
    assert same or isinstance(theirs, (AssertionError, NotImplementedError)), (repr(ours), repr(theirs))


# -- initial values
# ------------------------------------------------------------------------------------------------------

INITS = (
    "uniform_(w)", "uniform_(w, -2.0, 3.0)", "normal_(w)", "normal_(w, 1.0, 0.5)", "constant_(w, 0.3)", "zeros_(w)",
    "ones_(w)",
    "xavier_uniform_(w)", "xavier_uniform_(w, gain=2.0)", "xavier_normal_(w)", "kaiming_uniform_(w)",
    "kaiming_uniform_(w, a=0.3, mode='fan_out')",
    "kaiming_uniform_(w, nonlinearity='relu')", "kaiming_normal_(w)",
        "kaiming_normal_(w, mode='fan_out', nonlinearity='relu')", "trunc_normal_(w)",
    "trunc_normal_(w, 0.5, 2.0, -1.0, 1.5)", "orthogonal_(w)", "orthogonal_(w, gain=2.0)",
)  # fmt: skip


@pytest.mark.parametrize("call", [*INITS, "sparse_(w, 0.3)", "eye_(w)", "dirac_(w)", "dirac_(w, groups=2)"])
@pytest.mark.parametrize("shape", [(8, 6), (4, 9), (4, 3, 5), (6, 4, 3, 3)])
def test_init(call: str, shape: tuple[int, ...]) -> None:
    values = []
    for lib in (core, torch):
        lib.manual_seed(3)
        with contextlib.suppress(ValueError, RuntimeError):
            values.append(eval(call, {**vars(lib.nn.init), "w": lib.empty(*shape)}).numpy())
    assert len(values) in (0, 2)
    if values:
        tolerance = 2e-6 if "orthogonal" in call or "trunc" in call else 0
        np.testing.assert_allclose(*values, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"])
def test_gain(name: str) -> None:
    assert nn.init.calculate_gain(name) == torch.nn.init.calculate_gain(name)


# -- packed sequences
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True}])
@pytest.mark.parametrize("lengths", [[5, 3, 1], [2, 5, 4]])
def test_packed_sequences(kind: str, options: dict[str, Any], lengths: list[int]) -> None:
    x = n(5, 3, 2).draw(np.random.default_rng(0)).astype(np.float32)
    x = np.ascontiguousarray(x.swapaxes(0, 1)) if options.get("batch_first") else x
    results = []
    for lib, pack in ((core, packing), (torch, torch.nn.utils.rnn)):
        lib.manual_seed(0)
        module = getattr(lib.nn, kind)(2, 4, **options)
        leaf = lib.from_numpy(x.copy()).requires_grad_()
        first = options.get("batch_first", False)
        packed = pack.pack_padded_sequence(leaf, lengths, batch_first=first, enforce_sorted=lengths == [5, 3, 1])
        y, last = module(packed)
        padded, counts = pack.pad_packed_sequence(y, batch_first=first, padding_value=-1.0, total_length=6)
        assert counts.tolist() == lengths
        outs = [padded, *(last if isinstance(last, tuple) else (last,))]
        grads = lib.autograd.grad(sum((o * o).sum() for o in outs), [leaf, *module.parameters()])
        results.append([packed.data, packed.batch_sizes, *outs, *grads])
    for ours, theirs in zip(*results):
        near(ours, theirs, 1e-4, 1e-5)


def test_sequences_padded_and_packed() -> None:
    parts = [np.arange(k, dtype=np.float32) for k in (2, 4, 3)]
    for lib, pack in ((core, packing), (torch, torch.nn.utils.rnn)):
        ts = [lib.from_numpy(p.copy()) for p in parts]
        assert pack.pad_sequence(ts, batch_first=True, padding_value=9.0).tolist() == [[0, 1, 9, 9], [0, 1, 2, 3], [0,
            1, 2, 9]]
        assert pack.pad_sequence(ts, padding_side="left").tolist() == [[0, 0, 0], [0, 1, 0], [0, 2, 1], [1, 3, 2]]
        packed = pack.pack_sequence(ts, enforce_sorted=False)
        assert packed.data.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3]
        assert packed.batch_sizes.tolist() == [3, 3, 2, 1]
        assert [t.tolist() for t in pack.unpack_sequence(packed)] == [p.tolist() for p in parts]


# -- utilities
# -----------------------------------------------------------------------------------------------------------


def pair_of(make: str) -> tuple[Any, Any]:
    made = []
    for lib in (core, torch):
        lib.manual_seed(0)
        made.append(eval(make, vars(lib.nn).copy()))
    return made[0], made[1]


def same_state(ours: Any, theirs: Any, rtol: float = 1e-5) -> None:
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        near(ours.state_dict()[key], value, rtol)


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.1, 100.0])
def test_clipping(norm_type: float, max_norm: float) -> None:
    ours, theirs = pair_of("Linear(4, 3)")
    x = weights(np.empty((2, 4)))
    for module, lib in ((ours, core), (theirs, torch)):
        module(lib.from_numpy(x)).square().sum().backward()
    near(nn.utils.clip_grad_norm_(ours.parameters(), max_norm, norm_type),
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm, norm_type))
    for p, q in zip(ours.parameters(), theirs.parameters()):
        near(p.grad, q.grad)
    nn.utils.clip_grad_value_(ours.parameters(), 0.01)
    torch.nn.utils.clip_grad_value_(theirs.parameters(), 0.01)
    for p, q in zip(ours.parameters(), theirs.parameters()):
        near(p.grad, q.grad)


@pytest.mark.parametrize("make", ["Linear(4, 3)", "Conv2d(2, 4, 3)", "ConvTranspose2d(2, 4, 3)"])
@pytest.mark.parametrize("which", ["weight_norm", "spectral_norm", "old weight_norm", "old spectral_norm"])
def test_reparametrisations(make: str, which: str) -> None:
    ours, theirs = pair_of(make)
    x = weights(np.empty((2, 4) if "Linear" in make else (1, 2, 5, 5)))
    name = which.removeprefix("old ")
    old = which.startswith("old")
    core.manual_seed(1)
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = getattr(nn.utils if old else parametrizations, name)(ours)
        theirs = getattr(torch.nn.utils if old else torch.nn.utils.parametrizations, name)(theirs)
    same_state(ours, theirs)
    for _ in range(2):
        y, e = ours(core.from_numpy(x)), theirs(torch.from_numpy(x))
        near(y, e)
    same_state(ours, theirs)
    same_gradients([y], [e], list(ours.parameters()), list(theirs.parameters()))
    if old:
        getattr(nn.utils, f"remove_{name}")(ours)
        getattr(torch.nn.utils, f"remove_{name}")(theirs)
    else:
        assert repr(ours) == repr(theirs)
        nn.utils.parametrize.remove_parametrizations(ours, "weight")
        torch.nn.utils.parametrize.remove_parametrizations(theirs, "weight")
    same_state(ours, theirs)


@pytest.mark.parametrize("calls", [
    "l1_unstructured(m, 'weight', 0.3)", "l1_unstructured(m, 'weight', 5)", "ln_structured(m, 'weight', 0.5, 2, 0)",
    "ln_structured(m, 'weight', 1, 1, 1)",
    "l1_unstructured(m, 'weight', 0.3); l1_unstructured(m, 'weight', 0.5)",
        "ln_structured(m, 'weight', 1, 2, 0); l1_unstructured(m, 'weight', 2)",
    "identity(m, 'bias')", "global_unstructured([(m, 'weight'), (m, 'bias')], L1Unstructured, amount=0.4)",
    "l1_unstructured(m, 'weight', 3); global_unstructured([(m, 'weight'), (m, 'bias')], L1Unstructured, amount=4)",
    "l1_unstructured(m, 'weight', 3); remove(m, 'weight')",
        "l1_unstructured(m, 'weight', 2, importance_scores=m.weight * -1)",
])  # fmt: skip
def test_pruning(calls: str) -> None:
    ours, theirs = pair_of("Linear(4, 3)")
    for module, room in ((ours, prune), (theirs, torch_prune)):
        for call in calls.split("; "):
            eval(call, {**vars(room), "m": module})
    same_state(ours, theirs)
    near(ours.weight, theirs.weight)
    x = weights(np.empty((2, 4)))
    near(ours(core.from_numpy(x)), theirs(torch.from_numpy(x)))
    assert prune.is_pruned(ours) == torch_prune.is_pruned(theirs)


def test_random_pruning_takes_as_many() -> None:
    for call in ("random_unstructured(m, 'weight', 0.5)", "random_structured(m, 'weight', 2, 1)"):
        ours, theirs = pair_of("Linear(4, 3)")
        for module, room in ((ours, prune), (theirs, torch_prune)):
            eval(call, {**vars(room), "m": module})
        assert float(ours.weight_mask.sum()) == float(theirs.weight_mask.sum())
