"""MobileNetV2: Sandler et al. 2018. Names of parameters as in torchvision."""

from __future__ import annotations

from typing import Any

from core import nn
from core._tensor import Tensor
from core.vision.models._weights import no_weights


def _divisible(v: float, divisor: int = 8) -> int:
    """The nearest multiple, no more than a tenth below v."""
    new = max(divisor, int(v + divisor / 2) // divisor * divisor)
    return new + divisor if new < 0.9 * v else new


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """Widen, convolve each channel, narrow; beside a shortcut where the shape stays."""

    def __init__(self, inp: int, oup: int, stride: int, expand_ratio: int):
        super().__init__()
        hidden = round(inp * expand_ratio)
        self.use_res_connect = stride == 1 and inp == oup
        widen = [_conv(inp, hidden, 1)] if expand_ratio != 1 else []
        self.conv = nn.Sequential(
            *widen, _conv(hidden, hidden, 3, stride, hidden), nn.Conv2d(hidden, oup, 1, bias=False), nn.BatchNorm2d(oup)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


_STAGES = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]  # expand, channels, blocks, stride


class MobileNetV2(nn.Module):
    """(N, 3, H, W) -> (N, num_classes)"""

    def __init__(self, num_classes: int = 1000, width_mult: float = 1.0, dropout: float = 0.2):
        super().__init__()
        channels, self.last_channel = _divisible(32 * width_mult), _divisible(1280 * max(1.0, width_mult))
        layers: list[nn.Module] = [_conv(3, channels, stride=2)]
        for expand, c, blocks, stride in _STAGES:
            out = _divisible(c * width_mult)
            for k in range(blocks):
                layers.append(InvertedResidual(channels, out, stride if k == 0 else 1, expand))
                channels = out
        layers.append(_conv(channels, self.last_channel, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(p=dropout), nn.Linear(self.last_channel, num_classes))
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out")
            elif isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, 0, 0.01)
                nn.init.zeros_(m.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def mobilenet_v2(*, weights: Any = None, progress: bool = True, **options: Any) -> MobileNetV2:
    """MobileNetV2."""
    no_weights(weights)
    return MobileNetV2(**options)
