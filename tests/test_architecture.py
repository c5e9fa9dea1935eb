"""The house's rules that can be read off the source: what imports what, and what every module tells."""

from __future__ import annotations

import ast
import importlib.util
import json
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

# A module imports from its own level or a lower one. A name stands for all that lies below it.
LEVELS: dict[str, int] = {
    "februus.types": 0,
    "februus.checks": 0,
    "februus.registry": 0,
    "februus.metrics": 0,
    "februus.seeds": 0,
    "februus.files": 0,
    "februus.progress": 0,
    "februus.spectra": 0,
    "februus.models": 1,
    "februus.data": 1,
    "februus.triggers": 1,
    "februus.localizers": 1,
    "februus.inpainters": 1,
    "februus.restorers": 1,
    "februus.masks": 1,
    "detectors": 1,
    "februus.poisoning": 2,
    "februus.verification": 2,
    "februus.universal": 2,
    "februus.typicality": 2,
    "februus.priors": 2,
    "februus.presets": 2,
    "februus.purifier": 2,
    "februus.training": 2,
    "februus.panel": 2,
    "februus.evidence": 3,
    "februus.sanitizing": 3,
    "februus.scanning": 3,
    "februus.explanation": 3,
    "februus.federated": 3,
    "februus.benchmark": 4,
    "februus.commands": 5,
    "februus.cli": 5,
    # The package itself may offer what any level has.
    "februus": 6,
}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("februus", "detectors")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def level_of(module: str) -> int | None:
    """Return the level of the longest name in the table that ``module`` lies below."""
    names = [name for name in LEVELS if name == module or (name != "februus" and module.startswith(f"{name}."))]
    return LEVELS[max(names, key=len)] if names else None


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text())


def imports_of(module: str) -> set[str]:
    """Return the modules of this repository that ``module`` imports anywhere, functions included."""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    named = set[str]()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            # `from package import name`: a module where there is one, else something that the package defines.
            named |= {below if (below := f"{base}.{alias.name}") in FILES else base for alias in node.names}
    return {name for name in named if name in FILES}


def exports_of(module: str) -> list[str] | None:
    for node in tree_of(module).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            exports: list[str] = ast.literal_eval(node.value)
            return exports
    return None


def names_in(module: str) -> tuple[set[str], set[str]]:
    """Return the public classes and functions that ``module`` defines, and all names at its top."""
    defined, bound, nodes = set[str](), set[str](), list[ast.stmt](tree_of(module).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If):  # say of TYPE_CHECKING
            nodes += node.body + node.orelse
        elif isinstance(node, DEFINITIONS):
            defined.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name) for alias in node.names}
        elif isinstance(node, ast.Assign):
            bound |= {ast.unparse(target) for target in node.targets}
        elif isinstance(node, ast.AnnAssign):
            bound.add(ast.unparse(node.target))
    return {name for name in defined if not name.startswith("_")}, defined | bound


def is_public(module: str) -> bool:
    return not any(part.startswith("_") for part in module.split("."))


def test_the_files_are_found() -> None:
    assert {"februus", "februus.registry", "februus.triggers.patch", "detectors"} <= set(FILES)
    assert "februus.checks" in imports_of("februus.registry")
    assert {"februus.registry", "februus.types"} <= imports_of("februus.purifier")


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_from_its_own_level_or_a_lower_one(module: str) -> None:
    level = level_of(module)
    assert level is not None, f"{module} has no level; add it to the table here and in DESIGN.md"
    higher = {name for name in imports_of(module) if (level_of(name) or 0) > level}
    assert not higher, f"{module}, of level {level}, imports from higher levels: {sorted(higher)}"


def test_no_module_imports_in_a_circle() -> None:
    try:
        TopologicalSorter({module: imports_of(module) for module in FILES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", [module for module in FILES if module.split(".")[0] == "detectors"])
def test_detectors_know_nothing_of_februus(module: str) -> None:
    assert not {name for name in imports_of(module) if name.split(".")[0] == "februus"}


@pytest.mark.parametrize("module", [module for module in FILES if is_public(module)])
def test_a_public_module_tells_what_it_is_and_what_it_offers(module: str) -> None:
    docstring = ast.get_docstring(tree_of(module)) or ""
    assert docstring.partition("\n")[0].endswith((".", ":", ";")), f"{module} has no docstring, or half a sentence"
    defined, names = names_in(module)
    exports = exports_of(module)
    if exports is None:
        assert not defined, f"{module} defines {sorted(defined)} and has no __all__"
    else:
        assert set(exports) <= names, f"{module} exports what it does not have: {sorted(set(exports) - names)}"
        assert len(set(exports)) == len(exports)


def test_the_families_folders_list_nothing() -> None:
    """A method is one file: nothing in its folder's ``__init__`` names it."""
    for family in ("models.architectures", "triggers", "localizers", "inpainters", "federated.attacks"):
        assert not imports_of(f"februus.{family}")
        assert exports_of(f"februus.{family}") is None


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_calls_the_api_and_defines_nothing(notebook: Path) -> None:
    cells = json.loads(notebook.read_text())["cells"]
    trees = (ast.parse("".join(cell["source"])) for cell in cells if cell["cell_type"] == "code")
    defined = [node for tree in trees for node in ast.walk(tree) if isinstance(node, DEFINITIONS)]
    assert not [node.name for node in defined]


def test_the_rules_can_be_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A module that breaks them is caught: the checks above are no empty ones."""
    sources = {
        "februus.masks.bad": "from februus import purifier\n",
        "februus.masks.one": "def work():\n    import februus.masks.other\n",
        "februus.masks.other": "from .one import work\n",
    }
    for module, source in sources.items():
        path = tmp_path / f"{module}.py"
        path.write_text(source)
        monkeypatch.setitem(FILES, module, path)
    with pytest.raises(AssertionError, match=r"februus\.masks\.bad, of level 1, imports from higher levels"):
        test_a_module_imports_from_its_own_level_or_a_lower_one("februus.masks.bad")
    with pytest.raises(pytest.fail.Exception, match=r"februus\.masks\.(one|other) -> "):
        test_no_module_imports_in_a_circle()
    with pytest.raises(AssertionError, match="has no docstring"):
        test_a_public_module_tells_what_it_is_and_what_it_offers("februus.masks.one")
