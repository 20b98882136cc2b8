"""Which devices a test runs on: the CPU and the fake GPU always, a real GPU where there is one.

A test module says `device = devices.device` and its tests take `device`: a string for the `device=` of tensors.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core import backend
from core.backend.cuda import is_available


def install_fake(patch: pytest.MonkeyPatch) -> None:
    """Let the fake device be "cuda" until the patch is undone."""
    patch.setitem(backend.BACKENDS, "cuda", "tests.fake_cuda:FakeCUDA")
    patch.setattr(backend, "_open", {k: v for k, v in backend._open.items() if k != "cuda"})
    patch.setattr(backend, "_by_array", dict(backend._by_array))


@pytest.fixture(params=["cpu", "fake", *["cuda"] * is_available()])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "fake":
        install_fake(monkeypatch)
    yield "cuda" if request.param == "fake" else request.param


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> str:
    install_fake(monkeypatch)
    return "cuda"
