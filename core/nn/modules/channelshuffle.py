"""Channels in another order."""

from __future__ import annotations

from core._tensor import Tensor
from core.nn import functional as F
from core.nn.modules.module import Module


class ChannelShuffle(Module):
    """(N, C, *): the channels of the groups in turn. Zhang et al. 2018."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, input: Tensor) -> Tensor:
        return F.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
