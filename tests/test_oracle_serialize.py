"""Files cross between core and PyTorch, both ways: values, optimizer states, and what a network computes."""

import io
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest

import core
from core import dtypes, nn
from core.errors import CheckpointError

torch = pytest.importorskip("torch")


def same(a, b):
    """A value of core and one of torch."""
    if isinstance(a, core.Tensor):
        assert isinstance(b, torch.Tensor) and isinstance(a, nn.Parameter) == isinstance(b, torch.nn.Parameter)
        assert str(b.dtype) == f"torch.{a.dtype.name}" and tuple(a.shape) == tuple(b.shape)
        assert a.requires_grad == b.requires_grad
        assert a.tolist() == b.tolist() and (not a.numel() or a.stride() == b.stride())
    elif isinstance(a, dict):
        assert type(a) is type(b) and list(a) == list(b)
        for k in a:
            same(a[k], b[k])
    elif isinstance(a, (list, tuple)) and not isinstance(a, core.Size):
        assert type(a) is type(b) and len(a) == len(b)
        for x, y in zip(a, b):
            same(x, y)
    elif isinstance(a, (dtypes.dtype, core.device, core.Size)):
        assert str(a).replace("core.", "torch.") == str(b)
    else:
        assert type(a) is type(b) and a == b


def values(lib):
    """The same values, of core or of torch."""
    x = lib.arange(24).reshape(2, 3, 4) * 1.5
    frozen = lib.nn.Parameter(lib.ones(2), requires_grad=False)
    noted = lib.ones(2)
    noted.note = "a"
    return {
        **{d.name: lib.tensor([0, 1, 1, 0]).to(getattr(lib, d.name)) for d in dtypes.ALL},
        "shared": [x, x[1], x.transpose(0, 2), x[:, ::2, 1:]],
        "0-d": lib.tensor(2.5), "empty": lib.zeros(0, 3), "expanded": lib.ones(3, 1).expand(3, 4),
        "grad": lib.ones(2, requires_grad=True), "parameter": lib.nn.Parameter(lib.ones(2, 2)), "frozen": frozen, "noted": noted,
        "plain": [None, True, 1, -5, 2**70, 1.5, 1j, "añ", b"a\xff", bytearray(b"b"), (1, (2,)), {1, 2}, {"a": {2: []}}],
        "collections": [OrderedDict(a=1), Counter("hello")],
        "size": lib.ones(2, 3).shape, "dtype": lib.bfloat16, "device": [lib.device("cpu"), lib.device("cuda", 1)],
    }  # fmt: skip


@pytest.mark.parametrize("how", ["path", "mmap", "file"])
def test_core_writes_torch_reads(tmp_path, how):
    where = tmp_path / "x.pth" if how != "file" else io.BytesIO()
    core.save(values(core), where)
    if how == "file":
        where.seek(0)
    loaded = torch.load(where, weights_only=True, mmap=how == "mmap")
    same(values(core), loaded)
    loaded["shared"][1][0, 0] = -1
    assert loaded["shared"][0][1, 0, 0] == -1 and loaded["shared"][2][0, 0, 1] == -1
    assert loaded["noted"].note == "a"


@pytest.mark.parametrize("how", ["path", "mmap", "file", "legacy"])
def test_torch_writes_core_reads(tmp_path, how):
    where, wanted = tmp_path / "x.pth" if how != "file" else io.BytesIO(), values(torch)
    if how == "legacy":
        torch.save(wanted, where, _use_new_zipfile_serialization=False)
    else:
        torch.save(wanted, where)
    if how == "file":
        where.seek(0)
    loaded = core.load(where, mmap=how == "mmap")
    same(loaded, wanted)
    loaded["shared"][1][0, 0] = -1
    assert loaded["shared"][0][1, 0, 0] == -1 and loaded["shared"][2][0, 0, 1] == -1
    assert loaded["noted"].note == "a"


def test_defaultdict_and_numpy_of_torch():
    file = io.BytesIO()
    torch.save([defaultdict(dict, a={}), np.arange(3.0), np.float32(2)], file)
    file.seek(0)
    a, b, c = core.load(file)
    assert a == {"a": {}} and a["b"] == {} and b.tolist() == [0, 1, 2] and c == 2


@pytest.mark.parametrize(
    "value",
    [
        lambda: torch.eye(2).to_sparse(),
        lambda: torch.ones(2, dtype=torch.complex64).conj(),
        lambda: torch.ones(2).untyped_storage(),
        lambda: torch.ones(2).to(torch.float8_e4m3fn),
        lambda: torch.nn.Linear(2, 2),
        lambda: torch.ones(2, device="meta"),
    ],
)
def test_what_core_does_not_have_is_an_error(value):
    file = io.BytesIO()
    torch.save(value(), file)
    file.seek(0)
    with pytest.raises(CheckpointError, match=r"expected .*got|expected .*map_location"):
        core.load(file)


def test_torchscript_is_an_error(tmp_path):
    with pytest.warns(DeprecationWarning):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="TorchScript"):
        core.load(tmp_path / "x.pt")


def convnet(lib):
    lib.manual_seed(0)
    n = lib.nn
    return n.Sequential(
        n.Conv2d(1, 4, 3),
        n.ReLU(),
        n.MaxPool2d(2),
        n.Conv2d(4, 8, 3, padding=1),
        n.ReLU(),
        n.Flatten(),
        n.Linear(72, 5),
    )


@pytest.mark.parametrize("source, target", [(core, torch), (torch, core)])
def test_networks_cross(tmp_path, source, target):
    a, b = convnet(source), convnet(target)
    with source.no_grad(), target.no_grad():
        for p in a.parameters():
            p.mul_(1.1)
        source.save(a.state_dict(), tmp_path / "x.pth")
        state = target.load(tmp_path / "x.pth", map_location="cpu", weights_only=True)
        b.load_state_dict(state)
        assert set(state._metadata) == set(a.state_dict()._metadata)
        x = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
        y = a(source.tensor(x)).numpy(), b(target.tensor(x)).numpy()
    np.testing.assert_allclose(*y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("source, target", [(core, torch), (torch, core)])
def test_training_goes_on_in_the_other_library(name, source, target, tmp_path):
    """Two steps here, saved, two steps there: as four steps in one library."""

    def steps(lib, p, optimizer, n):
        for _ in range(n):
            optimizer.zero_grad()
            ((p - 3) ** 2).sum().backward()
            optimizer.step()

    options = {"lr": 0.1, **({"momentum": 0.9} if name == "SGD" else {"amsgrad": True})}

    def made(lib):
        p = lib.nn.Parameter(lib.tensor([1.0, 2.0, 5.0]))
        return p, getattr(lib.optim, name)([p], **options)

    p, optimizer = made(source)
    steps(source, p, optimizer, 2)
    source.save({"p": p.detach(), "optimizer": optimizer.state_dict()}, tmp_path / "x.pth")
    state = target.load(tmp_path / "x.pth", weights_only=True)
    q, other = made(target)
    q.data = state["p"]
    other.load_state_dict(state["optimizer"])
    steps(target, q, other, 2)
    steps(source, p, optimizer, 2)
    np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-6)
