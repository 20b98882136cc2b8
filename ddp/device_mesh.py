"""torch.distributed.device_mesh: the ranks as a grid, with a process group along each line of it.

Contract: every rank makes the same meshes in the same order. A mesh places nothing and moves nothing.
Not here: DTensor, FSDP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from core._tensor import Tensor, wrap
from core.errors import ArgumentError
from ddp import distributed
from ddp.group import NON_GROUP_MEMBER, ProcessGroup

Dim = int | str


class DeviceMesh:
    """Ranks in a grid of one or more dimensions, which may have names."""

    def __init__(self, device_type: str, mesh: Any, *, mesh_dim_names: Sequence[str] | None = None, **_: Any):
        if not distributed.is_initialized():
            distributed.init_process_group()
        ranks = np.asarray(mesh._a if isinstance(mesh, Tensor) else mesh)
        names = tuple(mesh_dim_names) if mesh_dim_names is not None else None
        everybody = set(range(distributed.get_world_size()))
        if ranks.ndim < 1 or ranks.size != len(set(ranks.reshape(-1).tolist())) or not set(ranks.flat) <= everybody:
            raise ArgumentError(
                f"DeviceMesh: expected a grid of ranks below {len(everybody)}, each once, got {ranks.tolist()}"
            )
        if names is not None and (len(names) != ranks.ndim or len(set(names)) != len(names)):
            raise ArgumentError(f"DeviceMesh: expected a name for each of {ranks.ndim} dimensions, got {names}")
        self.device_type, self.mesh_dim_names, self._ranks = device_type, names, ranks
        self._groups = [_line_group(ranks, dim) for dim in range(ranks.ndim)]

    @property
    def mesh(self) -> Tensor:
        """The ranks."""
        return wrap(self._ranks.copy())

    @property
    def shape(self) -> tuple[int, ...]:
        return self._ranks.shape

    @property
    def ndim(self) -> int:
        return self._ranks.ndim

    def size(self, mesh_dim: Dim | None = None) -> int:
        """How many ranks there are, in all or along a dimension."""
        return int(self._ranks.size if mesh_dim is None else self._ranks.shape[self._dim(mesh_dim)])

    def get_rank(self) -> int:
        """This process's rank in the world."""
        return distributed.get_rank()

    def get_coordinate(self) -> tuple[int, ...] | None:
        """Where this rank is in the grid; None if it is not."""
        found = np.argwhere(self._ranks == distributed.get_rank())
        return tuple(found[0].tolist()) if len(found) else None

    def get_local_rank(self, mesh_dim: Dim | None = None) -> int:
        """This rank's place along a dimension."""
        here = self.get_coordinate()
        if here is None:
            raise ArgumentError(f"DeviceMesh: expected a rank of the mesh, got {distributed.get_rank()}")
        return int(here[self._dim(mesh_dim)])

    def get_group(self, mesh_dim: Dim | None = None) -> ProcessGroup:
        """The ranks on this rank's line along a dimension."""
        group: ProcessGroup = self._groups[self._dim(mesh_dim)]
        return group

    def get_all_groups(self) -> list[ProcessGroup]:
        """`get_group` of each dimension."""
        return list(self._groups)

    def __getitem__(self, names: str | tuple[str, ...]) -> DeviceMesh:
        """The part of the mesh with these dimensions that this rank is in."""
        dims = [self._dim(name) for name in ((names,) if isinstance(names, str) else names)]
        here = self.get_coordinate()
        if here is None:
            raise ArgumentError(f"DeviceMesh: expected a rank of the mesh, got {distributed.get_rank()}")
        part = object.__new__(DeviceMesh)
        part.device_type = self.device_type
        part.mesh_dim_names = None if self.mesh_dim_names is None else tuple(self.mesh_dim_names[d] for d in dims)
        line = self._ranks[tuple(slice(None) if d in dims else here[d] for d in range(self.ndim))]
        part._ranks = line.transpose(np.argsort(np.argsort(dims)))
        part._groups = [self._groups[d] for d in dims]
        return part

    def __repr__(self) -> str:
        names = f", mesh_dim_names={self.mesh_dim_names}" if self.mesh_dim_names else ""
        return f"DeviceMesh('{self.device_type}', {self._ranks.tolist()}{names})"

    def _dim(self, mesh_dim: Dim | None) -> int:
        if mesh_dim is None and self.ndim == 1:
            return 0
        if isinstance(mesh_dim, str) and mesh_dim in (self.mesh_dim_names or ()):
            return (self.mesh_dim_names or ()).index(mesh_dim)
        if isinstance(mesh_dim, int) and -self.ndim <= mesh_dim < self.ndim:
            return mesh_dim % self.ndim
        known = ", ".join(map(repr, self.mesh_dim_names or range(self.ndim)))
        raise ArgumentError(f"DeviceMesh: expected one of its dimensions, {known}, got {mesh_dim!r}")


def init_device_mesh(
    device_type: str, mesh_shape: Sequence[int], *, mesh_dim_names: Sequence[str] | None = None, **_: Any
) -> DeviceMesh:
    """All ranks in a grid of this shape, row by row."""
    if not distributed.is_initialized():
        distributed.init_process_group()
    size = distributed.get_world_size()
    if int(np.prod(mesh_shape)) != size:
        raise ArgumentError(f"init_device_mesh: expected a shape for {size} ranks, got {tuple(mesh_shape)}")
    return DeviceMesh(device_type, np.arange(size).reshape(tuple(mesh_shape)), mesh_dim_names=mesh_dim_names)


def _line_group(ranks: np.ndarray, dim: int) -> Any:
    """This rank's group along a dimension. All ranks make all groups."""
    lines = np.moveaxis(ranks, dim, -1).reshape(-1, ranks.shape[dim]).tolist()
    groups = [distributed.new_group(line) for line in lines]
    return next((g for g in groups if g is not NON_GROUP_MEMBER), NON_GROUP_MEMBER)
