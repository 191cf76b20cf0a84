"""Adapters to other libraries, each loaded on first use: ``hf.interop.nflows``, ``.zuko`` and ``.sklearn``."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["nflows", "sklearn", "zuko"]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}, expected one of {', '.join(__all__)}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
