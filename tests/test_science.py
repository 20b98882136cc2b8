"""What a table of ops does not hold: histograms over several dimensions, LU by its older names, windows, rarer functions, shared memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import core
from core.errors import ArgumentError, CoreError, DTypeError, ShapeError
from core.signal import windows

RNG = np.random.default_rng(0)


def close(y: Any, e: Any) -> None:
    np.testing.assert_allclose(y.detach().numpy(), e, rtol=1e-10, atol=1e-12)


def test_histogramdd() -> None:
    x = RNG.standard_normal((40, 2))
    for bins, limits, density in (([3, 4], None, False), ([2, 2], [-1, 1, 0, 2], False), (3, None, True)):
        pairs = None if limits is None else [limits[:2], limits[2:]]
        counts, edges = np.histogramdd(x, bins, pairs, density=density)
        found = core.histogramdd(core.tensor(x), bins, range=limits, density=density)
        close(found.hist, counts)
        for y, e in zip(found.bin_edges, edges):
            close(y, e)
    edges = [core.tensor([-1.0, 0.0, 2.0]).double()] * 2
    w = RNG.random(40)
    found = core.histogramdd(core.tensor(x), edges, weight=core.tensor(w))
    close(found.hist, np.histogramdd(x, [e.numpy() for e in edges], weights=w)[0])
    with pytest.raises(ShapeError, match="2 dimensions"):
        core.histogramdd(core.tensor(x), [3])
    with pytest.raises(DTypeError, match="float"):
        core.histogram(core.arange(3), 2)
    with pytest.raises(ArgumentError, match="finite range"):
        core.histogram(core.tensor([1.0, math.inf]), 2)


def test_lu_by_its_older_names_and_its_errors() -> None:
    a, b = core.tensor(RNG.standard_normal((2, 3, 3))), core.tensor(RNG.standard_normal((2, 3, 1)))
    packed, pivots = core.lu(a)
    p, low, up = core.lu_unpack(packed, pivots)
    close(p @ low @ up, a.numpy())
    close(a @ b.lu_solve(packed, pivots), b.numpy())
    for left, adjoint in ((True, True), (False, False), (False, True)):
        rhs = b if left else b.mT
        x = core.linalg.lu_solve(packed, pivots, rhs, left=left, adjoint=adjoint)
        m = a.mT if adjoint else a
        close(m @ x if left else x @ m, rhs.numpy())
    singular = core.tensor([[1.0, 2.0], [2.0, 4.0]])
    assert (
        core.linalg.lu_factor_ex(singular).info.item() == 2 and core.lu(singular, get_infos=True)[2].dtype is core.int32
    )
    with pytest.raises(core.linalg.LinAlgError, match=r"U\[2,2\] is zero"):
        core.linalg.lu_factor(singular)
    with pytest.raises(ArgumentError, match="pivot=True"):
        core.linalg.lu(a, pivot=False)
    q = core.linalg.householder_product(*core.geqrf(a))
    close(q.mT @ q, np.broadcast_to(np.eye(3), (2, 3, 3)))
    assert core.linalg.solve_ex(singular, core.ones(2, 1)).info.item() == 1


def test_short_transforms_come_back_and_say_what_is_wrong() -> None:
    x = core.tensor(RNG.standard_normal((2, 50)))
    w = core.hann_window(16).double()
    for options in ({}, {"normalized": True}, {"onesided": False}, {"hop_length": 8}, {"win_length": 12}):
        window = core.hann_window(options.get("win_length", 16)).double()
        y = core.stft(x, 16, window=window, return_complex=True, **options)
        back = core.istft(y, 16, window=window, length=50, **options)
        close(
            back[:, : 48 if options.get("hop_length") == 8 else 50],
            x.numpy()[:, : 48 if options.get("hop_length") == 8 else 50],
        )
    assert core.stft(x, 16, window=w, return_complex=False).shape == (2, 9, 13, 2)
    with pytest.raises(ArgumentError, match="return_complex"):
        x.stft(16)
    with pytest.raises(ArgumentError, match="overlap add"):
        core.istft(core.stft(x, 16, 16, window=w, return_complex=True, center=False), 16, 16, window=w, center=False)
    with pytest.raises(ShapeError, match="9 frequencies"):
        core.istft(core.zeros(8, 3).to(core.complex64), 16, onesided=True)


def test_windows() -> None:
    k = np.arange(7)
    np.testing.assert_allclose(windows.hann(7).numpy(), np.sin(np.pi * k / 6) ** 2, atol=1e-7)
    np.testing.assert_allclose(
        windows.hamming(7, sym=False).numpy(), 0.54 - 0.46 * np.cos(2 * np.pi * k / 7), atol=1e-7
    )
    np.testing.assert_allclose(windows.gaussian(7, std=2.0).numpy(), np.exp(-(((k - 3) / 2) ** 2) / 2), atol=1e-7)
    np.testing.assert_allclose(windows.exponential(7, tau=2.0).numpy(), np.exp(-np.abs(k - 3) / 2), atol=1e-7)
    np.testing.assert_allclose(windows.bartlett(7).numpy(), np.bartlett(7), atol=1e-7)
    np.testing.assert_allclose(windows.blackman(7).numpy(), np.blackman(7), atol=1e-7)
    np.testing.assert_allclose(windows.kaiser(7, beta=5.0, dtype=core.float64).numpy(), np.kaiser(7, 5.0))
    np.testing.assert_allclose(core.kaiser_window(7, False, 5.0).numpy(), np.kaiser(7, 5.0), atol=1e-7)
    np.testing.assert_allclose(windows.cosine(7).numpy(), np.sin(np.pi * (k + 0.5) / 7), atol=1e-7)
    for name in windows.__all__:
        options = {"a": [0.5, 0.5]} if name == "general_cosine" else {}
        assert (
            getattr(windows, name)(1, **options).tolist() == [1.0]
            and getattr(windows, name)(0, **options).tolist() == []
        )
    with pytest.raises(ArgumentError, match="std > 0"):
        windows.gaussian(3, std=0.0)


def test_parts_and_places() -> None:
    mantissa, exponent = core.frexp(core.tensor([1.0, 8.0, 0.3, 0.0, -6.0]))
    assert mantissa.tolist() == [0.5, 0.5, np.float32(0.6), 0.0, -0.75] and exponent.tolist() == [1, 4, -1, 0, 3]
    assert [p.tolist() for p in core.unravel_index(core.tensor([5, 7]), (3, 4))] == [[1, 1], [1, 3]]
    with pytest.raises(ArgumentError, match="within shape"):
        core.unravel_index(core.tensor([12]), (3, 4))
    assert core.tensor([0, 3, 0, 4]).nonzero_static(size=3).tolist() == [[1], [3], [-1]]
    x = core.zeros(7, 3)
    assert x.fill_diagonal_(1, wrap=True) is x and x.nonzero().tolist() == [
        [0, 0],
        [1, 1],
        [2, 2],
        [4, 0],
        [5, 1],
        [6, 2],
    ]
    assert core.zeros(2, 2, 2).fill_diagonal_(5).sum().item() == 10
    assert core.zeros(6).as_strided_scatter(core.ones(2, 2), (2, 2), (1, 2)).tolist() == [1, 1, 1, 1, 0, 0]
    assert core.arange(4.0).apply_(lambda v: v * v).tolist() == [0, 1, 4, 9]
    assert core.arange(3.0).map_(core.ones(3), lambda a, b: a + b).tolist() == [1, 2, 3]
    assert core.arange(3.0).map2_(core.ones(3), core.ones(3), lambda a, b, c: a + b + c).tolist() == [2, 3, 4]


def test_low_rank_factors() -> None:
    core.manual_seed(0)
    a = core.tensor(RNG.standard_normal((20, 3)) @ RNG.standard_normal((3, 8)))
    for m in (a, a.mT):
        u, s, v = core.svd_lowrank(m, q=3)
        close(u @ s.diag() @ v.mT, m.numpy())
    u, s, v = core.pca_lowrank(a, q=3)
    close(u @ s.diag() @ v.mT, (a - a.mean(0)).numpy())
    with pytest.raises(ArgumentError, match="min"):
        core.pca_lowrank(a, q=9)


def test_memory_behind_tensors() -> None:
    x = core.arange(6.0).reshape(2, 3)
    y = x[1]
    assert (
        y.untyped_storage().data_ptr() == x.data_ptr()
        and y.untyped_storage().nbytes() == 24
        and y.storage().size() == 6
    )
    assert y.storage().tolist() == list(range(6)) and y.storage()[2] == 2.0 and x.T.storage().tolist() == list(range(6))
    assert x.is_set_to(x.view(2, 3)) and not x.is_set_to(x.view(6))
    z = core.zeros(0)
    assert z.set_(x) is z and z.data_ptr() == x.data_ptr() and z.shape == (2, 3)
    assert core.zeros(0).set_(x.storage(), 1, (2, 2), (1, 2)).tolist() == [[1, 3], [2, 4]]
    r = core.arange(4.0)
    assert (
        r.resize_(2, 2) is r
        and r.tolist() == [[0, 1], [2, 3]]
        and r.resize_(3).tolist() == [0, 1, 2]
        and r.resize_as_(x).shape == (2, 3)
    )
    assert core.arange(4).new(2, 3).dtype is core.int64 and core.zeros(1).new([1, 2]).tolist() == [1, 2]
    assert core.zeros(1).record_stream(None) is None  # nothing to keep from being reused
    with pytest.raises(CoreError, match="require grad"):
        core.ones(2, requires_grad=True).resize_(3)


def test_operators_and_text() -> None:
    x = core.tensor([1, 2, 3])
    assert (
        (+x) is x
        and reversed(x).tolist() == [3, 2, 1]
        and (2 << x).tolist() == [4, 8, 16]
        and (16 >> x).tolist() == [8, 4, 2]
    )
    y = x
    y //= 2
    assert y is x and x.tolist() == [0, 1, 1]
    loss = core.tensor(1.5, requires_grad=True) * 2
    assert f"{loss}" == "3.0" and f"{loss:.2f}" == "3.00" and f"{core.ones(1)}" == "tensor([1.])"


def _add_one(x: Any, ready: Any) -> None:
    x += 1
    ready.put((x.is_shared(), x.tolist()))


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore")  # Python's: fork in a process with threads
def test_shared_tensors_are_the_same_memory_in_another_process(method: str) -> None:
    mp = core.multiprocessing.get_context(method)
    base = core.zeros(3, 4).share_memory_()
    part, plain = base[1:, ::2], core.zeros(3)
    assert base.is_shared() and part.is_shared() and not plain.is_shared()
    ready = mp.Queue()
    for x, changed in ((part, True), (plain, False)):
        p = mp.Process(target=_add_one, args=(x, ready))
        p.start()
        shared, back = ready.get(timeout=60)
        p.join(60)
        assert p.exitcode == 0 and shared is changed and back == core.ones(*x.shape).tolist()
    assert base.sum().item() == 4 and plain.sum().item() == 0 and base[1].tolist() == [1, 0, 1, 0]


def _descend(model: Any) -> None:
    optimizer = core.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        (model(core.ones(1, 2)) - 3).square().sum().backward()
        optimizer.step()


def test_a_shared_model_is_trained_by_another_process() -> None:
    model = core.nn.Linear(2, 1)
    assert (
        model.share_memory() is model
        and model.weight.is_shared()
        and model.weight.requires_grad
        and model.weight.is_leaf
    )
    core.multiprocessing.spawn(_hogwild, args=(model,), nprocs=2)
    assert abs(model(core.ones(1, 2)).item() - 3) < 0.05


def _hogwild(rank: int, model: Any) -> None:
    _descend(model)


def test_torchs_functions_take_their_first_argument_by_name() -> None:
    x = core.arange(6.0).reshape(2, 3)
    assert core.flatten(input=x).shape == (6,) and core.flip(input=x, dims=(1,))[0].tolist() == [2, 1, 0]
    assert core.max(input=x, dim=1).indices.tolist() == [2, 2] and core.squeeze(input=x[None]).shape == (2, 3)
    assert core.norm(input=x, p=1).item() == 15 and [p.shape[0] for p in core.chunk(input=x, chunks=2)] == [1, 1]
    assert core.softmax(input=x, dim=1, dtype=core.float64).dtype is core.float64 and core.meshgrid(x[0], x[1])[
        0
    ].shape == (3, 3)
    assert core.std(input=x).item() == core.std(x).item() and core.roll(input=x, shifts=1, dims=0)[0, 0].item() == 3
    a = core.tensor([[2.0, 1.0], [0.0, 1.0]])
    assert core.diag(input=a).tolist() == [2, 1] and core.addmm(input=a, mat1=a, mat2=a)[0, 0].item() == 6
    with pytest.raises(TypeError):
        core.flatten(x=x)
