"""torch.backends.mkldnn: oneDNN, which computes on a CPU where its library is installed.

`enabled`: whether it computes at all. `winograd`: whether 3×3 convolutions of float32 may use a quarter of the multiplications, at five
times the rounding (`core.backend.onednn.winograd`), where that is faster; cuDNN does so on GPUs, too.
"""

from core.backend.onednn import library as _library
from core.backends.switched import switched as _switched

flags = _switched(__name__, {"enabled": "onednn", "winograd": "winograd"})


def is_available() -> bool:
    """Whether the library was found."""
    return _library.get() is not None
