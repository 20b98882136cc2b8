"""What `core.NAME` can be: the names that torch has at its top level. `core/__init__.py` loads this on first use."""

import types as _types

from core import functions as _functions
from core import methods as _methods
from core import sparse as _sparse
from core import tensor_types as _tensor_types
from core._tensor import Size, Tensor
from core.amp.autocast_mode import autocast
from core.autograd.grad_mode import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from core.backend.threads import get_num_threads, set_num_threads
from core.creation import (
    arange,
    as_tensor,
    asarray,
    bartlett_window,
    blackman_window,
    empty,
    empty_like,
    empty_strided,
    eye,
    from_dlpack,
    from_numpy,
    frombuffer,
    full,
    full_like,
    get_default_device,
    hamming_window,
    hann_window,
    kaiser_window,
    linspace,
    logspace,
    ones,
    ones_like,
    scalar_tensor,
    set_default_device,
    tensor,
    tril_indices,
    triu_indices,
    zeros,
    zeros_like,
)
from core.devices import device
from core.dtypes import (
    bfloat16,
    bool,
    cdouble,
    cfloat,
    complex64,
    complex128,
    double,
    dtype,
    float,
    float16,
    float32,
    float64,
    get_default_dtype,
    half,
    int,
    int8,
    int16,
    int32,
    int64,
    long,
    set_default_dtype,
    short,
    uint8,
    uint16,
    uint32,
    uint64,
)
from core.func import vmap
from core.ops.shape import stack
from core.printing import set_printoptions
from core.rng import (
    Generator,
    bernoulli,
    default_generator,
    fork_rng,
    get_rng_state,
    initial_seed,
    manual_seed,
    multinomial,
    normal,
    rand,
    rand_like,
    randint,
    randn,
    randn_like,
    randperm,
    seed,
    set_rng_state,
)
from core.settings import *  # noqa: F403
from core.sparse import sparse_coo_tensor, spmm

# what is a method and no function of torch's
_METHODS_ONLY = {"cpu", "cuda", "to", "view", "view_as", "repeat", "expand", "expand_as", "contiguous", "type_as", "pin_memory",
        "is_pinned", "get_device", "sum_to", "apply_", "map_", "map2_", "fill_diagonal_", "share_memory_", "is_shared", "storage",
        "untyped_storage", "is_set_to", "set_", "resize_", "new", "record_stream"}  # fmt: skip
# what is a function and no method
_FUNCTIONS_ONLY = """
    atleast_1d atleast_2d atleast_3d binomial block_diag broadcast_shapes broadcast_tensors bucketize cartesian_prod cat cdist
    chain_matmul column_stack lu_unpack combinations complex frobenius_norm pca_lowrank svd_lowrank unravel_index
    cumulative_trapezoid dstack einsum gradient histogramdd hstack imag is_tensor isin meshgrid numel polar polygamma randint_like
    real rsub searchsorted std_mean tensordot trapezoid vander var_mean view_as_complex view_as_real vstack where
""".split()


def _with_torchs_name(f):
    """A function whose first parameter is `input`, as all of torch's: ours are written with x. Only the label differs, so it costs
    nothing to call."""
    code = getattr(f, "__code__", None)
    if code is None or not code.co_argcount or code.co_varnames[0] != "x" or "input" in code.co_varnames:
        return f
    names = {
        k: tuple("input" if n == "x" else n for n in getattr(code, k)) for k in ("co_varnames", "co_cellvars")
    }  # fmt: skip
    made = _types.FunctionType(code.replace(**names), f.__globals__, f.__name__, f.__defaults__, f.__closure__)
    made.__kwdefaults__, made.__doc__, made.__module__, made.__qualname__ = f.__kwdefaults__, f.__doc__, f.__module__, f.__qualname__
    made.__annotations__ = {("input" if k == "x" else k): v for k, v in f.__annotations__.items()}
    return made


for _name in [*_methods.METHODS, *_FUNCTIONS_ONLY]:
    if _name not in _METHODS_ONLY:
        globals()[_name] = _with_torchs_name(_methods.find(_name))
for _name, _known in _methods.ALIASES.items():
    globals()[_name] = _with_torchs_name(_methods.find(_known))
concat = concatenate = _functions.cat
mm = _sparse.mm  # takes sparse matrices, too
detach, detach_, fill, is_inference = Tensor.detach, Tensor.detach_, lambda x, value: x.clone().fill_(value), Tensor.is_inference
row_stack, trapz = _functions.vstack, _functions.trapezoid
for _name in [*_methods.INPLACE, *_methods.ALIASES]:
    if hasattr(Tensor, _name + "_"):
        globals()[_name + "_"] = getattr(Tensor, _name + "_")
globals().update(_tensor_types.CPU)
set_default_tensor_type = _tensor_types.set_default_tensor_type
