"""torch.nn: Modules, parameters, functional forms, initial values."""

from core.nn import functional, init, modules
from core.nn.modules import *  # noqa: F403
from core.nn.modules import __all__ as _layers
from core.nn.parameter import Buffer, Parameter

__all__ = [*_layers, "Buffer", "Parameter", "functional", "init", "modules"]
