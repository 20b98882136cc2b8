"""`ddprun verify LOG1 LOG2`: do two runs agree, and if not, since when and in what?

Contract: compares the logs of `ddp.Lockstep(log=…)` step by step: losses, gradient norms, digests, and digests of parameters where both
have them. Exit status 0 if they agree on all steps that both have, 1 if they differ, 2 if there is nothing to compare.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from ddp.lockstep.log import read

_COMPARED = ("loss", "grad_norm", "digest")


class Difference(NamedTuple):
    step: int
    what: str  # a field of the log, or the name of a parameter, buffer or optimizer state
    values: tuple[Any, Any]

    def __str__(self) -> str:
        return f"step {self.step}: {self.what} differs: {self.values[0]} and {self.values[1]}"


def verify(first: Any, second: Any) -> Difference | None:
    """The first difference between two logs; None if they agree on all steps that both have."""
    (_, a), (_, b) = read(first), read(second)
    for step in sorted(a.keys() & b.keys()):
        for name, value in a[step].get("parameters", {}).items():
            other = b[step].get("parameters", {}).get(name, value)
            if value != other:
                return Difference(step, name, (value, other))
        for field in _COMPARED:
            if field in a[step] and field in b[step] and repr(a[step][field]) != repr(b[step][field]):
                return Difference(step, field, (a[step][field], b[step][field]))
    return None


def main(argv: Sequence[str] | None = None) -> int:
    paths = list(sys.argv[1:] if argv is None else argv)
    if len(paths) != 2:
        print("usage: ddprun verify LOG1 LOG2", file=sys.stderr)
        return 2
    try:
        (head_a, a), (head_b, b) = read(paths[0]), read(paths[1])
    except (OSError, ValueError) as error:
        print(f"verify: expected two logs of Lockstep, got {error}", file=sys.stderr)
        return 2
    for name in sorted({*head_a, *head_b}):
        if head_a.get(name) != head_b.get(name):
            print(f"note: {name} differs: {head_a.get(name)} and {head_b.get(name)}")
    both = sorted(a.keys() & b.keys())
    if not both:
        print("verify: expected steps in common, got none", file=sys.stderr)
        return 2
    found = verify(*paths)
    digests = sum("digest" in a[step] and "digest" in b[step] for step in both)
    print(found or f"steps {both[0]} to {both[-1]} agree: {len(both)} losses, {digests} digests")
    return found is not None


if __name__ == "__main__":
    sys.exit(main())
