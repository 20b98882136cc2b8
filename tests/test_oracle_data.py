"""`core.utils.data` against PyTorch: the same order, the same seeds, the same state of the generator afterwards."""

from __future__ import annotations

import inspect
import random
from collections import namedtuple

import numpy as np
import pytest

import core
from core.utils import data

torch = pytest.importorskip("torch")
torch_data = pytest.importorskip("torch.utils.data")

pytestmark = pytest.mark.timeout(30)

BOTH = ((core, data), (torch, torch_data))


def plain(x):
    """The same structure, tensors as (dtype, values)."""
    if isinstance(x, (core.Tensor, torch.Tensor)):
        return str(x.dtype).split(".")[1], x.tolist()
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return type(x)(*map(plain, x)) if hasattr(x, "_fields") else type(x)(map(plain, x))
    return x


def seeded(lib, seed=5):
    return lib.Generator().manual_seed(seed)


def weighted(n):
    return np.random.default_rng(0).random(n).tolist()


N = 23
ORDERS = {
    "plain": lambda lib, d: d.DataLoader(range(N), 4),
    "shuffle": lambda lib, d: d.DataLoader(range(N), 4, shuffle=True),
    "shuffle, exact batches": lambda lib, d: d.DataLoader(range(24), 4, shuffle=True),
    "shuffle, drop_last": lambda lib, d: d.DataLoader(range(N), 4, shuffle=True, drop_last=True),
    "shuffle, single samples": lambda lib, d: d.DataLoader(range(N), None, shuffle=True),
    "generator": lambda lib, d: d.DataLoader(range(N), 4, shuffle=True, generator=seeded(lib)),
    "generator, exact batches": lambda lib, d: d.DataLoader(range(24), 4, shuffle=True, generator=seeded(lib)),
    "tensors": lambda lib, d: d.DataLoader(d.TensorDataset(lib.arange(N), lib.arange(2.0 * N).reshape(N, 2)), 4, True),
    "subset": lambda lib, d: d.DataLoader(d.random_split(range(N), [0.3, 0.7])[1], 4, shuffle=True),
    "replacement": lambda lib, d: d.DataLoader(range(N), 7, sampler=d.RandomSampler(range(N), True, 70)),
    "replacement, 64": lambda lib, d: d.DataLoader(
        range(N), 7, sampler=d.RandomSampler(range(N), True, 64, seeded(lib))
    ),
    "more than all": lambda lib, d: d.DataLoader(range(N), 7, sampler=d.RandomSampler(range(N), num_samples=70)),
    "of 10**10": lambda lib, d: d.DataLoader(range(10**10), 7, sampler=d.RandomSampler(range(10**10), True, 70)),
    "subset sampler": lambda lib, d: d.DataLoader(range(N), 4, sampler=d.SubsetRandomSampler([3, 1, 8, 6])),
    "weighted": lambda lib, d: d.DataLoader(range(N), 4, sampler=d.WeightedRandomSampler(weighted(N), 50)),
    "weighted, one": lambda lib, d: d.DataLoader(range(N), 4, sampler=d.WeightedRandomSampler(weighted(N), 1)),
    "weighted, once": lambda lib, d: d.DataLoader(range(N), 4, sampler=d.WeightedRandomSampler(weighted(N), 20, False)),
    "workers": lambda lib, d: d.DataLoader(range(N), 4, shuffle=True, num_workers=2),
    "workers, generator": lambda lib, d: d.DataLoader(range(N), 4, True, num_workers=2, generator=seeded(lib)),
    "persistent": lambda lib, d: d.DataLoader(range(N), 4, True, num_workers=2, persistent_workers=True),
}


def three_epochs(lib, d, make, seed):
    lib.manual_seed(seed)
    loader = make(lib, d)
    epochs = [plain(list(loader)) for _ in range(3)]
    own = loader.generator and lib.rand(3, generator=loader.generator).tolist()
    return len(loader), epochs, lib.rand(3).tolist(), own


@pytest.mark.parametrize("seed", [0, 123456789])
@pytest.mark.parametrize("make", ORDERS.values(), ids=ORDERS)
def test_three_epochs_and_what_is_drawn_after_them(make, seed):
    ours, theirs = (three_epochs(*lib, make, seed) for lib in BOTH)
    assert ours == theirs


def test_epochs_broken_off():
    def run(lib, d):
        lib.manual_seed(1)
        loader = d.DataLoader(range(N), 4, shuffle=True)
        iter(loader)
        first = next(iter(loader)).tolist()
        return first, [b.tolist() for b in loader], lib.rand(1).item()

    ours, theirs = (run(*lib) for lib in BOTH)
    assert ours == theirs


@pytest.mark.parametrize("lengths", [[3, 20], [0.5, 0.5], [1 / 3, 1 / 3, 1 / 3], [0.1, 0.2, 0.7]])
@pytest.mark.parametrize("own", [False, True])
def test_random_split(lengths, own):
    def run(lib, d):
        lib.manual_seed(2)
        arguments = {"generator": seeded(lib)} if own else {}
        return [list(s.indices) for s in d.random_split(range(N), lengths, **arguments)], lib.rand(1).item()

    ours, theirs = (run(*lib) for lib in BOTH)
    assert ours == theirs


class Draws:
    """What a worker draws from each stream."""

    def __init__(self, lib, d):
        self.lib, self.d = lib, d

    def __len__(self):
        return 4

    def __getitem__(self, i):
        info = self.d.get_worker_info()
        return info.id, info.seed, self.lib.rand(1).item(), random.random(), np.random.rand()


def test_streams_of_workers():
    def run(lib, d):
        lib.manual_seed(3)
        return [list(d.DataLoader(Draws(lib, d), None, num_workers=2)) for _ in range(2)], lib.rand(1).item()

    ours, theirs = (run(*lib) for lib in BOTH)
    assert ours == theirs


def streams(d):
    class Share(d.IterableDataset):
        def __init__(self, n):
            self.n = n

        def __iter__(self):
            info = d.get_worker_info()
            return iter(range(self.n) if info is None else range(info.id * info.id, self.n, info.num_workers))

    return Share


STREAMS = [
    {"batch_size": b, "num_workers": w, "drop_last": last}
    for b, last in ((None, False), (3, False), (3, True), (5, False))
    for w in (0, 1, 2)
]


@pytest.mark.parametrize("arguments", STREAMS, ids=str)
def test_streams(arguments):
    ours, theirs = (plain(list(d.DataLoader(streams(d)(17), **arguments))) for _, d in BOTH)
    assert ours == theirs


Point = namedtuple("Point", "x y")

SAMPLES = {
    "tensors": lambda lib: [lib.tensor([1.0, 2.0]), lib.tensor([3.0, 4.0])],
    "python numbers": lambda lib: [(1, 0.1, True), (2, 0.2, False)],
    "numpy numbers": lambda lib: [(np.float64(0.1), np.float32(1), np.int8(2), np.bool_(True))] * 2,
    "arrays": lambda lib: [np.arange(3, dtype=np.int16), np.ones(3, np.int16)],
    "dicts": lambda lib: [{"a": 1, "b": {"c": "s"}}, {"a": 2, "b": {"c": "t"}}],
    "named tuples": lambda lib: [Point(1, [2.0]), Point(3, [4.0])],
    "strings": lambda lib: ["a", b"b"],
    "tuples": lambda lib: ((1, "a"), (2, "b")),
    "empty": lambda lib: [(), ()],
    "mixed": lambda lib: [lib.tensor(1), lib.tensor(2)],
}


@pytest.mark.parametrize("make", SAMPLES.values(), ids=SAMPLES)
@pytest.mark.parametrize("function", ["default_collate", "default_convert"])
def test_collate_and_convert(make, function):
    ours, theirs = (plain(getattr(d, function)(make(lib))) for lib, d in BOTH)
    assert ours == theirs
    assert type(ours) is type(theirs)


REFUSED = {"ragged": [[1, 2], [3]], "None": [None, None], "objects": [(1, object())] * 2}


@pytest.mark.parametrize("samples", REFUSED.values(), ids=REFUSED)
def test_what_torch_refuses_is_refused_by_the_same_error(samples):
    with pytest.raises((RuntimeError, TypeError)) as theirs:
        torch_data.default_collate(samples)
    with pytest.raises(theirs.type):
        data.default_collate(samples)


def test_public_names_are_torchs():
    assert set(data.__all__) <= set(dir(torch_data))
    for name in ("dataset", "sampler", "dataloader", "_utils"):
        assert hasattr(data, name)
    ours, theirs = (list(inspect.signature(d.DataLoader.__init__).parameters) for _, d in BOTH)
    assert ours == theirs
