"""A process that outlives the supervisor by a moment, and kills what it left.

Contract: standard input brings lines, `+PGID` for a process group that has started and `-PGID` for one that is gone.
When the input ends (the supervisor has ended, be it by kill -9), the groups that remain are killed. Writes nothing.
On Linux the kernel kills the ranks themselves (PR_SET_PDEATHSIG); this is for their children, and for other systems.
It runs as a file (`python -IS guard.py`), imports nothing of ours, and so starts in milliseconds.
"""

import os
import signal
import sys
import time


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    if not groups:
        return
    _send(groups, signal.SIGTERM)
    time.sleep(
        0.5
    )  # Python's resource tracker ignores SIGTERM: once the others are gone it unlinks their shared memory
    _send(groups, signal.SIGKILL)


def _send(groups: set[int], number: int) -> None:
    for group in groups:
        try:
            os.killpg(group, number)
        except (ProcessLookupError, PermissionError):
            pass  # gone already


if __name__ == "__main__":
    main()
