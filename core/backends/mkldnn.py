"""torch.backends.mkldnn: oneDNN, which computes on a CPU where its library is installed."""

from core.backend.onednn import library as _library

enabled = True


def is_available() -> bool:
    """Whether the library was found."""
    return _library.get() is not None
