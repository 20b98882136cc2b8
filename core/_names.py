"""What `core.NAME` can be: the names that torch has at its top level. `core/__init__.py` loads this on first use."""

from core import functions as _functions
from core import methods as _methods
from core import tensor_types as _tensor_types
from core._tensor import Size, Tensor
from core.autograd.grad_mode import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from core.creation import (
    arange,
    as_tensor,
    asarray,
    empty,
    empty_like,
    eye,
    from_numpy,
    full,
    full_like,
    get_default_device,
    linspace,
    ones,
    ones_like,
    set_default_device,
    tensor,
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
from core.ops.shape import stack
from core.settings import *  # noqa: F403
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

# every method that is also a function: torch.exp(x) is x.exp()
for _name in [*_methods.METHODS, "cat", "broadcast_tensors", "is_tensor", "numel", "rsub"]:
    if _name not in (
        "cpu",
        "cuda",
        "to",
        "view",
        "view_as",
        "repeat",
        "expand",
        "expand_as",
        "new_zeros",
        "contiguous",
    ):
        globals()[_name] = _methods.find(_name)
concat = concatenate = _functions.cat
std, var = _functions.std, _functions.var
for _name in _methods.INPLACE:
    globals()[_name + "_"] = getattr(Tensor, _name + "_")
globals().update(_tensor_types.CPU)
set_default_tensor_type = _tensor_types.set_default_tensor_type
