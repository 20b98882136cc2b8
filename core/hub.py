"""torch.hub: models from the network, which this package does not fetch: code from elsewhere would run."""

from __future__ import annotations

from typing import Any

from core.errors import CoreError

__all__ = ["load"]


def load(repo_or_dir: str, model: str, *args: Any, **kwargs: Any) -> Any:
    """An error that says what to do instead."""
    raise CoreError(
        f"hub.load: expected a model that is installed, got {model!r} from {repo_or_dir!r}, whose code would have to be fetched and run; "
        "build the model from core.vision.models or from its source, and load its weights with load_state_dict(core.load(path))"
    )
