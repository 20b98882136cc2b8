"""Ways to start processes, by name. Each is a module of its own, imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from launch.backends.base import Launcher

LAUNCHERS = {
    "local": "launch.backends.local:LocalLauncher",
}


def load_launcher(name: str) -> Launcher:
    module, member = LAUNCHERS[name].split(":")
    return getattr(import_module(module), member)()
