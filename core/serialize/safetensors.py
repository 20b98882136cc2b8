"""The safetensors format: a JSON header, then the tensors' bytes. Nothing else can be in it, so there is nothing to
guard against but lies about sizes.

Contract: `{name: Tensor}` both ways. Tensors that share memory are written each by itself. What load takes has a
header of at most 100 MB, and tensors that cover the rest of the file exactly, without gaps or overlaps.
Source: https://github.com/huggingface/safetensors (README, "Format").
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from core import dtypes
from core._tensor import Tensor, _moved, wrap
from core.errors import CheckpointError, DTypeError
from core.serialize import archive

MAX_HEADER_BYTES = 100_000_000

_NAMES = {
    "BOOL": dtypes.bool, "U8": dtypes.uint8, "I8": dtypes.int8, "U16": dtypes.uint16, "I16": dtypes.int16,
    "U32": dtypes.uint32, "I32": dtypes.int32, "U64": dtypes.uint64, "I64": dtypes.int64,
    "F16": dtypes.float16, "BF16": dtypes.bfloat16, "F32": dtypes.float32, "F64": dtypes.float64, "C64": dtypes.complex64,
}  # fmt: skip
_NAME_OF = {d: name for name, d in _NAMES.items()}


def save_safetensors(tensors: dict[str, Tensor], path: Any, metadata: dict[str, str] | None = None) -> None:
    """Write tensors by name, and strings by name as metadata. The path is replaced when the new file is complete."""
    if not isinstance(tensors, dict) or not all(
        isinstance(k, str) and isinstance(t, Tensor) for k, t in tensors.items()
    ):
        raise DTypeError(
            "save_safetensors: expected a dict from names to Tensors, got something else; flatten nested dicts first"
        )
    if "__metadata__" in tensors:
        raise CheckpointError(
            "save_safetensors: expected names other than '__metadata__', which is the format's own; rename the tensor"
        )
    header: dict[str, Any] = {}
    if metadata is not None:
        if not all(isinstance(k, str) and isinstance(v, str) for k, v in metadata.items()):
            raise DTypeError(
                f"save_safetensors: expected metadata of strings, got {metadata!r}; convert its values with str()"
            )
        header["__metadata__"] = metadata
    # wide types first: then each tensor begins on a multiple of its item size
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    end = 0
    for name in names:
        t = tensors[name]
        if t.dtype not in _NAME_OF:
            raise DTypeError(
                f"save_safetensors: {name!r}: expected one of {', '.join(d.name for d in _NAME_OF)}, got {t.dtype}; "
                "convert it"
            )
        begin, end = end, end + t.numel() * t.element_size()
        header[name] = {"dtype": _NAME_OF[t.dtype], "shape": list(t.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"save_safetensors: expected a header of at most {MAX_HEADER_BYTES} bytes, got {len(text)}; save several "
            "files"
        )
    with archive.replaced(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(np.ascontiguousarray(tensors[name]._host()).reshape(-1).view(np.uint8))


def load_safetensors(path: Any, device: Any = "cpu") -> dict[str, Tensor]:
    """The tensors of a file by name, each in memory of its own."""
    with open(path, "rb") as file:
        where = f"load_safetensors({str(path)!r})"
        header, start = _header(file, where)
        entries = _checked(header, archive.length_of(file) - start, where)
        tensors = {}
        for name, (dtype, shape, begin, end) in entries.items():
            file.seek(start + begin)
            raw = archive.read_exactly(file, end - begin, f"{where}: {name!r}")
            tensors[name] = wrap(_moved(raw.view(dtype.numpy).reshape(shape), device))
        return tensors


def safetensors_metadata(path: Any) -> dict[str, str]:
    """The metadata of a file."""
    with open(path, "rb") as file:
        return _header(file, f"safetensors_metadata({str(path)!r})")[0].get("__metadata__", {})


def _header(file: Any, where: str) -> tuple[dict[str, Any], int]:
    """The header, and where the tensors' bytes begin."""
    length = archive.length_of(file)
    size = int.from_bytes(file.read(8), "little")
    if length < 8 or not 2 <= size <= min(MAX_HEADER_BYTES, length - 8):
        raise CheckpointError(
            f"{where}: expected a header of 2 to {min(MAX_HEADER_BYTES, length - 8)} bytes, got {size}; no safetensors "
            "file, or truncated"
        )
    text = file.read(size)
    try:
        if text[:1] != b"{":
            raise ValueError(f"it begins with {text[:1]!r}")
        header = json.loads(text.decode(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as e:
        raise CheckpointError(f"{where}: expected a header in JSON, got a damaged one ({e}); take another copy") from e
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{where}: expected metadata of strings, got {str(metadata)[:200]}; take another copy")
    return header, 8 + size


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    d = dict(pairs)
    if len(d) != len(pairs):
        raise ValueError("a name that comes twice")
    return d


def _checked(
    header: dict[str, Any], held: int, where: str
) -> dict[str, tuple[dtypes.dtype, tuple[int, ...], int, int]]:
    """name -> dtype, shape, begin, end, which together cover `held` bytes exactly."""
    entries = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise CheckpointError(
                f"{where}: {name!r}: expected dtype, shape and data_offsets, got {str(entry)[:200]}; take another copy"
            )
        dtype, shape, offsets = _NAMES.get(str(entry["dtype"])), entry["shape"], entry["data_offsets"]
        if dtype is None:
            raise CheckpointError(
                f"{where}: {name!r}: expected one of {', '.join(_NAMES)}, got {str(entry['dtype'])[:50]!r}; convert it"
            )
        if not (_naturals(shape) and len(shape) <= 64 and _naturals(offsets) and len(offsets) == 2):
            raise CheckpointError(
                f"{where}: {name!r}: expected lists of numbers >= 0, got shape {shape}, offsets {offsets}; take "
                "another copy"
            )
        if math.prod(shape) * dtype.itemsize != offsets[1] - offsets[0]:
            raise CheckpointError(
                f"{where}: {name!r}: expected the bytes of shape {shape}, got offsets {offsets}; take another copy"
            )
        entries[name] = (dtype, tuple(shape), offsets[0], offsets[1])
    at = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != at:
            raise CheckpointError(
                f"{where}: {name!r}: expected its bytes to begin at {at}, got {begin}; take another copy"
            )
        at = end
    if at != held:
        raise CheckpointError(
            f"{where}: expected {at} bytes of tensors, got {held}; the file is truncated or has been added to"
        )
    return entries


def _naturals(x: Any) -> bool:
    return isinstance(x, list) and all(type(n) is int and 0 <= n < 2**63 for n in x)
