"""A chart of lines, as SVG from nothing, or as PNG by matplotlib where that is installed.

Contract: a few series of points with x and y of 0 or more, both axes from 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from core.errors import ArgumentError, MissingLibraryError

Series = Mapping[str, Sequence[tuple[float, float]]]

_COLOURS = ("#0b62c4", "#9a9a9a", "#d9480f", "#2b8a3e", "#862e9c")
_WIDTH, _HEIGHT = 640, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 20, 40, 50  # margins


def check(path: Any) -> Path:
    """The path of a chart that can be drawn, before much is measured for it. ArgumentError, MissingLibraryError."""
    path = Path(path)
    if path.suffix not in (".svg", ".png"):
        raise ArgumentError(f"plot: expected a file .svg or .png, got {path}")
    if path.suffix == ".png" and find_spec("matplotlib") is None:
        raise MissingLibraryError(
            "plot: expected matplotlib for a .png, got none; pip install matplotlib, or draw a .svg"
        )
    return path


def save(path: Any, title: str, x: str, y: str, series: Series) -> None:
    """Draw into a file, .svg or .png."""
    path = check(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".svg":
        path.write_text(svg(title, x, y, series), encoding="utf-8")
    else:
        _png(path, title, x, y, series)


def svg(title: str, x: str, y: str, series: Series) -> str:
    """The chart as SVG."""
    points = [point for line in series.values() for point in line]
    if not points:
        raise ArgumentError("plot: expected points, got none")
    xs, ys = (_ticks(max(point[i] for point in points)) for i in (0, 1))

    def at(px: float, py: float) -> tuple[float, float]:
        return (
            _LEFT + px / xs[-1] * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - py / ys[-1] * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_WIDTH / 2, 24, title, "middle", 16),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, x, "middle"),
        f'<g transform="rotate(-90)">{_text(-(_TOP + _HEIGHT - _BOTTOM) / 2, 18, y, "middle")}</g>',
    ]
    for tick in ys:
        (x0, y0), (x1, _) = at(0, tick), at(xs[-1], tick)
        parts.append(f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y0:.1f}" stroke="#e0e0e0"/>')
        parts.append(_text(x0 - 6, y0 + 4, f"{tick:,g}", "end"))
    for tick in xs:
        x0, y0 = at(tick, 0)
        parts.append(_text(x0, y0 + 18, f"{tick:,g}", "middle"))
    for number, (name, line) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (at(*point) for point in line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{at(*p)[0]:.1f}" cy="{at(*p)[1]:.1f}" r="3.5" fill="{colour}"/>' for p in line]
        parts.append(_text(_LEFT + 12, _TOP + 16 + 18 * number, name, "start", 13, colour))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, words: str, anchor: str, size: int = 13, colour: str = "#222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(words)}</text>'


def _ticks(most: float) -> list[float]:
    """Round numbers from 0 to beyond `most`."""
    if most <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(most))
    step = next(power * each for each in (0.1, 0.2, 0.5, 1.0, 2.0) if most / (power * each) <= 8)
    return [step * i for i in range(math.ceil(most / step) + 1)]


def _png(path: Path, title: str, x: str, y: str, series: Series) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH / 100, _HEIGHT / 100), dpi=150)
    axes = figure.subplots()
    for number, (name, line) in enumerate(series.items()):
        axes.plot(*zip(*line), marker="o", label=name, color=_COLOURS[number % len(_COLOURS)])
    axes.set(title=title, xlabel=x, ylabel=y, xlim=0, ylim=0)
    axes.legend()
    figure.savefig(path)
