"""Convolution and attention by cuDNN's graph API (`nvidia-cudnn-frontend`), on pointers; no torch needed.

A plan is built for each shape, layout and dtype, which takes a quarter of a second where cuDNN compiles at run time: warm up before
capturing a graph. Tensors go in as they lie; tensor cores want channels-last, and cuDNN transposes inside where they are not. Each
function returns None where cuDNN has no plan, or the arrays are not its case. Batch normalisation is in `channels`, for the reason given
there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from core.backend.cuda.channels import as_lies, empty, is_last
from core.backend.switches import SWITCHES
from core.errors import MissingLibraryError, missing_library

Ints = tuple[int, ...]

_TYPES = {np.dtype(np.float32).num: "FLOAT", np.dtype(np.float16).num: "HALF", np.dtype(bfloat16).num: "BFLOAT16"}
_TWO_BYTES = {np.dtype(np.float16).num, np.dtype(bfloat16).num}
_HEAD = 128  # the widest head that attention has plans for, forward and backward

Build = Callable[[Any], tuple[list[Any], list[Any]]]  # graph -> its inputs and outputs, in the order of the buffers


class DNN:
    """cuDNN on the devices of one process."""

    def __init__(self, xp: Any):
        try:
            from cuda.pathfinder import load_nvidia_dynamic_lib

            load_nvidia_dynamic_lib(
                "nvrtc"
            )  # cuDNN compiles at run time and does not find NVRTC's builtins in the pip layout by itself
            import cudnn

            handle = cudnn.create_handle()  # of the current device; an error if there is the frontend and no cuDNN
        except (ImportError, RuntimeError):
            raise missing_library("nvidia-cudnn-frontend", "convolution and attention by cuDNN", "cuda13") from None
        self._xp, self._cudnn = xp, cudnn
        self._handles: dict[int, Any] = {int(xp.cuda.runtime.getDevice()): handle}
        self._plans: dict[Any, _Plan | None] = {}
        self._lock = threading.Lock()  # a handle serves one stream at a time

    # -- convolution -----------------------------------------------------------------------------------------------------

    def conv(self, x: Any, w: Any, b: Any, out: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Any:
        """(N, C, *in), (K, C/G, *k), (K) or None -> (N, K, *out); lies as x does. The number of groups follows from the shapes."""
        if not _fits(x, w):
            return None
        last, shape = is_last(x), (x.shape[0], w.shape[0], *out)
        x, w, y = self._as(x, last), self._as(w, last), empty(self._xp, shape, x.dtype, last)
        how, b = (y, stride, padding, dilation), None if b is None else b.reshape(1, -1, *(1,) * len(out))
        if b is not None and b.dtype == x.dtype:
            if self._convolve("conv_fprop", {"image": x, "weight": w, "bias": b}, *how):
                return y
        if not self._convolve("conv_fprop", {"image": x, "weight": w}, *how):
            return None
        if b is not None:
            y += b
        return y

    def conv_input_grad(self, g: Any, w: Any, x_shape: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Any:
        """(N, K, *out), (K, C/G, *k) -> (N, C, *in)"""
        if not _fits(g, w):
            return None
        last = is_last(g)
        g, w, dx = self._as(g, last), self._as(w, last), empty(self._xp, x_shape, g.dtype, last)
        return dx if self._convolve("conv_dgrad", {"loss": g, "filter": w}, dx, stride, padding, dilation) else None

    def conv_weight_grad(self, g: Any, x: Any, w_shape: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Any:
        """(N, K, *out), (N, C, *in) -> (K, C/G, *k), in C order"""
        if not _fits(g, x):
            return None
        last = is_last(x)
        g, x, dw = self._as(g, last), self._as(x, last), empty(self._xp, w_shape, g.dtype, last)
        if not self._convolve("conv_wgrad", {"image": x, "loss": g}, dw, stride, padding, dilation):
            return None
        return self._xp.ascontiguousarray(dw)

    def _as(self, a: Any, last: bool) -> Any:
        return as_lies(self._xp, a, last)

    def _convolve(self, kind: str, inputs: dict[str, Any], y: Any, stride: Ints, padding: Ints, dilation: Ints) -> bool:
        more = max(0, 4 - y.ndim)  # cuDNN has no 1-D convolution: a dimension of length 1 in front
        geometry = {name: _spatial(a, more) for name, a in (*inputs.items(), ("y", y))}
        steps = {
            "stride": [1] * more + [*stride],
            "padding": [0] * more + [*padding],
            "dilation": [1] * more + [*dilation],
        }
        exact = y.dtype == np.float32 and not SWITCHES.conv_tf32
        key = (
            kind,
            y.dtype.num,
            exact,
            *((k, *map(tuple, v)) for k, v in geometry.items()),
            *map(tuple, steps.values()),
        )

        def build(graph: Any) -> tuple[list[Any], list[Any]]:
            note = self._cudnn.numerical_note
            unwanted = [note.TENSOR_CORE, note.DOWN_CONVERT_INPUTS] * exact + [
                note.NONDETERMINISTIC
            ] * SWITCHES.deterministic
            if unwanted:
                graph.deselect_numeric_notes(unwanted)
            tensors = {name: self._tensor(graph, y, name, *geometry[name]) for name in inputs}
            bias = tensors.get("bias")
            operands = {name: t for name, t in tensors.items() if t is not bias}
            result = getattr(graph, kind)(**operands, **steps)
            if bias is not None:
                result = graph.bias(name="sum", input=result, bias=bias)
            self._output(result, *geometry["y"])
            return [*tensors.values()], [result]

        return self._run(key, y, build, [*inputs.values(), y])

    # -- attention -------------------------------------------------------------------------------------------------------

    def attention(self, q: Any, k: Any, v: Any, bias: Any, causal: bool, scale: float) -> Any:
        """(B, H, L, E), (B, H, S, E), (B, H, S, E) -> out, which lies as q does, and ln Σ e^score (B, H, L, 1) in float32. `bias`, or
        None: finite numbers that are added to the scores, (B or 1, H or 1, L or 1, S)."""
        y, stats = self._xp.empty_like(q), self._xp.empty((*q.shape[:3], 1), np.float32)
        inputs = {"q": q, "k": k, "v": v} | ({} if bias is None else {"bias": bias})
        geometry = [_geometry(a) for a in (*inputs.values(), y, stats)]

        def build(graph: Any) -> tuple[list[Any], list[Any]]:
            tensors = {name: self._tensor(graph, a, name, *_geometry(a)) for name, a in inputs.items()}
            out, log = graph.sdpa(
                name="attention", **tensors, generate_stats=True, attn_scale=scale, use_causal_mask=causal
            )
            self._output(out, *geometry[-2])
            self._output(log, *geometry[-1]).set_data_type(self._cudnn.data_type.FLOAT)
            return [*tensors.values()], [out, log]

        key = ("attention", q.dtype.num, causal, scale, *((tuple(s), tuple(t)) for s, t in geometry))
        return (y, stats) if self._run(key, q, build, [*inputs.values(), y, stats]) else None

    def attention_grad(
        self, g: Any, q: Any, k: Any, v: Any, y: Any, stats: Any, bias: Any, causal: bool, scale: float
    ) -> Any:
        """(dq, dk, dv)"""
        results = [self._xp.empty_like(a) for a in (q, k, v)]
        inputs = {"q": q, "k": k, "v": v, "o": y, "dO": self._xp.ascontiguousarray(g), "stats": stats}
        inputs |= {} if bias is None else {"bias": bias}
        geometry = [_geometry(a) for a in (*inputs.values(), *results)]

        def build(graph: Any) -> tuple[list[Any], list[Any]]:
            tensors = {name: self._tensor(graph, a, name, *_geometry(a)) for name, a in inputs.items()}
            grads = graph.sdpa_backward(
                name="attention_grad", **tensors, attn_scale=scale, use_causal_mask=causal,
                use_deterministic_algorithm=SWITCHES.deterministic,
            )  # fmt: skip
            for t, at in zip(grads, geometry[-3:]):
                self._output(t, *at)
            return [*tensors.values()], list(grads)

        key = ("attention_grad", q.dtype.num, causal, scale, *((tuple(s), tuple(t)) for s, t in geometry))
        return tuple(results) if self._run(key, q, build, [*inputs.values(), *results]) else None

    def attends(self, q: Any, k: Any, v: Any) -> bool:
        """Whether attention of these is cuDNN's case."""
        return bool(SWITCHES.cudnn_attention) and _attends(q, k, v)

    # -- graphs and plans --------------------------------------------------------------------------------------------------

    def _tensor(self, graph: Any, like: Any, name: str, shape: Sequence[int], strides: Sequence[int]) -> Any:
        kind = getattr(self._cudnn.data_type, _TYPES[like.dtype.num])
        return graph.tensor(dim=list(shape), stride=list(strides), data_type=kind, name=name)

    def _output(self, tensor: Any, shape: Sequence[int], strides: Sequence[int]) -> Any:
        return tensor.set_output(True).set_dim(list(shape)).set_stride(list(strides))

    def _run(self, key: Any, like: Any, build: Build, buffers: list[Any]) -> bool:
        """Run the plan for `key` on these arrays, building it at first; False if cuDNN has none."""
        device, key = like.data.device_id, (SWITCHES.deterministic, SWITCHES.benchmark, *key)
        with self._lock:
            if device not in self._handles:
                self._handles[device] = self._cudnn.create_handle()
            handle = self._handles[device]
            if (device, key) not in self._plans:
                self._plans[device, key] = self._planned(handle, like, build)
            plan = self._plans[device, key]
            if plan is None:
                return False
            self._cudnn.set_stream(handle, self._xp.cuda.get_current_stream().ptr)  # does nothing if it is the same
            workspace = (
                self._xp.cuda.alloc(plan.bytes) if plan.bytes else None
            )  # goes back to this stream's pool: safe at once
            pointers = {uid: int(a.data.ptr) for uid, a in zip(plan.uids, buffers)}
            plan.graph.execute(pointers, 0 if workspace is None else workspace.ptr, handle=handle)
        return True

    def _planned(self, handle: Any, like: Any, build: Build) -> _Plan | None:
        graph = self._graph(handle, like)
        inputs, outputs = build(graph)
        try:
            self._finish(graph)
        except (self._cudnn.cudnnGraphNotSupportedError, RuntimeError):  # no engine for it: the plain kernel computes
            return None
        return _Plan(graph, [t.get_uid() for t in (*inputs, *outputs)], graph.get_workspace_size())

    def _graph(self, handle: Any, like: Any) -> Any:
        kinds = self._cudnn.data_type
        io = getattr(kinds, _TYPES[like.dtype.num])
        return self._cudnn.pygraph(
            io_data_type=io, intermediate_data_type=kinds.FLOAT, compute_data_type=kinds.FLOAT, handle=handle
        )

    def _finish(self, graph: Any) -> None:
        """From the description to kernels."""
        heuristic = self._cudnn.heur_mode
        modes = [heuristic.B] * SWITCHES.benchmark + [
            heuristic.A,
            heuristic.FALLBACK,
        ]  # B is slower, and surer of what is fast
        graph.validate()
        graph.build_operation_graph()
        graph.create_execution_plans(modes)
        graph.check_support()
        graph.build_plans()


class _Plan:
    def __init__(self, graph: Any, uids: list[int], workspace: int):
        self.graph, self.uids, self.bytes = graph, uids, workspace


def _attends(q: Any, k: Any, v: Any) -> bool:
    same = q.ndim == k.ndim == v.ndim == 4 and q.shape[:2] == k.shape[:2] == v.shape[:2] and k.shape[2] == v.shape[2]
    return (
        same
        and q.shape[-1] == k.shape[-1] == v.shape[-1] <= _HEAD
        and q.shape[-1] % 8 == 0
        and q.dtype.num in _TWO_BYTES
        and q.dtype == k.dtype == v.dtype
        and bool(q.size and k.size)
        and all(a.strides[-1] == a.itemsize for a in (q, k, v))
    )


def _fits(*arrays: Any) -> bool:
    first = arrays[0]
    return first.dtype.num in _TYPES and first.ndim <= 5 and all(a.size and a.dtype == first.dtype for a in arrays)


def _geometry(a: Any) -> tuple[list[int], list[int]]:
    """Shape and strides, in elements."""
    return list(a.shape), [s // a.itemsize for s in a.strides]


def _spatial(a: Any, more: int) -> tuple[list[int], list[int]]:
    """The same with so many dimensions of length 1 before the spatial ones."""
    shape, strides = _geometry(a)
    step = shape[2] * strides[2]
    return [*shape[:2], *[1] * more, *shape[2:]], [*strides[:2], *[step] * more, *strides[2:]]


def opened(xp: Any) -> DNN | None:
    """cuDNN, if its frontend is installed."""
    try:
        return DNN(xp)
    except MissingLibraryError:
        return None
