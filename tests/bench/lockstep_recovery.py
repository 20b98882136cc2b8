"""How long a fault keeps the others from their next step: a job of 4 workers for each phase, a small ConvNet.

    python -m tests.bench.lockstep_recovery [--repeats 5] [--phases data,reduce]

Measured from the fault to the end of the first step that began after it, by the clock of the host. "stop" is SIGSTOP for longer than the
heartbeat.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from tests.test_lockstep_faults import Run

PHASES = ("data", "forward", "backward", "exchange", "reduce", "gather", "update", "applied")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--phases", default=",".join(PHASES))
    args = parser.parse_args()
    everything = []
    for act, phases in (("kill", args.phases.split(",")), ("stop", ["reduce"])):
        for phase in phases:
            found = []
            with tempfile.TemporaryDirectory() as name:
                for repeat in range(args.repeats):
                    event = {"step": 3, "phase": phase, "place": repeat % 4, "act": act}
                    run = Run(Path(name) / str(repeat), [event], steps=40 if act == "stop" else 8)
                    assert run.status == 0 and run.acted == 1, run.output
                    found += run.recovery_s
            everything += found if act == "kill" else []
            print(
                f"{act} {phase:9} median {statistics.median(found):6.3f} s, worst {max(found):6.3f} s of {len(found)}",
                flush=True,
            )
    print(
        f"all kills      median {statistics.median(everything):6.3f} s, worst {max(everything):6.3f} s of {len(everything)}"
    )


if __name__ == "__main__":
    main()
