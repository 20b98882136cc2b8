"""How fast is this job's transport? `ddprun bench -n 2` prints a table of latency and bandwidth by size.

`--peer-python PATH` names a Python with PyTorch: its Gloo then takes turns with us, with as many processes, on the same
machine in the same minutes. `--tune` measures at which sizes to change algorithms and keeps the table for later jobs.
`--scaling MODEL` trains a model on 1, 2, 4, … of the ranks instead (`ddp.scaling`); `--plot FILE` draws what was measured.

Contract: every rank runs `main`; rank 0 prints, in Markdown. A time is the median over the turns, of one call, with
arrays of float32 that are allocated once. Bandwidth is the bytes of the array (of the result for all_gather) by the
time; MB is 2**20 bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import core
import ddp
from ddp import plot, scaling
from ddp.errors import DDPError
from ddp.transport import tuning

KB, MB = 1 << 10, 1 << 20
SIZES = (4 * KB, 16 * KB, 64 * KB, 256 * KB, MB, 4 * MB, 16 * MB, 64 * MB, 256 * MB)
OPS = ("all_reduce", "broadcast", "all_gather")
TURN_S = 0.1  # about how long one turn at one size takes

# What runs under the other Python: for each line of stdin, so many calls; prints the seconds of one.
PEER = """
import json, os, sys, time, torch, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo")
size = dist.get_world_size()
for line in sys.stdin:
    op, nbytes, calls = json.loads(line)
    x = torch.zeros(nbytes // 4)
    if op == "all_gather":
        out = torch.zeros(nbytes // 4)
        share = torch.zeros(nbytes // 4 // size)
        outs = list(out[: share.numel() * size].chunk(size))
    call = {
        "all_reduce": lambda: dist.all_reduce(x),
        "broadcast": lambda: dist.broadcast(x, 0),
        "all_gather": lambda: dist.all_gather(outs, share),
    }[op]
    call()
    dist.barrier()
    began = time.perf_counter()
    for _ in range(calls):
        call()
    if op == "broadcast":
        dist.barrier()
    print(json.dumps((time.perf_counter() - began) / calls), flush=True)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure as the arguments say, on all ranks of the job; rank 0 prints. Returns the exit status."""
    found = _parser().parse_args(argv)
    if found.plot:
        plot.check(found.plot)
    ddp.init_process_group()
    try:
        if found.tune:
            tune(found.turns)
        elif found.scaling:
            rates = scaling.measure(found.scaling, found.turns)
            if ddp.get_rank() == 0:
                print(scaling.table(found.scaling, rates))
                if found.plot:
                    _draw(found.plot, f"{found.scaling}: samples/s", "ranks", "samples/s", scaling.series(rates))
        else:
            ops = found.op or OPS
            sizes = [size for size in SIZES if size <= found.max_mb * MB]
            rows = measure(ops, sizes, found.turns, found.peer_python)
            if ddp.get_rank() == 0:
                print(table(rows))
                if found.plot:
                    _draw(found.plot, "bandwidth by size", "log2 of bytes", "GB/s", bandwidths(rows))
    finally:
        ddp.destroy_process_group()
    return 0


@dataclasses.dataclass(frozen=True)
class Row:
    op: str
    nbytes: int
    ours_s: float
    peer_s: float | None  # Gloo's


def measure(ops: Sequence[str], sizes: Sequence[int], turns: int, peer_python: str = "") -> list[Row]:
    """A row for each op and size. All ranks make this call and get the times of rank 0."""
    peer = Peer(peer_python) if peer_python else None
    rows = []
    try:
        for op in ops:
            for nbytes in sizes:
                call = calls_of(op, nbytes)
                ours, theirs = [], []
                for _ in range(turns):
                    many = _how_often(call)
                    ours.append(_seconds(call, many, op))
                    if peer:
                        theirs.append(peer.seconds(op, nbytes, many))
                times = core.tensor(
                    [statistics.median(ours), statistics.median(theirs or [math.nan])], dtype=core.float64
                )
                ddp.broadcast(times, 0)
                ours_s, peer_s = times.tolist()
                rows.append(Row(op, nbytes, ours_s, peer_s if peer else None))
    finally:
        if peer:
            peer.close()
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    compared = any(row.peer_s is not None for row in rows)
    heads = ["op", "size", "time", "GB/s", *(("Gloo", "Gloo GB/s", "Gloo's time / ours") if compared else ())]
    lines = [f"{ddp.get_backend()}, {ddp.get_world_size()} ranks", "", _line(heads), _line(["---"] * len(heads))]
    for row in rows:
        cells = [row.op, _size(row.nbytes), _time(row.ours_s), f"{row.nbytes / row.ours_s / 1e9:.2f}"]
        if row.peer_s is not None:
            cells += [_time(row.peer_s), f"{row.nbytes / row.peer_s / 1e9:.2f}", f"{row.peer_s / row.ours_s:.1f}"]
        lines.append(_line(cells))
    return "\n".join(lines)


def bandwidths(rows: Sequence[Row]) -> dict[str, list[tuple[float, float]]]:
    """For `ddp.plot`: GB/s by log2 of the size, a line for each op, and for Gloo's where it was measured."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, seconds in ((row.op, row.ours_s), (f"{row.op}, Gloo", row.peer_s)):
            if seconds is not None:
                series.setdefault(name, []).append((math.log2(row.nbytes), row.nbytes / seconds / 1e9))
    return series


def _draw(path: str, *chart: Any) -> None:
    plot.save(path, *chart)
    print(f"drawn: {path}")


def tune(turns: int = 5) -> tuning.Tuning:
    """Measure where to change algorithms, on all ranks of the job; rank 0 keeps the table in the user's cache folder.

    Measured is what this job uses: shared memory, or messages. An entry changes only if that saves a tenth of the time.
    """
    transport = ddp.distributed._default().transport
    was = transport.tuning
    name = "direct_bytes" if getattr(transport, "_on_board", False) else "ring_bytes"
    has_one_way = name == "direct_bytes" and transport.size == 2
    others = [] if has_one_way else [16 * KB, 64 * KB, 256 * KB]
    costs = {}
    for candidate in dict.fromkeys([getattr(was, name), *others]):
        transport.tuning = dataclasses.replace(was, **{name: candidate})
        rows = measure(("all_reduce",), (16 * KB + 4, 64 * KB, 256 * KB), turns)
        costs[candidate] = statistics.geometric_mean(row.ours_s for row in rows)
    winner = min(costs, key=lambda each: costs[each])
    worthwhile = costs[winner] < 0.9 * costs[getattr(was, name)]
    best = dataclasses.replace(was, **{name: winner}) if worthwhile else was
    transport.tuning = was
    if ddp.get_rank() == 0:
        print(f"{tuning.save(best)}: {json.dumps(dataclasses.asdict(best))}")
    return best


class Peer:
    """One rank of a Gloo job: every rank of ours starts one, and they take turns."""

    def __init__(self, python: str):
        rank, size = ddp.get_rank(), ddp.get_world_size()
        port = core.tensor([_free_port() if rank == 0 else 0])
        ddp.broadcast(port, 0)
        world = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port.item()}
        self._process = subprocess.Popen(
            [python, "-c", PEER],
            env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in world.items()},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def seconds(self, op: str, nbytes: int, calls: int) -> float:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([op, nbytes, calls]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise DDPError(
                f"rank {ddp.get_rank()}: bench: expected a Python with PyTorch at --peer-python, got one that ended"
            )
        return json.loads(line)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


# -- one measurement --------------------------------------------------------------------------------------------------


def calls_of(op: str, nbytes: int) -> Callable[[], object]:
    """One call of an op; for all_gather `nbytes` is what all ranks have together."""
    size = ddp.get_world_size()
    if op == "all_gather":
        share = core.zeros(max(1, nbytes // 4 // size))
        outs = [core.zeros_like(share) for _ in range(size)]
        return lambda: ddp.all_gather(outs, share)
    x = core.zeros(nbytes // 4)
    return {"all_reduce": lambda: ddp.all_reduce(x), "broadcast": lambda: ddp.broadcast(x, 0)}[op]


def _how_often(call: Callable[[], object]) -> int:
    """How many calls make a turn. The same on all ranks."""
    call()
    ddp.barrier()
    began = time.perf_counter()
    call()
    many = core.tensor([max(2, min(2000, int(TURN_S / (time.perf_counter() - began))))])
    ddp.broadcast(many, 0)
    return int(many.item())


def _seconds(call: Callable[[], object], many: int, op: str) -> float:
    ddp.barrier()
    began = time.perf_counter()
    for _ in range(many):
        call()
    if op == "broadcast":  # the root may be ahead
        ddp.barrier()
    return (time.perf_counter() - began) / many


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# -- words ------------------------------------------------------------------------------------------------------------


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _size(nbytes: int) -> str:
    return f"{nbytes // MB} MB" if nbytes >= MB else f"{nbytes // KB} KB"


def _time(seconds: float) -> str:
    return f"{1e6 * seconds:.0f} µs" if seconds < 1e-3 else f"{1e3 * seconds:.2f} ms"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ddprun bench [options of ddprun, such as -n N]",
        description="Latency and bandwidth of this job's transport, or the scaling of a model.",
    )
    parser.add_argument("--op", action="append", choices=OPS, help="only this one; may be given again (default: all)")
    parser.add_argument("--max-mb", type=float, default=256, help="the largest array, in MB (default: 256)")
    parser.add_argument("--turns", type=int, default=5, help="how many times each size is measured (default: 5)")
    parser.add_argument("--peer-python", default="", metavar="PATH", help="a Python with PyTorch, to compare with Gloo")
    parser.add_argument("--tune", action="store_true", help="measure where to change algorithms, and keep the answer")
    parser.add_argument("--scaling", choices=sorted(scaling.MODELS), help="train this model on 1, 2, 4, … of the ranks")
    parser.add_argument("--plot", default="", metavar="FILE", help="draw the result as .svg, or as .png by matplotlib")
    return parser


if __name__ == "__main__":
    sys.exit(main())
