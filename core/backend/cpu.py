"""The CPU: NumPy."""

from __future__ import annotations

import numpy as np

from core.backend.base import Backend


class CPUBackend(Backend):
    """The plain implementation on NumPy arrays."""

    device_type = "cpu"
    array_type = np.ndarray
    xp = np
