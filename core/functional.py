"""torch.functional: the functions of torch's top level that are composed of others."""

from core.functions.products import cdist, chain_matmul, einsum, tensordot
from core.functions.reduce import norm, unique, unique_consecutive
from core.functions.shape import (
    atleast_1d,
    atleast_2d,
    atleast_3d,
    block_diag,
    broadcast_shapes,
    cartesian_prod,
    meshgrid,
    split,
)

__all__ = [
    "atleast_1d", "atleast_2d", "atleast_3d", "block_diag", "broadcast_shapes", "cartesian_prod", "cdist", "chain_matmul", "einsum",
    "meshgrid",
    "norm", "split", "tensordot", "unique", "unique_consecutive",
]  # fmt: skip
