"""The command line: options come from signatures and dataclasses, errors leave in one line with exit code 2."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

from jsonargparse import ActionYesNo, ArgumentError, ArgumentParser

from februus import commands

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``februus`` and return the exit code: 0, 1 where a part failed, 2 where the input was wrong."""
    try:
        chosen = _parser().parse_args(arguments)
        command = commands.COMMANDS[chosen.subcommand]
        with warnings.catch_warnings():
            warnings.showwarning = _warn  # type: ignore[assignment]
            return command(**_values(command, chosen[chosen.subcommand])) or 0
    except (ArgumentError, ValueError, OSError) as error:
        print(f"februus: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("februus: interrupted", file=sys.stderr)
        return 130


def _warn(message: Warning | str, category: type[Warning], *_place: object) -> None:
    """Print a warning that concerns the user in one line; those for developers stay silent."""
    if issubclass(category, UserWarning):
        print(f"februus: warning: {' '.join(str(message).split())}", file=sys.stderr)


class _DashedParser(ArgumentParser):
    """Spells ``--poison_rate`` as ``--poison-rate``, and switches as ``--panels`` and ``--no-panels``."""

    def add_argument(self, *names: str, **options: Any) -> Any:
        if options.get("type") is bool:
            del options["type"]
            options["action"] = ActionYesNo(no_prefix="no-")
        dashed = [name.replace("_", "-") if name.startswith("--") else name for name in names]
        return super().add_argument(*dashed, **options)


def _parser() -> ArgumentParser:
    parser = _DashedParser(prog="februus", description=commands.__doc__, exit_on_error=False)
    subcommands = parser.add_subcommands()
    for name, command in commands.COMMANDS.items():
        title = inspect.getdoc(command) or ""
        child = _DashedParser(description=title.partition("Args:")[0].strip(), exit_on_error=False)
        child.add_argument("--config", action="config", help="YAML file with the options, underscores for dashes.")
        settings = _settings(command)
        for group in settings.values():
            child.add_class_arguments(group, None, as_group=False)
        positional = _positional(command)
        for parameter, kind in positional.items():
            child.add_argument(parameter, type=kind, help=_help(title, parameter))
        child.add_function_arguments(command, as_group=False, skip={*settings, *positional})
        subcommands.add_subcommand(name, child, help=title.splitlines()[0])
    return parser


def _settings(command: Callable[..., Any]) -> dict[str, type[Any]]:
    """Return the parameters that are dataclasses: their fields become options of the command."""
    hints = get_type_hints(command).items()
    return {name: kind for name, kind in hints if isinstance(kind, type) and dataclasses.is_dataclass(kind)}


def _positional(command: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(command).parameters.values()
    names = [item.name for item in parameters if item.kind is item.POSITIONAL_OR_KEYWORD]
    hints = get_type_hints(command)
    return {name: hints[name] for name in names if name not in _settings(command)}


def _values(command: Callable[..., Any], chosen: Any) -> dict[str, Any]:
    values = {name: value for name, value in chosen.items() if name != "config"}
    for parameter, group in _settings(command).items():
        values[parameter] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
    return values


def _help(text: str, parameter: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith(f"{parameter}: ")]
    return lines[0].removeprefix(f"{parameter}: ")


if __name__ == "__main__":
    sys.exit(main())
