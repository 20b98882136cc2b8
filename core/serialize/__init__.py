"""Saving and loading: PyTorch's .pth files and safetensors, both ways, and nothing in a file ever runs.

`save` writes what `torch.load(f, weights_only=True)` reads; `load` reads what `torch.save` writes. A file names what
it is made of; `load` looks each name up in a closed table (`core.serialize.table`), and what is not there is an error
that names it. A class of your own is loaded only if you say so first, with `add_safe_globals([MyClass])`.

By file: `archive` the zip container and atomic replacement, `unpickle` a pickle reader that only moves data, `table`
what names in a file may stand for, `writing` and `reading` the two directions, `safetensors` the other format.
"""

import core.methods  # Tensor's methods are there, whichever room is entered first
from core.serialize.reading import load
from core.serialize.safetensors import load_safetensors, safetensors_metadata, save_safetensors
from core.serialize.table import Storage, add_safe_globals, clear_safe_globals, get_safe_globals, safe_globals
from core.serialize.writing import save

__all__ = [
    "save", "load", "save_safetensors", "load_safetensors", "safetensors_metadata",
    "add_safe_globals", "get_safe_globals", "clear_safe_globals", "safe_globals", "Storage",
]  # fmt: skip
