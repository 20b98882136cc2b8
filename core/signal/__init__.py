"""torch.signal: windows."""

from core.signal import windows

__all__ = ["windows"]
