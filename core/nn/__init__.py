"""torch.nn: Modules, parameters, functional forms, initial values, utilities."""

from core import methods as methods  # gives Tensor its methods, which layers use
from core.nn import functional, init, modules, utils
from core.nn.data_parallel import DataParallel
from core.nn.modules import *  # noqa: F403
from core.nn.modules.lazy import UninitializedBuffer, UninitializedParameter
from core.nn.parameter import Buffer, Parameter

del methods

__all__ = [
    *modules.__all__, "Buffer", "DataParallel", "Parameter", "UninitializedBuffer", "UninitializedParameter", "functional",
    "init", "modules", "utils",
]  # fmt: skip
