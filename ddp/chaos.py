"""Faults on purpose: `ddprun chaos --seed 7 --kills 20 -- script.py args` compares a disturbed run with an undisturbed one.

The script must train with `ddp.Lockstep`. It runs twice, once alone in one process and once as an elastic job whose workers are killed,
stopped and delayed at random phases of random steps, and replaced unless `--no-replace`; the digests in the two logs must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import ArgumentError
from ddp.lockstep.faults import ACTS, PHASES
from ddp.lockstep.log import read
from ddp.verify import verify


def plan(
    seed: int, kills: int, stops: int, delays: int, steps: int, workers: int, phases: Sequence[str] = PHASES
) -> list[dict[str, Any]]:
    """Random events, at most one in two steps: so long it may take until the others know of a death and can spare the last."""
    acts = ["kill"] * kills + ["stop"] * stops + ["delay"] * delays
    slots = range(1, steps, 2)
    if len(acts) > len(slots):
        raise ArgumentError(
            f"chaos: expected at most {len(slots)} events in {steps} steps, got {len(acts)}; "
            "ask for fewer --kills, --stops and --delays, or let the script train longer"
        )
    rng = random.Random(seed)
    rng.shuffle(acts)
    when = sorted(rng.sample(slots, len(acts)))
    return [
        {"step": step, "phase": rng.choice(phases), "place": rng.randrange(workers), "act": act}
        for step, act in zip(when, acts)
    ]


def launch(argv: Sequence[str], log: Path, workers: str, environ: Mapping[str, str], replace: bool = False) -> float:
    """Run a script as an elastic job that logs there; the seconds it took. Raises CalledProcessError if it fails."""
    command = [sys.executable, "-m", "launch", "--elastic", workers, *(["--replace"] if replace else []), *argv]
    began = time.monotonic()
    subprocess.run(command, env={**os.environ, **environ, "LOCKSTEP_LOG": str(log)}, check=True)
    return time.monotonic() - began


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="ddprun chaos", description="Compare a disturbed run with an undisturbed one."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--stops", type=int, default=0)
    parser.add_argument("--delays", type=int, default=0)
    parser.add_argument("--no-replace", action="store_true", help="do not start a worker for one that died")
    parser.add_argument("script", nargs=argparse.REMAINDER, metavar="-- script.py [arguments]")
    args = parser.parse_args(argv)
    script = args.script[1:] if args.script[:1] == ["--"] else args.script
    if not script or args.workers < 2:
        parser.error(f"expected a script after -- and 2 workers or more, got {script} and {args.workers}")
    with tempfile.TemporaryDirectory(prefix="lockstep-chaos-") as name:
        calm, wild = Path(name) / "calm.jsonl", Path(name) / "wild.jsonl"
        events_at = Path(name) / "events"
        events_at.mkdir()
        try:
            calm_s = launch(script, calm, "1:1", {})
            if not calm.exists():
                raise ArgumentError(f"chaos: expected a script that trains with ddp.Lockstep, got {' '.join(script)}")
            steps = read(calm)[1]
            events = plan(args.seed, args.kills, args.stops, args.delays, max(steps), args.workers)
            chaos = json.dumps({"directory": str(events_at), "events": events})
            wild_s = launch(script, wild, f"1:{args.workers}", {"LOCKSTEP_CHAOS": chaos}, not args.no_replace)
        except ArgumentError as error:
            print(error, file=sys.stderr)
            return 2
        except subprocess.CalledProcessError as error:
            print(f"chaos: expected the script to end well, got status {error.returncode}", file=sys.stderr)
            return 2
        found = verify(calm, wild)
        acted = sorted(int(entry.name.rpartition("-")[2]) for entry in events_at.iterdir())
        kinds = ", ".join(f"{sum(events[i]['act'] == act for i in acted)} {act}s" for act in ACTS)
        print(
            f"chaos: seed {args.seed}: {kinds} of {len(events)} events; {calm_s:.1f} s undisturbed, {wild_s:.1f} s disturbed"
        )
        if len(acted) < len(events):
            print(
                f"chaos: {len(events) - len(acted)} events did not happen: the last worker is spared, and one that is new takes a "
                "while to come; let the script train longer for all of them"
            )
        ends = [max(read(path)[1].items()) for path in (calm, wild)]
        if found is None and ends[0][0] == ends[1][0]:
            print(f"chaos: the same bits after {ends[0][0]} steps: {ends[0][1].get('digest', 'no digest logged')}")
            return 0
        print(f"chaos: {found or f'expected {ends[0][0]} steps, got {ends[1][0]}'}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
