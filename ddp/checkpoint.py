"""Checkpoints that survive: whole or not there, checked when read, written aside if wanted, for any number of ranks.

`Checkpointer(folder, model=model, optimizer=opt, …)` saves and restores whatever has `state_dict` and `load_state_dict`, and
the random numbers of each rank. `save`, `async_save` and `load` are torch.distributed.checkpoint's, for a state of one's
own; the files are ours, not torch's.

Contract: rank 0 writes and reads, so one host's disk is enough. A checkpoint is a directory `step-N`, written under
another name, flushed to the disk and then renamed; `latest` names the newest. Killed at any moment, a job leaves the
checkpoints that were complete. A file whose digest is not that of its manifest is refused. DistributedDataParallel is
saved as the module inside, a sharded optimizer as the plain one.
Not here: which samples come next; that is the state of `ddp.DistributedSampler`, told by its `advance`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np

import core
from core._tensor import Tensor, wrap
from core.errors import ArgumentError, CheckpointError
from core.serialize import archive
from ddp import distributed, objects
from ddp.futures import Future
from ddp.group import ProcessGroup
from ddp.parallel import DistributedDataParallel

FORMAT, VERSION = "lockstep checkpoint", 1
_MANIFEST, _STATE, _LATEST = "manifest.json", "state.pth", "latest"
_REPLACED = ".replaced"  # the end of the name of a checkpoint while another takes its place
_PIECE_BYTES = 64 << 20


class Checkpointer:
    """Checkpoints of one training, in one folder. Every rank makes one, and the same calls.

    The newest `keep` stay. With `background` a save copies the state to host memory and returns; a thread writes, and what
    goes wrong there is raised by the next `save` or `wait`.
    """

    def __init__(
        self, folder: Any, *, keep: int = 3, background: bool = False, process_group: Any = None, **parts: Any
    ):
        if keep < 1:
            raise ArgumentError(f"Checkpointer: expected keep >= 1, got {keep}")
        for name, part in parts.items():
            if not hasattr(part, "state_dict") or not hasattr(part, "load_state_dict"):
                raise ArgumentError(
                    f"Checkpointer: expected parts with state_dict and load_state_dict, got {name}, a {type(part).__name__}; "
                    "give plain values to save(extra=…)"
                )
        self.folder, self.keep, self.background = Path(folder), keep, background
        self.parts = {n: p.module if isinstance(p, DistributedDataParallel) else p for n, p in parts.items()}
        self.group = _group(process_group)
        self._writing: Future[None] | None = None

    def save(self, step: int, extra: Any = None) -> None:
        """Save as `step-N`. `extra`: tensors and plain values, the same on all ranks (rank 0's are kept)."""
        self.wait()
        for part in self.parts.values():
            if hasattr(part, "consolidate_state_dict"):
                part.consolidate_state_dict(to=self.group.ranks[0] if self.group else 0)
        random_states = _gathered(_random_state(), self.group)
        if self.group is not None and self.group.rank:
            return
        size = int(self.group.size) if self.group else 1
        state = {
            "step": step, "world_size": size, "extra": extra, "random": random_states,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
        }  # fmt: skip
        if self.background:
            state = _on_host(state)
        self._writing = _do(lambda: self._write(step, state, size), self.background)
        if not self.background:
            self.wait()

    def wait(self) -> None:
        """Return when nothing is being written; raises what went wrong."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.wait()

    def steps(self) -> list[int]:
        """The steps of which there is a complete checkpoint, oldest first, as rank 0's disk has them."""
        for before in self.folder.glob(f".step-*{_REPLACED}"):
            _recover(before.with_name(before.name.removeprefix(".").removesuffix(_REPLACED)))
        found = (p.name.removeprefix("step-") for p in self.folder.glob("step-*") if (p / _MANIFEST).is_file())
        return sorted(int(n) for n in found if n.isdigit())

    def restore(self, step: int | None = None) -> dict[str, Any] | None:
        """Put the newest checkpoint (or that of a step) into the parts. Returns {"step": …, "extra": …}, None if there is none.

        Errors: CheckpointError on every rank for a damaged one; parts that are missing in it or that it has too many.
        """
        self.wait()
        data = _read_together(lambda: self._directory(step), self.group)
        if data is None:
            return None
        state = core.load(io.BytesIO(data), map_location="cpu")
        if state["parts"].keys() != self.parts.keys():
            raise CheckpointError(
                f"restore: expected a checkpoint of {sorted(self.parts)}, got one of {sorted(state['parts'])}; "
                "make the Checkpointer with the same parts"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        rank = self.group.rank if self.group else 0
        if rank < len(state["random"]):  # a rank that is new goes on with numbers of its own
            _set_random_state(state["random"][rank])
        return {"step": state["step"], "extra": state["extra"]}

    # -- rank 0

    def _write(self, step: int, state: Any, world_size: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(".step-*.tmp"):  # by a job that was killed
            shutil.rmtree(left)
        name = f"step-{step}"
        _publish(self.folder / name, state, {"step": step, "world_size": world_size})
        with archive.replaced(self.folder / _LATEST) as file:
            file.write(f"{name}\n".encode())
        for old in [s for s in self.steps() if s != step][: -(self.keep - 1) or None]:
            _discard(self.folder / f"step-{old}")

    def _directory(self, step: int | None) -> Path | None:
        steps = self.steps()
        if step is not None:
            if step not in steps:
                raise CheckpointError(f"restore: expected a step of {steps} in {self.folder}, got {step}")
            return self.folder / f"step-{step}"
        try:
            named = (self.folder / _LATEST).read_text().strip()
        except FileNotFoundError:
            named = ""
        if named.removeprefix("step-").isdigit() and int(named.removeprefix("step-")) in steps:
            return self.folder / named
        return self.folder / f"step-{steps[-1]}" if steps else None


# -- torch.distributed.checkpoint --------------------------------------------------------------------------------------


def save(state_dict: dict[str, Any], *, checkpoint_id: Any, process_group: Any = None, **_: Any) -> None:
    """Rank 0's state into the directory `checkpoint_id`, which is replaced. Every rank calls it, and returns when it is there."""
    group = _group(process_group)
    if group is None or group.rank == 0:
        _publish(Path(checkpoint_id), _plain(state_dict), {"world_size": int(group.size) if group else 1})
    if group is not None:
        group.barrier()


def async_save(state_dict: dict[str, Any], *, checkpoint_id: Any, process_group: Any = None, **_: Any) -> Future[None]:
    """`save` of the state as it is now; the future is done when rank 0 has written it."""
    group = _group(process_group)
    if group is not None and group.rank:
        return _do(lambda: None, False)
    state, size = _on_host(_plain(state_dict)), int(group.size) if group else 1
    return _do(lambda: _publish(Path(checkpoint_id), state, {"world_size": size}), True)


def load(state_dict: dict[str, Any], *, checkpoint_id: Any, process_group: Any = None, **_: Any) -> None:
    """Put what `save` wrote into the tensors and stateful objects of `state_dict`; other values are replaced. In place.

    Errors: CheckpointError, also for a name or shape that the checkpoint does not have.
    """
    data = _read_together(lambda: Path(checkpoint_id), _group(process_group))
    assert data is not None
    _fill(state_dict, core.load(io.BytesIO(data), map_location="cpu"), "load")


def _plain(value: Any) -> Any:
    """The state of stateful objects instead of themselves."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value.state_dict() if hasattr(value, "state_dict") else value


def _fill(mine: dict[str, Any], theirs: dict[str, Any], where: str) -> None:
    for key, value in mine.items():
        if key not in theirs:
            raise CheckpointError(f"{where}: expected {key!r} in the checkpoint, got {sorted(map(str, theirs))}")
        new = theirs[key]
        if isinstance(value, Tensor):
            if value._a.shape != new._a.shape:
                raise CheckpointError(f"{where}: {key}: expected shape {tuple(value.shape)}, got {tuple(new.shape)}")
            value._a[...] = new.to(value.device)._a
            value._bump()
        elif hasattr(value, "load_state_dict"):
            value.load_state_dict(new)
        elif isinstance(value, dict) and isinstance(new, dict) and value:
            _fill(value, new, f"{where}: {key}")
        else:
            mine[key] = new


# -- files -------------------------------------------------------------------------------------------------------------


def _publish(path: Path, state: Any, about: dict[str, Any]) -> None:
    """Write a directory, and let it appear under its name when it is complete and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir()
    core.save(state, aside / _STATE)  # flushed to the disk
    with open(aside / _STATE, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        nbytes = file.tell()
    manifest = {"format": FORMAT, "version": VERSION, "file": _STATE, "bytes": nbytes, "sha256": digest, **about}
    with archive.replaced(aside / _MANIFEST) as file:
        file.write(json.dumps(manifest, indent=1).encode())
    _recover(path)
    before = path.with_name(f".{path.name}{_REPLACED}")
    if path.exists():
        os.rename(path, before)  # killed here: `_recover` finds it
    os.rename(aside, path)
    _flush(path.parent)
    if before.exists():
        shutil.rmtree(before)


def _recover(path: Path) -> None:
    """If a job was killed between the two renames of `_publish`, the checkpoint that was to be replaced is the one that counts."""
    before = path.with_name(f".{path.name}{_REPLACED}")
    if before.exists() and not path.exists():
        os.rename(before, path)
    elif before.exists():
        shutil.rmtree(before)


def _discard(path: Path) -> None:
    """Remove a checkpoint: never is a part of one seen under its name."""
    aside = path.with_name(f".{path.name}.tmp")
    if aside.exists():
        shutil.rmtree(aside)
    os.rename(path, aside)
    shutil.rmtree(aside)


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path) -> bytes:
    """The state's bytes, if they are those that were written."""
    _recover(path)
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        data = (path / _STATE).read_bytes()
    except (OSError, ValueError) as e:
        raise CheckpointError(f"restore: expected a checkpoint in {path}, got none that can be read: {e}") from None
    if not isinstance(manifest, dict) or (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        raise CheckpointError(f"restore: expected a {FORMAT} of version {VERSION} in {path}, got another")
    digest = hashlib.sha256(data).hexdigest()
    if (len(data), digest) != (manifest["bytes"], manifest["sha256"]):
        raise CheckpointError(
            f"restore: expected {manifest['bytes']} bytes of SHA-256 {manifest['sha256'][:16]}… in {path / _STATE}, got {len(data)} of "
            f"{digest[:16]}…; the file is damaged: restore an earlier step"
        )
    return data


# -- ranks -------------------------------------------------------------------------------------------------------------


def _group(process_group: Any) -> ProcessGroup | None:
    """The group, None for a script that has none."""
    if process_group is None and not distributed.is_initialized():
        return None
    return distributed._group(process_group)


def _read_together(directory: Any, group: ProcessGroup | None) -> bytes | None:
    """What rank 0 reads from `directory()`, on every rank; None if that is None. Its error is every rank's."""
    error: CheckpointError | None = None
    data: bytes | None = None
    if group is None or group.rank == 0:
        try:
            path = directory()
            data = None if path is None else _read(path)
        except CheckpointError as e:
            error = e
    if group is not None and group.size > 1:
        told: list[Any] = [str(error) if error else None, None if data is None else len(data)]
        objects.broadcast_object_list(told, group.ranks[0], group)
        if told[0] is not None and error is None:
            error = CheckpointError(f"rank {group.world.rank}: {told[0]}, says rank {group.ranks[0]}")
        if error is None and told[1] is not None:
            whole = np.frombuffer(data, np.uint8).copy() if data is not None else np.empty(told[1], np.uint8)
            for start in range(0, whole.size, _PIECE_BYTES):
                group.broadcast(wrap(whole[start : start + _PIECE_BYTES]), 0)
            data = whole.tobytes()
    if error is not None:
        raise error
    return data


def _gathered(state: dict[str, Any], group: ProcessGroup | None) -> list[dict[str, Any]]:
    """Every rank's state, on rank 0; elsewhere only one's own."""
    if group is None or group.size == 1:
        return [state]
    file = io.BytesIO()
    core.save(state, file)
    mine = np.frombuffer(file.getvalue(), np.uint8)
    sizes = [wrap(np.zeros(1, np.int64)) for _ in range(group.size)]
    group.all_gather(sizes, wrap(np.array([mine.size])))
    longest = max(int(n._a[0]) for n in sizes)
    rows = [wrap(np.empty(longest, np.uint8)) for _ in range(group.size)] if group.rank == 0 else None
    group.gather(wrap(np.pad(mine, (0, longest - mine.size))), rows, 0)
    return [core.load(io.BytesIO(t._a[: int(n._a[0])].tobytes())) for t, n in zip(rows, sizes)] if rows else [state]


# -- state -------------------------------------------------------------------------------------------------------------


def _random_state() -> dict[str, Any]:
    """Of this rank: Lockstep's, NumPy's and Python's generators."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state = {
        "core": core.get_rng_state(),
        "python": [version, list(numbers), gauss],
        "numpy": [str(name), wrap(np.array(keys, dtype=np.int64)), int(position), int(has_gauss), float(cached)],
    }
    if core.cuda.is_available():
        state["cuda"] = core.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    core.set_rng_state(state["core"])
    if "cuda" in state and core.cuda.is_available():
        core.cuda.set_rng_state(state["cuda"])


def _on_host(value: Any) -> Any:
    """A copy that the training cannot change any more, its tensors in host memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = type(value)() if type(value) is not dict else {}
        copied.update((k, _on_host(v)) for k, v in value.items())
        return copied
    if type(value) in (list, tuple):
        return type(value)(_on_host(v) for v in value)
    return value


def _do(task: Any, background: bool) -> Future[None]:
    """Run, here or in a thread. The interpreter does not end before the thread has."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            task()
        except BaseException as e:
            future.set_exception(e)
        else:
            future.set_result(None)

    if background:
        threading.Thread(target=run, name="checkpoint").start()
    else:
        run()
    return future
