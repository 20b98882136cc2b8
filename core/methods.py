"""Which functions and ops are methods of Tensor, and which Python operators they stand for. The table is all there is to it."""

from __future__ import annotations

from typing import Any

from core import dtypes, functions, indexing, rng
from core._tensor import Tensor
from core.ops import index, linalg, nn, pointwise, reduce, shape
from core.ops.op import Op

_ROOMS: tuple[Any, ...] = (functions, pointwise, reduce, shape, index, linalg, nn)  # searched in this order

METHODS = """
    abs acos add addmm all allclose alias amax amin any argmax argmin argsort asin atan atan2 bitwise_and bitwise_not bitwise_or
    bitwise_xor bmm ceil chunk clamp clone conj contiguous cos cosh cpu cuda cumprod cumsum diagonal div dot eq equal exp expand
    expand_as expm1 flatten flip floor fmod gather ge gt index_select isclose isfinite isinf isnan le log log10 log1p log2 log_softmax
    logical_and logical_not logical_or logical_xor logsumexp lt masked_fill matmul max maximum mean min minimum mm mul mv narrow ne neg
    nonzero norm outer permute pow prod reciprocal relu remainder repeat reshape reshape_as roll round rsqrt scatter scatter_add select
    sgn sigmoid sign sin sinh softmax sort split sqrt square squeeze std sub sum sum_to t tan tanh to topk transpose tril triu trunc
    unbind unsqueeze var view view_as where
""".split()

# name_ is the op `name` written into the tensor's own memory
INPLACE = """
    abs acos add asin atan ceil clamp copy cos cosh div exp expm1 fill floor fmod log log10 log1p log2 masked_fill maximum minimum mul
    neg pow reciprocal relu remainder round rsqrt sgn sigmoid sign sin sinh sqrt square sub tan tanh tril triu trunc zero
""".split()

OPERATORS = {
    "__add__": "add", "__radd__": "add", "__sub__": "sub", "__rsub__": "rsub", "__mul__": "mul", "__rmul__": "mul",
    "__truediv__": "div", "__mod__": "remainder", "__pow__": "pow", "__matmul__": "matmul", "__neg__": "neg", "__abs__": "abs",
    "__eq__": "eq", "__ne__": "ne", "__lt__": "lt", "__le__": "le", "__gt__": "gt", "__ge__": "ge",
    "__and__": "bitwise_and", "__or__": "bitwise_or", "__xor__": "bitwise_xor", "__rand__": "bitwise_and",
    "__ror__": "bitwise_or", "__rxor__": "bitwise_xor", "__invert__": "bitwise_not",
}  # fmt: skip

INPLACE_OPERATORS = {
    "__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "div", "__imod__": "remainder", "__ipow__": "pow",
}  # fmt: skip

CASTS = {
    "bool": dtypes.bool, "byte": dtypes.uint8, "char": dtypes.int8, "short": dtypes.int16, "int": dtypes.int32, "long": dtypes.int64,
    "half": dtypes.float16, "bfloat16": dtypes.bfloat16, "float": dtypes.float32, "double": dtypes.float64, "cfloat": dtypes.complex64,
    "cdouble": dtypes.complex128,
}  # fmt: skip


def find(name: str) -> Any:
    """The function or op of this name."""
    for room in _ROOMS:
        found = vars(room).get(name)
        if found is not None:
            return found
    raise AssertionError(f"no function or op is called {name}")


def _inplace(op: Op) -> Any:
    def method(self: Tensor, *args: Any, **params: Any) -> Tensor:
        return op.inplace(self, *args, **params)

    method.__name__ = op.name + "_"
    method.__doc__ = f"In place: {op.__doc__}"
    return method


def _cast(d: dtypes.dtype) -> Any:
    def method(self: Tensor, memory_format: Any = None) -> Tensor:
        return functions.to(self, d)

    method.__name__, method.__doc__ = d.name, f"As {d}; the tensor itself if it is."
    return method


def _like(fill: str) -> Any:
    """new_zeros, new_ones, new_empty, new_full, new_tensor: made with this tensor's dtype and device."""
    from core import creation

    def method(self: Tensor, *args: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
        make = getattr(creation, fill)
        return make(*args, dtype=dtype or self.dtype, device=device or self.device, requires_grad=requires_grad)

    method.__name__ = "new_" + fill
    return method


def _reversed(name: str) -> Any:
    op = find(name)

    def method(self: Tensor, other: Any) -> Tensor:
        return op(other, self)

    method.__name__ = name
    return method


def bind() -> None:
    """Give Tensor its methods."""
    for name in METHODS:
        setattr(Tensor, name, find(name))
    for name in INPLACE:
        setattr(Tensor, name + "_", _inplace(find(name)))
    for dunder, name in OPERATORS.items():
        setattr(Tensor, dunder, find(name))
    for dunder, name in INPLACE_OPERATORS.items():
        setattr(Tensor, dunder, getattr(Tensor, name + "_"))
    for name, d in CASTS.items():
        setattr(Tensor, name, _cast(d))
    for fill in ("zeros", "ones", "empty", "full", "tensor"):
        setattr(Tensor, "new_" + fill, _like(fill))
    for name in ("truediv", "pow", "matmul", "mod"):
        setattr(Tensor, f"__r{name}__", _reversed({"truediv": "div", "mod": "remainder"}.get(name, name)))
    for name in ("uniform_", "normal_", "random_", "bernoulli_", "exponential_", "multinomial", "bernoulli"):
        setattr(Tensor, name, getattr(rng, name))
    cls: Any = Tensor
    cls.__getitem__ = indexing.getitem
    cls.__setitem__ = indexing.setitem
    cls.__floordiv__ = lambda x, y: pointwise.div(x, y, rounding_mode="floor")
    cls.__rfloordiv__ = lambda x, y: pointwise.div(y, x, rounding_mode="floor")
    cls.type = functions.type_
    cls.where = lambda x, condition, y: functions.where(condition, x, y)
    cls.T = property(lambda x: functions.permute(x, tuple(reversed(range(x._a.ndim)))))
    cls.mT = property(lambda x: shape.transpose(x, dim0=-2, dim1=-1))


bind()
