"""Worker processes of `core.utils.data.DataLoader`: the same batches, every way to die, and nothing left behind."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import core
from core.errors import CoreError
from core.utils import data
from core.utils.data._utils import channel, pool, worker

pytestmark = pytest.mark.timeout(30)

ROOT = Path(__file__).parents[1]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def gone(pids, within_s=3.0):
    end = time.monotonic() + within_s
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    return not any(map(alive, pids))


def named_memory():
    """Mapped files of /dev/shm."""
    with open("/proc/self/maps") as maps:
        return {line.split()[-1] for line in maps if "/dev/shm" in line}


@pytest.fixture(autouse=True)
def nothing_left():
    """No child process, no memory with a name, no descriptor more than before."""
    shm, fds = named_memory(), len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert multiprocessing.active_children() == []
    assert named_memory() <= shm
    # spawn and forkserver keep a process of their own from their first use on
    assert len(os.listdir("/proc/self/fd")) <= fds + 3


class Images(data.Dataset):
    """Samples of every kind, more than fits in a socket."""

    def __len__(self):
        return 20

    def __getitem__(self, i):
        image = core.full((3, 40, 40), float(i))
        return {"image": image, "half": image.to(core.bfloat16), "label": i, "name": str(i), "none": core.zeros(0, 2)}


class Script(data.Dataset):
    """Does something at index 5."""

    def __init__(self, what, n=12):
        self.what, self.n = what, n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return self.what(i) if i == 5 else i


class Share(data.IterableDataset):
    """Each worker reads every n-th number."""

    def __init__(self, n):
        self.n = n

    def __iter__(self):
        info = worker.get_worker_info()
        return iter(range(info.id, self.n, info.num_workers))


def sleep_long(i):
    time.sleep(60)


def same(x, y):
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(same(x[k], y[k]) for k in x)
    return (x.dtype, x.shape, x.tolist()) == (y.dtype, y.shape, y.tolist()) if isinstance(x, core.Tensor) else x == y


# -- the same batches ----------------------------------------------------------------------------------------------------

KINDS = {
    "fork": {},
    "in turn": {"prefetch_factor": 1},
    "far ahead": {"prefetch_factor": 50},
    "three": {"num_workers": 3},
    "persistent": {"persistent_workers": True},
    "spawn": {"multiprocessing_context": "spawn"},
    "forkserver": {"multiprocessing_context": multiprocessing.get_context("forkserver")},
    "single samples": {"batch_size": None},
}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("arguments", KINDS.values(), ids=KINDS)
def test_the_same_batches_as_without_workers(arguments):
    arguments = {"batch_size": 3, "num_workers": 2, **arguments}
    loader = data.DataLoader(Images(), **arguments)
    expected = list(data.DataLoader(Images(), batch_size=arguments["batch_size"]))
    for _ in range(2):
        batches = list(loader)
        assert len(batches) == len(expected)
        assert all(map(same, batches, expected))
    batches[0]["image"].add_(1)  # the memory is ours


def test_a_tensor_dataset_and_shuffling():
    def epochs(num_workers):
        core.manual_seed(0)
        loader = data.DataLoader(data.TensorDataset(core.arange(50)), 7, shuffle=True, num_workers=num_workers)
        return [[b[0].tolist() for b in loader] for _ in range(2)], core.rand(1).item()

    assert epochs(0) == epochs(2)


def test_out_of_order_every_batch_comes_once():
    loader = data.DataLoader(Script(lambda i: time.sleep(0.3) or i), 1, num_workers=2, in_order=False)
    order = [b.item() for b in loader]
    assert sorted(order) == list(range(12))
    assert order.index(5) > 6


def test_an_epoch_broken_off_does_not_reach_into_the_next():
    loader = data.DataLoader(Script(int), 2, num_workers=2, persistent_workers=True)
    first = iter(loader)
    pids = [p.pid for p in first._workers]
    next(first)
    assert [b.tolist() for b in loader] == [[i, i + 1] for i in range(0, 12, 2)]
    assert [p.pid for p in iter(loader)._workers] == pids


@pytest.mark.parametrize("persistent", [False, True])
def test_streams(persistent):
    loader = data.DataLoader(Share(10), 2, num_workers=2, persistent_workers=persistent)
    for _ in range(2):
        assert [b.tolist() for b in loader] == [[0, 2], [1, 3], [4, 6], [5, 7], [8], [9]]
    uneven = data.DataLoader(Share(3), 2, num_workers=2, persistent_workers=persistent, drop_last=True)
    assert [b.tolist() for b in uneven] == [[0, 2]]


class Report(data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, i):
        info = data.get_worker_info()
        draws = core.rand(1).item(), random.random(), np.random.rand()
        return (
            info.id,
            info.num_workers,
            info.seed,
            info.dataset is self,
            draws,
            os.environ["OMP_NUM_THREADS"],
            self.mark,
        )


def mark(worker_id):
    data.get_worker_info().dataset.mark = worker_id * 10


def test_what_a_worker_knows_of_itself():
    loader = data.DataLoader(
        Report(), None, num_workers=2, worker_init_fn=mark, generator=core.Generator().manual_seed(0)
    )
    a, b = list(loader)
    seed = 900450186894289455  # what PyTorch draws for manual_seed(0)
    for i, (me, count, my_seed, mine, draws, threads, marked) in enumerate((a, b)):
        assert (me, count, my_seed, mine, threads, marked) == (i, 2, seed + i, True, "1", 10 * i)
        assert draws[:2] == [
            core.rand(1, generator=core.Generator().manual_seed(seed + i)).item(),
            random.Random(seed + i).random(),
        ]
    assert a[4][2] != b[4][2]
    assert data.get_worker_info() is None


def blas_threads(_):
    with open("/proc/self/maps") as maps:
        path = next(line.split()[-1] for line in maps if "openblas" in line)
    library = ctypes.CDLL(path)
    names = (name.replace("_set_", "_get_") for name in worker._SET_NUM_THREADS)
    return next(getattr(library, name)() for name in names if hasattr(library, name))


@pytest.mark.skipif(
    "openblas" not in np.show_config("dicts")["Build Dependencies"]["blas"]["name"], reason="other BLAS"
)
def test_a_worker_uses_one_thread():
    assert list(data.DataLoader(Script(blas_threads), None, num_workers=1, sampler=[5])) == [1]


def test_messages_larger_than_a_socket_never_block():
    loader = data.DataLoader(Script(int), batch_sampler=[[0, 1] * 50000] * 6, num_workers=1, prefetch_factor=6)
    assert [len(b) for b in loader] == [100000] * 6
    many = data.DataLoader(Script(int), batch_sampler=[[0] * 1500] * 300, num_workers=1, prefetch_factor=300)
    assert len(list(many)) == 300


def test_many_batches_kept_use_no_descriptors_and_no_memory_of_their_neighbours():
    before, named = len(os.listdir("/proc/self/fd")), named_memory()
    kept = [b["image"] for b in data.DataLoader(Images(), 2, num_workers=1)]
    assert named_memory() <= named
    assert len(os.listdir("/proc/self/fd")) <= before
    assert [k[0, 0, 0, 0].item() for k in kept] == list(range(0, 20, 2))
    with open("/proc/self/maps") as maps:
        assert sum("lockstep-batch" in line for line in maps) <= len(kept)
    del kept
    gc.collect()
    with open("/proc/self/maps") as maps:
        assert not any("lockstep-batch" in line for line in maps)


MESSAGES = {
    "small": (1, "a", [core.arange(3)]),
    "empty": core.zeros(0, 3),
    "scalar": np.array(3.0),
    "transposed": np.arange(60000).reshape(200, 300).T,
    "bfloat16": core.ones(20000).to(core.bfloat16),
    "complex": np.ones(20000, np.complex64),
    "objects": np.array([None, "x"], dtype=object),
    "long text": "x" * 10**6,
    "many": [np.array([i]) for i in range(5000)],
    "parameter": core.ones(5000, requires_grad=True),
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_a_message_arrives_as_it_was(message):
    here, there = channel.pair()
    other = channel.Channel(there)
    here.send((message,))
    (arrived,) = other.receive()
    assert type(arrived) is type(message)
    if isinstance(message, core.Tensor):
        assert same(arrived, message)
        assert arrived.requires_grad == message.requires_grad
    elif isinstance(message, np.ndarray):
        assert arrived.dtype == message.dtype
        np.testing.assert_array_equal(arrived, message)
        assert arrived.flags.writeable
    else:
        assert str(arrived) == str(message)
    here.close()
    assert other.receive() is None
    other.close()


# -- errors --------------------------------------------------------------------------------------------------------------


class Odd(Exception):
    def __init__(self, a, b):
        super().__init__("odd")


class Rich(Exception):
    def __init__(self, value):
        super().__init__(value)
        self.value = value


def fail(error):
    def f(_):
        raise error

    return f


FAILURES = {
    "key": (fail(KeyError("nine")), KeyError, "nine"),
    "own, with attributes": (fail(Rich(3)), Rich, "3"),
    "value": (fail(ValueError("bad")), ValueError, "bad"),
    "file": (fail(FileNotFoundError(2, "No such file", "x.png")), FileNotFoundError, "x.png"),
    "shape": (lambda _: core.ones(2) + core.ones(3), RuntimeError, "shape"),
    "cannot be unpickled": (fail(Odd(1, 2)), worker.WorkerError, "Odd"),
    "stop": (fail(StopIteration()), worker.WorkerError, "Caught StopIteration"),
    "batch cannot be pickled": (lambda _: lambda: 0, Exception, "pickle"),
}


@pytest.mark.parametrize("what, error, text", FAILURES.values(), ids=FAILURES)
def test_an_error_in_a_worker_is_raised_here(what, error, text):
    batches = iter(data.DataLoader(Script(what), None, num_workers=2))
    assert [next(batches) for _ in range(5)] == list(range(5))
    with pytest.raises(error) as caught:
        next(batches)
    told = str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
    assert text in told
    assert "in DataLoader worker process 1 (pid" in told
    assert "Traceback" in told
    if error is KeyError:
        assert caught.value.args == ("nine",)
    assert list(batches) == list(range(6, 12))  # one bad sample does not end the epoch


def refuse(worker_id):
    raise LookupError(f"init {worker_id}")


class NoStream(data.IterableDataset):
    def __iter__(self):
        raise LookupError("init 0")


@pytest.mark.parametrize("dataset, init", [(Script(int), refuse), (NoStream(), None)])
def test_an_error_at_the_start_of_a_worker(dataset, init):
    with pytest.raises(LookupError, match="init 0"):
        list(data.DataLoader(dataset, 2, num_workers=2, worker_init_fn=init))


def test_what_spawn_cannot_pickle():
    with pytest.raises((AttributeError, TypeError)) as caught:
        iter(data.DataLoader(Script(lambda i: i), num_workers=1, multiprocessing_context="spawn"))
    assert "top of a module" in caught.value.__notes__[0]


DEATHS = {
    "kill -9": (lambda _: os.kill(os.getpid(), signal.SIGKILL), "killed by signal 9 (SIGKILL)"),
    "some signal": (lambda _: os.kill(os.getpid(), signal.SIGUSR1), "SIGUSR1"),
    "terminate": (lambda _: os.kill(os.getpid(), signal.SIGTERM), "SIGTERM"),
    "exit": (lambda _: sys.exit(3), "exited with code 3"),
    "hard exit": (lambda _: os._exit(4), "exited with code 4"),
}


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("what, how", DEATHS.values(), ids=DEATHS)
def test_a_worker_that_dies_is_named(what, how, persistent):
    loader = data.DataLoader(Script(what), None, num_workers=2, persistent_workers=persistent)
    batches = iter(loader)
    pids = [p.pid for p in batches._workers]
    start = time.monotonic()
    with pytest.raises(RuntimeError) as caught:
        list(batches)
    assert time.monotonic() - start < 1.5
    assert f"worker 1 (pid {pids[1]})" in str(caught.value)
    assert how in str(caught.value)
    assert isinstance(caught.value, CoreError)
    assert gone(pids)
    with pytest.raises(RuntimeError, match="iterate the loader anew"):
        list(batches)
    if persistent:
        assert next(iter(loader)) == 0  # with new workers


def test_a_worker_that_is_killed_while_the_parent_works():
    batches = iter(data.DataLoader(Script(int, 100), None, num_workers=2))
    next(batches)
    os.kill(batches._workers[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"worker 0 .*SIGKILL"):
        list(batches)


def orphan(_):
    """A process that outlives the worker with everything that it has open."""
    if os.fork() == 0:
        time.sleep(4)
        os._exit(0)
    os._exit(5)


def test_a_death_is_seen_behind_a_grandchild():
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="exited with code 5"):
        list(data.DataLoader(Script(orphan), None, num_workers=1))
    assert time.monotonic() - start < 2.5


@pytest.mark.parametrize("in_order", [True, False])
def test_a_worker_that_stalls_is_named(in_order):
    batches = iter(data.DataLoader(Script(sleep_long), None, num_workers=2, timeout=0.5, in_order=in_order))
    pids = [p.pid for p in batches._workers]
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"within 0.5 seconds, got none from worker \d \(pid \d+\) ") as caught:
        list(batches)
    assert time.monotonic() - start < 2
    assert any(f"worker {i} (pid {pid})" in str(caught.value) for i, pid in enumerate(pids))
    assert gone(pids)


# -- the end -------------------------------------------------------------------------------------------------------------


def test_an_unfinished_iterator_ends_its_workers():
    batches = iter(data.DataLoader(Images(), 2, num_workers=2))
    next(batches)
    pids = [p.pid for p in batches._workers]
    del batches
    assert gone(pids, 0)


def test_a_worker_in_the_middle_of_a_sample_is_not_waited_for_long(monkeypatch):
    monkeypatch.setattr(pool, "STOP_GRACE_S", 0.2)
    batches = iter(data.DataLoader(Script(sleep_long), None, num_workers=1, sampler=[5]))
    pids = [p.pid for p in batches._workers]
    time.sleep(0.1)
    start = time.monotonic()
    del batches
    assert time.monotonic() - start < 1
    assert gone(pids, 0)


def test_a_finished_loader_has_no_workers():
    batches = iter(data.DataLoader(Images(), 5, num_workers=2))
    pids = [p.pid for p in batches._workers]
    list(batches)
    assert gone(pids, 0)


MAIN = """
import os, signal, sys, time
import core
from core.utils import data

class Numbers(data.Dataset):
    def __len__(self): return 1000
    def __getitem__(self, i):
        if i == {slow}: time.sleep(30)
        return core.ones(100, 100)

loader = data.DataLoader(Numbers(), 4, num_workers=2, persistent_workers=True)
batches = iter(loader)
next(batches)
other = iter(data.DataLoader(Numbers(), 4, num_workers=1))
print(*(p.pid for p in [*batches._workers, *other._workers]), flush=True)
{then}
"""

ENDS = {
    "kill -9": ("time.sleep(30)", signal.SIGKILL, -9),
    "kill -9, busy workers": ("time.sleep(30)", signal.SIGKILL, -9),
    "terminate": ("time.sleep(30)", signal.SIGTERM, -15),
    "Ctrl-C": ("for _ in loader: time.sleep(30)", signal.SIGINT, -2),
    "exit": ("", None, 0),
    "exit in a loop": ("sys.exit(7)", None, 7),
    "error": ("raise ValueError('mine')", None, 1),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_workers_end_with_the_main_process(name, tmp_path):
    then, sent, code = ENDS[name]
    script = tmp_path / "main.py"
    script.write_text(MAIN.format(then=then, slow=9 if "busy" in name else -1))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(script)], env=env, start_new_session=True, **pipes) as main:
        pids = [int(p) for p in main.stdout.readline().split()]
        assert len(pids) == 3
        if sent is not None:
            time.sleep(0.1)
            if sent == signal.SIGINT:
                os.killpg(main.pid, sent)  # as a terminal does
            else:
                main.send_signal(sent)
        _, err = main.communicate(timeout=15)
        assert main.returncode == code
    assert gone(pids)
    assert "exited unexpectedly" not in err
    if name == "Ctrl-C":
        assert err.count("Traceback") == 1  # ours; the workers say nothing
