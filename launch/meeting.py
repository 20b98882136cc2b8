"""The launchers of several hosts meet before any rank starts, and agree on one job.

Each has been told how many hosts there are, which of them it is, and where node 0 listens. They tell node 0 how many
ranks they bring; once all have come, node 0 tells everybody the numbers (so hosts may differ in size) and the number
of restarts so far, and the job's name, which it derives from the key, the endpoint, `--job` and a number it draws.

Contract
- Node 0 listens on the interface of the endpoint alone, and only while the meeting lasts; then the port is free again,
  for rank 0. The other launchers knock until it listens.
- Every message carries an HMAC-SHA256 by the key over itself and the numbers that both sides have drawn for this
  conversation: nobody without the key is heard, and no message counts twice. Nothing in it is secret.
- What a stranger sends is bounded in length and number before it is looked at, and is dropped.
- Who does not come in time is named in the error, as is a contradiction, and all that came are told.
- Before a restart the launchers meet again. They all come, because the ranks of one host do not outlive another's for
  long; a host whose ranks had already ended well does not, and is named like any other.

Not here: the ranks' own rendezvous, which is the transport's, on the same port a moment later.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import select
import selectors
import socket
import time
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import Any

from ddp.errors import DeadlineError, WorldError

# The longest message: the numbers of ten thousand hosts.
LINE_LIMIT = 1 << 16
# Conversations with who has not yet shown that it has the key. A further one ends the oldest.
STRANGERS = 64
# How often a launcher knocks at node 0's door until that is open.
KNOCK_S = 0.2


@dataclass(frozen=True)
class Guest:
    """What a launcher brings to the meeting."""

    nodes: int
    node_rank: int
    ranks: int
    job: str  # --job, the same everywhere
    restart: int = 0


@dataclass(frozen=True)
class Agreement:
    """What all launchers have when they part."""

    ranks: tuple[int, ...]  # on each host, by node
    restart: int  # of node 0
    job: str  # 32 hexadecimal digits
    skew_s: float = 0.0  # node 0's clock minus ours


def meet(guest: Guest, endpoint: tuple[str, int], key: bytes, timeout_s: float, ear: int | None = None) -> Agreement:
    """Wait for all launchers. Raises WorldError, also once `ear` (a descriptor) has anything to read; DeadlineError."""
    table = _Table(guest, endpoint, hmac.digest(key, b"lockstep meeting", hashlib.sha256), timeout_s, ear)
    found = table.preside() if guest.node_rank == 0 else table.attend()
    return Agreement(tuple(found["ranks"]), found["restart"], found["job"], found["skew_s"])


# -- the two sides ----------------------------------------------------------------------------------------------------


@dataclass
class _Talk:
    """Node 0's side of one conversation."""

    wire: socket.socket
    number: str  # drawn for it
    heard: bytes = b""
    guest: Guest | None = None  # once it has shown the key
    answer_number: str = ""
    heard_at: float = 0.0


class _Table:
    def __init__(self, guest: Guest, endpoint: tuple[str, int], key: bytes, timeout_s: float, ear: int | None):
        self.guest = guest
        self.endpoint = endpoint
        self.key = key
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.ear = ear
        self.refused = 0
        self.where = f"node {guest.node_rank}: meeting at {endpoint[0]}:{endpoint[1]}"

    def preside(self) -> dict[str, Any]:
        """Node 0: collect the guests and give all of them the list."""
        talks: dict[socket.socket, _Talk] = {}
        with closing(self._listen()) as door, selectors.DefaultSelector() as selector:
            selector.register(door, selectors.EVENT_READ)
            if self.ear is not None:
                selector.register(self.ear, selectors.EVENT_READ)
            # A little early, so that our account of who is missing reaches the others before they give up.
            self.deadline -= 0.1 * self.timeout_s
            try:
                while missing := set(range(1, self.guest.nodes)) - {
                    t.guest.node_rank for t in talks.values() if t.guest
                }:
                    if self._left_s() < 0:
                        raise self._nobody(sorted(missing))
                    for event, _ in selector.select(max(0.0, self._left_s())):
                        if event.fileobj is door:
                            self._welcome(door, talks, selector)
                        elif event.fileobj == self.ear:
                            raise self._called_off()
                        elif isinstance(event.fileobj, socket.socket) and event.fileobj in talks:
                            self._listen_to(talks[event.fileobj], talks, selector)
                ranks = {0: self.guest.ranks} | {t.guest.node_rank: t.guest.ranks for t in talks.values() if t.guest}
                found = {
                    "ranks": [ranks[node] for node in range(self.guest.nodes)],
                    "restart": self.guest.restart,
                    "job": self._name_of_job(),
                    "skew_s": 0.0,
                }
                self._tell_all(talks, found)
                return found
            except (WorldError, DeadlineError) as error:
                self._tell_all(talks, {"error": str(error)})
                raise
            finally:
                for wire in talks:
                    wire.close()

    def attend(self) -> dict[str, Any]:
        """The others: tell node 0 who we are and get the list."""
        while self._left_s() > 0:
            with suppress(OSError), closing(self._knock()) as wire:
                self.refused += 1  # unless all goes well
                theirs, ours = self._hear(wire).decode("ascii", "replace"), secrets.token_hex(16)
                sent_at = time.time()
                hello = {"guest": asdict(self.guest), "number": ours, "sent_at": sent_at}
                wire.sendall(self._sealed(hello, "guest", theirs))
                found = self._opened(self._hear(wire), "node 0", theirs, ours)
                if "error" in found:
                    raise WorldError(f"node {self.guest.node_rank}: told by {found['error']}")
                found["skew_s"] = (found["heard_at"] - sent_at + found["sent_at"] - time.time()) / 2  # as NTP does
                return found
            self._pause(KNOCK_S)
        raise self._nobody([0])

    # -- node 0

    def _name_of_job(self) -> str:
        name = json.dumps([self.endpoint, self.guest.job, secrets.token_hex(16)])
        return hmac.digest(self.key, b"lockstep job\0" + name.encode(), hashlib.sha256)[:16].hex()

    def _listen(self) -> socket.socket:
        door = socket.socket()
        try:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind(self.endpoint)
            door.listen(16 + self.guest.nodes)
            door.setblocking(False)
            self.where += f" ({door.getsockname()[0]})"  # a name may mean another address here than elsewhere
            return door
        except OSError as error:
            door.close()
            raise WorldError(
                f"{self.where}: expected to listen there, got: {error.strerror or error}; "
                f"give an address of this host and a free port, or give this host another --node-rank"
            ) from None

    def _welcome(
        self, door: socket.socket, talks: dict[socket.socket, _Talk], selector: selectors.BaseSelector
    ) -> None:
        with suppress(OSError):
            wire, _ = door.accept()
            strangers = [talk for talk in talks.values() if talk.guest is None]
            if len(strangers) >= STRANGERS:
                self._part(strangers[0], talks, selector)
            wire.setblocking(False)
            talks[wire] = _Talk(wire, secrets.token_hex(16))
            selector.register(wire, selectors.EVENT_READ)
            wire.send(f"{talks[wire].number}\n".encode())

    def _listen_to(self, talk: _Talk, talks: dict[socket.socket, _Talk], selector: selectors.BaseSelector) -> None:
        """Take what has come. Who hangs up, says too much or lacks the key is let go."""
        try:
            data = talk.wire.recv(4096)
        except OSError:
            data = b""
        talk.heard += data
        line, end, _ = talk.heard.partition(b"\n")
        if not data or talk.guest is not None or len(talk.heard) > LINE_LIMIT:
            self._part(talk, talks, selector)
        elif end:
            try:
                found = self._opened(line, "guest", talk.number)
                guest = Guest(**found["guest"])
            except (ConnectionError, KeyError, TypeError):
                self.refused += 1
                self._part(talk, talks, selector)
                return
            talk.answer_number, talk.heard_at = found["number"], time.time()  # it is told of all that is wrong, too
            self._check(guest, talks)
            talk.guest = guest

    def _check(self, guest: Guest, talks: dict[socket.socket, _Talk]) -> None:
        for what, theirs, ours in (("--nodes", guest.nodes, self.guest.nodes), ("--job", guest.job, self.guest.job)):
            if theirs != ours:
                raise WorldError(
                    f"{self.where}: expected {what} {ours!r} on all hosts, got {theirs!r} from node {guest.node_rank}; "
                    f"start the same command on each"
                )
        if guest.node_rank in {0, *(talk.guest.node_rank for talk in talks.values() if talk.guest)}:
            raise WorldError(
                f"{self.where}: expected each --node-rank once, got {guest.node_rank} from two hosts; "
                f"number the hosts from 0 to {self.guest.nodes - 1}"
            )

    def _tell_all(self, talks: dict[socket.socket, _Talk], found: dict[str, Any]) -> None:
        for talk in talks.values():
            if talk.answer_number:
                times = {"heard_at": talk.heard_at, "sent_at": time.time()}
                with suppress(OSError):
                    talk.wire.settimeout(1.0)
                    talk.wire.sendall(self._sealed(found | times, "node 0", talk.number, talk.answer_number))

    def _part(self, talk: _Talk, talks: dict[socket.socket, _Talk], selector: selectors.BaseSelector) -> None:
        selector.unregister(talk.wire)
        talk.wire.close()
        del talks[talk.wire]

    # -- the others

    def _knock(self) -> socket.socket:
        try:
            return socket.create_connection(self.endpoint, timeout=max(0.01, min(5.0, self._left_s())))
        except socket.gaierror as error:
            raise WorldError(f"{self.where}: expected a host that can be resolved, got: {error.strerror}") from None

    def _hear(self, wire: socket.socket) -> bytes:
        """One line. ConnectionError if none comes."""
        ears = [wire.fileno(), *(() if self.ear is None else (self.ear,))]
        heard = b""
        while not heard.endswith(b"\n"):
            ready = select.select(ears, [], [], max(0.0, self._left_s()))[0]
            if self.ear in ready:
                raise self._called_off()
            data = wire.recv(4096) if ready else b""
            if not data or len(heard) > LINE_LIMIT:
                raise ConnectionError
            heard += data
        return heard[:-1]

    def _pause(self, seconds: float) -> None:
        if self.ear is None:
            time.sleep(seconds)
        elif select.select([self.ear], [], [], seconds)[0]:
            raise self._called_off()

    # -- messages

    def _sealed(self, message: dict[str, Any], sender: str, *numbers: str) -> bytes:
        text = json.dumps(message)
        return f"{self._seal(text, sender, numbers)} {text}\n".encode()

    def _opened(self, line: bytes, sender: str, *numbers: str) -> dict[str, Any]:
        """The message, if its seal is right: else ConnectionError."""
        seal, _, text = line.decode("ascii", "replace").partition(" ")
        if not hmac.compare_digest(seal.encode(), self._seal(text, sender, numbers).encode()):
            raise ConnectionError("wrong seal")
        found: dict[str, Any] = json.loads(text)
        return found

    def _seal(self, text: str, sender: str, numbers: tuple[str, ...]) -> str:
        return hmac.digest(self.key, json.dumps([sender, *numbers, text]).encode(), hashlib.sha256).hex()

    # -- errors and time

    def _called_off(self) -> WorldError:
        return WorldError(f"{self.where}: expected to go on, got the order to end, or the end of standard input")

    def _left_s(self) -> float:
        return self.deadline - time.monotonic()

    def _nobody(self, missing: list[int]) -> DeadlineError:
        names = f"node{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
        return DeadlineError(
            f"{self.where}: expected all {self.guest.nodes} hosts within {self.timeout_s:g} s, missing: {names}; "
            f"refused or hung up: {self.refused}; see that the same command runs there, with its --node-rank, "
            f"the same key file, and a way to this address"
        )
