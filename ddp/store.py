"""Key-value stores for what ranks tell each other outside of collectives: torch.distributed's Store, TCPStore, FileStore,
HashStore, PrefixStore.

Contract: keys are texts, values bytes; `get` and `wait` wait for a key until the store's timeout. What crosses a wire or
lies in a file is lengths and bytes, never pickle. A TCPStore listens on the loopback interface only, unless the job has a
key file (LOCKSTEP_KEY_FILE): then both ends prove that they have the key, and every message carries a code (HMAC-SHA256)
with the connection's own key and a counter, so that none can be forged, changed or replayed. Nothing is encrypted.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import hmac
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from core.errors import ArgumentError
from ddp.env import World
from ddp.errors import DeadlineError, PeerLostError, WireError
from ddp.group import _seconds

DEFAULT_TIMEOUT = datetime.timedelta(seconds=300)
MAX_KEY_BYTES, MAX_VALUE_BYTES = 4096, 64 << 20
_POLL_S = (0.001, 0.02)  # how often a waiting rank asks: first, and at last

Value = bytes | None


class Store:
    """Base of the stores: everything is made of `_do`, which never waits."""

    def __init__(self, timeout: Any = DEFAULT_TIMEOUT):
        self.set_timeout(timeout)

    def _do(self, name: str, key: str, *values: bytes) -> Value:
        """One of the operations of `_Table`, at once and undivided."""
        raise NotImplementedError

    def set(self, key: str, value: str | bytes) -> None:
        """The key has this value now."""
        self._do("set", key, _bytes(value))

    def get(self, key: str) -> bytes:
        """The value, as soon as there is one."""
        return self._wait([key], self._timeout_s)[0]

    def add(self, key: str, amount: int) -> int:
        """Add to a counter, which begins at 0. Returns the sum; the value is its decimal text."""
        return int(self._do("add", key, str(int(amount)).encode()) or b"0")

    def compare_set(self, key: str, expected_value: str | bytes, desired_value: str | bytes) -> bytes:
        """Set the value if it is the expected one, or if there is none and the expected one is empty. Returns what is then there
        (the expected one if nothing is).
        """
        return self._do("compare_set", key, _bytes(expected_value), _bytes(desired_value)) or b""

    def append(self, key: str, value: str | bytes) -> None:
        """Add bytes at the end of a value, which begins empty."""
        self._do("append", key, _bytes(value))

    def delete_key(self, key: str) -> bool:
        """Forget a key. Returns whether there was one."""
        return self._do("delete", key) is not None

    def num_keys(self) -> int:
        """How many keys there are."""
        return int(self._do("count", "") or b"0")

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all keys have values, at once."""
        return all(self._do("get", key) is not None for key in keys)

    def wait(self, keys: Sequence[str], timeout: Any = None) -> None:
        """Return when all keys have values."""
        self._wait(keys, self._timeout_s if timeout is None else _seconds(timeout))

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """`get` of each."""
        return self._wait(keys, self._timeout_s)

    def multi_set(self, keys: Sequence[str], values: Sequence[str | bytes]) -> None:
        """`set` of each."""
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)

    def set_timeout(self, timeout: Any) -> None:
        """How long `get` and `wait` wait, in seconds or as a timedelta."""
        self._timeout_s = _seconds(timeout)

    @property
    def timeout(self) -> datetime.timedelta:
        return datetime.timedelta(seconds=self._timeout_s)

    def has_extended_api(self) -> bool:
        """Whether there are append, multi_get and multi_set."""
        return True

    def _wait(self, keys: Sequence[str], seconds: float) -> list[bytes]:
        until, pause = time.monotonic() + seconds, _POLL_S[0]
        found: dict[str, bytes] = {}
        while True:
            for key in keys:
                if key not in found and (value := self._do("get", key)) is not None:
                    found[key] = value
            if len(found) == len(set(keys)):
                return [found[key] for key in keys]
            if time.monotonic() >= until:
                missing = sorted(set(keys) - set(found))
                raise DeadlineError(
                    f"{type(self).__name__}: wait timeout after {seconds:g} s: expected keys {missing[:10]}, got no value; "
                    "nobody has set them"
                )
            time.sleep(min(pause, max(0.0, until - time.monotonic())))
            pause = min(2 * pause, _POLL_S[1])


class _Table:
    """Keys and values, and the operations on them. Used by one thread at a time."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def do(self, name: str, key: str, *values: bytes) -> Value:
        return self.OPERATIONS[name](self, key, *values)

    def set(self, key: str, value: bytes) -> Value:
        self.values[key] = value
        return None

    def get(self, key: str) -> Value:
        return self.values.get(key)

    def add(self, key: str, amount: bytes) -> Value:
        try:
            self.values[key] = str(int(self.values.get(key, b"0")) + int(amount)).encode()
        except ValueError:
            raise ArgumentError(
                f"store: add: expected a number as the value of {key!r}, got {self.values[key][:50]!r}"
            ) from None
        return self.values[key]

    def compare_set(self, key: str, expected: bytes, desired: bytes) -> Value:
        if self.values.get(key, b"") == expected and (key in self.values or not expected):
            self.values[key] = desired
        return self.values.get(key, expected)

    def append(self, key: str, value: bytes) -> Value:
        self.values[key] = self.values.get(key, b"") + value
        return None

    def delete(self, key: str) -> Value:
        return self.values.pop(key, None)

    def count(self, _: str) -> Value:
        return str(len(self.values)).encode()

    OPERATIONS: ClassVar[dict[str, Callable[..., Value]]] = {
        f.__name__: f for f in (set, get, add, compare_set, append, delete, count)
    }


class HashStore(Store):
    """In the memory of this process, for its threads."""

    def __init__(self) -> None:
        super().__init__()
        self._table, self._lock = _Table(), threading.Lock()

    def _do(self, name: str, key: str, *values: bytes) -> Value:
        with self._lock:
            return self._table.do(name, key, *values)


class PrefixStore(Store):
    """Another store, each key with a prefix: users that do not know of each other share one."""

    def __init__(self, prefix: str, store: Store):
        super().__init__(store.timeout)
        self.prefix, self.underlying_store = prefix, store

    def _do(self, name: str, key: str, *values: bytes) -> Value:
        return self.underlying_store._do(name, f"{self.prefix}/{key}", *values)


class FileStore(Store):
    """In a file that all processes see, locked for each operation. `world_size` is accepted for torch's sake.

    The file is the list of all changes: key and new value, or a deletion. It is as private as its directory.
    """

    _RECORD = struct.Struct("<Ii")  # bytes of the key, of the value; -1: deleted

    def __init__(self, file_name: str | os.PathLike[str], world_size: int = -1):
        super().__init__()
        self.path = os.fspath(file_name)
        self._table, self._read, self._lock = _Table(), 0, threading.Lock()

    def _do(self, name: str, key: str, *values: bytes) -> Value:
        with self._lock, self._locked() as file:
            data = file.read()
            self._replay(data)
            before = self._table.values.get(key)
            result = self._table.do(name, key, *values)
            after = self._table.values.get(key)
            if after != before:
                raw = key.encode()
                record = self._RECORD.pack(len(raw), -1 if after is None else len(after)) + raw + (after or b"")
                file.seek(self._read)  # cuts off what a process that was killed has left half written
                file.truncate()
                file.write(record)
                self._read += len(record)
            return result

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Any]:
        with open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(self._read)
            yield file

    def _replay(self, data: bytes) -> None:
        """What other processes have changed since."""
        at = 0
        while at + self._RECORD.size <= len(data):
            key_bytes, value_bytes = self._RECORD.unpack_from(data, at)
            start = at + self._RECORD.size + key_bytes
            if start + max(value_bytes, 0) > len(data):
                break
            key = data[start - key_bytes : start].decode()
            if value_bytes < 0:
                self._table.values.pop(key, None)
            else:
                self._table.values[key] = data[start : start + value_bytes]
            at = start + max(value_bytes, 0)
        self._read += at


# -- over TCP ----------------------------------------------------------------------------------------------------------

_HANDSHAKE_S = 5.0  # for a peer to prove itself
_MAX_CONNECTIONS = 4096
_MAX_MESSAGE_BYTES = MAX_KEY_BYTES + 2 * MAX_VALUE_BYTES + 64


class TCPStore(Store):
    """In the memory of the process with `is_master`, for all that connect to it. Port 0 is chosen by the system, see `port`.

    With `wait_for_workers` and a `world_size`, returns when so many processes, the master among them, are there.
    """

    def __init__(
        self, host_name: str, port: int, world_size: int | None = None, is_master: bool = False, timeout: Any = DEFAULT_TIMEOUT,
        wait_for_workers: bool = True, multi_tenant: bool = False, master_listen_fd: int | None = None, use_libuv: bool = True,
    ):  # fmt: skip
        super().__init__(timeout)
        key = _job_key()
        if not key and not _is_loopback(host_name):
            raise ArgumentError(
                f"TCPStore: expected localhost or a job's key file, got host {host_name!r} and no key; start with ddprun, "
                "or set LOCKSTEP_KEY_FILE"
            )
        self._server = _Server(host_name, port, key) if is_master else None
        self.host, self.port = host_name, self._server.port if self._server else port
        self._lock = threading.Lock()
        self._channel = self._connect(key)
        if world_size is not None and wait_for_workers:
            self.add("store/workers", 1)
            until = time.monotonic() + self._timeout_s
            while (here := self.add("store/workers", 0)) < world_size:
                if time.monotonic() >= until:
                    raise DeadlineError(
                        f"TCPStore: expected {world_size} processes at {self.host}:{self.port} within {self._timeout_s:g} s, got {here}"
                    )
                time.sleep(_POLL_S[1])

    def close(self) -> None:
        """Hang up; at the master, for all."""
        self._channel.close()
        if self._server is not None:
            self._server.close()

    @property
    def connections(self) -> int:
        """At the master: how many processes are connected, this one included."""
        return len(self._server._connections) if self._server is not None else 0

    def __del__(self) -> None:
        if hasattr(self, "_channel"):
            self.close()

    def _connect(self, key: bytes) -> _Channel:
        until = time.monotonic() + self._timeout_s
        while True:  # the master may be late
            try:
                sock = socket.create_connection((self.host, self.port), timeout=max(0.1, until - time.monotonic()))
                break
            except OSError as e:
                if time.monotonic() >= until:
                    raise DeadlineError(
                        f"TCPStore: expected a master at {self.host}:{self.port} within {self._timeout_s:g} s, got {e}"
                    ) from None
                time.sleep(0.05)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            return _greet(sock, key)
        except (OSError, WireError) as e:
            sock.close()
            raise PeerLostError(
                f"TCPStore: expected the master at {self.host}:{self.port} to have the job's key, got {e}; give all processes one key file"
            ) from None

    def _do(self, name: str, key: str, *values: bytes) -> Value:
        raw = key.encode()
        if len(raw) > MAX_KEY_BYTES or any(len(v) > MAX_VALUE_BYTES for v in values):
            raise ArgumentError(
                f"TCPStore: expected a key of at most {MAX_KEY_BYTES} bytes and values of at most {MAX_VALUE_BYTES}, got more"
            )
        with self._lock:
            try:
                self._channel.sock.settimeout(self._timeout_s)  # no operation waits for anybody
                self._channel.send([name.encode(), raw, *values])
                status, *result = self._channel.receive()
            except OSError as e:
                where = f"{self.host}:{self.port}"
                raise PeerLostError(
                    f"TCPStore: expected an answer of the master at {where}, got {e}; it has ended"
                ) from None
        if status == b"error":
            raise ArgumentError(result[0].decode())
        return result[0] if result else None


class _Channel:
    """Lists of byte strings over a socket, each message with a code that depends on the key, the direction and the count."""

    def __init__(self, sock: socket.socket, key: bytes, outward: bytes, inward: bytes):
        self.sock, self.key = sock, key
        self._ways = {outward: 0, inward: 0}
        self._outward, self._inward = outward, inward

    def send(self, parts: Sequence[bytes]) -> None:
        body = b"".join(struct.pack("<I", len(p)) + p for p in parts)
        self.sock.sendall(struct.pack("<I", len(body)) + body + self._code(self._outward, body))

    def receive(self) -> list[bytes]:
        """The next message. Errors: OSError for a closed connection, WireError for anything that is not from the other end."""
        (length,) = struct.unpack("<I", _exactly(self.sock, 4))
        if length > _MAX_MESSAGE_BYTES:
            raise WireError(f"store: expected a message of at most {_MAX_MESSAGE_BYTES} bytes, got {length}")
        body = _exactly(self.sock, length)
        if not hmac.compare_digest(_exactly(self.sock, 32), self._code(self._inward, body)):
            raise WireError("store: expected a message with the code of this connection, got another")
        parts, at = [], 0
        while at + 4 <= length:
            (n,) = struct.unpack_from("<I", body, at)
            parts.append(body[at + 4 : at + 4 + n])
            at += 4 + n
        if at != length:
            raise WireError("store: expected parts that fill the message, got others")
        return parts

    def close(self) -> None:
        self.sock.close()

    def _code(self, way: bytes, body: bytes) -> bytes:
        self._ways[way] += 1
        return hmac.digest(self.key, way + struct.pack("<Q", self._ways[way]) + body, "sha256")


def _greet(sock: socket.socket, key: bytes) -> _Channel:
    """The client's part of the handshake: both prove that they have the key, by a code over both sides' random numbers."""
    mine = secrets.token_bytes(32)
    sock.settimeout(_HANDSHAKE_S)
    theirs = _exactly(sock, 32)
    sock.sendall(mine + _proof(key, b"client", theirs, mine))
    if not hmac.compare_digest(_exactly(sock, 32), _proof(key, b"server", theirs, mine)):
        raise WireError("store: a proof that does not fit the key")
    sock.settimeout(None)
    return _Channel(sock, _proof(key, b"connection", theirs, mine), b"c", b"s")


def _welcome(sock: socket.socket, key: bytes) -> _Channel:
    """The server's part."""
    mine = secrets.token_bytes(32)
    sock.settimeout(_HANDSHAKE_S)
    sock.sendall(mine)
    theirs = _exactly(sock, 32)
    if not hmac.compare_digest(_exactly(sock, 32), _proof(key, b"client", mine, theirs)):
        raise WireError("store: a proof that does not fit the key")
    sock.sendall(_proof(key, b"server", mine, theirs))
    sock.settimeout(None)
    return _Channel(sock, _proof(key, b"connection", mine, theirs), b"s", b"c")


def _proof(key: bytes, what: bytes, servers: bytes, clients: bytes) -> bytes:
    return hmac.digest(key, b"lockstep store " + what + servers + clients, "sha256")


class _Server:
    """Answers each connection in a thread of its own."""

    def __init__(self, host: str, port: int, key: bytes):
        self._key, self._table, self._lock = key, _Table(), threading.Lock()
        self._connections: set[socket.socket] = set()
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        self._socket = socket.create_server((host, port), family=family, backlog=512)
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, name="store", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError:  # closed
                return
            if len(self._connections) >= _MAX_CONNECTIONS:
                sock.close()
                continue
            self._connections.add(sock)
            threading.Thread(target=self._serve, args=(sock,), name="store connection", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _keep_alive(sock)
            channel = _welcome(sock, self._key)
            while True:
                channel.send(self._answer(channel.receive()))
        except (OSError, WireError):
            pass  # hung up, or nobody of ours: the connection ends, the others go on
        finally:
            self._connections.discard(sock)
            sock.close()

    def _answer(self, parts: list[bytes]) -> list[bytes]:
        try:
            name, key, *values = parts
            with self._lock:
                result = self._table.do(name.decode(), key.decode(), *values)
        except (ArgumentError, KeyError, TypeError, ValueError) as e:
            return [b"error", str(e).encode()]
        return [b"ok"] if result is None else [b"ok", result]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes up the thread that accepts
        self._socket.close()
        for sock in list(self._connections):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _keep_alive(sock: socket.socket) -> None:
    """Let the system find out within seconds that the other end's host is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 3), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _exactly(sock: socket.socket, n: int) -> bytes:
    """The next n bytes, taken as they come: a claimed length allocates nothing."""
    parts, left = [], n
    while left:
        part = sock.recv(min(left, 1 << 20))
        if not part:
            raise ConnectionError("the connection was closed")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _job_key() -> bytes:
    path = os.environ.get("LOCKSTEP_KEY_FILE")  # also of a process that is no rank
    if not path:
        return b""
    from ddp.transport.curve import read_secret

    return hashlib.sha256(b"lockstep store\0" + read_secret(World(key_file=path))).digest()


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as e:
        raise ArgumentError(f"TCPStore: expected a host that is known, got {host!r}: {e}") from None
    return all(str(address[0]).startswith("127.") or address[0] == "::1" for *_, address in found)


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
