"""torch.backends.cudnn: switches that can be set and read. Convolutions on a GPU choose their kernels themselves."""

from typing import Any

from core.backend.cuda import is_available

__all__ = ["is_available"]

enabled = True
benchmark = False
benchmark_limit = 10
deterministic = False
allow_tf32 = True


def version() -> Any:
    """None: the library is opened on first use."""
    return None


class flags:
    """`with flags(benchmark=True):` sets switches for a block."""

    def __init__(self, **switches: bool):
        self._switches = switches

    def __enter__(self) -> None:
        here = globals()
        self._before = {name: here[name] for name in self._switches}
        here.update(self._switches)

    def __exit__(self, *exc: object) -> None:
        globals().update(self._before)
