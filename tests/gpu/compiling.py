"""Compiles every kernel of the table to machine code, without a GPU: `python -m tests.gpu.compiling [ARCH …]` prints registers and spills.

Needs CuPy and NVRTC with CUDA's headers (`pip install 'lockstep-ddp[gpu-check]'`), no driver. NVRTC is called as CuPy calls it for a
RawModule; its public way in asks for a device even if it is told the architecture, so this uses a private class, and CuPy's version is
pinned by the extra.
"""

from __future__ import annotations

import io
import re
import sys
import time
from typing import NamedTuple

from core.backend.cuda.kernels import INSTANCES, NVRTC, Instance, body, names

ARCHITECTURES = ("80", "90", "100")


class Kernel(NamedTuple):
    """What ptxas says of one kernel."""

    instance: Instance
    architecture: str
    name: str
    registers: int
    spilled_bytes: int


def missing() -> str | None:
    """Why nothing can be compiled here; None if it can."""
    try:
        from cupy.cuda import compiler
    except ImportError:
        return "CuPy is not installed"
    try:
        compiler._get_nvrtc_version()
        _compiled(Instance("philox", "float32", "float32"), "90")
    except Exception as error:
        return f"NVRTC or CUDA's headers do not work: {str(error)[:200]}"
    return None


def _compiled(of: Instance, architecture: str) -> str:
    """The compiler's log."""
    from cupy._core import core
    from cupy.cuda import compiler

    options = core.assemble_cupy_compiler_options(("--std=c++17",))
    options += ("-ftz=true", "--device-as-default-execution-space", f"-arch=sm_{architecture}", "-Xptxas=-v")
    log = io.StringIO()
    compiler._NVRTCProgram(NVRTC + body(of), f"{of.source}.cu", method="cubin").compile(options, log)
    return log.getvalue()


def compiled(of: Instance, architecture: str) -> list[Kernel]:
    """Every kernel of an instance; an error that holds the compiler's message if it does not compile."""
    found = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        _compiled(of, architecture),
        re.DOTALL,
    )
    kernels = [
        Kernel(of, architecture, name, int(registers), int(out) + int(back)) for name, out, back, registers in found
    ]
    assert sorted(k.name for k in kernels) == sorted(names(of)), f"{of}: expected {names(of)} in the log, got {found}"
    return kernels


def main(architectures: list[str]) -> int:
    """Prints a table; the exit status says whether anything spilled."""
    reason = missing()
    if reason:
        print(f"kernels are not compiled: {reason}; pip install 'lockstep-ddp[gpu-check]'", file=sys.stderr)
        return 2
    spilled, count, start_s = 0, 0, time.perf_counter()
    print("| kernel | sm | registers | spilled bytes |\n| --- | --- | --- | --- |")
    for architecture in architectures:
        for of in INSTANCES:
            for k in compiled(of, architecture):
                print(f"| {of} {k.name} | {architecture} | {k.registers} | {k.spilled_bytes} |")
                spilled, count = spilled + (k.spilled_bytes > 0), count + 1
    print(
        f"\n{count} kernels for {', '.join(architectures)} in {time.perf_counter() - start_s:.0f} s; {spilled} spill",
        file=sys.stderr,
    )
    return int(spilled > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(ARCHITECTURES)))
