"""load: values out of PyTorch's .pth files, the zip format and the one before it (PyTorch < 1.6).

Contract: nothing in a file runs (`core.serialize.unpickle`, `core.serialize.table`); what a file claims is checked
against what it holds before memory is allocated; whatever is wrong is a CheckpointError that names the file.
Source: torch/serialization.py (`_load`, `_legacy_load`, `_get_restore_location`).
"""

from __future__ import annotations

import mmap as mmap_
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from core.devices import device
from core.errors import ArgumentError, CheckpointError, DeviceError
from core.serialize import archive
from core.serialize.table import FileWorld, Storage
from core.serialize.unpickle import Machine

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the format before zip

StorageOf = Callable[[str, str, int], Storage]  # key, location, bytes -> storage


def load(
    f: Any, map_location: Any = None, pickle_module: Any = None, *, weights_only: bool | None = True, mmap: bool | None = None,
    **pickle_load_args: Any,
) -> Any:  # fmt: skip
    """What `save` or `torch.save` wrote to a path or a seekable binary file object.

    `map_location` says where storages go: a device, a dict from the file's devices to others, or a function of
    (storage, device in the file). `weights_only=False` lets a file name classes of Modules, for a model that was saved
    whole: the layers of core.nn and what the program itself has defined or imported, which are made without a call of
    theirs and get their attributes. Other classes must be named by `core.serialize.add_safe_globals`, and none is ever
    imported because a file says so. `mmap` reads a file's storages when they are first used and leaves their checksums
    unchecked; changes are not written back.
    """
    encoding = pickle_load_args.pop("encoding", "utf-8")
    if pickle_module not in (None, pickle) or pickle_load_args:
        raise ArgumentError(
            f"load: expected no pickle_module and no argument but encoding, got {pickle_module!r}, "
            f"{sorted(pickle_load_args)}"
        )
    models = weights_only is False
    if isinstance(f, (str, os.PathLike)):
        with open(f, "rb") as file:
            return _load(file, os.fspath(f), map_location, models, encoding, bool(mmap))
    if mmap:
        raise ArgumentError(f"load: expected a path for mmap=True, got {type(f).__name__}")
    if not all(hasattr(f, name) for name in ("read", "seek", "tell")):
        raise ArgumentError(
            f"load: expected a path or a file object with read, seek and tell, got {type(f).__name__}; wrap it in "
            "io.BytesIO"
        )
    return _load(f, str(getattr(f, "name", type(f).__name__)), map_location, models, encoding, False)


def _load(file: Any, name: str, map_location: Any, models: bool, encoding: str, mapped: bool) -> Any:
    where, start = f"load({name!r})", file.tell()
    head = file.read(4)
    file.seek(start)
    if head == b"PK\3\4":
        return _load_zip(file, where, map_location, models, encoding, mapped)
    if head[:1] == pickle.PROTO:
        if mapped:
            raise ArgumentError(f"{where}: expected the zip format for mmap=True, got the one before it; save it again")
        return _load_legacy(file, where, map_location, models, encoding)
    found = f"bytes that begin with {head!r}" if head else "a file at its end (f.seek(0))" if start else "an empty file"
    raise CheckpointError(
        f"{where}: expected a file of save or torch.save, got {found}; safetensors: core.serialize.load_safetensors"
    )


def _load_zip(file: Any, where: str, map_location: Any, models: bool, encoding: str, mapped: bool) -> Any:
    z = archive.Reader(file, where)
    if "constants.pkl" in z:
        raise CheckpointError(
            f"{where}: expected saved values, got a TorchScript program; save its state_dict() instead"
        )
    order = z.read("byteorder").tobytes().decode("ascii", "replace") if "byteorder" in z else "little"
    if order != sys.byteorder:
        raise CheckpointError(
            f"{where}: expected numbers in {sys.byteorder}-endian order, got {order!r}; load and save it on such a "
            "machine"
        )
    storages: dict[str, Storage] = {}

    def storage(key: str, location: str, nbytes: int) -> Storage:
        found = storages.get(key)
        if found is None:
            start, size = z.span(f"data/{key}")
            if size != nbytes:
                raise CheckpointError(
                    f"storage {key}: expected {nbytes} bytes, got a record of {size}; the file is damaged"
                )
            raw = _map(file, start, size) if mapped else z.read(f"data/{key}")
            found = storages[key] = _placed(Storage(raw), location, map_location)
        if found.nbytes() != nbytes:
            raise CheckpointError(
                f"storage {key}: expected {found.nbytes()} bytes each time, got {nbytes}; the file is damaged"
            )
        return found

    program = z.read("data.pkl").tobytes()
    machine = Machine(program, FileWorld(storage, models), where, encoding=encoding)
    value = machine.run()
    if machine.position != len(program):
        raise CheckpointError(
            f"{where}: expected {machine.position} bytes in data.pkl, got {len(program)}; take another copy"
        )
    return value


def _map(file: Any, start: int, size: int) -> np.ndarray:
    if not size:
        return np.empty(0, np.uint8)
    page = start - start % mmap_.ALLOCATIONGRANULARITY
    pages = mmap_.mmap(file.fileno(), start - page + size, access=mmap_.ACCESS_COPY, offset=page)
    return np.frombuffer(pages, np.uint8, size, start - page)


def _load_legacy(file: Any, where: str, map_location: Any, models: bool, encoding: str) -> Any:
    """Five pickles (magic, version, machine, values, storage keys), then for each key its element count and its bytes.

    The values come before the bytes they stand for, so they are read twice: first to learn how many bytes each storage
    has.
    """
    data = file.read()
    measured: dict[str, tuple[str, Storage]] = {}  # key -> location, room for the bytes
    free = len(data)

    def measure(key: str, location: str, nbytes: int) -> Storage:
        nonlocal free
        if key not in measured:
            free -= nbytes
            if free >= 0:
                measured[key] = (location, Storage(np.zeros(nbytes, np.uint8)))
        if free < 0 or measured[key][1].nbytes() != nbytes:
            raise CheckpointError(
                f"storage {key}: expected bytes that the file holds, got {nbytes}; the file is damaged"
            )
        return measured[key][1]

    def run(storage: StorageOf, position: int) -> tuple[Any, int]:
        machine = Machine(data, FileWorld(storage, models), where, position, encoding)
        return machine.run(), machine.position

    magic, position = run(measure, 0)
    version, position = run(measure, position) if magic == _MAGIC else (None, 0)
    if version != _PROTOCOL:
        raise CheckpointError(
            f"{where}: expected a file of save or torch.save, got a bare pickle; use pickle, if you trust it"
        )
    info, position = run(measure, position)
    if isinstance(info, dict) and info.get("little_endian") is not (sys.byteorder == "little"):
        raise CheckpointError(
            f"{where}: expected numbers in {sys.byteorder}-endian order, got the other; load and save it on such a "
            "machine"
        )
    values = position
    _, position = run(measure, position)
    keys, position = run(measure, position)
    if type(keys) is not list or not all(type(k) is str for k in keys) or sorted(keys) != sorted(measured):
        raise CheckpointError(f"{where}: expected the keys of {len(measured)} storages, got others; take another copy")
    storages: dict[str, Storage] = {}
    for key in keys:
        location, nbytes = measured[key][0], measured[key][1].nbytes()
        position += 8  # the element count, which the values have said already
        raw = np.frombuffer(data, np.uint8, min(nbytes, max(len(data) - position, 0)), min(position, len(data))).copy()
        if raw.nbytes != nbytes:
            raise CheckpointError(
                f"{where}: storage {key}: expected {nbytes} bytes, got {raw.nbytes}; the file is truncated: take "
                "another copy"
            )
        storages[key] = _placed(Storage(raw), location, map_location)
        position += nbytes
    return run(lambda key, location, nbytes: storages[key], values)[0]


def _placed(storage: Storage, location: str, map_location: Any) -> Storage:
    """The storage where it belongs, given where it was when saved."""
    if isinstance(map_location, dict):
        location = str(map_location.get(location, location))
    elif isinstance(map_location, (str, device)):
        location = str(map_location)
    elif callable(map_location):
        moved = map_location(storage, location)
        if isinstance(moved, Storage):
            return moved
        if moved is not None:
            raise ArgumentError(
                "map_location: expected a function that returns the storage, moved or not, or None, got "
                f"{type(moved).__name__}"
            )
    elif map_location is not None:
        raise ArgumentError(
            f"map_location: expected a device, a dict, a function or None, got {type(map_location).__name__}"
        )
    try:
        return storage.to(location)
    except DeviceError as e:
        raise DeviceError(
            f"load: expected the device {location!r} that a storage was saved from, but: {e}; use map_location='cpu'"
        ) from e
