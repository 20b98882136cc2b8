"""Switches of kernels. Backends read them where they choose a kernel; scripts turn them by `core.backends` and `core.settings`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Switches:
    """The defaults are torch's."""

    matmul_tf32: bool = False  # float32 products on a GPU may round their operands to TF32
    conv_tf32: bool = True  # the same for convolutions
    cudnn: bool = True  # whether cuDNN may compute
    cudnn_attention: bool = True  # the same for attention alone
    benchmark: bool = False  # cuDNN is to choose its kernels with more care: its slower heuristic
    onednn: bool = True  # whether oneDNN may compute
    winograd: bool = True  # whether its 3×3 convolutions may
    deterministic: bool = False  # no kernels whose bits differ from run to run


SWITCHES = Switches()
