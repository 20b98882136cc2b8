"""Which functions and ops are methods of Tensor, and which Python operators they stand for. The table is all there is to it."""

from __future__ import annotations

from typing import Any

from core import dtypes, fft, functions, indexing, linalg, rng
from core._tensor import Tensor
from core.engine import mode
from core.errors import DTypeError, ShapeError
from core.ops import (
    activation,
    arithmetic,
    complex_parts,
    decompose,
    incomplete,
    index,
    nn,
    order,
    pointwise,
    reduce,
    scan,
    shape,
    special,
)
from core.ops import linalg as products
from core.ops.op import OPS, Op

_ROOMS: tuple[Any, ...] = (  # searched in this order
    functions, pointwise, arithmetic, special, incomplete, complex_parts, reduce, scan, order, shape, index, products,
    decompose, linalg, nn, activation, fft,
)  # fmt: skip

METHODS = """
    abs acos acosh add addbmm addcdiv addcmul addmm addmv addr adjoint alias all allclose amax amin aminmax angle any argmax
    argmin argsort argwhere as_strided asin asinh atan atan2 atanh baddbmm bincount bitwise_and bitwise_left_shift bitwise_not
    bitwise_or bitwise_right_shift bitwise_xor bmm broadcast_to ceil cholesky cholesky_inverse cholesky_solve chunk clamp
    clamp_max clamp_min clone conj contiguous copysign corrcoef cos cosh count_nonzero cov cpu cross cuda cummax cummin cumprod
    cumsum deg2rad det diag diag_embed diagflat diagonal diagonal_scatter diff digamma dist div dot dsplit eq equal erf erfc
    erfinv exp exp2 expand expand_as expm1 fill_diagonal_ flatten flip fliplr flipud float_power floor floor_divide fmax fmin fmod
    frac gather gcd ge get_device geqrf gt heaviside histc histogram hsplit hypot i0 igamma igammac index_add index_copy
    index_fill index_put index_select inner is_conj is_nonzero is_pinned is_same_size is_signed isclose isfinite isinf isnan
    isneginf isposinf isreal kron kthvalue lcm ldexp le lerp istft lgamma log log10 log1p log2 log_softmax logaddexp logaddexp2
    logcumsumexp logdet logical_and logical_not logical_or logical_xor logit logsumexp lt masked_fill masked_scatter masked_select
    matmul matrix_exp matrix_power max maximum mean median min minimum mm mode movedim msort mul mv mvlgamma nan_to_num nanmean
    nanmedian nanquantile nansum narrow narrow_copy ne neg nextafter nonzero norm outer permute pin_memory poisson positive pow
    prelu prod put quantile rad2deg ravel reciprocal relu remainder renorm repeat repeat_interleave reshape reshape_as
    resolve_conj roll rot90 round rsqrt scatter scatter_add scatter_reduce select select_scatter sgn sigmoid sign signbit sin sinc
    sinh slice_scatter slogdet softmax sort split sqrt square squeeze std stft sub sum sum_to t take take_along_dim tan tanh
    tensor_split tile to topk trace transpose triangular_solve tril triu trunc type_as unbind unflatten unique unique_consecutive
    unsqueeze var vdot view view_as vsplit xlogy apply_ map_ map2_ frexp nonzero_static as_strided_scatter share_memory_ is_shared
    storage untyped_storage is_set_to set_ resize_ resize_as_ as_strided_ new record_stream
""".split()

# name_ is the op `name` written into the tensor's own memory
INPLACE = """
    abs acos acosh add addcdiv addcmul asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or
    bitwise_right_shift bitwise_xor ceil clamp copy copysign cos cosh cumprod cumsum deg2rad digamma div eq erf erfc erfinv exp
    exp2 expm1 fill floor fmod frac gcd ge gt heaviside hypot i0 igamma igammac lcm le lerp lgamma log log10 log1p log2
    logical_and logical_not logical_or logical_xor logit lt masked_fill maximum minimum mul nan_to_num ne neg nextafter pow
    rad2deg reciprocal relu remainder round rsqrt sgn sigmoid sign sin sinc sinh sqrt square sub tan tanh tril triu trunc xlogy
    zero
""".split()

# name_ is the function `name`, its result then written into the tensor's own memory
COPIED = """
    addbmm addmm addmv addr baddbmm clamp_max clamp_min float_power floor_divide index_add index_copy index_fill index_put ldexp
    masked_scatter mvlgamma polygamma put renorm scatter scatter_add scatter_reduce
""".split()

RESHAPED = "squeeze swapaxes swapdims t transpose unsqueeze".split()  # name_ gives the tensor itself the shape of the view `name`

# other names of methods, which torch has of old or from NumPy
ALIASES = {
    "absolute": "abs", "arccos": "acos", "arccosh": "acosh", "arcsin": "asin", "arcsinh": "asinh", "arctan": "atan", "arctan2": "atan2",
    "arctanh": "atanh", "clip": "clamp", "conj_physical": "conj", "divide": "div", "fix": "trunc", "ger": "outer", "greater": "gt",
    "greater_equal": "ge", "inverse": "inv", "less": "lt", "less_equal": "le", "moveaxis": "movedim", "multiply": "mul", "negative": "neg",
    "not_equal": "ne", "pinverse": "pinv", "split_with_sizes": "split", "subtract": "sub",
    "swapaxes": "transpose", "swapdims": "transpose", "true_divide": "div", "unsafe_chunk": "chunk", "unsafe_split": "split",
    "unsafe_split_with_sizes": "split", "qr": "qr_some", "svd": "svd_some",
    "lu": "old_lu", "lu_solve": "old_lu_solve", "orgqr": "householder_product",
}  # fmt: skip

OPERATORS = {
    "__add__": "add", "__radd__": "add", "__sub__": "sub", "__rsub__": "rsub", "__mul__": "mul", "__rmul__": "mul",
    "__truediv__": "div", "__mod__": "remainder", "__pow__": "pow", "__matmul__": "matmul", "__neg__": "neg", "__abs__": "abs",
    "__eq__": "eq", "__ne__": "ne", "__lt__": "lt", "__le__": "le", "__gt__": "gt", "__ge__": "ge",
    "__and__": "bitwise_and", "__or__": "bitwise_or", "__xor__": "bitwise_xor", "__rand__": "bitwise_and",
    "__ror__": "bitwise_or", "__rxor__": "bitwise_xor", "__invert__": "bitwise_not",
    "__lshift__": "bitwise_left_shift", "__rshift__": "bitwise_right_shift",
}  # fmt: skip

INPLACE_OPERATORS = {
    "__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "div", "__imod__": "remainder", "__ipow__": "pow",
    "__iand__": "bitwise_and", "__ior__": "bitwise_or", "__ixor__": "bitwise_xor", "__ilshift__": "bitwise_left_shift",
    "__irshift__": "bitwise_right_shift",
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


def _operator(op: Any) -> Any:
    """An op of one or two arrays as the function that Python's operator calls: nothing is left to bind."""
    if not isinstance(op, Op) or op.arity > 2 or op.variadic:
        return op
    apply, defaults = op.apply, op.defaults
    if op.arity == 1:
        return lambda x: apply((x,), defaults)
    return lambda x, y: apply((x, y), defaults)


def _inplace(op: Op) -> Any:
    def method(self: Tensor, *args: Any, **params: Any) -> Tensor:
        return op.inplace(self, *args, **params)

    method.__name__ = op.name + "_"
    method.__doc__ = f"In place: {op.__doc__}"
    return method


def _copied(function: Any) -> Any:
    def method(self: Tensor, *args: Any, **params: Any) -> Tensor:
        self._check_inplace(function.__name__)
        # what the function keeps for backward must not be what is about to be overwritten
        source = pointwise.clone(self) if mode.grad and self._requires_grad else self
        y = function(source, *args, **params)
        if y.dtype.category > self.dtype.category:
            raise DTypeError(f"{function.__name__}_: result type {y.dtype} can't be cast to the desired output type {self.dtype}")
        return self.copy_(y)

    method.__name__ = function.__name__ + "_"
    method.__doc__ = f"In place: {function.__doc__}"
    return method


def _reshaped(function: Any) -> Any:
    def method(self: Tensor, *args: Any, **params: Any) -> Tensor:
        self._check_inplace(function.__name__)
        view = function(self, *args, **params)
        self._a = view._a
        if view._requires_grad:
            self._edge = view._graph_edge()
        if self._base is not None:
            self._steps = view._steps
        return self

    method.__name__ = function.__name__ + "_"
    method.__doc__ = f"In place: {function.__doc__}"
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
    op = _operator(find(name))

    def method(self: Tensor, other: Any) -> Tensor:
        return op(other, self)

    method.__name__ = name
    return method


def _transposed_conj(x: Tensor) -> Tensor:
    if x._a.ndim > 2:
        raise ShapeError(f"H: expected a matrix, got shape {tuple(x.shape)}; use mH")
    return functions.adjoint(x)


def bind_operators() -> None:
    """Give Tensor Python's operators. They hold the ops' `apply`, so who replaces that (the profiler) calls this again."""
    for dunder, name in OPERATORS.items():
        setattr(Tensor, dunder, _operator(find(name)))


def bind() -> None:
    """Give Tensor its methods."""
    for name in METHODS:
        setattr(Tensor, name, find(name))
    for name in INPLACE:
        setattr(Tensor, name + "_", _inplace(OPS[name]))
    for name in COPIED:
        setattr(Tensor, name + "_", _copied(find(name)))
    for name, known in ALIASES.items():
        setattr(Tensor, name, find(known))
        if hasattr(Tensor, known + "_"):
            setattr(Tensor, name + "_", getattr(Tensor, known + "_"))
    for name in RESHAPED:
        setattr(Tensor, name + "_", _reshaped(getattr(Tensor, name)))
    bind_operators()
    for dunder, name in INPLACE_OPERATORS.items():
        setattr(Tensor, dunder, getattr(Tensor, name + "_"))
    for name, d in CASTS.items():
        setattr(Tensor, name, _cast(d))
    for fill in ("zeros", "ones", "empty", "full", "tensor"):
        setattr(Tensor, "new_" + fill, _like(fill))
    for name in ("pow", "matmul", "mod"):
        setattr(Tensor, f"__r{name}__", _reversed({"mod": "remainder"}.get(name, name)))
    for name in ("uniform_", "normal_", "random_", "bernoulli_", "exponential_", "multinomial", "bernoulli"):
        setattr(Tensor, name, getattr(rng, name))
    for name in ("cauchy_", "geometric_", "log_normal_"):
        setattr(Tensor, name, getattr(functions, name))
    cls: Any = Tensor
    cls.__getitem__ = indexing.getitem
    cls.__setitem__ = indexing.setitem
    cls.__floordiv__ = lambda x, y: pointwise.div(x, y, rounding_mode="floor")
    cls.__rfloordiv__ = lambda x, y: pointwise.div(y, x, rounding_mode="floor")
    cls.type = functions.type_
    cls.nelement = Tensor.numel
    cls.__rtruediv__ = lambda x, y: pointwise.mul(pointwise.reciprocal(x), y)  # as torch rounds it
    cls.__pos__ = functions.positive
    cls.__reversed__ = lambda x: functions.flip(x, tuple(range(x._a.ndim)))
    cls.__rlshift__ = lambda x, y: arithmetic.bitwise_left_shift(y, x)
    cls.__rrshift__ = lambda x, y: arithmetic.bitwise_right_shift(y, x)
    cls.__ifloordiv__ = cls.floor_divide_
    cls.resolve_neg, cls.conj_physical_ = functions.positive, lambda x: x.copy_(pointwise.conj(x))
    cls.is_neg = cls.is_distributed = lambda x: False
    cls.hardshrink = activation.hardshrink
    cls.sum_to_size = lambda x, *size: index.sum_to(x, shape=shape.shape_of(size))
    cls.unfold = functions.unfold  # torch.nn.functional.unfold is another one
    cls.polygamma = lambda x, n: functions.polygamma(n, x)
    cls.real = property(functions.real, lambda x, value: functions.real(x).copy_(value))
    cls.imag = property(complex_parts.imag, lambda x, value: complex_parts.imag(x).copy_(value))
    cls.H, cls.mH = property(_transposed_conj), property(functions.adjoint)
    cls.where = lambda x, condition, y: functions.where(condition, x, y)
    cls.T = property(lambda x: functions.permute(x, tuple(reversed(range(x._a.ndim)))))
    cls.mT = property(lambda x: shape.transpose(x, dim0=-2, dim1=-1))


bind()
