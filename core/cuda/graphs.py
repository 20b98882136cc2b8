"""CUDA graphs: work is written down once and launched as a whole, which frees a step from Python and from the cost of launches.

What is captured must be the same work each time: no value may come to the host, no shape depend on values, no number that changes between
steps be a Python number. Memory of a captured step lives in a pool of its own as long as the graph does, since every launch writes to the
same addresses.

`GraphedStep` is the whole story for a training step; `graph`, `CUDAGraph` and `make_graphed_callables` are torch's names.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from core import autograd
from core._tensor import Tensor, wrap
from core.cuda import place, streams
from core.errors import ArgumentError, CoreError, ShapeError

_State = threading.local()  # `graph`: what this thread is capturing
_WARM_UP = 3  # calls that compile kernels, make plans and fill the pool


class CUDAGraph:
    """Work that was captured, and its memory."""

    def __init__(self, keep_graph: bool = False):
        self._raw: Any = None
        self._pool: Any = None
        self._contexts: list[Any] = []
        self._launches: Any = (
            None  # uint32 on the device: how often it was launched, if something in it asks; see `launches`
        )
        self._asked = False

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        """From here on work on the current stream, which must not be the default one, is written down and not done."""
        cuda = place.gpu().xp.cuda
        if self._contexts or self._raw is not None:
            raise CoreError("capture_begin: expected a graph that holds nothing, got one that does; reset() it first")
        self._pool = cuda.MemoryPool() if pool is None else pool
        allocator = cuda.using_allocator(place.gpu().memory.counted(self._pool.malloc))
        stream = cuda.get_current_stream()
        allocator.__enter__()
        try:
            self._launches, self._asked = place.gpu().xp.zeros((), np.uint32), False
            self._launches += 1  # its kernel is loaded before the capture
            self._launches.fill(0)
            stream.begin_capture()
        except BaseException:
            allocator.__exit__(None, None, None)
            raise
        self._contexts, _State.graph = [stream, allocator], self

    def capture_end(self) -> None:
        """The end of what is written down. Raises if something in it cannot be captured."""
        if not self._contexts:
            raise CoreError("capture_end: expected a capture that has begun, got none; call capture_begin() first")
        stream, allocator = self._contexts
        self._contexts, _State.graph = [], None
        try:
            if self._asked:
                self._launches += 1
        except Exception:  # the capture is broken already: `end_capture` says by what
            pass
        try:
            self._raw = stream.end_capture()
        finally:
            allocator.__exit__(None, None, None)

    def replay(self) -> None:
        """Do it, on the current stream."""
        if self._raw is None:
            raise CoreError("replay: expected a graph that was captured, got an empty one")
        self._raw.launch(place.gpu().xp.cuda.get_current_stream())

    def reset(self) -> None:
        """Forget it, and its memory."""
        self._raw = self._pool = self._launches = None

    def pool(self) -> Any:
        """Its memory, for graphs that are never launched at the same time to share."""
        return self._pool


def graph_pool_handle() -> Any:
    """Memory for several graphs to share."""
    return place.gpu().xp.cuda.MemoryPool()


def launches() -> Any:
    """Of the graph that this thread is capturing: an array that holds, while the graph runs, how often it ran before. None outside."""
    capturing = getattr(_State, "graph", None)
    if capturing is None:
        return None
    capturing._asked = True
    return capturing._launches


def is_current_stream_capturing() -> bool:
    """Whether work on the current stream is being written down."""
    return place.is_initialized() and bool(place.gpu().xp.cuda.get_current_stream().is_capturing())


class graph:
    """`with graph(g):` the work inside is captured into g, on a stream of its own unless one is given."""

    def __init__(self, cuda_graph: CUDAGraph, pool: Any = None, stream: Any = None, capture_error_mode: str = "global"):
        self._graph, self._pool = cuda_graph, pool
        self._stream = streams.Stream() if stream is None else stream

    def __enter__(self) -> None:
        place.gpu().xp.cuda.runtime.deviceSynchronize()
        gc.collect()
        self._collects = gc.isenabled()
        gc.disable()  # a tensor that dies during the capture may call CUDA
        self._stream.__enter__()
        try:
            self._graph.capture_begin(self._pool)
        except BaseException:
            self._leave()
            raise

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self._graph.capture_end()
        except Exception:
            if error is None:  # else the first error says more
                raise
        finally:
            self._leave()

    def _leave(self) -> None:
        self._stream.__exit__(None, None, None)
        if self._collects:
            gc.enable()


class GraphedStep:
    """`step(*tensors)`, captured once: `graphed = GraphedStep(step, x, y); loss = graphed(x, y)`.

    The tensors given here are examples; calls copy theirs into them, so shapes, dtypes and the device must stay the same. What `step`
    returns is overwritten by the next call: clone it to keep it. It is called `warm_up` times first, for real: that is part of the
    training. Gradients must keep their memory: begin the step with `zero_grad(set_to_none=False)`, or let it make them anew inside.
    """

    def __init__(self, step: Callable[..., Any], *example: Tensor, warm_up: int = _WARM_UP, pool: Any = None):
        self._step = step  # keeps alive what the graph reads and writes: the model, and whatever else `step` knows
        self._inputs = [t.detach().clone() for t in example]
        self._stream, self._graph = streams.Stream(), CUDAGraph()
        self._stream.wait_stream(streams.current_stream())
        with self._stream:
            for _ in range(warm_up):
                step(*self._inputs)
        streams.current_stream().wait_stream(self._stream)
        with graph(self._graph, pool, self._stream):
            self._result = step(*self._inputs)

    def __call__(self, *tensors: Any) -> Any:
        """Tensors of the device, or of the host: pinned ones are copied while the host goes on."""
        _fill(self._inputs, tensors, "GraphedStep")
        self._graph.replay()
        return self._result


def _fill(held: Sequence[Tensor], given: Sequence[Any], where: str) -> None:
    """Copy tensors into those that a graph reads."""
    if len(held) != len(given):
        raise ArgumentError(f"{where}: expected {len(held)} tensors, got {len(given)}")
    be = place.gpu()
    for mine, theirs in zip(held, given):
        if mine._a.shape != theirs._a.shape or mine._a.dtype != theirs._a.dtype:
            raise ShapeError(
                f"{where}: expected {mine.dtype} of shape {tuple(mine.shape)}, as when it was captured, "
                f"got {theirs.dtype} of shape {tuple(theirs.shape)}"
            )
        if isinstance(theirs._a, np.ndarray):
            be.fill_(mine._a, theirs._a)
        elif theirs._a is not mine._a:
            be.xp.copyto(mine._a, theirs._a)


def make_graphed_callables(
    callables: Any,
    sample_args: Any,
    num_warmup_iters: int = _WARM_UP,
    allow_unused_input: bool = False,
    pool: Any = None,
) -> Any:
    """A function or module of tensors (or a tuple of them) whose forward and backward passes are graphs; the result takes part in autograd.

    Each takes tensors by position and returns a tensor or a tuple of them. Hooks of modules run when captured and not again.
    """
    many = isinstance(callables, (tuple, list))
    functions, samples = (callables, sample_args) if many else ((callables,), (sample_args,))
    shared = graph_pool_handle() if pool is None else pool
    graphed = [
        _graphed(f, args, num_warmup_iters, allow_unused_input, shared)
        for f, args in zip(functions, samples, strict=True)
    ]
    return tuple(graphed) if many else graphed[0]


def _graphed(
    f: Callable[..., Any], args: Sequence[Tensor], warm_up: int, allow_unused: bool, pool: Any
) -> Callable[..., Any]:
    parameters = [p for p in f.parameters() if p.requires_grad] if hasattr(f, "parameters") else []
    inputs = [a.detach().clone().requires_grad_(a.requires_grad) for a in args]
    wanted = [t for t in (*inputs, *parameters) if t.requires_grad]
    side = streams.Stream()

    def forward() -> tuple[tuple[Tensor, ...], bool]:
        y = f(*inputs)
        return (y, True) if isinstance(y, tuple) else ((y,), False)

    side.wait_stream(streams.current_stream())
    with side:
        for _ in range(warm_up):
            outputs, several = forward()
            smooth = [y for y in outputs if y.requires_grad]
            if smooth:
                ones = [wrap(place.gpu().xp.ones_like(y._a)) for y in smooth]
                autograd.grad(smooth, wanted, ones, allow_unused=allow_unused)
    streams.current_stream().wait_stream(side)
    there, back = CUDAGraph(), CUDAGraph()
    with graph(there, pool, side):
        outputs, several = forward()
    smooth = [y for y in outputs if y.requires_grad]
    incoming = [wrap(place.gpu().xp.empty_like(y._a)) for y in smooth]
    found: Sequence[Tensor | None] = []
    if smooth:
        with graph(back, pool, side):
            found = autograd.grad(smooth, wanted, incoming, allow_unused=allow_unused)
    by_id = {id(t): g for t, g in zip(wanted, found)}

    class Graphed(autograd.Function):
        @staticmethod
        def forward(ctx: Any, *given: Tensor) -> Any:
            _fill(inputs, [t.detach() for t in given[: len(inputs)]], "graphed callable")
            there.replay()
            return tuple(y.detach().clone() for y in outputs) if several else outputs[0].detach().clone()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            _fill(incoming, [g for g, y in zip(grads, outputs) if y.requires_grad], "graphed callable")
            back.replay()
            results = [by_id.get(id(t)) for t in (*inputs, *parameters)]
            return tuple(None if g is None else g.detach().clone() for g in results)

    def graphed(*given: Tensor) -> Any:
        return Graphed.apply(*given, *parameters)

    graphed.__wrapped__ = f  # type: ignore[attr-defined]  # keeps alive what the graphs read and write, buffers too
    return graphed
