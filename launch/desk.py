"""Numbers for the workers of an elastic job: each is given once, and who had one tells whether its worker was ever let in.

Contract: `take(count)` gives the first of so many new numbers; `joined()` who has been a member of the run so far. On one host the launcher
counts, and looks into the directory where the members write their lists. With a desk (`ddp.lockstep.desk`) both are asked there.
Not here: who is a member.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

from ddp.errors import DeadlineError, WorldError

# How long a conversation with the desk may take, and how often to knock while it is not open yet.
TALK_S = 5.0
KNOCK_S = 0.2
LINE_LIMIT = 1 << 16


class Running(NamedTuple):
    """What a worker must know of its job."""

    job: str  # 32 hexadecimal digits
    started: int  # workers 0 … started−1 are there from the beginning
    least: int  # MIN


class Here:
    """Of a job on this host, whose members write their lists to a directory."""

    def __init__(self, directory: str, first: int):
        self._directory, self._next = Path(directory), first

    def take(self, count: int) -> int:
        first, self._next = self._next, self._next + count
        return first

    def joined(self) -> set[int]:
        lists = [entry for entry in self._directory.iterdir() if entry.name.isdigit()]
        return {worker for each in lists for worker in json.loads(each.read_text())}


class AtDesk:
    """Of a job with a desk. Errors: WorldError for a desk that refuses, OSError for one that is gone."""

    def __init__(self, endpoint: tuple[str, int], secret: bytes):
        self._endpoint, self._secret = endpoint, secret

    def take(self, count: int) -> int:
        return int(self._ask(count)["first"])

    def joined(self) -> set[int]:
        return set(self._ask(0)["joined"])

    def _ask(self, count: int) -> dict[str, Any]:
        with socket.create_connection(self._endpoint, timeout=TALK_S) as wire:
            number = json.loads(_line(wire))["number"]
            question = {"count": count, "seal": seal(self._secret, number, str(count))}
            wire.sendall(json.dumps(question).encode() + b"\n")
            try:
                said = json.loads(_line(wire))
            except ConnectionError:
                said = {"answer": "{}", "seal": ""}
        where = f"--join {self._endpoint[0]}:{self._endpoint[1]}"
        if not hmac.compare_digest(said["seal"], seal(self._secret, number, said["answer"])):
            raise WorldError(
                f"{where}: expected a desk that has the key of --key-file, got none; give both the same key"
            )
        answer: dict[str, Any] = json.loads(said["answer"])
        if "error" in answer:
            raise WorldError(f"{where}: {answer['error']}; see --elastic MIN:MAX there")
        return answer


def running_at(endpoint: tuple[str, int], timeout_s: float) -> Running:
    """The job whose desk is at this endpoint. Waits for the desk; DeadlineError."""
    until = time.monotonic() + timeout_s
    while True:
        try:
            with socket.create_connection(endpoint, timeout=max(0.1, min(TALK_S, until - time.monotonic()))) as wire:
                found = json.loads(_line(wire))
                return Running(str(found["job"]), int(found["started"]), int(found["least"]))
        except (OSError, ValueError, KeyError) as error:
            if time.monotonic() >= until:
                raise DeadlineError(
                    f"--join {endpoint[0]}:{endpoint[1]}: expected a running job within {timeout_s:g} s, got {error}; "
                    "start it there with ddprun --elastic MIN:MAX --rdzv HOST:PORT --key-file KEY"
                ) from None
        time.sleep(KNOCK_S)


def seal(secret: bytes, *texts: str) -> str:
    """Proof that who says this has the job's key, as `ddp.lockstep.desk` makes it."""
    return hmac.digest(secret, json.dumps(["lockstep desk", *texts]).encode(), hashlib.sha256).hex()


def _line(wire: socket.socket) -> str:
    heard = b""
    while not heard.endswith(b"\n"):
        data = wire.recv(4096)
        if not data or len(heard) > LINE_LIMIT:
            raise ConnectionError("the desk hung up")
        heard += data
    return heard[:-1].decode("ascii", "replace")
