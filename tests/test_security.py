"""Nobody else gets in, and nobody can make a rank wait for ever, allocate what it was told, or run what it was sent.

The job under attack is a real one: ranks with sockets of their own. The attacker sees every socket of the host and
speaks bytes; where a row says so, it has stolen the key as well. Who gets the shared memory is in `test_board.py`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import secrets
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import zmq

from ddp import wire
from ddp.env import World
from ddp.errors import DDPError, DeadlineError, WorldError
from ddp.transport import curve, open_transport, threads, zeromq
from ddp.transport.base import Call, Deadline
from tests import jobs
from tests.transport_cases import Group, zmq_world

CALL = Call("send", 1, "uint8", 4)
X = np.arange(4, dtype=np.uint8)


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_text(secrets.token_hex(32))
    path.chmod(0o600)
    return str(path)


def run(size, body, key_file, world=zmq_world, timeout_s=10):
    """All ranks, each a thread with a transport of its own."""

    def rank(spot):
        transport = open_transport("zmq", world(spot.rank, size, key_file), timeout_s)
        try:
            body(Group(transport))
        finally:
            transport.close()

    threads.run(size, rank, 30)


def job_of(key_file):
    return wire.job_id(os.path.dirname(key_file))


def address_of(transport):
    return transport._router.getsockopt_string(zmq.LAST_ENDPOINT)


def raw_connection(address):
    """A socket that speaks bytes to an ipc:// address of ZeroMQ."""
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.connect("\0" + address.removeprefix("ipc://@"))
    except OSError:
        peer.close()
        raise
    peer.settimeout(2)
    return peer


@contextlib.contextmanager
def thief(transport, key_file, name=b"rank 7"):
    """A connection with the job's key, under some name."""
    public, private = curve.job_keys(bytes.fromhex(Path(key_file).read_text()))
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.linger = 0
        client.curve_publickey, client.curve_secretkey, client.curve_serverkey = public, private, public
        client.routing_id = name
        client.connect(address_of(transport))
        yield client


def works(g):
    """The job goes on as if nothing had happened."""
    assert (g.all_reduce(np.ones(3)) == g.size).all()
    if g.rank == 1:
        g.send(0, X, tag=1)
    elif g.rank == 0:
        assert (g.recv(1, np.zeros_like(X), tag=1) == X).all()


# -- connections ------------------------------------------------------------------------------------------------------

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00"  # ZMTP 3.0
NULL = GREETING + b"NULL".ljust(20, b"\0") + bytes(32)
CURVE = GREETING + b"CURVE".ljust(20, b"\0") + bytes(32)

BYTES = {
    "nothing at all": b"",
    "half a greeting and silence": CURVE[:20],
    "a greeting and silence": CURVE,
    "no key": NULL + b"\x04\x19\x05READY",
    "half a handshake": CURVE + b"\x04\xc8\x05HELLO",
    "a message of 4 GB before the handshake": CURVE + b"\x06" + (4 << 30).to_bytes(8, "big"),
    "a message of 2**63 bytes": CURVE + b"\x06" + (1 << 63).to_bytes(8, "big"),
    "a web browser": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a pickle": pickle.dumps({"rank": 0}),
    "noise": bytes(range(256)) * 64,
}


@pytest.mark.parametrize("what", BYTES)
def test_bytes_of_a_stranger_change_nothing(what, key_file):
    def body(g):
        memory = _resident_bytes()
        peers = []
        if g.rank == 0:
            peers = [raw_connection(address_of(g.transport)) for _ in range(3)]
            for peer in peers:
                with contextlib.suppress(ConnectionError):
                    peer.sendall(BYTES[what])
        works(g)
        g.barrier()
        for peer in peers:  # open all the while
            peer.close()
        assert _resident_bytes() - memory < 64 << 20
        assert g.transport.dropped_frames == 0

    run(2, body, key_file)


def _resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_a_wrong_key_is_refused_and_counted(key_file, tmp_path):
    other = tmp_path / "other"
    other.write_text(secrets.token_hex(32))

    def body(g):
        if g.rank == 0:
            with thief(g.transport, other) as client:
                client.send_multipart([b"x", b"y"])
                with pytest.raises(DeadlineError):
                    g.transport.recv(1, CALL, Deadline.after(0.3))
                assert not client.poll(0)
        g.barrier()
        works(g)

    run(2, body, key_file)


def test_a_flood_of_connections_while_the_job_starts(key_file):
    """Hundreds knock at rank 0's door and at a rank's socket, say nothing or rubbish, and stay."""
    door = f"ipc://@lockstep-{job_of(key_file).hex()}-door"
    flood, stop = [], threading.Event()

    def pour():
        while not stop.is_set() and len(flood) < 300:
            try:
                flood.append(raw_connection(door))
                flood[-1].send(BYTES["noise"] if len(flood) % 2 else CURVE)
            except OSError:
                time.sleep(0.001)

    pourers = [threading.Thread(target=pour) for _ in range(3)]

    def world(rank, size, key_file):
        if rank:  # so that the door stands open for a while
            time.sleep(0.3)
        return zmq_world(rank, size, key_file)

    for pourer in pourers:
        pourer.start()
    try:
        run(3, works, key_file, world)
    finally:
        stop.set()
        for pourer in pourers:
            pourer.join()
        for peer in flood:
            peer.close()
    assert len(flood) > 20


# -- in the middle ------------------------------------------------------------------------------------------------------


class Wiretap:
    """A way to a TCP address that others take for the address itself. It keeps what goes there, and may spoil it."""

    def __init__(self, target):
        self.target, self.heard, self.spoils = target, bytearray(), False
        self.door = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self.door.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):  # closed
            while True:
                near = self.door.accept()[0]
                far = socket.create_connection(self.target)
                for source, to, tapped in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._relay, args=(source, to, tapped), daemon=True).start()

    def _relay(self, source, to, tapped):
        with source, contextlib.suppress(OSError):
            while data := bytearray(source.recv(65536)):
                if tapped:
                    self.heard += data
                    if self.spoils:
                        data[-1] ^= 1
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)


@pytest.fixture
def tapped(monkeypatch):
    """Rank 1 reaches rank 0 by a wiretap, over TCP, and all that it sends goes that way."""
    taps, real = [], zeromq.ZMQTransport._listens_at

    def listens_at(transport):
        address = real(transport)
        if transport.rank:
            return address
        host, port = address.removeprefix("tcp://").split(":")
        taps.append(Wiretap((host, int(port))))
        return taps[0].address

    monkeypatch.setattr(zeromq.ZMQTransport, "_listens_at", listens_at)
    monkeypatch.setenv("LOCKSTEP_SHARED_MEMORY", "0")
    yield taps
    for tap in taps:
        tap.door.close()


def tcp_world():
    port = jobs.free_port()
    return lambda rank, size, key_file: World(
        rank, size, job=key_file, key_file=key_file, master_addr="127.0.0.1", master_port=port
    )


def test_a_bit_flipped_on_the_way_ends_the_connection(key_file, tapped):
    """Nobody computes with it: the rank that it came from is lost."""

    def body(g):
        works(g)
        g.barrier()
        tapped[0].spoils = True
        ones = np.ones(100)
        with pytest.raises(DDPError, match="rank 1 died: its connection ended" if g.rank == 0 else "rank [01]"):
            for _ in range(3):
                assert (g.all_reduce(ones.copy()) == 2).all()

    run(2, body, key_file, tcp_world())
    assert len(tapped[0].heard) > 1000


def test_what_was_heard_on_the_wire_can_neither_be_read_nor_said_again(key_file, tapped):
    def body(g):
        works(g)
        text = np.frombuffer(b"nobody reads this", np.uint8)
        if g.rank == 1:
            g.send(0, text)
        else:
            assert (g.recv(1, np.zeros_like(text)) == text).all()
        g.barrier()
        if g.rank == 0:
            heard, dropped = bytes(tapped[0].heard), g.transport.dropped_frames
            assert len(heard) > 500 and b"nobody reads" not in heard and b"LKST" not in heard
            for _ in range(3):
                with socket.create_connection(tapped[0].target) as again:
                    again.settimeout(0.3)
                    again.sendall(heard)
                    with contextlib.suppress(OSError):
                        while again.recv(4096):
                            pass
            assert g.transport.dropped_frames == dropped
        g.barrier()
        works(g)

    run(2, body, key_file, tcp_world())


# -- frames, by one who has the key -------------------------------------------------------------------------------------


def frames(key_file):
    """What -> the parts of a message, and who sends it: rank 1 itself, or a thief of that name."""
    job = job_of(key_file)
    good = wire.pack(wire.Frame(wire.Kind.DATA, 1, CALL, 0, 4), job)
    flipped = bytearray(good)
    flipped[60] ^= 1
    huge = bytearray(good)
    huge[56:64] = (4 << 30).to_bytes(8, "little")
    trap = pickle.dumps(_Trap())
    return {
        "a flipped bit": ([bytes(flipped), X], b"rank 1"),
        "a length of 4 GB": ([bytes(huge), X], b"rank 1"),
        "half a header": ([good[:64], X], b"rank 1"),
        "no payload": ([good], b"rank 1"),
        "half a payload": ([good, X[:2]], b"rank 1"),
        "a part too many": ([good, X, X], b"rank 1"),
        "a pickle for a header": ([trap.ljust(128, b"\0")[:128], trap], b"rank 1"),
        "another's name": ([good, X], b"rank 7"),
        "a rank that is none": ([wire.pack(wire.Frame(wire.Kind.DATA, 7, CALL, 0, 4), job), X], b"rank 7"),
        "another job": ([wire.pack(wire.Frame(wire.Kind.DATA, 7, CALL, 0, 4), wire.job_id("?")), X], b"rank 7"),
    }


class _Trap:
    """Whoever unpickles this ends the test run."""

    def __reduce__(self):
        return os._exit, (99,)


@pytest.mark.parametrize("what", frames("/x/y"))
def test_a_bad_frame_is_dropped_and_counted(what, key_file):
    parts, name = frames(key_file)[what]

    def body(g):
        if g.rank == 0:
            with thief(g.transport, key_file, b"rank 7") as client:
                if name == b"rank 7":
                    client.send_multipart(parts)
                with pytest.raises(DeadlineError):
                    g.transport.recv(1, CALL, Deadline.after(0.3))
            assert g.transport.dropped_frames == 1
        elif name == b"rank 1":
            g.transport._dealers[0].send_multipart(parts)
        g.barrier()
        works(g)

    run(2, body, key_file)


def test_a_replayed_frame_and_one_of_a_past_generation_are_dropped(key_file):
    """By rank 1 itself, since nobody else can speak in its name."""

    def body(g):
        transport = g.transport
        if g.rank == 1:
            sent = transport._sent[0]
            frame = wire.Frame(wire.Kind.DATA, 1, CALL, sent, 4)
            for _ in range(3):
                transport._post(frame, 0, X)
            transport._sent[0] = sent + 1
        else:
            assert (transport.recv(1, CALL, Deadline.after(5)) == X).all()
            with pytest.raises(DeadlineError):
                transport.recv(1, CALL, Deadline.after(0.2))
            assert transport.dropped_frames == 2
        g.barrier()
        if g.rank == 0:
            transport.advance(1)
            with pytest.raises(DeadlineError):  # sent in generation 0
                transport.recv(1, CALL, Deadline.after(0.5))
            assert transport.dropped_frames == 3
        else:
            time.sleep(0.1)
            transport.send(0, X, CALL, Deadline.after(5))
            time.sleep(0.6)

    run(2, body, key_file)


def test_a_pickle_is_a_payload_like_any_other(key_file):
    trap = np.frombuffer(pickle.dumps(_Trap()), np.uint8)

    def body(g):
        if g.rank == 1:
            g.send(0, trap)
        else:
            assert (g.recv(1, np.zeros_like(trap)) == trap).all()
        assert (g.all_gather(trap) == trap).all()

    run(2, body, key_file)


def test_no_module_of_ddp_can_unpickle():
    for path in Path(zeromq.__file__).parents[1].rglob("*.py"):
        for word in ("pickle", "marshal", "shelve", "eval(", "exec(", "recv_pyobj", "allow_pickle=True"):
            assert f"import {word}" not in path.read_text() and f" {word}(" not in path.read_text(), path


# -- jobs -------------------------------------------------------------------------------------------------------------


def test_a_second_coordinator_of_the_same_job_is_refused(key_file):
    def body(g):
        if g.rank == 0:
            with pytest.raises(WorldError, match="another job may have the same name or port"):
                open_transport("zmq", zmq_world(0, 2, key_file), 1)
        g.barrier()
        works(g)

    run(2, body, key_file)


def test_a_rank_of_another_job_stays_outside(key_file):
    """The same key and door, another name: a process that a run before left behind."""
    errors = {}

    def world(rank):
        at = {"master_addr": "127.0.0.1", "master_port": port}
        return World(rank, 2, job="now" if rank == 0 else "then", key_file=key_file, **at)

    def rank(spot):
        try:
            open_transport("zmq", world(spot.rank), 1.0).close()
        except DDPError as error:
            errors[spot.rank] = str(error)

    port = jobs.free_port()
    threads.run(2, rank, 10)
    assert "missing: 1" in errors[0] and "missing: 0" in errors[1]


def test_where_a_job_listens(key_file, tmp_path):
    """Between hosts on the one interface that was named; inside a host on no network at all."""
    port = jobs.free_port()

    def tcp(rank, size, key_file):
        return World(rank, size, job=key_file, key_file=key_file, master_addr="127.0.0.1", master_port=port)

    before = _listening()

    def body(g, expected):
        g.barrier()
        if g.rank == 0:
            new = _listening() - before
            assert {address for address, _ in new} == expected and len(new) == 3 * len(expected)
        g.barrier()

    run(3, lambda g: body(g, {"127.0.0.1"}), key_file, tcp)
    run(3, lambda g: body(g, set()), key_file)
    assert not _listening() - before


def _listening():
    """(address, port) of this process's TCP sockets that listen, as the kernel knows them."""
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        mine = {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
        for line in Path("/proc/self/net", table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in mine:
                address, _, port = words[1].partition(":")
                packed = b"".join(bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8))
                found.add((socket.inet_ntop(family, packed), int(port, 16)))
    return found


PROGRAM = """
import os, sys, time
from pathlib import Path
import core, ddp
ddp.init_process_group(timeout=20)
ddp.all_reduce(core.ones(3))
secret = Path(os.environ["LOCKSTEP_KEY_FILE"]).read_text()
seen = b""
pids = [os.getpid(), os.getppid()]
for pid in pids:
    for name in ("cmdline", "environ"):
        seen += Path("/proc", str(pid), name).read_bytes()
assert secret.encode() not in seen and len(secret) == 64
print(os.environ, ddp.get_world(), repr(ddp.distributed._process.lane.transport))
Path(sys.argv[1], str(ddp.get_rank())).write_text(secret)
if ddp.get_rank() == 1:
    raise RuntimeError("a failure, for its messages")
ddp.all_reduce(core.ones(3))
"""


def test_the_secret_is_in_no_argument_environment_or_log(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    files = ["--log-dir", str(tmp_path / "logs"), "--timeline", str(tmp_path / "logs" / "out.json")]
    done = subprocess.run(
        [*jobs.LAUNCHERS["ddprun"](2), *files, str(program), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=40,
        env=jobs.environment(),
    )
    kept = {path.name: path.read_text() for path in (tmp_path / "logs").iterdir()}
    assert {f"rank-{r}.{kind}" for r in (0, 1) for kind in ("out", "err", "json")} < kept.keys() and "out.json" in kept
    log = "\n".join((done.stdout, done.stderr, *kept.values()))
    assert "a failure, for its messages" in log and "LOCKSTEP_KEY_FILE" in log, log
    for rank in range(2):
        secret = (tmp_path / str(rank)).read_text()
        raw = bytes.fromhex(secret)
        public, private = curve.job_keys(raw)
        for hidden in (secret, repr(raw)[2:-1], private.decode()):
            assert hidden not in log
    plan = subprocess.run(
        [sys.executable, "-m", "launch", "-n", "2", "--dry-run", str(program)],
        capture_output=True,
        text=True,
        timeout=40,
        env=jobs.environment(),
    )
    assert "LOCKSTEP_KEY_FILE" in plan.stdout and not any(len(word) == 64 for word in plan.stdout.split())
