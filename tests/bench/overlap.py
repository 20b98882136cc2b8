"""How much of DistributedDataParallel's communication is hidden behind backward, between two hosts that a slow cable joins:

    python -m tests.bench.overlap [--batch 16 64] [--steps 10] [--rounds 3] [--near]

ResNet-18 at 32×32, a rank of one thread on each host; the hosts are network namespaces of this machine (root needed), their cable has
1 Gbit/s and a delay of 1 ms (`tests.hosts`), or is a plain one with --near. A row is the median over rounds of what the timeline of
rank 0 says of its steps: `hidden` is the share of the communication during which the script did not wait for it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench import rows
from tests.hosts import finish, joined

WARM, LIMIT_S = 3, 300  # steps, buckets are rebuilt after the first; seconds for a job


def rank(batch: int, steps: int) -> None:
    """One of the two ranks; rank 0 prints what it found."""
    import core
    import ddp
    from ddp import timeline

    core.set_num_threads(1)
    ddp.init_process_group(timeout=60)
    core.manual_seed(ddp.get_rank())
    work = rows.resnet18(core, batch)
    step = work._replace(model=ddp.DistributedDataParallel(work.model)).training(core, "float32")
    for _ in range(WARM):
        step()
    ddp.barrier()
    with tempfile.TemporaryDirectory() as folder:
        timeline.start(Path(folder) / "t.json")
        began = time.perf_counter()
        for _ in range(steps):
            step()
        step_s = (time.perf_counter() - began) / steps
        found = timeline.stop()
    if ddp.get_rank() == 0:
        print(json.dumps({"step_s": step_s, **{k: v if k == "hidden" else v / steps for k, v in found.items()}}))
    ddp.barrier()
    ddp.destroy_process_group()


def job(batch: int, steps: int, near: bool) -> dict[str, Any]:
    """What rank 0 of a job on two hosts found."""
    with joined(delayed=not near) as hosts, tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key"
        key.touch(mode=0o600)
        key.write_text("ab" * 32)
        words = ["-m", "tests.bench.overlap", "--rank", "--batch", str(batch), "--steps", str(steps)]
        ends = finish(*(hosts.ddprun(node, str(key), *words) for node in (0, 1)), timeout_s=LIMIT_S)
    for status, _, err in ends:
        assert status == 0, err
    return json.loads(ends[0][1].partition("[0] ")[2])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.overlap", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--near", action="store_true", help="a plain cable")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank:
        return rank(args.batch[0], args.steps)
    found: dict[int, list[dict[str, Any]]] = {batch: [] for batch in args.batch}
    for _ in range(args.rounds):
        for batch, results in found.items():
            results.append(job(batch, args.steps, args.near))
            print(batch, results[-1], file=sys.stderr)
    print("| batch | step | backward | communication | hidden | least to greatest |\n|---|---|---|---|---|---|")
    for batch, results in found.items():
        step_s, backward_s, sent_s, hidden = (
            statistics.median(r[name] for r in results) for name in ("step_s", "backward", "communication", "hidden")
        )
        shares = sorted(r["hidden"] for r in results)
        times = " | ".join(f"{1e3 * s:.0f} ms" for s in (step_s, backward_s, sent_s))
        print(f"| {batch} | {times} | {hidden:.0%} | {shares[0]:.0%} to {shares[-1]:.0%} |")


if __name__ == "__main__":
    main()
