"""The folder is the registry: a method is one module in its family's folder and needs no other line.

``triggers/blended.py`` with ``__all__ = ["Blended"]`` is the method ``blended`` of the family ``triggers``. A method
is written in text as its name and, where wanted, its options: ``"patch"``, ``"patch:size=5,position=random"``. Commas
in brackets belong to the value: ``"any-of:triggers=[patch:size=5,margin=0][sticker]"``.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
from importlib.abc import InspectLoader
from typing import Any, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from februus.checks import check_choice, mismatch

__all__ = ["FAMILIES", "available", "create", "find", "name_of", "option_of", "options_of", "spec_of"]

FAMILIES = {
    "architectures": "februus.models.architectures",
    "triggers": "februus.triggers",
    "localizers": "februus.localizers",
    "inpainters": "februus.inpainters",
    "restorers": "februus.restorers",
    "presets": "februus.presets",
    "attacks": "februus.federated.attacks",
    "aggregators": "februus.federated.aggregators",
    "engines": "februus.federated.engines",
    "detectors": "detectors",
}


def available(family: str) -> tuple[str, ...]:
    """Return the names of the methods of ``family``, sorted.

    >>> "patch" in available("triggers")
    True
    """
    check_choice("family", family, FAMILIES)
    package = importlib.import_module(FAMILIES[family])
    modules = [module for module in pkgutil.iter_modules(package.__path__) if not module.ispkg]
    names = (module.name for module in modules if not module.name.startswith("_") and _exports_a_class(module))
    return tuple(sorted(name.replace("_", "-") for name in names))


def find(family: str, name: str) -> type[Any]:
    """Return the class that a method's module exports.

    Raises:
        ValueError: if the family or the method does not exist; lists those that do.
    """
    check_choice(family.removesuffix("s"), name, available(family))
    module = importlib.import_module(f"{FAMILIES[family]}.{name.replace('-', '_')}")
    found: type[Any] = getattr(module, module.__all__[0])
    return found


def options_of(method: type[Any]) -> dict[str, inspect.Parameter]:
    """Return the options that a method's constructor takes, by name."""
    return dict(inspect.signature(method).parameters)


def create(family: str, spec: str, **options: Any) -> Any:
    """Build a method from its name and options.

    An option that is called as a family in the singular, such as ``inpainter``, is a method itself and may be given as
    text, ``"paper:inpainter=telea"``.

    Args:
        family: one of `FAMILIES`.
        spec: a name as `available` lists it, or ``name:option=value,option=value``; values are read as the command
            line reads options of their types.
        options: further options; they win over those in ``spec``.

    Raises:
        ValueError: if the family, the method or an option does not exist or a value does not fit.

    >>> create("triggers", "patch:size=5").size
    5
    """
    name, _, text = spec.partition(":")
    method = find(family, name)
    texts = _split(text, spec)
    known = options_of(method)
    for option in (*texts, *options):
        check_choice(f"option of {family.removesuffix('s')} {name}", option, known)
    given = {**_read(texts, method), **options}
    for option, value in given.items():
        if f"{option}s" in FAMILIES and isinstance(value, str):
            given[option] = create(f"{option}s", value)
    missing = [key for key, value in known.items() if value.default is inspect.Parameter.empty and key not in given]
    if missing:
        raise mismatch(f"{family.removesuffix('s')} {name}", f"the option {missing[0]!r}", repr(spec))
    return method(**given)


def name_of(method: Any) -> str:
    """Return the name of a method: its module's.

    >>> name_of(create("inpainters", "mean-fill"))
    'mean-fill'
    """
    return type(method).__module__.rpartition(".")[2].replace("_", "-")


def spec_of(method: Any) -> str:
    """Return the text that `create` builds an equal method from.

    >>> spec_of(create("triggers", "patch:size=5"))
    'patch:size=5'
    """
    changed = (
        f"{field.name}={getattr(method, field.name)}"
        for field in dataclasses.fields(method)
        if field.init and getattr(method, field.name) != field.default
    )
    return ":".join(filter(None, (name_of(method), ",".join(changed))))


def option_of(name: str, value: Any) -> Any:
    """Return the value of an option as a file can hold it: a method as the text that builds it.

    Raises:
        ValueError: if the method is not in the registry.
    """
    family = f"{name}s"
    if family not in FAMILIES:
        return value
    if not type(value).__module__.startswith(f"{FAMILIES[family]}."):
        raise mismatch(name, f"one of {', '.join(available(family))}", repr(value))
    return spec_of(value)


def _exports_a_class(module: pkgutil.ModuleInfo) -> bool:
    """Tell a method from a module of functions, such as `detectors.thresholds`, without importing it."""
    found = module.module_finder.find_spec(module.name, None)
    loader = found.loader if found else None
    source = loader.get_source(found.name) if found and isinstance(loader, InspectLoader) else None
    return bool(source) and re.search(r'^__all__ = \["[A-Z]', source or "", re.MULTILINE) is not None


def _split(text: str, spec: str) -> dict[str, str]:
    options = {}
    for part in filter(None, re.split(r",(?![^\[\]]*\])", text)):
        key, equals, value = part.partition("=")
        if not equals:
            raise mismatch("method", "name:option=value,option=value", repr(spec))
        options[key.strip().replace("-", "_")] = value.strip()
    return options


def _read(texts: dict[str, str], method: type[Any]) -> dict[str, Any]:
    # Of a dataclass, each inherited field's type is a name where its own class stands.
    types = get_type_hints(method if dataclasses.is_dataclass(method) else method.__init__)
    values: dict[str, Any] = {}
    for option, text in texts.items():
        if f"{option}s" in FAMILIES:
            values[option] = text
            continue
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument(f"--{option}", type=types[option])
        try:
            values[option] = parser.parse_args([f"--{option}={text}"])[option]
        except ArgumentError as error:
            raise mismatch(option, getattr(types[option], "__name__", str(types[option])), repr(text)) from error
    return values
