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


class Found(NamedTuple):
    """What a section found, and how long it took."""

    section: str
    checks: list[Check]
    timings: list[Timing]
    seconds: float


def summary(found: Found) -> str:
    """One line."""
    failed = sum(not c.passed for c in found.checks)
    parts = [f"{len(found.checks) - failed} pass"] + [f"{failed} FAIL"] * (failed > 0)
    return ", ".join(parts + [f"{len(found.timings)} rows"] * bool(found.timings)) + f", {found.seconds:.0f} s"


def write(path: str, results: Sequence[Found], quick: bool, fake: bool) -> None:
    """Write the report: what ran where, failures first, then every section."""
    kind = (
        "a rehearsal on the device made of NumPy: nothing here was seen on a GPU"
        if fake
        else "quick"
        if quick
        else "whole"
    )
    lines = [f"# Lockstep on a GPU ({kind})", ""]
    lines += [f"Python {platform.python_version()}, " + ", ".join(f"{n} {v}" for n, v in versions().items()) + ".", ""]
    lines += ["| section | result |", "| --- | --- |", *(f"| {f.section} | {summary(f)} |" for f in results), ""]
    failed = [c for f in results for c in f.checks if not c.passed]
    if failed:
        lines += ["## What failed", "", *(f"- {c.section}, {c.name}: {c.detail}" for c in failed), ""]
    for found in results:
        lines += [f"## {found.section}", ""]
        lines += [
            f"- {'pass' if c.passed else '**FAIL**'} {c.name}" + (f": {c.detail}" if c.detail else "")
            for c in found.checks
        ]
        lines += [""] * bool(found.checks)
        if found.timings:
            lines += ["| row | ours, ms | PyTorch, ms | PyTorch / ours | |", "| --- | --- | --- | --- | --- |"]
        for t in found.timings:
            theirs, ratio = ("", "") if t.torch_ms is None else (f"{t.torch_ms:.4g}", f"{t.torch_ms / t.ours_ms:.2f}")
            lines.append(f"| {t.name} | {t.ours_ms:.4g} | {theirs} | {ratio} | {t.detail} |")
        lines += [""] * bool(found.timings)
    Path(path).write_text("\n".join(lines), encoding="utf-8")
