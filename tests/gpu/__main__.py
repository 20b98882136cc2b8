"""Everything that needs a GPU, in one run and one report: `python -m tests.gpu [REPORT.md]`, on a machine with a GPU and the extra
`cuda13`.

Sections: who computes; the op table against NumPy; kernels, products, convolution and attention against float64; graphs; memory; NCCL
with one rank; benchmark rows, beside PyTorch's where it is installed. A check that raises is a failed row and stops nothing. Exit status:
0 if every check passed, 1 if one failed, 2 if there is no GPU.
"""

from __future__ import annotations

import sys

from core.backend.cuda import is_available


def main(arguments: list[str]) -> int:
    if not is_available():
        print(
            "tests.gpu: no GPU: expected CuPy (pip install 'lockstep-ddp[cuda13]') and an NVIDIA GPU with its driver; nothing ran",
            file=sys.stderr,
        )
        return 2
    from tests.gpu import benchmarks, checks, report

    path = arguments[0] if arguments else "gpu-report.md"
    rows = checks.run_all()
    report.write(path, rows, benchmarks.run_all())
    failed = [row for row in rows if not row.passed]
    print(f"tests.gpu: {len(rows) - len(failed)} checks passed, {len(failed)} failed; report in {path}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
