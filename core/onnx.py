"""torch.onnx, which this package does not have: a program may import it, and is told when it exports."""

from __future__ import annotations

from typing import Any, NoReturn

from core.errors import CoreError

__all__ = ["dynamo_export", "export", "is_in_onnx_export", "register_custom_op_symbolic"]


def is_in_onnx_export() -> bool:
    """False: nothing is exported."""
    return False


def export(*args: Any, **kwargs: Any) -> NoReturn:
    """An error that says what to do instead."""
    raise CoreError(
        "onnx.export: expected a call that Lockstep has, got an export to ONNX, which it lacks; save the weights with "
        "core.save(model.state_dict(), path) and export where PyTorch is: its load_state_dict(torch.load(path)) takes them"
    )


_export = dynamo_export = register_custom_op_symbolic = export
