"""Where a training step of ours goes: the time of each kernel of the backend without what it calls, and of all the rest, which is Python:

    python -m tests.bench.shares [--only REGEX] [--most 20]

One thread. The timing itself costs a microsecond a kernel, so tiny steps seem to have more Python than they have.
"""

from __future__ import annotations

import argparse
import functools
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import core
from core.backend.cpu import CPUBackend
from core.ops.op import OPS
from tests.bench import rows

WARM_S, MEASURED_S = 1.0, 3.0
_NOT_KERNELS = {"index_of", "as_array"}

spent: Counter[str] = Counter()
_inside: list[float] = []  # seconds that the calls under way have spent in calls of their own


def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def around(*args: Any, **kwargs: Any) -> Any:
        _inside.append(0.0)
        began = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            took = time.perf_counter() - began
            spent[name] += took - _inside.pop()
            if _inside:
                _inside[-1] += took

    return around


def watch() -> None:
    """From now on kernels and ops are timed."""
    names = {name for kind in CPUBackend.__mro__[:-1] for name, value in vars(kind).items() if callable(value)}
    for name in sorted(names - _NOT_KERNELS):
        if not name.startswith("__") and not isinstance(getattr(CPUBackend, name), type):
            setattr(CPUBackend, name, timed(name, getattr(CPUBackend, name)))
    for op in OPS.values():
        op.forward = timed(f"op {op.name}", op.forward)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.shares", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default="", help="a regular expression: rows whose names it finds")
    parser.add_argument("--most", type=int, default=20, help="so many lines a row")
    args = parser.parse_args()
    core.set_num_threads(1)
    watch()
    for name in (n for n in rows.TRAIN if re.search(args.only, n)):
        step = timed("Python", rows.TRAIN[name](core).training(core, "float32"))
        for seconds in (WARM_S, MEASURED_S):
            spent.clear()
            steps, end = 0, time.perf_counter() + seconds
            while time.perf_counter() < end:
                step()
                steps += 1
        whole = spent.total()
        print(f"{name}: {1e3 * whole / steps:.3f} ms", flush=True)
        for kernel, seconds in spent.most_common(args.most):
            print(f"  {100 * seconds / whole:5.1f} %  {kernel}")


if __name__ == "__main__":
    main()
