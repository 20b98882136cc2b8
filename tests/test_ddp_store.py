"""Stores: torch.distributed's API, the same rows for each kind; and who gets in."""

import os
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

import ddp
from ddp import store as stores
from ddp.errors import DeadlineError, PeerLostError
from ddp.store import FileStore, HashStore, PrefixStore, TCPStore

KINDS = {
    "hash": lambda path: [HashStore()] * 2,
    "file": lambda path: [FileStore(path / "s"), FileStore(path / "s", 2)],
    "tcp": lambda path: tcp(),
    "prefix": lambda path: [PrefixStore("a", s) for s in tcp()],
}


def tcp():
    master = TCPStore("127.0.0.1", 0, is_master=True, timeout=5)
    return [master, TCPStore("localhost", master.port, timeout=5)]


@pytest.fixture(params=KINDS)
def pair(request, tmp_path, monkeypatch):
    monkeypatch.delenv("LOCKSTEP_KEY_FILE", raising=False)
    pair = KINDS[request.param](tmp_path)
    for s in pair:
        s.set_timeout(3)
    yield pair
    for s in pair[::-1]:
        inner = getattr(s, "underlying_store", s)
        if hasattr(inner, "close"):
            inner.close()


def test_both_see_what_either_does(pair):
    a, b = pair
    a.set("x", "1")
    assert b.get("x") == b"1" and b.check(["x"]) and not b.check(["x", "y"])
    b.set("x", b"\0\xff" * 1000)
    assert a.get("x") == b"\0\xff" * 1000
    assert (a.add("n", 5), b.add("n", -2), a.get("n")) == (5, 3, b"3")
    assert a.compare_set("c", "q", "w") == b"q" and not b.check(["c"])
    assert [b.compare_set("c", "", "w"), a.compare_set("c", "w", "z"), b.compare_set("c", "no", "k")] == [
        b"w",
        b"z",
        b"z",
    ]
    a.append("l", "ab")
    b.append("l", "cd")
    assert a.multi_get(["l", "n"]) == [b"abcd", b"3"]
    b.multi_set(["p", "q"], ["1", "2"])
    assert a.num_keys() == b.num_keys() == 6
    assert a.delete_key("p") and not b.delete_key("p") and b.num_keys() == 5


def test_waiting(pair):
    a, b = pair
    later = threading.Timer(0.1, lambda: b.set("later", "here"))
    later.start()
    assert a.get("later") == b"here"
    later.join()
    began = time.monotonic()
    with pytest.raises(DeadlineError, match=r"wait timeout after 0\.2 s: expected keys \['never'\], got no value"):
        a.wait(["later", "never"], timeout=0.2)
    assert 0.2 <= time.monotonic() - began < 2
    with pytest.raises(ValueError, match=r"expected a number as the value of '(a/)?later'"):
        a.add("later", 1)
    assert a.get("later") == b"here"


def test_counting_from_many_threads(pair):
    threads = [threading.Thread(target=lambda s=pair[i % 2]: [s.add("n", 1) for _ in range(20)]) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert pair[0].get("n") == b"80"


def test_prefixes_do_not_meet():
    inner = HashStore()
    a, b = PrefixStore("a", inner), PrefixStore("b", inner)
    a.set("x", "1")
    assert not b.check(["x"]) and inner.get("a/x") == b"1"


def test_a_half_written_record_is_cut_off(tmp_path):
    a = FileStore(tmp_path / "s")
    a.set("x", "1")
    with open(tmp_path / "s", "ab") as file:
        file.write(struct.pack("<Ii", 3, 100) + b"abc half")
    b = FileStore(tmp_path / "s")
    b.set("y", "2")
    assert a.get("y") == b"2" and FileStore(tmp_path / "s").num_keys() == 2


# -- who gets in -------------------------------------------------------------------------------------------------------


def key_file(path, digit):
    path.write_text(digit * 64)
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def master(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCKSTEP_KEY_FILE", key_file(tmp_path / "right", "a"))
    s = TCPStore("127.0.0.1", 0, is_master=True, timeout=5)
    s.set("x", "secret")
    yield s
    s.close()


@pytest.mark.parametrize("key", ["wrong", "none"])
def test_without_the_key_nobody_gets_in(key, master, tmp_path, monkeypatch):
    if key == "none":
        monkeypatch.delenv("LOCKSTEP_KEY_FILE")
    else:
        monkeypatch.setenv("LOCKSTEP_KEY_FILE", key_file(tmp_path / "wrong", "b"))
    with pytest.raises(PeerLostError, match="to have the job's key"):
        TCPStore("127.0.0.1", master.port, timeout=5)
    assert master.get("x") == b"secret"


def test_forged_changed_and_replayed_messages_end_the_connection(master):
    sent = []

    class Tap:
        """The client's socket, seen by somebody on the way."""

        def __init__(self, inner):
            self.inner = inner

        def sendall(self, data):
            sent.append(data)
            self.inner.sendall(data)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    flipped = lambda m: m[:-40] + bytes([m[-40] ^ 1]) + m[-39:]  # a bit of the message
    for change in (flipped, lambda m: m, lambda m: struct.pack("<I", 0xFFFFFFFF), lambda m: m[:-32] + bytes(32)):
        client = TCPStore("127.0.0.1", master.port, timeout=5)
        client._channel.sock = Tap(client._channel.sock)
        assert client.add("n", 1) > 0
        before = master.get("n")
        client._channel.sock.inner.sendall(change(sent[-1]))
        assert client._channel.sock.recv(1) == b""  # the server has hung up
        assert master.get("n") == before
        client.close()


def test_silence_and_noise_hold_up_nobody(master, monkeypatch):
    monkeypatch.setattr(stores, "_HANDSHAKE_S", 0.2)
    quiet = [socket.create_connection(("127.0.0.1", master.port)) for _ in range(20)]
    quiet[0].sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
    client = TCPStore("127.0.0.1", master.port, timeout=5)
    assert client.get("x") == b"secret"
    quiet[1].settimeout(5)
    assert len(quiet[1].recv(64)) == 32 and quiet[1].recv(1) == b""  # its time is over
    for s in quiet:
        s.close()
    client.close()


def test_without_a_key_it_stays_on_this_host(monkeypatch):
    monkeypatch.delenv("LOCKSTEP_KEY_FILE", raising=False)
    for host in ("0.0.0.0", "192.0.2.1"):
        with pytest.raises(ValueError, match="expected localhost or a job's key file"):
            TCPStore(host, 0, is_master=True)
    s = TCPStore("localhost", 0, is_master=True)
    try:
        wanted = f"{s.port:04X}"
        rows = [line.split() for f in ("tcp", "tcp6") for line in Path(f"/proc/net/{f}").read_text().splitlines()[1:]]
        listening = [r[1].split(":")[0] for r in rows if r[3] == "0A" and r[1].endswith(":" + wanted)]
        assert listening and all(a in ("0100007F", "00000000000000000000000001000000") for a in listening)
    finally:
        s.close()


def test_world_size_waits_for_all():
    master_port = []
    ready = threading.Event()

    def late():
        ready.wait(5)
        time.sleep(0.05)
        workers.append(TCPStore("127.0.0.1", master_port[0], 2, timeout=5))

    workers = []
    with socket.create_server(("127.0.0.1", 0)) as probe:
        master_port.append(probe.getsockname()[1])
    thread = threading.Thread(target=late)
    thread.start()
    ready.set()
    master = TCPStore("127.0.0.1", master_port[0], 2, is_master=True, timeout=5)
    thread.join()
    for s in (*workers, master):
        s.close()
    with pytest.raises(DeadlineError, match=r"expected 2 processes at .* within 0\.2 s, got 1"):
        TCPStore("127.0.0.1", 0, 2, is_master=True, timeout=0.2)


def test_the_end_of_the_master_is_seen():
    master, client = tcp()
    master.close()
    with pytest.raises(PeerLostError, match="it has ended"):
        client.get("x")
    client.close()


def test_names_are_torchs():
    assert ddp.TCPStore is TCPStore and ddp.PrefixStore is PrefixStore and issubclass(ddp.FileStore, ddp.Store)
    assert os.environ.get("LOCKSTEP_KEY_FILE") is None
