"""februus: purify the pictures that a possibly backdoored classifier is asked about.

>>> import februus
>>> data = februus.data.load("signs", "test")
>>> data.num_classes
12
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from februus import data, federated, models, registry
    from februus.purifier import Purifier
    from februus.types import Purified

__all__ = ["Purified", "Purifier", "data", "federated", "models", "registry"]

# Imported at first use: torch and its kin take seconds, which `februus --help` need not wait for.
_HOMES = {"Purified": "februus.types", "Purifier": "februus.purifier"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'februus' has no attribute {name!r}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    return import_module(f"februus.{name}")
