"""Every CUDA kernel compiles for every architecture, and none spills registers. Needs NVRTC, no GPU: see `tests.gpu.compiling`."""

import pytest

from core.backend.cuda.kernels import INSTANCES
from tests.gpu import compiling

REASON = compiling.missing()
pytestmark = pytest.mark.skipif(
    REASON is not None, reason=f"NO CUDA KERNEL IS COMPILED HERE: {REASON}; pip install 'lockstep-ddp[gpu-check]'"
)


@pytest.mark.parametrize("architecture", compiling.ARCHITECTURES)
@pytest.mark.parametrize("source, T", sorted({(of.source.partition(".")[0], of.T) for of in INSTANCES}))
def test_compiles_without_spills(source, T, architecture):
    mine = [of for of in INSTANCES if (of.source.partition(".")[0], of.T) == (source, T)]
    kernels = [k for of in mine for k in compiling.compiled(of, architecture)]
    spilling = [f"{k.instance} {k.name}: {k.spilled_bytes} bytes" for k in kernels if k.spilled_bytes]
    assert not spilling
    for k in kernels:  # rows and norms are launched with 1024 threads, which is what 64 registers allow; float64 elsewhere may take more
        most = 64 if k.instance.T != "float64" or source in ("rows", "norms") else 128
        assert k.registers <= most, f"{k.instance} {k.name}: expected at most {most} registers, got {k.registers}"
