"""The desk of an elastic job that may have workers on several hosts:  python -m ddp.lockstep.desk HOST PORT JOB STARTED LEAST MOST

`ddprun --elastic MIN:MAX --rdzv HOST:PORT` starts it beside its own workers. It keeps the list of members (`register`) and the workers'
addresses in a `TCPStore`, and stands at a door, HOST:PORT, where workers learn the store's port and launchers get numbers for new workers.

Contract
- The door tells everybody the job's name and size, the store's port and a number drawn for this conversation; none of that is secret.
  Whoever wants more proves by an HMAC over that number that it has the job's key. So does the answer.
- Worker numbers are given once. While MOST workers are connected there are none; a launcher that is refused is told so.
- It ends when all workers have gone, a moment after the last, and those to whom it gave numbers had time to come. SIGTERM says that
  those of its launcher have ended, if they ever came; then it does not wait for others.
Nobody is needed for a step: members talk to it only when one of them has died or a new one has come.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import Any

from ddp.env import World
from ddp.lockstep.register import TALK_S, address_key, generation_key, read_line
from ddp.store import TCPStore

# How many conversations there may be at the door at a time.
TALKS = 64
# How long the desk stays when nobody is connected any more.
IDLE_S = 2.0
# How long a worker may take from its number to the desk: imports, on a busy host.
COMING_S = 30.0
LOOK_S = 0.1


def seal(secret: bytes, *texts: str) -> str:
    """Proof that who says this has the job's key. `launch.desk` has the same, for the other end."""
    return hmac.digest(secret, json.dumps(["lockstep desk", *texts]).encode(), hashlib.sha256).hex()


class Desk:
    """The door of a store. `serve` returns when all workers have gone."""

    def __init__(self, host: str, port: int, job: str, secret: bytes, started: int, least: int, most: int):
        self._door = socket.create_server((host, port), backlog=TALKS)
        self._store = TCPStore(host, 0, is_master=True)
        self._secret, self._most = secret, most
        self._about = {"job": job, "port": self._store.port, "started": started, "least": least}
        self._next = started
        self._coming: dict[int, float] = {}  # workers that have numbers and have not come, and until when they may
        self.alone = False  # the launcher's own workers have ended
        self._lock, self._talks = threading.Lock(), threading.BoundedSemaphore(TALKS)

    def serve(self) -> None:
        busy_at = float("inf")
        self._door.settimeout(LOOK_S)
        while time.monotonic() < busy_at + IDLE_S:
            with suppress(TimeoutError):
                wire, _ = self._door.accept()
                if self._talks.acquire(blocking=False):
                    threading.Thread(target=self._talk, args=(wire,), daemon=True).start()
                else:
                    wire.close()
            if self._workers() or self._awaited() or (self.alone and busy_at == float("inf")):
                busy_at = time.monotonic()
        self._store.close()
        self._door.close()

    def _workers(self) -> int:
        return self._store.connections - 1  # our own

    def _awaited(self) -> bool:
        """Whether a worker of a launcher that still runs is on its way: it shall learn that the run has ended."""
        with self._lock:
            now = time.monotonic()
            for worker, until in list(self._coming.items()):
                if now > until or self._store.check([address_key(worker)]):
                    del self._coming[worker]
            return bool(self._coming) and not self.alone

    def _talk(self, wire: socket.socket) -> None:
        try:
            with closing(wire), suppress(OSError, ValueError, KeyError, TypeError):
                wire.settimeout(TALK_S)
                number = secrets.token_hex(16)
                self._say(wire, {**self._about, "number": number})
                wanted = json.loads(read_line(wire))
                if hmac.compare_digest(wanted["seal"], seal(self._secret, number, str(int(wanted["count"])))):
                    answer = json.dumps(self._give(int(wanted["count"])))
                    self._say(wire, {"answer": answer, "seal": seal(self._secret, number, answer)})
        finally:
            self._talks.release()

    def _give(self, count: int) -> dict[str, Any]:
        """Numbers for new workers, and who has been a member so far."""
        with self._lock:
            here = self._workers()
            if count and here + count > self._most:
                return {"error": f"expected at most {self._most} workers, got {here} and {count} more"}
            first, self._next = self._next, self._next + count
            self._coming.update(dict.fromkeys(range(first, self._next), time.monotonic() + COMING_S))
        return {"first": first, "joined": sorted(self._joined())}

    def _joined(self) -> set[int]:
        found: set[int] = set()
        generation = 0
        while self._store.check([generation_key(generation)]):
            found |= set(json.loads(self._store.get(generation_key(generation))))
            generation += 1
        return found

    def _say(self, wire: socket.socket, message: dict[str, Any]) -> None:
        wire.sendall(json.dumps(message).encode() + b"\n")


def main(argv: Sequence[str]) -> int:
    host, port, job, *counts = argv
    for number in (signal.SIGINT, signal.SIGHUP):  # it goes when the workers have gone
        signal.signal(number, signal.SIG_IGN)
    from ddp.transport.zeromq import read_secret

    secret = read_secret(World(key_file=os.environ["LOCKSTEP_KEY_FILE"]))
    try:
        desk = Desk(host, int(port), job, secret, *map(int, counts))
    except OSError as error:
        print(f"--rdzv: expected to listen at {host}:{port}, got: {error.strerror}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: setattr(desk, "alone", True))
    desk.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
