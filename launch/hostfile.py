"""A list of hosts, as mpirun reads it: a host on each line, and how many ranks it takes.

    # the rack by the window
    node-1 slots=4
    user@node-2           # one slot

Contract: mistakes are `WorldError`s with the file and the line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ddp.errors import WorldError

_HOST = re.compile(r"(?:[\w.-]+@)?[A-Za-z0-9_][\w.:-]*", re.ASCII)  # never "-o…": ssh would take it for an option


@dataclass(frozen=True)
class Host:
    """A host and the number of ranks on it."""

    name: str  # as ssh takes it: host or user@host
    slots: int = 1

    @property
    def address(self) -> str:
        return self.name.rpartition("@")[2]


def read_hosts(path: str) -> tuple[Host, ...]:
    try:
        with open(path, encoding="utf-8") as file:
            return parse_hosts(file.read(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise WorldError(
            f"--hostfile: expected a readable file of lines HOST or HOST slots=N, got {path!r}: {error}"
        ) from None


def parse_hosts(text: str, path: str) -> tuple[Host, ...]:
    hosts: list[Host] = []
    for number, line in enumerate(text.splitlines(), 1):
        if words := line.partition("#")[0].split():
            host = _host(words, f"{path}:{number}")
            if host.address in {other.address for other in hosts}:
                raise WorldError(
                    f"{path}:{number}: expected each host once, got {host.address!r} again; add up its slots"
                )
            hosts.append(host)
    if not hosts:
        raise WorldError(f"{path}: expected a host on each line, got none; write for example: node-1 slots=4")
    return tuple(hosts)


def seat(hosts: tuple[Host, ...], ranks: int, path: str) -> tuple[Host, ...]:
    """The hosts that so many ranks need, each with its number of ranks: hosts are filled in their order."""
    seated, left = [], ranks
    for host in hosts:
        if left > 0:
            seated.append(Host(host.name, min(left, host.slots)))
            left -= host.slots
    if left > 0:
        total = sum(host.slots for host in hosts)
        raise WorldError(f"-n: expected at most the {total} slots of {path}, got {ranks}; add hosts or slots there")
    return tuple(seated)


def _host(words: list[str], where: str) -> Host:
    name, *settings = words
    if not _HOST.fullmatch(name):
        raise WorldError(f"{where}: expected host or user@host, got {name!r}")
    slots = 1
    for setting in settings:
        match = re.fullmatch(r"slots=([1-9]\d{0,5})", setting, re.ASCII)
        if not match:
            raise WorldError(f"{where}: expected slots=N with N of 1 or more after the host, got {setting!r}")
        slots = int(match[1])
    return Host(name, slots)
