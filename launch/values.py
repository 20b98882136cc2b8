"""What single arguments may be: each function reads one, or raises argparse's error with the rule."""

from __future__ import annotations

import argparse

MASTER_PORT = 29500  # torchrun's


def count(text: str) -> int | str:
    if text == "auto":
        return text
    if not _is_number(text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f'expected a number of ranks, 1 or more, or "auto", got {text!r}')
    return int(text)


def positive(text: str) -> int:
    if not _is_number(text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a number, 1 or more, got {text!r}")
    return int(text)


def natural(text: str) -> int:
    if not _is_number(text):
        raise argparse.ArgumentTypeError(f"expected a number, 0 or more, got {text!r}")
    return int(text)


def ranks(text: str) -> tuple[int, ...]:
    if not all(map(_is_number, text.split(","))):
        raise argparse.ArgumentTypeError(f"expected ranks, as in 0,3, got {text!r}")
    return tuple(map(int, text.split(",")))


def port(text: str) -> int:
    if not (_is_number(text) and 0 < int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"expected a port, 1 to 65535, got {text!r}")
    return int(text)


def endpoint(text: str) -> tuple[str, int]:
    host, _, number = text.rpartition(":")
    if not host:
        host, number = text, str(MASTER_PORT)
    if ":" in host or not host:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT with a name or an IPv4 address, got {text!r}")
    return host, port(number)


def seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0, got {text!r}")
    return seconds


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
