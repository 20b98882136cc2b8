"""Transformations of single pictures. A picture is a PIL image, an array (H, W) or (H, W, C) of uint8, or a tensor (C, H, W) or (H, W).

PIL images stay PIL images, worked on by PIL; arrays become tensors. PIL is needed only for PIL images. Source of the conventions:
torchvision.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

import core
import core.nn.functional as F
from core._tensor import Tensor, wrap
from core.errors import ArgumentError, DTypeError, MissingLibraryError

RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # PIL's numbers


def pil(what: str) -> Any:
    """The module PIL.Image."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingLibraryError(
            f"{what} needs the library Pillow, which is not installed; pip install pillow"
        ) from None
    return Image


def is_pil(picture: Any) -> bool:
    """Whether the picture is one of PIL's."""
    return type(picture).__module__.startswith("PIL.")


def as_tensor(picture: Any) -> Tensor:
    """An array or tensor as a tensor (C, H, W), or (H, W)."""
    if isinstance(picture, Tensor):
        return picture
    if isinstance(picture, np.ndarray) and picture.ndim in (2, 3):
        return wrap(np.ascontiguousarray(picture if picture.ndim == 2 else picture.transpose(2, 0, 1)))
    raise DTypeError(
        f"transform: expected a PIL image, an array (H, W[, C]) or a tensor (C, H, W), got {type(picture).__name__}"
    )


def get_dimensions(picture: Any) -> list[int]:
    """[channels, height, width]"""
    if is_pil(picture):
        return [len(picture.getbands()), picture.height, picture.width]
    shape = as_tensor(picture).shape
    return [shape[-3] if len(shape) > 2 else 1, shape[-2], shape[-1]]


def get_image_size(picture: Any) -> list[int]:
    """[width, height]"""
    _, h, w = get_dimensions(picture)
    return [w, h]


# -- to and from tensors -------------------------------------------------------------------------------------------------


def pil_to_tensor(picture: Any) -> Tensor:
    """(C, H, W) of the picture's own numbers."""
    if not is_pil(picture):
        t = as_tensor(picture)
        return t.unsqueeze(0) if t.dim() == 2 else t
    modes = {"I": np.int32, "I;16": np.uint16, "F": np.float32}
    a = np.array(picture, modes.get(picture.mode, np.uint8), copy=True)
    return wrap(np.ascontiguousarray((a[:, :, None] if a.ndim == 2 else a).transpose(2, 0, 1)))


def to_tensor(picture: Any) -> Tensor:
    """(C, H, W); bytes become floats from 0 to 1, other numbers stay."""
    t = pil_to_tensor(picture)
    return t.to(core.get_default_dtype()).div(255) if t.dtype is core.uint8 else t


def to_pil_image(picture: Any, mode: str | None = None) -> Any:
    """A PIL image; floats are from 0 to 1."""
    t = as_tensor(picture).detach().cpu()
    t = t.unsqueeze(0) if t.dim() == 2 else t
    a = (t.mul(255).byte() if t.is_floating_point() else t).numpy().transpose(1, 2, 0)
    if a.shape[2] not in (1, 2, 3, 4):
        raise ArgumentError(f"to_pil_image: expected 1 to 4 channels, got {a.shape[2]}")
    image = pil("to_pil_image").fromarray(np.ascontiguousarray(a[:, :, 0] if a.shape[2] == 1 else a))
    return image if mode in (None, image.mode) else image.convert(mode)


def normalize(x: Tensor, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> Tensor:
    """(x − mean) / std for each channel, of a float tensor (…, C, H, W)."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise DTypeError(
            f"normalize: expected a float tensor, got {getattr(x, 'dtype', type(x).__name__)}; use ToTensor first"
        )
    m, s = (core.as_tensor(v, dtype=x.dtype, device=x.device).reshape(-1, 1, 1) for v in (mean, std))
    if (s == 0).any():
        raise ArgumentError(f"normalize: expected std > 0, got {std}")
    return x.sub_(m).div_(s) if inplace else x.sub(m).div_(s)


def convert_image_dtype(x: Tensor, dtype: Any = None) -> Tensor:
    """Bytes (0 … 255) to floats (0 … 1) or back."""
    dtype = core.float32 if dtype is None else dtype
    if x.dtype.is_floating_point == dtype.is_floating_point:
        return x.to(dtype)
    if dtype.is_floating_point:
        return x.to(dtype) / core.iinfo(x.dtype).max
    return x.mul(core.iinfo(dtype).max + 1.0 - 1e-3).to(dtype)


# -- geometry ------------------------------------------------------------------------------------------------------------


def hflip(picture: Any) -> Any:
    """Mirrored left to right."""
    return picture.transpose(0) if is_pil(picture) else as_tensor(picture).flip(-1)


def vflip(picture: Any) -> Any:
    """Mirrored top to bottom."""
    return picture.transpose(1) if is_pil(picture) else as_tensor(picture).flip(-2)


def crop(picture: Any, top: int, left: int, height: int, width: int) -> Any:
    """A part; what lies outside is black."""
    if is_pil(picture):
        return picture.crop((left, top, left + width, top + height))
    t = as_tensor(picture)
    h, w = t.shape[-2:]
    inside = t[..., max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    border = (max(-left, 0), max(left + width - max(w, left), 0), max(-top, 0), max(top + height - max(h, top), 0))
    return F.pad(inside, border) if any(border) else inside


def pad(picture: Any, padding: Any, fill: Any = 0, padding_mode: str = "constant") -> Any:
    """A border: one width, (left and right, top and bottom), or (left, top, right, bottom)."""
    p = (
        [padding] * 4
        if isinstance(padding, int)
        else list(padding) * (2 if len(padding) == 2 else 4 if len(padding) == 1 else 1)
    )
    left, top, right, bottom = p
    if is_pil(picture):
        if padding_mode == "constant":
            from PIL import ImageOps

            return ImageOps.expand(picture, (left, top, right, bottom), fill=fill)
        return to_pil_image(pad(pil_to_tensor(picture), padding, fill, padding_mode), picture.mode)
    t = as_tensor(picture)
    if padding_mode == "constant":
        return F.pad(t, (left, right, top, bottom), value=fill)
    mode = {"edge": "edge", "reflect": "reflect", "symmetric": "symmetric"}[padding_mode]
    return wrap(np.pad(t.numpy(), [(0, 0)] * (t.dim() - 2) + [(top, bottom), (left, right)], mode))


def center_crop(picture: Any, output_size: Any) -> Any:
    """The middle, of (height, width); a smaller picture gets a black border."""
    th, tw = size_of(output_size)
    _, h, w = get_dimensions(picture)
    if th > h or tw > w:
        dy, dx = max(th - h, 0), max(tw - w, 0)
        picture = pad(picture, [dx // 2, dy // 2, (dx + 1) // 2, (dy + 1) // 2])
        _, h, w = get_dimensions(picture)
    return crop(picture, round((h - th) / 2.0), round((w - tw) / 2.0), th, tw)


def size_of(size: Any) -> tuple[int, int]:
    """(height, width) of one length or two."""
    if isinstance(size, numbers.Number):
        return int(size), int(size)  # type: ignore[call-overload]
    return (size[0], size[0]) if len(size) == 1 else (size[0], size[1])


def resize(
    picture: Any, size: Any, interpolation: Any = "bilinear", max_size: int | None = None, antialias: bool = True
) -> Any:
    """To (height, width), or to a length of the shorter edge."""
    _, h, w = get_dimensions(picture)
    if isinstance(size, int) or len(size) == 1:
        short = size if isinstance(size, int) else size[0]
        new_h, new_w = (short, int(short * w / h)) if h <= w else (int(short * h / w), short)
        if max_size is not None and max(new_h, new_w) > max_size:
            new_h, new_w = (
                (int(max_size * new_h / new_w), max_size)
                if new_w > new_h
                else (max_size, int(max_size * new_w / new_h))
            )
    else:
        new_h, new_w = size
    mode = str(getattr(interpolation, "value", interpolation)).lower()
    if (new_h, new_w) == (h, w):
        return picture
    if is_pil(picture):
        return picture.resize((new_w, new_h), RESAMPLING.get(mode, interpolation))
    t = as_tensor(picture)
    x = t.reshape(1, -1, h, w)
    smooth = mode in ("bilinear", "bicubic")
    y = F.interpolate(
        x.float(),
        size=(new_h, new_w),
        mode=mode,
        **({"align_corners": False, "antialias": antialias} if smooth else {}),
    )
    y = y.reshape(*t.shape[:-2], new_h, new_w)
    return y if t.is_floating_point() else y.round().clamp(0, 255).to(t.dtype)


def resized_crop(
    picture: Any,
    top: int,
    left: int,
    height: int,
    width: int,
    size: Any,
    interpolation: Any = "bilinear",
    antialias: bool = True,
) -> Any:
    """A part, resized."""
    return resize(crop(picture, top, left, height, width), size, interpolation, antialias=antialias)


def rotate(
    picture: Any, angle: float, interpolation: Any = "nearest", expand: bool = False, center: Any = None, fill: Any = 0
) -> Any:
    """Turned counter-clockwise, in degrees, about its middle; tensors by the nearest pixel, within their own frame."""
    if is_pil(picture):
        mode = str(getattr(interpolation, "value", interpolation)).lower()
        bands = len(picture.getbands())
        return picture.rotate(
            angle,
            RESAMPLING[mode],
            expand,
            center,
            fillcolor=(fill,) * bands if bands > 1 and isinstance(fill, int) else fill,
        )
    if expand or str(getattr(interpolation, "value", interpolation)).lower() != "nearest":
        raise ArgumentError(
            "rotate: expected interpolation nearest and expand=False for a tensor; convert it by to_pil_image for others"
        )
    t = as_tensor(picture)
    h, w = t.shape[-2:]
    cy, cx = ((h - 1) / 2, (w - 1) / 2) if center is None else (center[1] - 0.5, center[0] - 0.5)
    a = math.radians(angle)
    y, x = np.mgrid[:h, :w].astype(np.float64)
    sx = np.rint(math.cos(a) * (x - cx) - math.sin(a) * (y - cy) + cx).astype(int)
    sy = np.rint(math.sin(a) * (x - cx) + math.cos(a) * (y - cy) + cy).astype(int)
    inside = (sx >= 0) & (sx < w) & (sy >= 0) & (sy < h)
    pixels = t.numpy()[..., sy.clip(0, h - 1), sx.clip(0, w - 1)]
    return wrap(np.where(inside, pixels, np.asarray(fill, dtype=pixels.dtype)))


def erase(x: Tensor, i: int, j: int, h: int, w: int, v: Any, inplace: bool = False) -> Tensor:
    """A rectangle filled with v."""
    x = x if inplace else x.clone()
    x[..., i : i + h, j : j + w] = v
    return x


# -- colour --------------------------------------------------------------------------------------------------------------

_LUMA = (0.2989, 0.587, 0.114)


def _enhanced(picture: Any, kind: str, factor: float) -> Any:
    from PIL import ImageEnhance

    return getattr(ImageEnhance, kind)(picture).enhance(factor)


def _blend(a: Tensor, b: Any, ratio: float) -> Tensor:
    bound = 1.0 if a.is_floating_point() else 255.0
    return (a.float() * ratio + b * (1 - ratio)).clamp(0, bound).to(a.dtype)


def rgb_to_grayscale(picture: Any, num_output_channels: int = 1) -> Any:
    """Gray, in 1 or 3 equal channels."""
    if is_pil(picture):
        gray = picture.convert("L")
        return gray if num_output_channels == 1 else pil("grayscale").merge("RGB", (gray,) * 3)
    t = as_tensor(picture)
    if t.shape[-3] == 1:
        return t.expand(*t.shape[:-3], num_output_channels, *t.shape[-2:])
    r, g, b = t.unbind(-3)
    gray = (_LUMA[0] * r + _LUMA[1] * g + _LUMA[2] * b).to(t.dtype).unsqueeze(-3)
    return gray.expand(t.shape[:-3] + (num_output_channels,) + t.shape[-2:])


to_grayscale = rgb_to_grayscale


def adjust_brightness(picture: Any, factor: float) -> Any:
    """0 is black, 1 the picture itself."""
    return _enhanced(picture, "Brightness", factor) if is_pil(picture) else _blend(as_tensor(picture), 0.0, factor)


def adjust_contrast(picture: Any, factor: float) -> Any:
    """0 is gray throughout, 1 the picture itself."""
    if is_pil(picture):
        return _enhanced(picture, "Contrast", factor)
    t = as_tensor(picture)
    gray = rgb_to_grayscale(t) if t.dim() > 2 and t.shape[-3] == 3 else t
    return _blend(t, gray.float().mean((-3, -2, -1) if t.dim() > 2 else (-2, -1), keepdim=True), factor)


def adjust_saturation(picture: Any, factor: float) -> Any:
    """0 is gray, 1 the picture itself."""
    if is_pil(picture):
        return _enhanced(picture, "Color", factor)
    t = as_tensor(picture)
    return t if t.dim() < 3 or t.shape[-3] == 1 else _blend(t, rgb_to_grayscale(t).float(), factor)


def adjust_hue(picture: Any, factor: float) -> Any:
    """Colours turned around their circle, by −0.5 to 0.5 of it."""
    if not -0.5 <= factor <= 0.5:
        raise ArgumentError(f"adjust_hue: expected a factor from -0.5 to 0.5, got {factor}")
    if is_pil(picture):
        if picture.mode in ("L", "1", "I", "F"):
            return picture
        h, s, v = picture.convert("HSV").split()
        turned = (np.array(h, dtype=np.uint8).astype(np.int32) + int(factor * 255)).astype(np.uint8)
        return pil("adjust_hue").merge("HSV", (pil("adjust_hue").fromarray(turned, "L"), s, v)).convert(picture.mode)
    t = as_tensor(picture)
    if t.dim() < 3 or t.shape[-3] == 1:
        return t
    rgb = (t if t.is_floating_point() else t.float() / 255).numpy()
    turned = _from_hsv(*_to_hsv(rgb, factor))
    return (
        wrap(turned.astype(t.dtype.numpy))
        if t.is_floating_point()
        else wrap((turned * 255).round().astype(t.dtype.numpy))
    )


def _to_hsv(rgb: np.ndarray, turn: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r, g, b = np.moveaxis(rgb, -3, 0)
    top, low = rgb.max(-3), rgb.min(-3)
    span = np.where(top == low, 1, top - low)
    rc, gc, bc = ((top - c) / span for c in (r, g, b))
    h = np.where(top == r, bc - gc, np.where(top == g, 2 + rc - bc, 4 + gc - rc))
    return (h / 6 + 1 + turn) % 1.0, np.where(top == low, 0, (top - low) / np.where(top == 0, 1, top)), top


def _from_hsv(h: np.ndarray, s: np.ndarray, v: np.ndarray) -> np.ndarray:
    f = (h * 6) % 1
    i = np.floor(h * 6).astype(int) % 6
    p, q, t = v * (1 - s), v * (1 - s * f), v * (1 - s * (1 - f))
    return np.stack([np.choose(i, c) for c in ((v, q, p, p, t, v), (t, v, v, q, p, p), (p, p, t, v, v, q))], axis=-3)
