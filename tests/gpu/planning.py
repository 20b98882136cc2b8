"""Plans every cuDNN graph of ours for an H200, without a GPU: `python -m tests.gpu.planning` prints what cuDNN chose, or why it refused.

Needs a C compiler and `pip install nvidia-cudnn-cu13 nvidia-cublas 'nvidia-cudnn-frontend>=1.22,<1.29'` (800 MB, so CI does without it), no
driver: cuDNN wants a libcuda.so.1 to load its engines, and gets one in which every function says that all is well. Planning with described
devices is cuDNN's "deviceless" mode. What it comes to is that cuDNN takes the graph, its heuristic proposes engines, and they support it;
building a plan may compile and load kernels, which needs a real driver.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from core.backend.base import conv_out_shape
from core.backend.cuda import dnn
from core.backend.switches import SWITCHES

# what cuDNN wants to know of a device; the numbers of an H200
DEVICE = {
    "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "deviceName": "NVIDIA H200", "l2CacheSize": 52428800,
    "maxCtasPerSM": 32, "maxRegistersPerSM": 65536, "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448,
    "maxSharedMemoryPerSM": 233472, "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "multiProcessorCount": 132, "regsPerBlock": 65536,
    "smClockRateKHz": 1980000, "smVersion": 900, "memClockRateKHz": 3201000, "memoryBusWidth": 6144, "smCountOrigin": 0, "smCount": 132,
    "warpSize": 32, "pciDeviceId": 0, "deviceVer": 900, "isTccDriver": 0, "oversizedSharedMemoryPerBlock": 232448,
    "reservedSharedMemoryPerBlock": 1024, "supportCoopLaunch": 1, "totalGlobalMem": 141 << 30, "cudaDeviceId": 0, "driverVer": 13000,
}  # fmt: skip
_STUBBED = "LOCKSTEP_STUBBED_LIBCUDA"  # set in the process that runs with it


def libraries() -> list[Path]:
    """Where the wheels of cuDNN and cuBLAS have put their libraries; none where they are not installed."""
    found = importlib.util.find_spec("nvidia")
    roots = [Path(p) for p in (found.submodule_search_locations or [])] if found else []
    return [folder for root in roots for folder in (root / "cudnn" / "lib", root / "cu13" / "lib") if folder.exists()]


def stub(folder: str) -> None:
    """Writes a libcuda.so.1 that has every function which these libraries may ask for, each returning 0."""
    names: set[bytes] = set()
    for directory in libraries():
        for path in directory.glob("lib*.so*"):
            table = subprocess.run(["nm", "-D", "--undefined-only", str(path)], capture_output=True).stdout
            names |= set(re.findall(rb" (cu[A-Z]\w+)", table))
            if re.search(r"cudnn_(graph|engines_runtime_compiled|ops|cnn)\.", path.name):  # these look for some by name
                names |= set(re.findall(rb"(?<=\0)cu[A-Z][A-Za-z0-9_]{2,80}(?=\0)", path.read_bytes()))
    source = Path(folder) / "stub.c"
    source.write_text("".join(f"int {name.decode()}(void) {{ return 0; }}\n" for name in sorted(names)))
    compiler = os.environ.get("CC", "gcc")
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-w",
        "-fno-builtin",
        "-Wl,-soname,libcuda.so.1",
        "-o",
        f"{folder}/libcuda.so.1",
        str(source),
    ]
    subprocess.run(command, check=True)


class Planner(dnn.DNN):
    """Plans and runs nothing. `said` is what came of the last graph."""

    def __init__(self) -> None:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        load_nvidia_dynamic_lib("nvrtc")
        import cudnn

        self._xp, self._cudnn, self._handles, self._plans, self._lock = np, cudnn, {}, {}, threading.Lock()
        self._device = cudnn.create_device_properties(json.dumps(DEVICE))
        self.said, self.graphs = "", 0

    def _graph(self, handle: Any, like: Any) -> Any:
        kinds = self._cudnn.data_type
        return self._cudnn.pygraph(
            io_data_type=getattr(kinds, dnn._TYPES[like.dtype.num]), intermediate_data_type=kinds.FLOAT, compute_data_type=kinds.FLOAT,
            device_property=self._device, sm_version=900, sm_count=132,
        )  # fmt: skip

    def _run(self, key: Any, like: Any, build: Any, buffers: list[Any]) -> bool:
        graph = self._graph(None, like)
        self.graphs += 1
        inputs, outputs = build(graph)
        graph.build_plans = lambda: None
        try:
            self._finish(graph)
        except Exception as error:
            self.said = f"REFUSED: {type(error).__name__}: {str(error)[:200]}"
            return False
        uids = {t.get_uid() for t in (*inputs, *outputs)}
        assert len(uids) == len(buffers), f"expected a buffer for each tensor, got {len(buffers)} for {len(uids)}"
        self.said = "supported"
        return True


def plan_all() -> int:
    """Prints a line for each graph; how many were refused."""
    from tests.gpu.checks import CONVOLUTIONS, MASKS

    planner, refused = Planner(), 0

    def say(name: str, ok: bool) -> None:
        nonlocal refused
        refused += not ok
        print(f"{name}: {planner.said}")

    for dtype in (np.float32, np.float16, bfloat16):
        for number, (x_shape, w_shape, *places, _) in enumerate(CONVOLUTIONS):
            for last in (False, True):
                out = conv_out_shape(x_shape[2:], w_shape[2:], *places)
                x, w, g = (
                    np.zeros(x_shape, dtype),
                    np.zeros(w_shape, dtype),
                    np.zeros((x_shape[0], w_shape[0], *out), dtype),
                )
                if last:
                    x, g = (np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) for a in (x, g))
                for SWITCHES.conv_tf32, SWITCHES.deterministic in ((True, False), (False, True)):
                    name = f"{np.dtype(dtype).name} convolution {number}{' channels-last' * last}{' exact' * SWITCHES.deterministic}"
                    say(name, planner.conv(x, w, None, out, *places) is not None)
                    b = np.zeros(w_shape[0], dtype)
                    planner.graphs = 0
                    fused = planner.conv(x, w, b, out, *places) is not None and planner.graphs == 1
                    print(f"{name}, bias: {'supported' if fused else 'in two steps'}")
                    say(f"{name}, input's gradient", planner.conv_input_grad(g, w, x_shape, *places) is not None)
                    say(f"{name}, weight's gradient", planner.conv_weight_grad(g, x, w_shape, *places) is not None)
    for dtype in (np.float16, bfloat16):
        fused = np.zeros((2, 96, 3, 4, 64), dtype)  # (B, L, 3, H, E)
        q, k, v = (fused[:, :, i].swapaxes(1, 2) for i in range(3))
        stats = np.zeros((2, 4, 96, 1), np.float32)
        cases = {" causal": (None, True)} | {f" {name}": (shape, False) for name, shape in MASKS.items()}
        for kind, (shape, causal) in cases.items():
            bias = None if shape is None else np.zeros((1,) * (4 - len(shape)) + shape, np.float32)
            for SWITCHES.deterministic in (False, True):
                name = f"{np.dtype(dtype).name} attention{kind}{' exact' * SWITCHES.deterministic}"
                assert planner.attends(q, k, v)
                say(name, planner.attention(q, k, v, bias, causal, 0.125) is not None)
                say(f"{name}, gradient", planner.attention_grad(q, q, k, v, q, stats, bias, causal, 0.125) is not None)
    return refused


def main() -> int:
    if os.environ.get(_STUBBED):
        refused = plan_all()
        print(f"{refused} graphs refused", file=sys.stderr)
        return int(refused > 0)
    if len(libraries()) < 2 or importlib.util.find_spec("cudnn") is None:
        print(
            "nothing is planned: expected cuDNN, cuBLAS and cuDNN's frontend, installed as wheels; see the docstring",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory() as folder:
        stub(folder)
        paths = os.pathsep.join([folder, *map(str, libraries())])
        environment = {**os.environ, _STUBBED: "1", "LD_LIBRARY_PATH": paths}
        return subprocess.run([sys.executable, "-m", "tests.gpu.planning"], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
