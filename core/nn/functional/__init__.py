"""torch.nn.functional: layers and losses as functions, each family in its own file."""

from typing import TYPE_CHECKING

from core.nn.functional.activation import *  # noqa: F403
from core.nn.functional.attention import *  # noqa: F403
from core.nn.functional.conv import *  # noqa: F403
from core.nn.functional.dropout import *  # noqa: F403
from core.nn.functional.linear import *  # noqa: F403
from core.nn.functional.loss import *  # noqa: F403
from core.nn.functional.norm import *  # noqa: F403
from core.nn.functional.padding import *  # noqa: F403
from core.nn.functional.pooling import *  # noqa: F403
from core.nn.functional.sparse import *  # noqa: F403
from core.nn.functional.vision import *  # noqa: F403

if not TYPE_CHECKING:  # a checker reads the imports themselves
    __all__ = [name for name, value in globals().items() if callable(value) and name[0] != "_"]
