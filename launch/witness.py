"""A process beside each rank that another launcher has started: it tells our supervisor how the rank has ended.

mpirun ends the survivors of a death before they can say whom they miss, names the rank in some cases only, and waits for a
host that is cut off for many minutes. So it starts `python -IS witness.py DIRECTORY COMMAND …` for each rank.

Contract: the command runs as if nothing stood before it: same streams and exit status, and the same signals, as mpirun sends
them to the process group that both are in. DIRECTORY/rank-R.life (JSON: a `Life`) tells that it runs, and before we end
ourselves how it ended, unless it was told to. The directory is the private one of the job's key, which all hosts see.
It runs as a file, imports nothing of ours, and so starts in milliseconds.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import NamedTuple

RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
TOLD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1


class Life(NamedTuple):
    """Of a rank."""

    rank: int
    pid: int
    host: str
    status: int | None  # as Popen tells it: -N for signal N; None while it runs, or if it was told to end
    ended: float  # seconds since 1970


def lives(directory: str) -> list[Life]:
    """Those in the directory, who ended first first."""
    found = []
    with suppress(OSError):  # the user's disk; the run is more important
        for name in [name for name in os.listdir(directory) if name.endswith(".life")]:
            with open(os.path.join(directory, name), encoding="ascii") as file:
                found.append(Life(*json.load(file)))
    return sorted(found, key=lambda life: life.ended)


def first_failure(directory: str) -> Life | None:
    """The rank that failed first, of those that have told so. One that a signal ended goes before those whose MPI noticed its end and
    gave up, which may have told so earlier."""
    failed = [life for life in lives(directory) if life.status]
    return min(failed, key=lambda life: ((life.status or 0) > 0, life.ended), default=None)


def cut_off(directory: str) -> list[int]:
    """Ranks of this host that have begun, and neither ended by themselves nor failed."""
    return sorted(life.rank for life in lives(directory) if life.status is None and life.host == socket.gethostname())


def main(directory: str, *command: str) -> None:
    """Run the command, and end as it did."""
    pid = os.fork()
    if not pid:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        try:
            os.execvp(command[0], command)
        except OSError as error:
            os.write(2, f"ddprun: expected to run {command[0]}, got {error.strerror}\n".encode())
            os._exit(126)
    rank = next((int(os.environ[name]) for name in RANKS if os.environ.get(name, "").isdigit()), 0)
    life = Life(rank, pid, socket.gethostname(), None, 0.0)
    _write(directory, life)
    told: list[int] = []
    for number in TOLD:
        signal.signal(number, lambda number, _: told.append(number))
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not told:
        _write(directory, life._replace(status=status, ended=time.time()))
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _write(directory: str, life: Life) -> None:
    path = os.path.join(directory, f"rank-{life.rank}.life")
    with suppress(OSError):  # the directory is gone: the job has ended
        with open(path + ".part", "w", encoding="ascii") as file:
            json.dump(life, file)
        os.replace(path + ".part", path)


if __name__ == "__main__":
    main(*sys.argv[1:])
