"""torchvision.transforms: pictures prepared for a model, with torchvision's random draws."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from typing import Any

import core
from core._tensor import Tensor
from core.errors import ArgumentError
from core.nn import Module
from core.vision.transforms import functional
from core.vision.transforms import functional as F

__all__ = [
    "CenterCrop", "ColorJitter", "Compose", "ConvertImageDtype", "Grayscale", "InterpolationMode", "Lambda", "Normalize",
    "PILToTensor", "Pad",
    "RandomApply", "RandomChoice", "RandomCrop", "RandomErasing", "RandomGrayscale", "RandomHorizontalFlip", "RandomOrder",
    "RandomResizedCrop",
    "RandomRotation", "RandomVerticalFlip", "Resize", "ToPILImage", "ToTensor", "functional",
]  # fmt: skip


class InterpolationMode(enum.Enum):
    """How pixels are made of others."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def _uniform(low: float, high: float) -> Tensor:
    return core.empty(1).uniform_(low, high)


def _integer(high: int) -> int:
    return int(core.randint(0, high, size=(1,)).item())


class Compose:
    """One transformation after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]):
        self.transforms = transforms

    def __call__(self, img: Any) -> Any:
        for t in self.transforms:
            img = t(img)
        return img

    def __repr__(self) -> str:
        return "\n".join([f"{type(self).__name__}(", *(f"    {t}" for t in self.transforms), ")"])


class Lambda:
    """A function as a transformation."""

    def __init__(self, lambd: Callable[[Any], Any]):
        self.lambd = lambd

    def __call__(self, img: Any) -> Any:
        return self.lambd(img)

    def __repr__(self) -> str:
        return "Lambda()"


class ToTensor:
    """A picture as a float tensor (C, H, W) from 0 to 1."""

    def __call__(self, pic: Any) -> Tensor:
        return F.to_tensor(pic)

    def __repr__(self) -> str:
        return "ToTensor()"


class PILToTensor:
    """A picture as a tensor (C, H, W) of its own numbers."""

    def __call__(self, pic: Any) -> Tensor:
        return F.pil_to_tensor(pic)

    def __repr__(self) -> str:
        return "PILToTensor()"


class ToPILImage:
    """A tensor or array as a PIL image."""

    def __init__(self, mode: str | None = None):
        self.mode = mode

    def __call__(self, pic: Any) -> Any:
        return F.to_pil_image(pic, self.mode)


class ConvertImageDtype(Module):
    """Bytes to floats from 0 to 1, or back."""

    def __init__(self, dtype: Any):
        super().__init__()
        self.dtype = dtype

    def forward(self, image: Tensor) -> Tensor:
        return F.convert_image_dtype(image, self.dtype)


class Normalize(Module):
    """(x − mean) / std for each channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], inplace: bool = False):
        super().__init__()
        self.mean, self.std, self.inplace = mean, std, inplace

    def forward(self, tensor: Tensor) -> Tensor:
        return F.normalize(tensor, self.mean, self.std, self.inplace)

    def __repr__(self) -> str:
        return f"Normalize(mean={self.mean}, std={self.std})"


class Resize(Module):
    """To (height, width), or to a length of the shorter edge."""

    def __init__(
        self,
        size: Any,
        interpolation: Any = InterpolationMode.BILINEAR,
        max_size: int | None = None,
        antialias: Any = True,
    ):
        super().__init__()
        self.size, self.interpolation, self.max_size, self.antialias = size, interpolation, max_size, antialias

    def forward(self, img: Any) -> Any:
        return F.resize(img, self.size, self.interpolation, self.max_size, self.antialias)


class CenterCrop(Module):
    """The middle."""

    def __init__(self, size: Any):
        super().__init__()
        self.size = F.size_of(size)

    def forward(self, img: Any) -> Any:
        return F.center_crop(img, self.size)


class Pad(Module):
    """A border."""

    def __init__(self, padding: Any, fill: Any = 0, padding_mode: str = "constant"):
        super().__init__()
        self.padding, self.fill, self.padding_mode = padding, fill, padding_mode

    def forward(self, img: Any) -> Any:
        return F.pad(img, self.padding, self.fill, self.padding_mode)


class Grayscale(Module):
    """Gray, in 1 or 3 equal channels."""

    def __init__(self, num_output_channels: int = 1):
        super().__init__()
        self.num_output_channels = num_output_channels

    def forward(self, img: Any) -> Any:
        return F.rgb_to_grayscale(img, self.num_output_channels)


# -- random --------------------------------------------------------------------------------------------------------------


class RandomHorizontalFlip(Module):
    """Mirrored left to right with probability p."""

    def __init__(self, p: float = 0.5):
        super().__init__()
        self.p = p

    def forward(self, img: Any) -> Any:
        return F.hflip(img) if core.rand(1) < self.p else img


class RandomVerticalFlip(Module):
    """Mirrored top to bottom with probability p."""

    def __init__(self, p: float = 0.5):
        super().__init__()
        self.p = p

    def forward(self, img: Any) -> Any:
        return F.vflip(img) if core.rand(1) < self.p else img


class RandomGrayscale(Module):
    """Gray with probability p, in as many channels as before."""

    def __init__(self, p: float = 0.1):
        super().__init__()
        self.p = p

    def forward(self, img: Any) -> Any:
        channels = F.get_dimensions(img)[0]
        return F.rgb_to_grayscale(img, channels) if core.rand(1) < self.p else img


class RandomCrop(Module):
    """A part at a random place, after `padding`."""

    def __init__(
        self, size: Any, padding: Any = None, pad_if_needed: bool = False, fill: Any = 0, padding_mode: str = "constant"
    ):
        super().__init__()
        self.size, self.padding, self.pad_if_needed = F.size_of(size), padding, pad_if_needed
        self.fill, self.padding_mode = fill, padding_mode

    @staticmethod
    def get_params(img: Any, output_size: Any) -> tuple[int, int, int, int]:
        """(top, left, height, width)"""
        _, h, w = F.get_dimensions(img)
        th, tw = output_size
        if h < th or w < tw:
            raise ArgumentError(
                f"RandomCrop: expected a picture of at least {(th, tw)}, got {(h, w)}; pass padding or pad_if_needed"
            )
        if (w, h) == (tw, th):
            return 0, 0, h, w
        return _integer(h - th + 1), _integer(w - tw + 1), th, tw

    def forward(self, img: Any) -> Any:
        if self.padding is not None:
            img = F.pad(img, self.padding, self.fill, self.padding_mode)
        _, h, w = F.get_dimensions(img)
        if self.pad_if_needed and w < self.size[1]:
            img = F.pad(img, [self.size[1] - w, 0], self.fill, self.padding_mode)
        if self.pad_if_needed and h < self.size[0]:
            img = F.pad(img, [0, self.size[0] - h], self.fill, self.padding_mode)
        return F.crop(img, *self.get_params(img, self.size))


class RandomResizedCrop(Module):
    """A part of random area and aspect ratio, resized."""

    def __init__(
        self,
        size: Any,
        scale: Any = (0.08, 1.0),
        ratio: Any = (3 / 4, 4 / 3),
        interpolation: Any = InterpolationMode.BILINEAR,
        antialias: Any = True,
    ):
        super().__init__()
        self.size, self.scale, self.ratio = F.size_of(size), scale, ratio
        self.interpolation, self.antialias = interpolation, antialias

    @staticmethod
    def get_params(img: Any, scale: Any, ratio: Any) -> tuple[int, int, int, int]:
        """(top, left, height, width)"""
        _, height, width = F.get_dimensions(img)
        for _ in range(10):
            area = height * width * _uniform(scale[0], scale[1]).item()
            aspect = core.exp(_uniform(*core.log(core.tensor(ratio)).tolist())).item()
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return _integer(height - h + 1), _integer(width - w + 1), h, w
        own = width / height
        w = width if own < max(ratio) else round(height * max(ratio))
        h = height if own > min(ratio) else round(width / min(ratio))
        return (height - h) // 2, (width - w) // 2, h, w

    def forward(self, img: Any) -> Any:
        return F.resized_crop(
            img, *self.get_params(img, self.scale, self.ratio), self.size, self.interpolation, self.antialias
        )


class RandomRotation(Module):
    """Turned by an angle, in degrees, from −degrees to degrees, or from the first to the second."""

    def __init__(
        self,
        degrees: Any,
        interpolation: Any = InterpolationMode.NEAREST,
        expand: bool = False,
        center: Any = None,
        fill: Any = 0,
    ):
        super().__init__()
        self.degrees = (
            [-float(degrees), float(degrees)] if isinstance(degrees, (int, float)) else [float(d) for d in degrees]
        )
        self.interpolation, self.expand, self.center, self.fill = interpolation, expand, center, fill

    def forward(self, img: Any) -> Any:
        angle = _uniform(*self.degrees).item()
        return F.rotate(img, angle, self.interpolation, self.expand, self.center, self.fill)


class ColorJitter(Module):
    """Brightness, contrast, saturation and hue changed at random, in random order. A number x means from 1 − x to 1 + x (hue: −x to x)."""

    def __init__(self, brightness: Any = 0, contrast: Any = 0, saturation: Any = 0, hue: Any = 0):
        super().__init__()
        self.brightness, self.contrast, self.saturation = (
            self._range(v, 1.0) for v in (brightness, contrast, saturation)
        )
        self.hue = self._range(hue, 0.0)

    @staticmethod
    def _range(value: Any, centre: float) -> Any:
        if isinstance(value, (int, float)):
            value = [max(centre - value, 0.0) if centre else -value, centre + value]
        return None if value[0] == value[1] == centre else tuple(map(float, value))

    def forward(self, img: Any) -> Any:
        order = core.randperm(4).tolist()
        ranges = (self.brightness, self.contrast, self.saturation, self.hue)
        factors = [None if r is None else _uniform(*r).item() for r in ranges]
        adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
        for k in order:
            if factors[k] is not None:
                img = adjust[k](img, factors[k])
        return img


class RandomErasing(Module):
    """With probability p, a rectangle of a tensor filled with a number, or with normal numbers ("random")."""

    def __init__(
        self, p: float = 0.5, scale: Any = (0.02, 0.33), ratio: Any = (0.3, 3.3), value: Any = 0, inplace: bool = False
    ):
        super().__init__()
        self.p, self.scale, self.ratio, self.value, self.inplace = p, scale, ratio, value, inplace

    def forward(self, img: Tensor) -> Tensor:
        if not core.rand(1) < self.p:
            return img
        c, height, width = img.shape[-3:]
        for _ in range(10):
            area = height * width * _uniform(self.scale[0], self.scale[1]).item()
            aspect = core.exp(_uniform(*core.log(core.tensor(self.ratio)).tolist())).item()
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                v = (
                    core.empty([c, h, w]).normal_()
                    if self.value == "random"
                    else core.tensor(self.value, dtype=core.float32).reshape(-1, 1, 1)
                )
                return F.erase(img, _integer(height - h + 1), _integer(width - w + 1), h, w, v, self.inplace)
        return img


class RandomApply(Module):
    """All of the transformations, with probability p."""

    def __init__(self, transforms: Any, p: float = 0.5):
        super().__init__()
        self.transforms, self.p = transforms, p

    def forward(self, img: Any) -> Any:
        if self.p < core.rand(1):
            return img
        for t in self.transforms:
            img = t(img)
        return img


class RandomOrder:
    """All of the transformations in random order, by Python's random."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]):
        self.transforms = transforms

    def __call__(self, img: Any) -> Any:
        import random

        order = list(range(len(self.transforms)))
        random.shuffle(order)
        for k in order:
            img = self.transforms[k](img)
        return img


class RandomChoice:
    """One of the transformations, by Python's random."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]], p: Any = None):
        self.transforms, self.p = transforms, p

    def __call__(self, img: Any) -> Any:
        import random

        return random.choices(self.transforms, weights=self.p)[0](img)
