"""Random numbers of GPUs. What is drawn there, dropout's masks, comes from stateless Philox: a generator for each device names its draws by
(seed, step, shard, call), so nothing is kept on the device and a captured graph can be given fresh numbers at each launch. Inside
`core.philox.drawing_from` that generator names them, with the bits of the CPU.

All other random tensors are drawn on the host by the default generator, and copied.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from core import rng
from core._tensor import Tensor
from core.backend.cuda.philox import Draw
from core.cuda import graphs, place
from core.philox import PhiloxGenerator

_generators: dict[int, PhiloxGenerator] = {}  # by index of the device
_seed = 67280421310721  # torch's, until a seed is given


def generator(where: Any = None) -> PhiloxGenerator:
    """The generator of a device."""
    index = place.index(where)
    found = _generators.get(index)
    if found is None:
        found = _generators[index] = PhiloxGenerator(_seed)
    return found


def manual_seed(seed: int) -> None:
    """Start the current device's numbers over from a seed. Without a GPU it does nothing, as in torch."""
    if place.is_initialized():
        generator().manual_seed(seed)
    else:
        manual_seed_all(seed)  # for whichever will be used first


def manual_seed_all(seed: int) -> None:
    """Start the numbers of every device over from a seed; `core.manual_seed` does so, too."""
    global _seed
    _seed = int(seed)
    _generators.clear()


def seed() -> None:
    """Start the current device's numbers over from a seed of the operating system's."""
    generator().seed()


def seed_all() -> None:
    """The same for every device."""
    manual_seed_all(rng.Generator().seed())


def initial_seed() -> int:
    """The seed that the current device's numbers were last started from."""
    return generator().initial_seed() if place.is_initialized() else _seed


def get_rng_state(device: Any = "cuda") -> Tensor:
    """The state of a device's generator as a byte tensor."""
    return generator(device).get_state()


def set_rng_state(new_state: Tensor, device: Any = "cuda") -> None:
    """Go back to a state that `get_rng_state` returned."""
    generator(device).set_state(new_state)


def get_rng_state_all() -> list[Tensor]:
    """The states of all devices."""
    return [get_rng_state(k) for k in range(place.gpu().count())]


def set_rng_state_all(new_states: Any) -> None:
    """Set the states of all devices."""
    for k, state in enumerate(new_states):
        set_rng_state(state, k)


def dropout_mask(be: Any, index: int, shape: tuple[int, ...], dtype: np.dtype, p: float) -> Any:
    """An array on the device of 0, with probability p, and 1/(1 − p); None where a generator of another kind answers in this thread."""
    g = rng.stand_in.generator or generator(index)
    if not isinstance(g, PhiloxGenerator):
        return None
    with be.xp.cuda.Device(index):
        name = Draw(g.initial_seed(), g.step, g.shard, g.call)
        mask = be.dropout_mask(shape, dtype, p, name, graphs.launches())
        if mask is not None:
            g.call += 1
            return mask
        keep = g.uniform(math.prod(shape), np.dtype(np.float64)) < 1 - p  # no kernels: the same bits from the host
        return be.from_numpy((keep.reshape(shape) * (0 if p == 1 else 1 / (1 - p))).astype(dtype), index)


def dropout_add(be: Any, index: int, dtype: np.dtype, p: float) -> Any:
    """What `core.ops.chains.dropout_add` draws with, by the name of the device's next draw; None where `dropout_mask` would not draw on
    the device."""
    g = rng.stand_in.generator or generator(index)
    if not isinstance(g, PhiloxGenerator) or not be.draws(dtype):
        return None
    name = Draw(g.initial_seed(), g.step, g.shard, g.call)
    advance = graphs.launches()
    g.call += 1
    return lambda be, x, residual, scale: be.dropout_add(x, residual, scale, p, name, advance)


rng.seeded.append(manual_seed_all)
