"""What went wrong: reads the flight records of all ranks together and says which rank is at fault and why.

Contract: a pure function of the files of `ddp.recorder`. The first line of the diagnosis is the verdict. In order: a rank
that raised something of its own; a rank without a file; ranks in different calls at the same place of the sequence; a
rank that is behind the others; the rank that the errors name.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core.errors import ArgumentError
from ddp.recorder import FORMAT, VERSION
from ddp.transport.framed import LEFT

Record = dict[str, Any]
_STACK_LINES = 60
_AMONG_RANKS = ("DeadlineError", "MismatchError", "PeerLostError", "WireError")  # what a rank hears from others, too


def diagnose(paths: Iterable[Any]) -> str:
    """The diagnosis from files, or directories of them."""
    if isinstance(paths, (str, Path)):
        paths = [paths]
    paths = [Path(path) for path in paths]
    records, stacks = _read(paths), _stacks(paths)
    size = max(r["size"] for r in records.values())
    findings = [
        *_own_errors(records),
        *_missing(records, size, stacks),
        *_different_calls(records),
        *_behind(records),
        *_named(records),
    ] or ["no rank is seen to be at fault: all made the same calls, and none failed"]
    who = [f.partition(" is at fault")[0] for f in findings]
    others = [f for f, named in zip(findings[1:], who[1:]) if named != who[0]]  # that it is behind, say, follows
    lines = [findings[0], *(f"also: {f}" for f in others), "", "last call of each rank:"]
    lines += [f"  rank {rank}: {_last(records[rank]) if rank in records else 'no record'}" for rank in range(size)]
    for rank, record in sorted(records.items()):
        if record["overwritten"]:
            lines.append(f"  rank {rank}: {record['overwritten']} older calls were overwritten")
    for rank, stack in stacks.items():
        lines += ["", f"rank {rank} was here when it was ended:", *stack[:_STACK_LINES]]
    return "\n".join(lines)


def _stacks(paths: Iterable[Path]) -> dict[int, list[str]]:
    """The lines in which ranks were that SIGTERM ended, by rank."""
    files = [f for p in paths if p.is_dir() for f in sorted(p.glob("rank-*.stack"))]
    texts = {int(f.stem.partition("-")[2]): f.read_text().splitlines() for f in files if f.stem[5:].isdigit()}
    return {rank: lines for rank, lines in sorted(texts.items()) if lines}


def _read(paths: Iterable[Path]) -> dict[int, Record]:
    files = [f for p in paths for f in (sorted(p.glob("*.json")) if p.is_dir() else [p])]
    records: dict[int, Record] = {}
    for file in files:
        try:
            record = json.loads(file.read_text())
        except (OSError, ValueError) as e:
            raise ArgumentError(f"diagnose: expected a flight record, got {file}: {e}") from None
        if not isinstance(record, dict) or record.get("format") != FORMAT or record.get("version") != VERSION:
            raise ArgumentError(f"diagnose: expected a {FORMAT} of version {VERSION}, got {file}")
        if record["rank"] in records:
            raise ArgumentError(
                f"diagnose: expected one record of each rank, got two of rank {record['rank']}; give the files of one run"
            )
        records[record["rank"]] = record
    if not records:
        raise ArgumentError(
            "diagnose: expected flight records, got no file; give the --log-dir of a job that failed, one that ended well leaves none"
        )
    if len({(r["job"], r["size"]) for r in records.values()}) > 1:
        raise ArgumentError("diagnose: expected the records of one job, got several; give the files of one run")
    return records


# -- findings, each a line; the first is the verdict ------------------------------------------------------------------


def _own_errors(records: dict[int, Record]) -> list[str]:
    return [
        f"rank {rank} is at fault: it raised {r['reason']}"
        for rank, r in sorted(records.items())
        if r["culprit"] == rank and not r["reason"].startswith(_AMONG_RANKS)
    ]


def _missing(records: dict[int, Record], size: int, stacks: dict[int, list[str]]) -> list[str]:
    findings = []
    named = Counter(r["culprit"] for r in records.values())
    for rank in (r for r in range(size) if r not in records):
        waiting = [r for r, record in sorted(records.items()) if record["culprit"] == rank]
        seen = f"; ranks {waiting} lost it in {_last(records[waiting[0]])}" if waiting else ""
        if any(LEFT in records[r]["reason"] for r in waiting):
            findings.append(
                f"rank {rank} is at fault: it ended in good order while others went on{seen}; give all ranks the same number of calls"
            )
            continue
        verdict = "is at fault" if named[rank] or not any(c is not None for c in named) else "left no record"
        if rank in stacks:
            place = next((line.strip() for line in _main_thread(stacks[rank]) if line.startswith("  File")), "no line")
            findings.append(f"rank {rank} {verdict}: it was in no call but in {place}{seen}")
            continue
        findings.append(
            f"rank {rank} {verdict}: it left no record, so it was killed (kill -9, out of memory, its host) or hangs outside of "
            f"any call{seen}"
        )
    return findings


def _different_calls(records: dict[int, Record]) -> list[str]:
    """The first place in a group's sequence where ranks were in different calls."""
    for group in sorted({c["group"] for r in records.values() for c in r["calls"]}):
        sequences = {rank: _sequence(r, group) for rank, r in records.items()}
        for number in sorted({n for s in sequences.values() for n in s}):
            calls = {rank: s[number] for rank, s in sequences.items() if number in s}
            kinds: dict[tuple[Any, ...], list[int]] = {}
            for rank, c in sorted(calls.items()):
                kinds.setdefault((c["name"], c["dtype"], c["count"], c["detail"]), []).append(rank)
            if len(kinds) > 1:
                ordered = sorted(kinds.values(), key=len)
                odd, rest = ordered[0], [r for ranks in ordered[1:] for r in ranks]
                if len(odd) < len(rest):
                    who = f"rank {', '.join(map(str, odd))} is at fault: it made another call than the others"
                else:
                    who = f"ranks {sorted(odd + rest)} made different calls"
                told = "; ".join(f"rank {ranks[0]}: {_described(calls[ranks[0]])}" for ranks in ordered)
                return [f"{who} at #{number}{_of(group)}: {told}"]
    return []


def _behind(records: dict[int, Record]) -> list[str]:
    for group in sorted({c["group"] for r in records.values() for c in r["calls"]}):
        members = [r for r in next(iter(records.values()))["groups"].get(str(group), records) if r in records]
        begun = {rank: max(_sequence(records[rank], group), default=0) for rank in members}
        if len(set(begun.values())) > 1:
            first, furthest = min(begun.values()), max(begun.values())
            behind = [r for r, n in begun.items() if n == first]
            ahead = next(r for r, n in begun.items() if n == furthest)
            waiting = _sequence(records[ahead], group)[furthest]
            at = (records[behind[0]]["written"] - waiting["begun"]) if waiting["begun"] else 0.0
            return [
                f"rank {', '.join(map(str, behind))} is at fault: behind, it never came to #{first + 1}{_of(group)}, while rank "
                f"{ahead} has been in {_described(waiting)} for {max(at, 0):.1f} s; its last: {_last(records[behind[0]])}"
            ]
    return []


def _named(records: dict[int, Record]) -> list[str]:
    votes = Counter(r["culprit"] for r in records.values() if r["culprit"] is not None)
    return [
        f"rank {rank} is at fault, say {n} of {len(records)} records: {next(r['reason'] for r in records.values() if r['culprit'] == rank)}"
        for rank, n in votes.most_common(1)
        if rank in records
    ]


def _main_thread(stack: list[str]) -> list[str]:
    """Its lines: faulthandler writes the main thread last."""
    last = max(i for i, line in enumerate(stack) if line.startswith(("Thread", "Current thread")))
    return stack[last:]


# -- words -------------------------------------------------------------------------------------------------------------


def _sequence(record: Record, group: int) -> dict[int, Record]:
    """The collectives of a group that have begun, by number."""
    return {
        c["number"]: c
        for c in record["calls"]
        if c["group"] == group and c["begun"] is not None and c["name"] not in ("send", "recv")
    }


def _of(group: int) -> str:
    return f" of group {group}" if group else ""


def _described(call: Record) -> str:
    detail = f", {call['detail']}" if call["detail"] else ""
    about = f" for {call['about']}" if call["about"] else ""
    return f"{call['name']} #{call['number']} ({call['dtype']}[{call['count']}]{detail}){about} at {call['site']}"


def _last(record: Record) -> str:
    begun = [c for c in record["calls"] if c["begun"] is not None]
    if not begun:
        return "no call"
    call = begun[-1]
    return f"{_described(call)}, {call['state']}, step {call['step']}"
