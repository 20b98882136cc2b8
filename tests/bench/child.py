"""One row on one engine: `python -m tests.bench.child ENGINE KIND ROW THREADS CLOCK DTYPE` prints one line of JSON.

{"seconds": 0.0012}   the median time of a call (train, infer, ops), or what importing takes (startup)
{"bytes": 1234567}    how far a few steps raise the peak of resident memory (memory)
{"missing": "LSTM"}   the engine has no such name        {"failed": "TypeError: …"}
"""

from __future__ import annotations

import importlib
import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WARM_S, MEASURED_S, LEAST = 0.3, 0.7, 5  # seconds of warming up and of measuring; at least so many calls


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def timed(step: Callable[[], Any], clock: Callable[[], float]) -> float:
    """The median time of a call. Short ones are timed many at once, since the clock costs something, too."""
    start, calls = clock(), 0
    while calls < 2 or clock() - start < WARM_S:
        step()
        calls += 1
    together = max(1, int(2e-3 * calls / (clock() - start)))
    times: list[float] = []
    end = clock() + MEASURED_S
    while len(times) < LEAST or clock() < end:
        start = clock()
        for _ in range(together):
            step()
        times.append((clock() - start) / together)
    return statistics.median(times)


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (at most so far), in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main(engine: str, kind: str, row: str, threads: int, clock: str, dtype: str) -> dict[str, Any]:
    now = CLOCKS[clock]
    start = now()
    torch = importlib.import_module(engine)
    importlib.import_module(f"{engine}.nn")
    importlib.import_module(f"{engine}.optim")
    torch.Tensor  # noqa: B018 - core loads its names on first use
    if kind == "startup":
        return {"seconds": now() - start}
    from tests.bench import rows

    if hasattr(torch, "set_num_threads"):
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    try:
        if kind == "ops":
            return {"seconds": timed(rows.OPS[row](torch), now)}
        if kind == "infer":
            return {"seconds": timed(rows.TRAIN[row](torch).inference(torch, dtype), now)}
        if kind == "train":
            return {"seconds": timed(rows.TRAIN[row](torch).training(torch, dtype), now)}
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of importing
        step = rows.TRAIN[row](torch).training(torch, dtype)
        for _ in range(4):
            step()
        return {"bytes": resident("VmHWM") - before}
    except AttributeError as error:
        found = re.search(r"no attribute '(\w+)'", str(error))
        return {"missing": found[1]} if found else {"failed": f"AttributeError: {error}"}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:200]}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:4], int(sys.argv[4]), *sys.argv[5:7])))
