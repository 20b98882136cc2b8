"""torch.distributed.elastic.multiprocessing.errors: `@record` around a script's main function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def record(fn: F, error_handler: Any = None) -> F:
    """The function as it is. torchrun needs to be handed an exception through a file; here a rank that raises tells the others
    itself, and ddprun shows its traceback.
    """
    return fn
