"""torch.utils.dlpack: memory shared with other libraries by the DLPack protocol."""

from core.creation import from_dlpack

__all__ = ["from_dlpack", "to_dlpack"]


def to_dlpack(tensor):
    """The tensor's memory as a capsule that another library may take once."""
    return tensor.__dlpack__()
