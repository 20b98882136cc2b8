"""torch.xpu: Intel's GPUs, of which this package uses none; programs ask."""


def is_available() -> bool:
    """False."""
    return False


def device_count() -> int:
    """0"""
    return 0
