"""Everything that needs a GPU, in one run and one report, on a machine with a GPU and the extra `cuda13`:

    python -m tests.gpu [REPORT.md] [--quick] [--only SECTION[,SECTION…]] [--fake [--plain]]

Each section is a process of its own with a time limit, so that one that fails, crashes or hangs stops no other: what it had found by then
is in the report. `--quick` ends within ten minutes: one case of each op, fewer repetitions. `--only` runs parts (`--list` names them).
`--fake` is a rehearsal on the device made of NumPy: it shows that the checks themselves run, and nothing of a GPU.
Exit status: 0 if every check passed, 1 if one failed, 2 if there is no GPU or the arguments are wrong.
"""

from __future__ import annotations

import argparse
import sys

from core.backend.cuda import is_available
from tests.gpu import report, sections


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.gpu", description="Everything that needs a GPU; writes one report.")
    parser.add_argument("report", nargs="?", default="gpu-report.md")
    parser.add_argument("--quick", action="store_true", help="at most ten minutes")
    parser.add_argument("--only", default="", help="sections, separated by commas")
    parser.add_argument("--list", action="store_true", help="name the sections")
    parser.add_argument("--fake", action="store_true", help="a rehearsal without a GPU")
    parser.add_argument(
        "--plain", action="store_true", help="a rehearsal that runs none of our kernels, which takes less time"
    )
    given = parser.parse_args(arguments)
    if given.list:
        print("\n".join(sections.SECTIONS))
        return 0
    names = given.only.split(",") if given.only else list(sections.SECTIONS)
    unknown = [name for name in names if name not in sections.SECTIONS]
    if unknown:
        print(
            f"tests.gpu: expected sections of {', '.join(sections.SECTIONS)}, got {', '.join(unknown)}", file=sys.stderr
        )
        return 2
    if not given.fake and not is_available():
        print(
            "tests.gpu: no GPU: expected CuPy (pip install 'lockstep-ddp[cuda13]') and an NVIDIA GPU with its driver; nothing ran",
            file=sys.stderr,
        )
        return 2
    results, rehearsed = [], ["--fake"] * given.fake + ["--plain"] * (given.fake and given.plain)
    for name in names:
        results.append(sections.in_a_process(name, given.quick, rehearsed))
        report.write(
            given.report, results, given.quick, given.fake
        )  # after each: whatever happens, what is known is kept
        print(f"{name}: {report.summary(results[-1])}", flush=True)
    failed = sum(not row.passed for found in results for row in found.checks)
    count = sum(len(found.checks) for found in results)
    print(f"tests.gpu: {count - failed} checks passed, {failed} failed; report in {given.report}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
