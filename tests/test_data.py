"""`core.utils.data` in one process: datasets, samplers, collating and the loader, as tables."""

from __future__ import annotations

import warnings
from collections import OrderedDict, namedtuple

import numpy as np
import pytest

import core
from core.errors import ArgumentError, CoreError
from core.utils import data
from core.utils.data import _utils, dataloader, dataset, sampler

pytestmark = pytest.mark.timeout(20)

Point = namedtuple("Point", "x y")


class Squares(data.Dataset):
    def __init__(self, n=10):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if not 0 <= i < self.n:
            raise IndexError(i)
        return i * i


class Batched(Squares):
    """Knows how to give many samples at once, and says so in the samples."""

    def __getitems__(self, indices):
        return [-i for i in indices]


class Stream(data.IterableDataset):
    def __init__(self, *values, length=None):
        self.values, self.length = values, length

    def __iter__(self):
        return iter(self.values)

    def __len__(self):
        if self.length is None:
            raise TypeError("no length")
        return self.length


def plain(x):
    """The same structure without tensors."""
    if isinstance(x, core.Tensor):
        return x.tolist()
    if isinstance(x, dict):
        return type(x)((k, plain(v)) for k, v in x.items())
    if isinstance(x, (list, tuple)):
        return type(x)(*map(plain, x)) if hasattr(x, "_fields") else type(x)(map(plain, x))
    return x


# -- datasets ------------------------------------------------------------------------------------------------------------

TENSORS = data.TensorDataset(core.arange(5), core.arange(10).reshape(5, 2))

DATASETS = {
    "tensors": (TENSORS, 3, (3, [6, 7])),
    "tensors, from the end": (TENSORS, -1, (4, [8, 9])),
    "subset": (data.Subset(Squares(), [7, 3]), 1, 9),
    "subset, a list": (data.Subset(TENSORS, [4, 3, 2]), [0, 2], ([4, 2], [[8, 9], [4, 5]])),
    "concat, first": (data.ConcatDataset([Squares(3), Squares(4)]), 2, 4),
    "concat, second": (data.ConcatDataset([Squares(3), Squares(4)]), 3, 0),
    "concat, from the end": (data.ConcatDataset([Squares(3), Squares(4)]), -1, 9),
    "sum": (Squares(3) + Squares(4), 5, 4),
    "stack, tuple": (data.StackDataset(Squares(3), [5, 6, 7]), 2, (4, 7)),
    "stack, dict": (data.StackDataset(a=Squares(3), b=[5, 6, 7]), 2, {"a": 4, "b": 7}),
}


@pytest.mark.parametrize("made, index, expected", DATASETS.values(), ids=DATASETS)
def test_a_sample(made, index, expected):
    assert plain(made[index]) == expected


def test_lengths():
    sized = (TENSORS, data.Subset(TENSORS, [1]), Squares(3) + Squares(4), data.StackDataset(a=[1, 2]))
    assert [len(d) for d in sized] == [5, 1, 7, 2]
    assert (Squares(3) + Squares(4)).cumulative_sizes == [3, 7]
    chained = Stream(1, 2, length=2) + Stream(3, length=1)
    assert (list(chained), len(chained)) == ([1, 2, 3], 3)
    with pytest.raises(TypeError):
        len(data.Dataset())


def test_many_samples_at_once_where_the_dataset_can():
    assert data.StackDataset(Batched(), Squares()).__getitems__([2, 3]) == [(-2, 4), (-3, 9)]
    assert data.StackDataset(a=Batched(), b=Squares()).__getitems__([2]) == [{"a": -2, "b": 4}]
    assert data.Subset(Batched(), [5, 6]).__getitems__([1, 0]) == [-6, -5]
    assert next(iter(data.DataLoader(Batched(), 3))).tolist() == [0, -1, -2]


class HalfSubset(data.Subset):
    def __getitem__(self, i):
        return 0


class Short(Squares):
    def __getitems__(self, indices):
        return []


BAD_DATASETS = {
    "no __getitem__": (lambda: data.Dataset()[0], NotImplementedError, "define"),
    "tensors of two lengths": (lambda: data.TensorDataset(core.zeros(2), core.zeros(3)), AssertionError, r"\[2, 3\]"),
    "no tensors": (lambda: data.TensorDataset(), CoreError, "at least|one length"),
    "stack of two lengths": (lambda: data.StackDataset([1], [1, 2]), ValueError, r"\[1, 2\]"),
    "stack of both kinds": (lambda: data.StackDataset([1], a=[1]), ValueError, "1 positional and 1 named"),
    "stack of nothing": (lambda: data.StackDataset(), ValueError, "0 positional"),
    "stack of a liar": (lambda: data.StackDataset(Short()).__getitems__([1]), ValueError, "expected 1 .* got 0"),
    "concat of nothing": (lambda: data.ConcatDataset([]), AssertionError, "at least one"),
    "concat of streams": (lambda: data.ConcatDataset([Stream()]), AssertionError, "ChainDataset"),
    "concat, index": (lambda: (Squares(3) + Squares(4))[7], IndexError, "-7 <= index < 7, got 7"),
    "chain of no streams": (lambda: list(data.ChainDataset([[1]])), AssertionError, "list"),
    "half a subset": (lambda: HalfSubset(Squares(), [0]), NotImplementedError, "__getitems__"),
    "split, sum": (lambda: data.random_split(Squares(), [3, 4]), ValueError, r"sum to 10.* got \[3, 4\]"),
    "split, fraction": (lambda: data.random_split(Squares(), [1.5, -0.5]), ValueError, "from 0 to 1"),
}


@pytest.mark.parametrize("mistake, error, text", BAD_DATASETS.values(), ids=BAD_DATASETS)
def test_a_mistake_with_a_dataset(mistake, error, text):
    with pytest.raises(error, match=text):
        mistake()


@pytest.mark.parametrize(
    "lengths, expected",
    [([3, 7], [3, 7]), ([0.5, 0.5], [5, 5]), ([1 / 3, 1 / 3, 1 / 3], [4, 3, 3]), ([0.25, 0.75], [3, 7])],
)
def test_random_split(lengths, expected):
    parts = data.random_split(Squares(), lengths, generator=core.Generator().manual_seed(1))
    assert [len(p) for p in parts] == expected
    assert sorted(i for p in parts for i in p.indices) == list(range(10))


def test_random_split_warns_of_an_empty_part():
    with pytest.warns(UserWarning, match="index 1 is 0"):
        data.random_split(Squares(1), [0.5, 0.5])


# -- samplers ------------------------------------------------------------------------------------------------------------


def seeded(seed=0):
    return core.Generator().manual_seed(seed)


def test_orders():
    assert list(data.SequentialSampler(Squares(4))) == [0, 1, 2, 3]
    assert sorted(data.RandomSampler(Squares(9))) == list(range(9))
    assert sorted(data.SubsetRandomSampler([4, 8, 6])) == [4, 6, 8]
    twice = list(data.RandomSampler(Squares(4), num_samples=10))
    assert [sorted(twice[:4]), sorted(twice[4:8]), len(set(twice[8:]))] == [[0, 1, 2, 3], [0, 1, 2, 3], 2]
    assert list(data.RandomSampler(Squares(9), generator=seeded())) == list(
        data.RandomSampler(Squares(9), generator=seeded())
    )


def test_draws_from_a_source_too_long_to_list():
    drawn = list(data.RandomSampler(range(10**10), replacement=True, num_samples=70, generator=seeded()))
    assert len(set(drawn)) == 70
    assert 2**32 < max(drawn) < 10**10
    everything = iter(data.RandomSampler(range(10**10), replacement=True))  # num_samples is 10**10, too
    assert 0 <= next(everything) < 10**10
    assert next(iter(data.BatchSampler(data.SequentialSampler(range(10**10)), 3, False))) == [0, 1, 2]


def test_weights():
    drawn = list(data.WeightedRandomSampler([0.0, 1.0, 3.0], 4000, generator=seeded()))
    assert np.bincount(drawn)[0] == 0
    assert np.bincount(drawn)[2] / 4000 == pytest.approx(0.75, abs=0.03)
    assert sorted(data.WeightedRandomSampler(core.tensor([0.2, 0.1, 0.7]), 3, replacement=False)) == [0, 1, 2]
    first = [
        next(iter(data.WeightedRandomSampler([1.0, 3.0], 1, replacement=False, generator=seeded(s))))
        for s in range(800)
    ]
    assert np.mean(first) == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize(
    "n, size, drop_last, expected",
    [
        (5, 2, False, [[0, 1], [2, 3], [4]]),
        (5, 2, True, [[0, 1], [2, 3]]),
        (4, 2, False, [[0, 1], [2, 3]]),
        (1, 2, True, []),
    ],
)
def test_batches_of_indices(n, size, drop_last, expected):
    batches = data.BatchSampler(data.SequentialSampler(range(n)), size, drop_last)
    assert (list(batches), len(batches)) == (expected, len(expected))


BAD_SAMPLERS = {
    "no __iter__": (lambda: iter(data.Sampler()), NotImplementedError, "define"),
    "empty source": (lambda: data.RandomSampler([]), ValueError, "positive integer value, got 0"),
    "num_samples": (lambda: data.RandomSampler([1], num_samples=-1), ValueError, "got -1"),
    "replacement": (lambda: data.RandomSampler([1], replacement="no"), TypeError, "'no'"),
    "weights in a matrix": (lambda: data.WeightedRandomSampler([[1.0]], 1), ValueError, r"\(1, 1\)"),
    "weighted replacement": (lambda: data.WeightedRandomSampler([1.0], 1, replacement=1), ValueError, "True or False"),
    "negative weight": (lambda: list(data.WeightedRandomSampler([1.0, -1.0], 1)), ValueError, "got -1.0"),
    "no weight": (lambda: list(data.WeightedRandomSampler([0.0], 1)), ValueError, "sum 0"),
    "too many": (lambda: list(data.WeightedRandomSampler([1.0], 2, replacement=False)), ValueError, "<= 1"),
    "batch_size": (lambda: data.BatchSampler([1], 0, False), ValueError, "batch_size .* got 0"),
    "batch_size True": (lambda: data.BatchSampler([1], True, False), ValueError, "got True"),
    "drop_last": (lambda: data.BatchSampler([1], 1, None), ValueError, "None"),
}


@pytest.mark.parametrize("mistake, error, text", BAD_SAMPLERS.values(), ids=BAD_SAMPLERS)
def test_a_mistake_with_a_sampler(mistake, error, text):
    with pytest.raises(error, match=text) as caught:
        mistake()
    assert error is NotImplementedError or isinstance(caught.value, CoreError)


# -- collating -----------------------------------------------------------------------------------------------------------

COLLATED = {
    "tensors": ([core.tensor([1, 2]), core.tensor([3, 4])], [[1, 2], [3, 4]], core.int64),
    "scalars": ([core.tensor(1.5), core.tensor(2.5)], [1.5, 2.5], core.float32),
    "arrays": ([np.zeros(2, np.float16), np.ones(2, np.float16)], [[0, 0], [1, 1]], core.float16),
    "float": ([0.1, 0.2], [0.1, 0.2], core.float64),
    "int": ([1, 2], [1, 2], core.int64),
    "bool": ([True, False], [True, False], core.bool),
    "numpy float64": ([np.float64(0.1)] * 2, [0.1, 0.1], core.float64),
    "numpy uint8": ([np.uint8(3)] * 2, [3, 3], core.uint8),
    "numpy bool": ([np.bool_(True)] * 2, [True, True], core.bool),
    "strings": (["a", "b"], ["a", "b"], None),
    "bytes": ([b"a", b"b"], [b"a", b"b"], None),
    "dicts": ([{"x": 1, "n": "a"}, {"x": 2, "n": "b"}], {"x": [1, 2], "n": ["a", "b"]}, None),
    "ordered dicts": ([OrderedDict(x=1), OrderedDict(x=2)], OrderedDict(x=[1, 2]), None),
    "tuples": ([(1, "a"), (2, "b")], [[1, 2], ("a", "b")], None),
    "lists": ([[1, 2], [3, 4]], [[1, 3], [2, 4]], None),
    "named tuples": ([Point(1, 2.5), Point(3, 4.5)], Point([1, 3], [2.5, 4.5]), None),
    "nested": ([{"p": Point(1, [2])}, {"p": Point(3, [4])}], {"p": Point([1, 3], [[2, 4]])}, None),
    "ranges": ([range(2), range(2)], [[0, 0], [1, 1]], None),
}


@pytest.mark.parametrize("samples, expected, dtype", COLLATED.values(), ids=COLLATED)
def test_collate(samples, expected, dtype):
    batch = data.default_collate(samples)
    assert plain(batch) == expected
    assert type(plain(batch)) is type(expected)
    assert dtype is None or batch.dtype == dtype


def test_a_map_of_collate_functions():
    def join(batch, *, collate_fn_map=None):
        return "+".join(batch)

    known = {**_utils.collate.default_collate_fn_map, str: join}
    assert _utils.collate.collate([{"n": "a"}, {"n": "b"}], collate_fn_map=known) == {"n": "a+b"}


NOT_COLLATED = {
    "ragged tensors": (
        [core.zeros(3), core.zeros(3), core.zeros(4)],
        RuntimeError,
        r"\[3\] at entry 0 and \[4\] at entry 2",
    ),
    "ragged arrays": (
        [np.zeros((2, 3)), np.zeros((2, 4))],
        RuntimeError,
        r"\[2, 3\] at entry 0 and \[2, 4\] at entry 1",
    ),
    "ragged lists": ([[1, 2], [1, 2, 3]], RuntimeError, "got 2 at entry 0 and 3 at entry 1"),
    "objects": ([object(), object()], TypeError, "found <class 'object'>"),
    "None": ([None, None], TypeError, "NoneType"),
    "arrays of strings": ([np.array(["a"])], TypeError, "<U1"),
}


@pytest.mark.parametrize("samples, error, text", NOT_COLLATED.values(), ids=NOT_COLLATED)
def test_what_cannot_be_collated(samples, error, text):
    with pytest.raises(error, match=text) as caught:
        data.default_collate(samples)
    assert isinstance(caught.value, CoreError)


def test_convert():
    words = np.array(["a"])
    converted = data.default_convert(
        {"a": np.arange(2), "b": (1, np.float32(2)), "c": Point(words, "s"), "d": [np.ones(1)]}
    )
    assert plain({k: converted[k] for k in "abd"}) == {"a": [0, 1], "b": [1, 2.0], "d": [[1.0]]}
    assert isinstance(converted["b"], list)
    assert converted["c"].x is words


# -- the loader ----------------------------------------------------------------------------------------------------------

LOADERS = {
    "one by one": ({}, [[0], [1], [4], [9], [16]]),
    "batches": ({"batch_size": 2}, [[0, 1], [4, 9], [16]]),
    "drop_last": ({"batch_size": 2, "drop_last": True}, [[0, 1], [4, 9]]),
    "no batches": ({"batch_size": None}, [0, 1, 4, 9, 16]),
    "sampler": ({"batch_size": 2, "sampler": [3, 1, 2]}, [[9, 1], [4]]),
    "batch_sampler": ({"batch_sampler": [[3, 1], [2]]}, [[9, 1], [4]]),
    "collate_fn": ({"batch_size": 3, "collate_fn": sum}, [5, 25]),
}


@pytest.mark.parametrize("arguments, expected", LOADERS.values(), ids=LOADERS)
def test_loader(arguments, expected):
    loader = data.DataLoader(Squares(5), **arguments)
    assert plain(list(loader)) == expected
    assert plain(list(loader)) == expected
    assert len(loader) == len(iter(loader)) == len(expected)


STREAMS = {
    "batches": ({"batch_size": 2}, [[1, 2], [3]], 2),
    "drop_last": ({"batch_size": 2, "drop_last": True}, [[1, 2]], 1),
    "no batches": ({"batch_size": None}, [1, 2, 3], 3),
    "exact": ({"batch_size": 3}, [[1, 2, 3]], 1),
}


@pytest.mark.parametrize("arguments, expected, length", STREAMS.values(), ids=STREAMS)
def test_loader_of_a_stream(arguments, expected, length):
    loader = data.DataLoader(Stream(1, 2, 3, length=3), **arguments)
    assert plain(list(loader)) == expected
    assert len(loader) == length
    with pytest.raises(TypeError):
        len(data.DataLoader(Stream(1)))


def test_a_stream_longer_than_it_said():
    loader = data.DataLoader(Stream(1, 2, 3, length=2))
    len(loader)
    with pytest.warns(UserWarning, match="reported to be 2 .* but 3 samples"):
        list(loader)


class Raw(data.Dataset):
    """The samples of a TensorDataset without being one, so that they are collated."""

    def __init__(self, tensors):
        self.tensors = tensors

    def __len__(self):
        return len(self.tensors)

    def __getitem__(self, i):
        return self.tensors[i]


GATHERED = {
    "tensors": lambda d: d,
    "subset": lambda d: data.Subset(d, [5, 1, 3, 3, 0, 6]),
    "subset of a subset": lambda d: data.Subset(data.Subset(d, [5, 1, 3, 3, 0, 6]), [-1, 2, 4]),
    "subset, range": lambda d: data.Subset(d, range(2, 6)),
    "subset, tensor": lambda d: data.Subset(d, core.tensor([2, 6])),
}


@pytest.mark.parametrize("view", GATHERED.values(), ids=GATHERED)
@pytest.mark.parametrize("count", [1, 3])
def test_whole_batches_are_what_collated_samples_are(view, count):
    tensors = (core.rand(7, 2), core.arange(7), core.rand(7).to(core.bfloat16))[:count]
    fast = view(data.TensorDataset(*tensors))
    for mine, theirs in zip(data.DataLoader(fast, 2), data.DataLoader(Raw(fast), 2)):
        assert type(mine) is type(theirs) is list
        assert [(t.dtype, t.shape, t.tolist()) for t in mine] == [(t.dtype, t.shape, t.tolist()) for t in theirs]


def test_a_batch_is_a_copy_and_keeps_the_graph():
    x = core.arange(4.0)
    batch = next(iter(data.DataLoader(data.TensorDataset(x), 4)))[0]
    batch.mul_(0)
    assert x.tolist() == [0, 1, 2, 3]
    w = core.ones(3, requires_grad=True)
    next(iter(data.DataLoader(data.TensorDataset(w), 2)))[0].sum().backward()
    assert w.grad.tolist() == [1, 1, 0]


class Doubled(data.TensorDataset):
    def __getitem__(self, i):
        return super().__getitem__(i)[0] * 2


def test_a_subclass_is_asked_for_samples():
    assert next(iter(data.DataLoader(Doubled(core.arange(3)), 3))).tolist() == [0, 2, 4]


def test_indices_of_other_kinds():
    x = data.TensorDataset(core.arange(5))
    samplers = (list(core.tensor([3, 1])), [np.int32(3), np.int32(1)])
    for order in samplers:
        assert next(iter(data.DataLoader(x, 2, sampler=order)))[0].tolist() == [3, 1]
    with pytest.raises(IndexError):
        next(iter(data.DataLoader(x, sampler=[9])))


CONFLICTS = {
    "num_workers": ({"num_workers": -1}, "non-negative, got -1"),
    "timeout": ({"timeout": -1}, "timeout .* non-negative"),
    "timeout without workers": ({"timeout": 1}, "timeout .* num_workers=0"),
    "prefetch without workers": ({"prefetch_factor": 2}, "prefetch_factor option could only be specified in multi"),
    "prefetch 0": ({"num_workers": 1, "prefetch_factor": 0}, "prefetch_factor"),
    "persistent": ({"persistent_workers": True}, "persistent_workers option needs num_workers > 0"),
    "sampler and shuffle": ({"sampler": [0], "shuffle": True}, "mutually exclusive with shuffle"),
    "batch_sampler and batch_size": ({"batch_sampler": [[0]], "batch_size": 2}, "batch_size=2"),
    "batch_sampler and shuffle": ({"batch_sampler": [[0]], "shuffle": True}, "shuffle=True"),
    "batch_sampler and sampler": ({"batch_sampler": [[0]], "sampler": [0]}, "mutually exclusive"),
    "batch_sampler and drop_last": ({"batch_sampler": [[0]], "drop_last": True}, "drop_last=True"),
    "None and drop_last": ({"batch_size": None, "drop_last": True}, "batch_size=None"),
    "context without workers": ({"multiprocessing_context": "fork"}, "num_workers=0"),
    "unknown context": ({"num_workers": 1, "multiprocessing_context": "spoon"}, "'fork'.* got 'spoon'"),
    "batch_size": ({"batch_size": 0}, "batch_size .* got 0"),
    "stream and shuffle": ({"dataset": Stream(), "shuffle": True}, "unspecified shuffle option"),
    "stream and sampler": ({"dataset": Stream(), "sampler": [0]}, "unspecified sampler option"),
    "stream and batch_sampler": ({"dataset": Stream(), "batch_sampler": [[0]]}, "unspecified batch_sampler option"),
}


@pytest.mark.parametrize("arguments, text", CONFLICTS.values(), ids=CONFLICTS)
def test_arguments_that_contradict(arguments, text):
    with pytest.raises(ValueError, match=text) as caught:
        data.DataLoader(**{"dataset": Squares(), **arguments})
    assert isinstance(caught.value, CoreError)


def test_a_context_must_be_one():
    with pytest.raises(TypeError, match="got 3"):
        data.DataLoader(Squares(), num_workers=1, multiprocessing_context=3)


def test_attributes():
    squares = Squares()
    loader = data.DataLoader(squares, 4, shuffle=True, drop_last=True, pin_memory=True, pin_memory_device="cuda")
    assert (loader.dataset, loader.batch_size, loader.drop_last, loader.num_workers) == (squares, 4, True, 0)
    assert (loader.pin_memory, loader.timeout, loader.prefetch_factor, loader.in_order) == (True, 0, None, True)
    assert isinstance(loader.sampler, data.RandomSampler)
    assert isinstance(loader.batch_sampler, data.BatchSampler)
    assert loader.batch_sampler.sampler is loader.sampler
    assert loader.collate_fn is data.default_collate
    assert data.DataLoader(squares, None).collate_fn is data.default_convert
    assert data.DataLoader(squares, batch_sampler=[[0]]).batch_size is None
    assert len(next(iter(loader))) == 4  # pin_memory without a device is no matter
    with pytest.raises(ArgumentError, match="batch_size attribute should not be set"):
        loader.batch_size = 3
    loader.collate_fn = list
    assert type(next(iter(loader))) is list
    assert data.DataLoader[int] is not None
    with pytest.raises(TypeError, match="pickle the DataLoader"):
        iter(loader).__reduce__()


def test_more_workers_than_processors():
    with pytest.warns(UserWarning, match="4096 worker processes"):
        data.DataLoader(Squares(), num_workers=4096)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.DataLoader(Squares(), num_workers=1)


def test_the_same_seed_gives_the_same_epochs():
    def epochs():
        core.manual_seed(3)
        loader = data.DataLoader(Squares(), 3, shuffle=True)
        return [plain(list(loader)) for _ in range(3)], core.rand(1).item()

    assert epochs() == epochs()
    assert len({str(e) for e in epochs()[0]}) == 3


def test_module_paths_of_torch():
    assert dataset.Dataset is data.Dataset
    assert sampler.Sampler is data.Sampler
    assert dataloader.DataLoader is data.DataLoader
    assert dataloader.default_collate is _utils.collate.default_collate is data.default_collate
    assert _utils.worker.get_worker_info() is None
    assert sorted(data.__all__) == list(data.__all__)
