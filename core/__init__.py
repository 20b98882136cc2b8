"""A tensor, autograd and neural-network engine with PyTorch's API, on NumPy and CuPy.

`import core` costs next to nothing: the names are loaded together on first use (`core._names` lists them), and so is
each room (`core.nn`, `core.optim`, …).
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_HERE = Path(__file__).parent
_FUNCTIONAL = """
    adaptive_avg_pool1d adaptive_max_pool1d alpha_dropout avg_pool1d bilinear binary_cross_entropy_with_logits celu channel_shuffle
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d cosine_embedding_loss cosine_similarity ctc_loss
    feature_alpha_dropout group_norm hardshrink hinge_embedding_loss kl_div layer_norm margin_ranking_loss max_pool1d max_pool2d
    max_pool3d pairwise_distance pdist pixel_shuffle pixel_unshuffle poisson_nll_loss rms_norm rrelu selu threshold
    triplet_margin_loss
""".split()
_LATER = {  # names whose modules most programs never need
    "load": "core.serialize", "save": "core.serialize", "GradScaler": "core.amp", "_assert": "core.fx",
    **dict.fromkeys(_FUNCTIONAL, "core.nn.functional"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if (_HERE / f"{name}.py").exists() or (_HERE / name / "__init__.py").exists():
        return import_module(f"core.{name}")
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    names = import_module("core._names")
    here = globals()
    for key, value in vars(names).items():
        if not key.startswith("_"):
            here.setdefault(key, value)
    if name not in here:
        raise AttributeError(f"module 'core' has no attribute '{name}'")
    return here[name]


def __dir__() -> list[str]:
    rooms = (p.parent.name for p in _HERE.glob("*/__init__.py"))
    return sorted(
        {*globals(), *_LATER, *(n for n in vars(import_module("core._names")) if not n.startswith("_")), *rooms}
    )
