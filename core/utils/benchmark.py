"""torch.utils.benchmark: how long a statement takes, by many runs; and tables of it."""

from __future__ import annotations

import statistics
import timeit
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from core import settings
from core.errors import ArgumentError

__all__ = ["Compare", "Measurement", "Timer", "timer"]


def timer() -> float:
    """Seconds, when everything that was asked of a GPU is done."""
    from core import cuda

    if cuda.is_available():
        cuda.synchronize()
    return perf_counter()


@dataclass
class Measurement:
    """Times of several runs of `number_per_run` calls."""

    number_per_run: int
    raw_times: list[float]
    label: str = "Timer"
    sub_label: str = ""
    description: str = ""
    num_threads: int = 1
    env: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def times(self) -> list[float]:
        """Seconds of one call, for each run."""
        return [t / self.number_per_run for t in self.raw_times]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.times)

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    @property
    def iqr(self) -> float:
        """From the first to the third quartile."""
        if len(self.times) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.times, n=4, method="inclusive")
        return high - low

    @property
    def title(self) -> str:
        """What was measured."""
        return ": ".join(p for p in (self.label, self.sub_label) if p)

    def __repr__(self) -> str:
        value, unit = _readable(self.median)
        lines = [self.title, f"  {self.description}", f"  Median: {value:.2f} {unit}"]
        if len(self.times) > 1:
            lines.append(f"  IQR:    {self.iqr * value / self.median if self.median else 0:.2f} {unit}")
        many = f"{len(self.times)} measurements, {self.number_per_run} runs per measurement, {self.num_threads} thread"
        return "\n".join(s for s in [*lines, f"  {many}{'s' * (self.num_threads > 1)}"] if s.strip())


def _readable(seconds: float) -> tuple[float, str]:
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= scale:
            return seconds / scale, unit
    return seconds / 1e-9, "ns"


class Timer:
    """Times a statement, after a setup, with so many threads of the kernels."""

    def __init__(
        self, stmt: str = "pass", setup: str = "pass", global_setup: str = "", timer: Any = timer, globals: Any = None,
        label: str | None = None, sub_label: str | None = None, description: str | None = None, env: str | None = None,
        num_threads: int = 1, language: Any = "python",
    ):  # fmt: skip
        if str(getattr(language, "name", language)).lower() not in ("python", "py"):
            raise ArgumentError(f"benchmark.Timer: expected a statement in Python, got {language}")
        names = {**(globals or {})}
        self._timer = timeit.Timer(stmt, setup, timer, names)
        self._said: dict[str, Any] = {
            "label": label or stmt, "sub_label": sub_label or "", "description": description or "", "num_threads": num_threads, "env": env,
        }  # fmt: skip

    def _run(self, number: int) -> float:
        before = settings.get_num_threads()
        settings.set_num_threads(self._said["num_threads"])
        try:
            return self._timer.timeit(number)
        finally:
            settings.set_num_threads(before)

    def timeit(self, number: int = 1_000_000) -> Measurement:
        """One run of `number` calls, after a short one."""
        self._run(max(number // 100, 2))
        return Measurement(number, [self._run(number)], **self._said)

    def repeat(self, repeat: int = -1, number: int = -1) -> Measurement:
        """`repeat` runs of `number` calls."""
        return Measurement(max(number, 1), [self._run(max(number, 1)) for _ in range(max(repeat, 1))], **self._said)

    def blocked_autorange(self, callback: Any = None, min_run_time: float = 0.2) -> Measurement:
        """Runs of as many calls as take a thousandth of `min_run_time` (seconds), until that is over."""
        number = 1
        while (t := self._run(number)) < min_run_time / 1000:
            number *= 10
        times = [t] if number == 1 else []
        while sum(times) < min_run_time:
            times.append(self._run(number))
            if callback is not None:
                callback(number, times[-1])
        return Measurement(number, times, **self._said)

    def adaptive_autorange(
        self, threshold: float = 0.1, *, min_run_time: float = 0.01, max_run_time: float = 10.0, callback: Any = None
    ) -> Measurement:
        """Runs until quartiles are within `threshold` of the median, or `max_run_time` (seconds) is over."""
        m = self.blocked_autorange(callback, min_run_time)
        while sum(m.raw_times) < max_run_time and (len(m.times) < 4 or m.iqr > threshold * m.median):
            m.raw_times.append(self._run(m.number_per_run))
        return m


class Compare:
    """A table: rows by sub_label, columns by description, a block for each number of threads."""

    def __init__(self, results: list[Measurement]):
        self.results = list(results)

    def extend_results(self, results: list[Measurement]) -> None:
        """Add measurements."""
        self.results.extend(results)

    def trim_significant_figures(self) -> None:
        """Digits are three anyway."""

    def colorize(self, rowwise: bool = False) -> None:
        """The table is without colours."""

    def __str__(self) -> str:
        columns = list(dict.fromkeys(m.description for m in self.results))
        rows = list(dict.fromkeys((m.num_threads, m.sub_label) for m in self.results))
        cells = {(m.num_threads, m.sub_label, m.description): m.median for m in self.results}
        wide = max([len(s) for _, s in rows] + [10])
        label = self.results[0].label if self.results else ""
        lines = [f"[{label}; times in us]", " " * wide + "".join(f"{c:>16}" for c in columns)]
        for threads, sub in rows:
            values = (cells.get((threads, sub, c)) for c in columns)
            lines.append(
                f"{sub:<{wide}}"
                + "".join(f"{'' if v is None else f'{v * 1e6:.3g}':>16}" for v in values)
                + f"   ({threads} threads)"
            )
        return "\n".join(lines)

    def print(self) -> None:
        """Print the table."""
        print(self)
