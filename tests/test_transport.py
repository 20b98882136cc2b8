"""Every transport moves arrays the same way and fails the same way; ZeroMQ lets nobody else in.

The bodies are in `transport_cases.py`. ROWS says how to run one as all ranks of a world; a transport without a row
fails.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import zmq

from core.backend.cuda import is_available
from core.errors import ArgumentError, DeviceError, MissingLibraryError
from ddp import wire
from ddp.env import World
from ddp.errors import DDPError, DeadlineError, PeerLostError, WorldError
from ddp.transport import TRANSPORTS, base, curve, open_transport, places, same_host, threads, tuning, zeromq
from ddp.transport.base import Call, Deadline
from tests import jobs
from tests.transport_cases import BROKEN, HEALTHY, Group, zmq_world

ROOT = Path(__file__).parent.parent


@pytest.fixture
def key_file(tmp_path):
    return write_key(tmp_path / "key")


def write_key(path: Path, mode: int = 0o600, text: str | None = None) -> str:
    path.write_text(text or secrets.token_hex(32))
    path.chmod(mode)
    return str(path)


def run_loopback(size, body, key_file):
    body(Group(open_transport("loopback", World(), 5)))


def run_threads(size, body, key_file):
    threads.run(size, lambda transport: body(Group(transport)), 30)


def run_zmq(size, body, key_file, world=zmq_world):
    """All ranks in this process, each with a transport, context and sockets of its own."""

    def rank(spot):
        transport = open_transport("zmq", world(spot.rank, size, key_file), 10)
        try:
            body(Group(transport))
        finally:
            transport.close()

    threads.run(size, rank, 30)


def run_zmq_without_board(size, body, key_file):
    """As if each rank were on a host of its own, but with Unix sockets."""

    def checked(g):
        assert g.transport.without_board == "1 ranks on this host"
        body(g)

    with mock.patch.dict(os.environ, LOCKSTEP_SHARED_MEMORY="0"):
        run_zmq(size, checked, key_file)


def run_zmq_small_slots(size, body, key_file):
    """Also arrays of some KB go in pieces."""
    with mock.patch.object(tuning, "load", lambda: tuning.Tuning(slot_bytes=1 << 12)):
        run_zmq(size, body, key_file)


def run_zmq_hosts(size, body, key_file):
    """Every other rank on another host: 0, 2, 4 here and 1, 3 there, with two boards, meeting by TCP."""
    at = {"master_addr": "127.0.0.1", "master_port": jobs.free_port()}

    def here(rank):
        return (size + 1 - rank % 2) // 2

    def world(rank, size, key_file):
        return World(rank, size, rank // 2, here(rank), rank % 2, job=key_file, key_file=key_file, **at)

    def checked(g):
        assert bool(g.transport.without_board) == (here(g.rank) == 1) and not g.transport._on_board
        body(g)

    run_zmq(size, checked, key_file, world)


def run_on_gpu(name, size, body, key_file):
    """Arrays of the host go over the carrier; arrays of the GPU are the business of `tests.gpu` and `test_cuda_nccl`."""
    if not is_available():
        pytest.skip(f"NO GPU: transport {name} needs CuPy and an NVIDIA GPU")
    transport = open_transport(name, World(), 10)
    try:
        body(Group(transport))
    finally:
        transport.close()


# Transport -> how to run a body, and at which sizes. MPI has one world a process: `test_mpi.py` starts it.
ROWS = {
    "loopback": (run_loopback, (1,)),
    "threads": (run_threads, (1, 2, 3, 5, 8)),
    "zmq": (run_zmq, (2, 3, 5, 8)),
    "mpi": (None, ()),
    "nccl": (partial(run_on_gpu, "nccl"), (1,)),
    "ipc": (partial(run_on_gpu, "ipc"), (1,)),
    "zmq without board": (run_zmq_without_board, (4,)),
    "zmq small slots": (run_zmq_small_slots, (2, 3)),
    "zmq hosts": (run_zmq_hosts, (3, 5)),
}


@pytest.mark.skipif(is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["nccl", "ipc"])
def test_without_a_gpu_it_says_so(name):
    with pytest.raises((DeviceError, MissingLibraryError), match=r"cupy|expected an NVIDIA GPU"):
        open_transport(name, World(), 5)


def test_every_transport_has_a_row():
    assert {name.split()[0] for name in ROWS} == set(TRANSPORTS)


@pytest.mark.parametrize("body", HEALTHY, ids=lambda body: body.__name__)
@pytest.mark.parametrize(("name", "size"), [(name, size) for name, (_, sizes) in ROWS.items() for size in sizes])
def test_healthy(name, size, body, key_file):
    ROWS[name][0](size, body, key_file)


@pytest.mark.parametrize("body", BROKEN, ids=lambda body: body.__name__)
@pytest.mark.parametrize(
    ("name", "size"),
    [("threads", 2), ("threads", 5), ("zmq", 2), ("zmq", 3), ("zmq without board", 3), ("zmq hosts", 4)],
)
def test_broken(name, size, body, key_file):
    ROWS[name][0](size, body, key_file)


# -- pure parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 100])
def test_chunks_cover_everything_once(count, parts):
    spans = base.chunks(count, parts)
    assert [i for span in spans for i in range(span.start, span.stop)] == list(range(count))
    lengths = [span.stop - span.start for span in spans]
    assert len(spans) == parts and max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("size", range(1, 18))
def test_tree_reaches_every_rank_once_from_any_root(size):
    for root in range(size):
        trees = [base.tree(rank, root, size) for rank in range(size)]
        assert sorted(child for _, children in trees for child in children) == sorted(set(range(size)) - {root})
        assert all(trees[child][0] == rank for rank, (_, children) in enumerate(trees) for child in children)


def test_pieces_are_never_none_and_never_too_large():
    assert base.pieces(slice(5, 5), 4) == [slice(5, 5)]
    spans = base.pieces(slice(3, 3 + base.PIECE_BYTES), 8)
    assert len(spans) == 8 and spans[0].start == 3 and spans[-1].stop == 3 + base.PIECE_BYTES


# -- opening ----------------------------------------------------------------------------------------------------------


def test_an_unknown_transport_lists_the_known_ones():
    with pytest.raises(ArgumentError, match=f"got 'nccl2'; known: {', '.join(sorted(TRANSPORTS))}"):
        open_transport("nccl2", World(), 1)


def test_a_missing_library_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingLibraryError, match=r"transport mpi needs the library mpi4py.*lockstep-ddp\[mpi\]"):
        open_transport("mpi", World(), 1)


@pytest.mark.parametrize("name", ["loopback", "threads"])
def test_one_process_is_no_world_of_many(name):
    with pytest.raises(WorldError, match=r"rank 1: .*expected a world of one, got 3"):
        open_transport(name, World(rank=1, size=3), 1)


def test_zmq_alone_needs_no_key_and_no_socket():
    assert open_transport("zmq", World(), 1).size == 1


# -- threads ----------------------------------------------------------------------------------------------------------


def test_the_first_failure_of_a_thread_comes_out_and_the_others_lose_that_rank():
    lost = []

    def body(transport):
        if transport.rank == 1:
            raise ZeroDivisionError("a bug")
        with pytest.raises(PeerLostError, match="rank 1 died") as caught:
            Group(transport).barrier()
        lost.append(caught.value.rank)

    with pytest.raises(ZeroDivisionError, match="a bug") as caught:
        threads.run(3, body, 10)
    assert "rank 1 of 3" in caught.value.__notes__[0]
    assert lost == [1, 1]


def test_threads_that_do_not_end_are_named():
    event = threading.Event()
    with pytest.raises(DeadlineError, match=r"still running: \[1\]"):
        threads.run(2, lambda transport: transport.rank and event.wait(10), 0.2)
    event.set()


def test_a_replayed_frame_is_dropped_and_a_lost_one_is_an_error():
    hub = threads.Hub(2)
    a, b = threads.ThreadTransport(hub, 0), threads.ThreadTransport(hub, 1)
    x, call = np.arange(3), Call("send", 1, "int64", 3)
    a.send(1, x, call, Deadline.after(1))
    frame = hub.inboxes[1].get()
    hub.inboxes[1].put(frame)
    hub.inboxes[1].put(frame)
    assert (b.recv(0, call, Deadline.after(1)) == x).all()
    with pytest.raises(DeadlineError):
        b.recv(0, call, Deadline.after(0.05))
    assert b.dropped_frames == 1
    hub.inboxes[1].put((frame[0]._replace(counter=7), x))
    b.recv(0, call, Deadline.after(1))
    with pytest.raises(DDPError, match="expected frame 1 from rank 0, got 7; frames were lost"):
        b.recv(0, call, Deadline.after(1))


def test_the_next_generation_goes_on_without_the_dead():
    """Rank 2 dies; the others agree to go on, one earlier than the other. What belongs to the old generation is
    dropped.
    """

    def body(transport):
        g = Group(transport)
        if transport.rank == 2:
            raise ZeroDivisionError
        if transport.rank == 1:
            g.send(0, np.zeros(2), tag=1)  # will be stale
        with pytest.raises(PeerLostError, match="rank 2 died"):
            g.all_reduce(np.ones(4))
        time.sleep(0.05 * transport.rank)
        transport.advance(1)
        pair = Group(transport.subset([0, 1]), group=1)
        assert (pair.all_reduce(np.ones(4)) == 2).all()
        if transport.rank == 0:
            with pytest.raises(DeadlineError):
                transport.recv(1, Call("send", 1, "float64", 2), Deadline.after(0.05))
            with pytest.raises(ArgumentError, match="expected a generation after 1, got 1"):
                transport.advance(1)
        pair.barrier()

    with pytest.raises(ZeroDivisionError):
        threads.run(3, body, 10)


@pytest.mark.parametrize("run", [run_zmq, run_zmq_without_board])
def test_the_next_generation_of_a_board(run, key_file):
    """As above; and what a rank pinned up before it failed is not read by those who go on."""

    def body(g):
        g.barrier()
        if g.rank == 2:
            return
        with pytest.raises(PeerLostError, match="rank 2 has left"):
            g.all_reduce(np.ones(1 << 20, np.float32))
        time.sleep(0.05 * g.rank)
        g.transport.advance(1)
        pair = Group(g.transport.subset([1, 0]), group=1)
        for count in (4, 1 << 20):
            assert (pair.all_reduce(np.full(count, 1.0 + g.rank)) == 3).all()
        assert (pair.all_gather(np.array([g.rank])) == [[1], [0]]).all()
        same = np.arange(1 << 18, dtype=np.float32)
        if g.rank == 0:
            g.send(1, same)
        else:
            assert (g.recv(0, np.zeros_like(same)) == same).all()
        pair.barrier()

    run(3, body, key_file)


@pytest.mark.parametrize("run", [run_threads, run_zmq], ids=["threads", "zmq"])
def test_a_rank_that_gives_up_says_why(run, key_file):
    def body(g):
        if g.rank == 1:
            g.transport.abort("out of memory")
        else:
            with pytest.raises(PeerLostError, match=r"barrier #1 .*: rank 1 gave up: out of memory") as caught:
                g.barrier()
            assert caught.value.rank == 1

    run(3, body, key_file)


# -- ZeroMQ -----------------------------------------------------------------------------------------------------------


def start_ranks(size, key_file, *program):
    environ = {**os.environ, "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, *program, str(rank), str(size), key_file],
            cwd=ROOT,
            env=environ,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(size)
    ]


def outputs(ranks, timeout_s):
    """What each rank printed, once all have ended; none outlives this."""
    try:
        return [rank.communicate(timeout=timeout_s)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


@pytest.mark.parametrize("size", [2, 4])
def test_zmq_between_processes(size, key_file):
    ranks = start_ranks(size, key_file, "-m", "tests.transport_cases")
    texts = outputs(ranks, 60)
    assert [rank.returncode for rank in ranks] == [0] * size, "\n".join(texts)


MANY = """
import sys
from tests.transport_cases import *
rank, size, key_file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
g = Group(open_transport("zmq", zmq_world(rank, size, key_file), 90), timeout_s=60)
for count in (10, 1 << 16):
    assert (g.all_reduce(np.full(count, rank, np.float32)) == size * (size - 1) // 2).all()
g.transport.close()
assert g.transport.refused_peers == g.transport.dropped_frames == 0
"""


def test_many_ranks_on_one_host(key_file, size=32):
    """With 64 it works too, and takes 12 s on two idle cores."""
    ranks = start_ranks(size, key_file, "-c", MANY)
    texts = outputs(ranks, 100)
    assert [rank.returncode for rank in ranks] == [0] * size, "\n".join(texts)


KILLED = """
import sys, time
from tests.transport_cases import *
rank, size, key_file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
g = Group(open_transport("zmq", zmq_world(rank, size, key_file), 10))
g.barrier()
print("ready", flush=True)
if rank == 1:
    time.sleep(60)
try:
    if rank == 0:
        g.all_reduce(np.zeros(10))
    time.sleep(0.3)
    g.send(1, np.zeros(4 << 20))  # more than the sockets hold: this waits, since rank 1 was stopped
    g.recv(0, np.zeros(1))  # nobody sends this
except PeerLostError as error:
    print(time.monotonic(), error.rank, error, flush=True)
g.transport.close()
"""


def test_kill_9_of_a_rank_is_noticed_at_once_by_all_wherever_they_wait(key_file):
    ranks = start_ranks(3, key_file, "-c", KILLED)
    try:
        assert [rank.stdout.readline() for rank in ranks] == ["ready\n"] * 3
        ranks[1].send_signal(signal.SIGSTOP)
        time.sleep(0.6)
        killed_at = time.monotonic()
        ranks[1].send_signal(signal.SIGKILL)
    finally:
        texts = outputs(ranks, 10)
    for rank in (0, 2):
        noticed_at, culprit, message = texts[rank].split(" ", 2)
        assert culprit == "1" and "rank 1 died: its connection ended without a goodbye" in message
        assert float(noticed_at) - killed_at < 1.0


def open_both(worlds, timeout_s):
    """What each world's `open_transport` raises, by rank."""
    errors = {}

    def rank(spot):
        try:
            open_transport("zmq", worlds[spot.rank], timeout_s).close()
        except DDPError as error:
            errors[spot.rank] = error

    threads.run(len(worlds), rank, timeout_s + 5)
    return errors


def test_a_rank_with_another_key_stays_outside(key_file, tmp_path):
    other = write_key(tmp_path / "other")
    errors = open_both([zmq_world(0, 2, key_file), zmq_world(1, 2, other)], 1.0)
    assert isinstance(errors[0], DeadlineError) and errors[0].rank == 1
    assert "rank 0: open: expected all 2 ranks to meet within 1 s, missing: 1;" in str(errors[0])
    assert "refused for a wrong key: " in str(errors[0]) and "key: 0" not in str(errors[0])
    assert isinstance(errors[1], DeadlineError) and errors[1].rank == 0
    secret = Path(key_file).read_text()
    assert all(secret not in str(error) for error in errors.values())


def test_all_who_came_name_the_rank_that_did_not(key_file):
    errors = open_both([zmq_world(0, 3, key_file), zmq_world(1, 3, key_file)], 0.6)
    assert errors[0].rank == 2 and "missing: 2;" in str(errors[0])
    assert "rank 1: open: told by rank 0: " in str(errors[1]) and "missing: 2;" in str(errors[1])


def test_a_second_job_of_the_same_name_is_refused(key_file):
    def body(g):
        if g.rank == 0:
            with pytest.raises(WorldError, match=r"expected to listen on ipc://.*another job may have the same name"):
                open_transport("zmq", zmq_world(0, 2, key_file), 1)
        g.barrier()

    run_zmq(2, body, key_file)


@pytest.mark.parametrize(
    ("path", "mode", "text", "message"),
    [
        ("", 0, "", "expected the job's key file, got none; start with ddprun, or set LOCKSTEP_KEY_FILE"),
        ("absent", 0, "", "expected a readable key file, got FileNotFoundError"),
        ("key", 0o640, "ab" * 32, "only its owner can read, got mode 0640; chmod 600"),
        ("key", 0o600, "ab" * 31, "expected 64 hex characters"),
        ("key", 0o600, "ab" * 33, "expected 64 hex characters"),
        ("key", 0o600, "xy" * 32, "expected 64 hex characters"),
    ],
)
def test_a_key_file_must_be_there_private_and_whole(tmp_path, path, mode, text, message):
    if text:
        write_key(tmp_path / path, mode, text)
    with pytest.raises(WorldError) as caught:
        open_transport("zmq", zmq_world(1, 2, path and str(tmp_path / path)), 1)
    assert str(caught.value).startswith("rank 1: open: ") and message in str(caught.value)
    assert not text or text[:20] not in str(caught.value)


def test_a_key_may_come_in_memory(tmp_path):
    """As the launcher hands it over: a file without a name, by number. It can be read more than once."""
    fd = os.memfd_create("key")
    try:
        os.write(fd, secrets.token_hex(32).encode())
        run_zmq(2, lambda g: g.barrier(), f"/dev/fd/{fd}", partial(zmq_world, job=str(tmp_path)))
    finally:
        os.close(fd)


@pytest.mark.parametrize("who", ["no key", "half a key", "another job", "no frame", "another's name"])
def test_strangers_change_nothing(who, key_file):
    """Somebody on this host finds the socket. Refused and counted are connections; dropped and counted are frames."""
    public, private = curve.job_keys(bytes.fromhex(Path(key_file).read_text()))
    own_public, own_private = zmq.curve_keypair()
    keys = {"no key": None, "half a key": (own_public, own_private)}.get(who, (public, private))
    call, x = Call("send", 1, "uint8", 4), np.zeros(4, np.uint8)
    job = wire.job_id("elsewhere" if who == "another job" else os.path.dirname(key_file))
    sender = 1 if who == "another's name" else 7
    header = b"junk" if who == "no frame" else wire.pack(wire.Frame(wire.Kind.DATA, sender, call, 0, 4), job)

    def body(g):
        transport = g.transport
        if g.rank == 0:
            with zmq.Context() as context, context.socket(zmq.DEALER) as stranger:
                stranger.linger = 0
                if keys:
                    stranger.curve_publickey, stranger.curve_secretkey = keys
                    stranger.curve_serverkey = public
                stranger.routing_id = b"rank 7"
                stranger.connect(transport._router.getsockopt_string(zmq.LAST_ENDPOINT))
                stranger.send_multipart([header, x])
                with pytest.raises(DeadlineError):
                    transport.recv(1, call, Deadline.after(0.3))
            assert transport.dropped_frames == (who not in ("no key", "half a key"))
            assert (transport.refused_peers > 0) == (who == "half a key")
        g.barrier()

    run_zmq(2, body, key_file)


@pytest.mark.parametrize("body", [HEALTHY[0], HEALTHY[2], BROKEN[0]], ids=lambda body: body.__name__)
def test_several_hosts_meet_by_tcp_at_rank_0(body, key_file):
    port = jobs.free_port()

    def world(rank, size, key_file):
        return World(rank, size, job=key_file, key_file=key_file, master_addr="127.0.0.1", master_port=port)

    def checked(g):
        assert g.transport._router.getsockopt_string(zmq.LAST_ENDPOINT).startswith("tcp://127.0.0.1:")
        body(g)

    run_zmq(3, checked, key_file, world)


def test_where_a_rank_listens():
    assert places.addresses(World(1, 2, local_size=2), "j") == ("ipc://@lockstep-j-door", "ipc://@lockstep-j-1")
    assert places.addresses(World(1, 2), "j")[1] == "ipc://@lockstep-j-1"
    far = World(1, 2, master_addr="localhost", master_port=4567)
    assert places.addresses(far, "j") == ("tcp://127.0.0.1:4567", "tcp://127.0.0.1:*")
    with pytest.raises(WorldError, match="rank 1: open: expected a port for rank 0 to listen on, got none"):
        places.addresses(World(1, 2, master_addr="localhost"), "j")
    with pytest.raises(WorldError, match=r"expected MASTER_ADDR to be a host that can be reached, got '\.'"):
        places.addresses(World(1, 2, master_addr=".", master_port=1), "j")


def test_a_board_that_one_rank_cannot_have_is_had_by_none(key_file, monkeypatch):
    fetch = same_host.segment.fetch

    def refused(offer, size):
        if threading.current_thread().name == "rank 1":
            raise OSError("no more descriptors")
        return fetch(offer, size)

    def body(g):
        assert g.transport.without_board == "rank 1: no more descriptors"
        g.barrier()

    monkeypatch.setattr(same_host.segment, "fetch", refused)
    run_zmq(3, body, key_file)


def test_homes_that_one_rank_cannot_have_are_had_by_none(key_file, monkeypatch):
    fetch, times = same_host.segment.fetch, [1]

    def refused(offer, bells):
        if bells == 0 and threading.current_thread().name == "rank 1" and times.pop():
            raise OSError("no more descriptors")
        return fetch(offer, bells)

    def body(g):
        assert g.homes(100) is None
        times.append(0)
        g.barrier()
        assert [home.tolist() for home in g.homes(3)] == [[0, 0, 0]] * 3

    monkeypatch.setattr(same_host.segment, "fetch", refused)
    run_zmq(3, body, key_file)


def test_a_rank_that_does_not_come_for_homes_is_named(key_file):
    def body(g):
        g.barrier()
        if g.rank != 1:
            g.timeout_s = 0.5
            with pytest.raises(PeerLostError, match=r"homes #2 \(uint8\[100\]\): rank 1 has left"):
                g.homes(100)

    run_zmq(3, body, key_file)


def test_messages_find_no_free_block_and_are_sent_all_the_same(key_file):
    count = 2 * base.PIECE_BYTES * same_host.BLOCKS // 8

    def body(g):
        right, left, x, sent = (g.rank + 1) % 3, (g.rank - 1) % 3, np.arange(count), []
        for tag in range(2):
            sent.append(x + g.rank + tag)
            call = Call("send", tag, "int64", count)
            g.transport.send_pieces(right, sent[-1], call, Deadline.after(10))
        for tag in (1, 0):
            assert (g.recv(left, np.zeros_like(x), tag) == x + left + tag).all()
        g.transport.flush(Deadline.after(10))

    run_zmq(3, body, key_file)


def test_a_block_that_nobody_lent_is_refused(key_file):
    def body(g):
        transport, call = g.transport, Call("send", 1, "uint8", 10)
        if g.rank == 1:
            for block, nbytes in ((99, 10), (0, base.PIECE_BYTES + 1)):
                frame = wire.Frame(wire.Kind.LENT, 1, call, transport._sent[0], nbytes, 0, block)
                transport._post(frame, 0, np.empty(0, np.uint8))
        else:
            with pytest.raises(DeadlineError):
                transport.recv(1, call, Deadline.after(0.2))
            assert transport.dropped_frames == 2
        g.barrier()

    run_zmq(2, body, key_file)


@pytest.mark.parametrize(("op", "dtype"), [("sum", "float32"), ("avg", "bfloat16"), ("max", "int16")])
def test_a_sum_does_not_depend_on_the_path(op, dtype, key_file):
    """Direct and in pieces: the same bits, those of adding in the order of the ranks."""

    def body(g):
        x = np.random.default_rng(g.rank).standard_normal(5000).astype(base.DTYPES[dtype])
        results = []
        for direct_bytes in (0, 1 << 20):
            g.transport.tuning = dataclasses.replace(g.transport.tuning, direct_bytes=direct_bytes)
            results.append(g.all_reduce(x.copy(), op))
        assert (results[0].view(np.uint8) == results[1].view(np.uint8)).all()
        rows = g.all_gather(x)
        expected = rows[0].copy()
        for row in rows[1:]:
            base.REDUCE_OPS[op](expected, row, out=expected)
        if op == "avg":
            base.divide(expected, g.size)
        assert (results[0].view(np.uint8) == expected.view(np.uint8)).all()

    run_zmq(3, body, key_file)


def test_nothing_is_left_behind(key_file):
    def body(g):
        g.all_reduce(np.ones(zeromq.ZERO_COPY_BYTES))

    def left():
        gc.collect()  # what tests before left to it
        return len(os.listdir("/proc/self/fd")), {thread.name for thread in threading.enumerate()}

    run_zmq(2, body, key_file)  # pyzmq keeps one thread for all zero-copy sends of a process
    before = left()
    for _ in range(3):
        run_zmq(3, body, key_file)
    open_both([zmq_world(0, 2, key_file)] * 1, 0.2)
    assert left() == before
    assert wire.job_id(os.path.dirname(key_file)).hex() not in Path("/proc/net/unix").read_text()
