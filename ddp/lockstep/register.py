"""Where generation numbers and their members are written, each once, and what a launcher tells a worker of an elastic job.

Contract: of several proposals for one number the first one stands, and everybody reads the same. Numbers have no gaps.
Whoever comes to the end of the run leaves a mark there, so that a worker that comes too late knows why nobody is left.
`Register` is a directory of one host, where linking a file to a name that exists fails. `DeskRegister` is a table kept by the job's desk
(`ddp.lockstep.desk`), for workers on several hosts; it also knows at which address each worker listens. Whoever is cut off from the desk
can propose nothing, so of a network that has come apart only the desk's side goes on; without the desk nobody does.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from ddp.errors import DDPError, DeadlineError, PeerLostError, WorldError
from ddp.store import TCPStore

# How long the desk may take to answer, a conversation at its door at most, and how often to knock while that is not open.
ANSWER_S = 5.0
TALK_S = 5.0
KNOCK_S = 0.1
LINE_LIMIT = 1 << 16
_ENDED = "ended"
_REMEDY = "it runs where ddprun --elastic was started; resume the run from a checkpoint"


class Register:
    """A directory of this host."""

    def __init__(self, directory: str | os.PathLike[str]):
        self._directory = Path(directory)

    def propose(self, generation: int, members: list[int]) -> list[int]:
        """The members of a generation: these, unless another proposal was first."""
        path = self._path(generation)
        mine = path.with_name(f".{path.name}.{os.getpid()}")
        mine.write_text(json.dumps(members))
        try:
            os.link(mine, path)  # whole, or not at all
        except FileExistsError:
            pass
        finally:
            mine.unlink()
        return self._members(generation)

    def latest(self) -> tuple[int, list[int]] | None:
        """The last generation and its members; None before the first."""
        numbers = [int(entry.name) for entry in self._directory.iterdir() if entry.name.isdigit()]
        return (max(numbers), self._members(max(numbers))) if numbers else None

    def end(self) -> None:
        """A member has come to the end of the run: who was not let in by now has nothing left to do."""
        (self._directory / _ENDED).touch()

    def ended(self) -> bool:
        """Whether a member has."""
        return (self._directory / _ENDED).exists()

    def _members(self, generation: int) -> list[int]:
        return json.loads(self._path(generation).read_text())

    def _path(self, generation: int) -> Path:
        return self._directory / f"{generation:08}"


class DeskRegister:
    """The table of the desk at host:port. PeerLostError, with no rank, if the desk is gone or cannot be reached."""

    def __init__(self, host: str, port: int, timeout_s: float):
        self._where = f"{host}:{port}"
        with self._asking():
            self._store = TCPStore(host, store_port(host, port, timeout_s), timeout=ANSWER_S)
        self._last = -1  # the last generation that is known to be there

    def propose(self, generation: int, members: list[int]) -> list[int]:
        """As of a `Register`."""
        with self._asking():
            return json.loads(self._store.compare_set(generation_key(generation), "", json.dumps(members)))

    def latest(self) -> tuple[int, list[int]] | None:
        """As of a `Register`."""
        with self._asking():
            while self._store.check([generation_key(self._last + 1)]):
                self._last += 1
            if self._last < 0:
                return None
            return self._last, json.loads(self._store.get(generation_key(self._last)))

    def end(self) -> None:
        """As of a `Register`."""
        with suppress(OSError, DDPError):  # a desk that is gone has nobody to tell it to
            self._store.set(_ENDED, "1")

    def ended(self) -> bool:
        """As of a `Register`."""
        with self._asking():
            return self._store.check([_ENDED])

    def publish(self, worker: int, address: str) -> None:
        """Where a worker listens."""
        self._store.set(address_key(worker), address)

    def address(self, worker: int) -> str | None:
        """Where it listens; None if it has not said so yet."""
        with self._asking():
            key = address_key(worker)
            return self._store.get(key).decode() if self._store.check([key]) else None

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (OSError, DDPError) as error:
            raise PeerLostError(
                f"Lockstep: expected an answer of the job's desk at {self._where}, got: {error}; {_REMEDY}"
            ) from None


class Place(NamedTuple):
    """What the launcher tells a worker of an elastic job."""

    worker: int  # a number that no other worker of the job has or will have
    started: int  # workers 0 … started−1 are there from the beginning
    least: int  # how many make a job
    register: str  # a directory, or tcp://HOST:PORT of the desk

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Place | None:
        text = environ.get("LOCKSTEP_ELASTIC")
        if not text:
            return None
        try:
            worker, started, least, register = text.split(":", 3)
            return cls(int(worker), int(started), int(least), register)
        except ValueError:
            raise WorldError(
                f"environment: expected WORKER:STARTED:LEAST:REGISTER, got LOCKSTEP_ELASTIC={text!r}; start with ddprun --elastic"
            ) from None

    @property
    def desk(self) -> tuple[str, int] | None:
        """Host and port of the desk; None if the register is a directory."""
        scheme, _, where = self.register.partition("://")
        host, _, port = where.rpartition(":")
        return (host, int(port)) if scheme == "tcp" else None


def opened(place: Place, timeout_s: float) -> Register | DeskRegister:
    """The register of the job."""
    if place.desk is None:
        return Register(place.register)
    # who got its number from the desk need not wait for it to open
    return DeskRegister(*place.desk, timeout_s if place.worker < place.started else min(timeout_s, ANSWER_S))


# -- the desk's door and table ----------------------------------------------------------------------------------------


def generation_key(generation: int) -> str:
    """The store's key for the members of a generation."""
    return f"generation/{generation}"


def address_key(worker: int) -> str:
    """The store's key for where a worker listens."""
    return f"address/{worker}"


def store_port(host: str, port: int, timeout_s: float) -> int:
    """Ask at the door. Knocks until it is open; DeadlineError."""
    until = time.monotonic() + timeout_s
    while True:
        try:
            with socket.create_connection((host, port), timeout=TALK_S) as wire:
                return int(json.loads(read_line(wire))["port"])
        except (OSError, ValueError, KeyError) as error:
            if time.monotonic() >= until:
                raise DeadlineError(f"expected a desk within {timeout_s:g} s, got {error}") from None
        time.sleep(KNOCK_S)


def read_line(wire: socket.socket) -> str:
    """One line of a conversation, without its end. ConnectionError if it is too long or none comes."""
    heard = b""
    while not heard.endswith(b"\n"):
        data = wire.recv(4096)
        if not data or len(heard) > LINE_LIMIT:
            raise ConnectionError("the other end hung up")
        heard += data
    return heard[:-1].decode("ascii", "replace")
