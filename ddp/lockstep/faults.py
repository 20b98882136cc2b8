"""Faults on purpose, at places in a step that a plan names. `ddp.chaos` makes plans and compares what becomes of the runs.

The plan is the environment variable LOCKSTEP_CHAOS, a JSON object {"directory": …, "events": [{"step", "phase", "place", "act"}, …]}:
the member at that place (modulo how many there are) acts when it comes to that phase of that step, one time in the life of the job.
Without the variable a fault point costs a comparison with None.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# In the order in which they come in a step; the last four only where a layer needs the whole batch (in forward and in backward), the script
# saves, somebody dies or somebody joins.
PHASES = (
    *("data", "forward", "backward", "exchange", "reduce", "gather", "update", "applied"),
    *("sync", "save", "recover", "join"),
)
ACTS = ("kill", "stop", "delay")
STOP_S = 3.5  # longer than a heartbeat
DELAY_S = 0.3


class Faults:
    """The events of LOCKSTEP_CHAOS."""

    def __init__(self, directory: str, events: list[dict[str, Any]]):
        self._directory = Path(directory)
        self._events = list(enumerate(events))

    @classmethod
    def planned(cls, environ: Mapping[str, str] = os.environ) -> Faults | None:
        text = environ.get("LOCKSTEP_CHAOS")
        return cls(**json.loads(text)) if text else None

    def at(self, phase: str, step: int, place: int, members: int) -> None:
        """A member has come to a phase. The last member is spared."""
        living = members - (phase == "recover")  # then one of them has just died
        for number, event in self._events:
            due = event["phase"] == phase and event["step"] == step and event["place"] % members == place
            if due and living > 1 and self._first(number):
                _act(event["act"])

    def _first(self, number: int) -> bool:
        """Whether nobody has acted in this event: a redone step comes to the same phase again."""
        try:
            # the moment of the fault, for those who measure how long recovery takes
            with open(self._directory / f"event-{number}", "x", encoding="ascii") as file:
                file.write(repr(time.time()))
        except FileExistsError:
            return False
        return True


def _act(act: str) -> None:
    pid = os.getpid()
    if act == "kill":
        os.kill(pid, signal.SIGKILL)
    elif act == "stop":
        waker = f"import os, time; time.sleep({STOP_S}); os.kill({pid}, {int(signal.SIGCONT)})"
        subprocess.Popen([sys.executable, "-IS", "-c", waker], start_new_session=True)
        os.kill(pid, signal.SIGSTOP)
    else:
        time.sleep(DELAY_S)
