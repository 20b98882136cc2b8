"""The table of our CUDA kernels: sources, the types they are compiled for, and the text that a compiler gets.

A source is a `.cuh` file of this folder, or is generated (`pointwise`). It is compiled as a whole for a pair of types: T of elements and
W of weights, indices or whatever the file says. So names need no mangling, and CuPy keeps each binary on disk by its text. What is in the
table is compiled for three architectures and executed on the CPU in the tests; what is not in it cannot be launched.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import NamedTuple

from core.backend.cuda.kernels import pointwise

FLOATS = ("float32", "float16", "bfloat16", "float64")
_SAME = tuple((t, t) for t in FLOATS)
_WEIGHTS = (*_SAME, ("float16", "float32"), ("bfloat16", "float32"))  # low precision in, float32 weights: autocast

# source -> the pairs (T, W) that it is compiled for
SOURCES: dict[str, tuple[tuple[str, str], ...]] = {
    "rows": _SAME,
    "norms": _WEIGHTS,
    "channels": _WEIGHTS,
    "pooling": tuple((t, w) for t in FLOATS for w in ("uint8", "int16")),
    "embedding": tuple((t, w) for t in FLOATS for w in ("int64", "int32")),
    "optimizers": _SAME,
    "philox": _SAME,
    "recurrent": _SAME,
    **{f"pointwise.{name}": _SAME for name in pointwise.ROWS},
}

_C_NAMES = {
    "float32": "float", "float64": "double", "float16": "__half", "bfloat16": "__nv_bfloat16",
    "uint8": "unsigned char", "int16": "short", "int32": "int", "int64": "long long",
}  # fmt: skip

HEADERS = "#include <cuda_fp16.h>\n#include <cuda_bf16.h>\n"
NVRTC = HEADERS + '#define KERNEL extern "C" __global__ void\n'


class Instance(NamedTuple):
    """A source and the types it is compiled for."""

    source: str
    T: str
    W: str

    def __str__(self) -> str:
        return f"{self.source}<{self.T}>" if self.T == self.W else f"{self.source}<{self.T}, {self.W}>"


INSTANCES = [Instance(source, t, w) for source, pairs in SOURCES.items() for t, w in pairs]


@functools.cache
def body(instance: Instance) -> str:
    """The text, less CUDA's headers and the definition of KERNEL."""
    accumulator = "double" if instance.T == "float64" else "float"
    types = f"typedef {_C_NAMES[instance.T]} T;\ntypedef {_C_NAMES[instance.W]} W;\ntypedef {accumulator} A;\n"
    family, _, row = instance.source.partition(".")
    return types + _file("common") + _file(family) + (pointwise.generated(row) if row else "")


def names(instance: Instance) -> list[str]:
    """The kernels of a source."""
    return re.findall(r"^KERNEL (\w+)\(", body(instance), re.MULTILINE)


@functools.cache
def _file(name: str) -> str:
    return (Path(__file__).parent / f"{name}.cuh").read_text(encoding="utf-8")
