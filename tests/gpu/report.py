"""The report: one Markdown file with what ran where, each check, and each benchmark row."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

LIBRARIES = (
    "numpy ml_dtypes cupy-cuda13x nvmath-python nvidia-cudnn-frontend nvidia-cudnn-cu13 nvidia-cublas nvidia-cuda-nvrtc "
    "nvidia-nccl-cu13 torch"
)


class Check(NamedTuple):
    """One thing that holds or does not."""

    section: str
    name: str
    passed: bool
    detail: str


class Timing(NamedTuple):
    """One benchmark row; milliseconds, the median. `torch_ms` is None where PyTorch is not installed, `share` is of a ceiling that was
    measured."""

    name: str
    ours_ms: float
    torch_ms: float | None
    detail: str = ""


def versions() -> dict[str, str]:
    """The libraries that matter here, where they are installed."""
    found = {}
    for name in LIBRARIES.split():
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def write(path: str, checks: Sequence[Check], timings: Sequence[Timing]) -> None:
    """Write the report."""
    from core import cuda

    lines = [f"# Lockstep on {cuda.get_device_name()}", ""]
    lines += [f"Python {platform.python_version()}, " + ", ".join(f"{n} {v}" for n, v in versions().items()) + ".", ""]
    for section in dict.fromkeys(c.section for c in checks):
        rows = [c for c in checks if c.section == section]
        lines += [f"## {section}: {sum(c.passed for c in rows)} of {len(rows)} pass", ""]
        lines += [
            f"- {'pass' if c.passed else '**FAIL**'} {c.name}" + (f": {c.detail}" if c.detail else "") for c in rows
        ]
        lines.append("")
    lines += [
        "## Benchmarks",
        "",
        "| row | ours, ms | PyTorch, ms | PyTorch / ours | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for t in timings:
        theirs, ratio = ("", "") if t.torch_ms is None else (f"{t.torch_ms:.3f}", f"{t.torch_ms / t.ours_ms:.2f}")
        lines.append(f"| {t.name} | {t.ours_ms:.3f} | {theirs} | {ratio} | {t.detail} |")
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
