"""The rules of docs/architecture.md: who imports whom, how large modules and folders are."""

from __future__ import annotations

import importlib.util
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType

import grimp
import pytest
from importlinter.cli import lint_imports
from places import ROOT

PACKAGES = ("ztcir_sdk", "train", "export", "cli", "benchmarks")
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
MAX_LINES = 500
MAX_MODULES = 20
DATA = {ROOT / "train" / "wordings", ROOT / "ztcir_sdk" / "drawings"}
"""Folders whose modules may be longer: they hold data."""


def load_rooms() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rooms", ROOT / ".ci" / "rooms.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rooms = load_rooms()


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """All imports between modules of the packages, those inside functions too."""
    return grimp.build_graph(*PACKAGES, cache_dir=None)


# --- imports -------------------------------------------------------------------------------------


def find_circle(graph: grimp.ImportGraph) -> list[str]:
    """Return modules, or rooms of one package, that import each other in a circle."""
    between_modules = {
        module: graph.find_modules_directly_imported_by(module) for module in graph.modules
    }
    levels: list[dict[str, set[str]]] = [between_modules]
    for package in graph.modules:
        children = graph.find_children(package)
        levels.append(
            {
                child: {
                    other
                    for other in children - {child}
                    if graph.direct_import_exists(importer=child, imported=other, as_packages=True)
                }
                for child in children
            }
        )
    for imports in levels:
        try:
            TopologicalSorter(imports).prepare()
        except CycleError as error:
            return list(error.args[1])
    return []


def test_nothing_imports_in_a_circle(graph: grimp.ImportGraph) -> None:
    assert find_circle(graph) == []


@pytest.mark.parametrize(
    ("files", "circle"),
    [
        (
            {"a.py": "import home.b", "b.py": "def f():\n    import home.a"},
            {"home.a", "home.b"},
        ),
        (
            {
                "a/x.py": "import home.b.x",
                "b/x.py": "",
                "b/y.py": "import home.a.y",
                "a/y.py": "",
            },
            {"home.a", "home.b"},
        ),
        ({"__init__.py": "import home.a", "a.py": "from home import name"}, {"home", "home.a"}),
        ({"a.py": "import home.b", "b.py": ""}, set()),
    ],
    ids=["inside a function", "between packages", "through the package itself", "none"],
)
def test_a_circle_is_found(
    files: dict[str, str], circle: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "__init__.py").touch()
    for name, text in files.items():
        path = tmp_path / "home" / name
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert set(find_circle(grimp.build_graph("home", cache_dir=None))) == circle


def test_no_module_imports_from_a_package_that_contains_it(graph: grimp.ImportGraph) -> None:
    """For instance for `__version__`, which is in ztcir_sdk/version.py."""
    upward = [
        (module, imported)
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if module.startswith(f"{imported}.")
    ]
    assert upward == []


def test_the_base_modules_import_nothing_of_the_project(graph: grimp.ImportGraph) -> None:
    for name in rooms.BASE:
        assert graph.find_modules_directly_imported_by(f"ztcir_sdk.{name}") == set()


def test_packages_import_only_those_that_they_may() -> None:
    """The contracts of pyproject.toml."""
    assert lint_imports(str(ROOT / "pyproject.toml"), no_cache=True) == 0


# --- sizes ---------------------------------------------------------------------------------------


def test_no_module_is_long() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in MODULES
        if path.parent not in DATA
    }
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_folder_holds_many_modules() -> None:
    modules = [*MODULES, *(ROOT / "tests").rglob("*.py")]
    folders = [path.parent.relative_to(ROOT).as_posix() for path in modules]
    assert {name for name in folders if folders.count(name) > MAX_MODULES} == set()


# --- the page ------------------------------------------------------------------------------------


def test_the_diagram_shows_the_imports_of_the_code() -> None:
    page = rooms.PAGE.read_text(encoding="utf-8")
    assert rooms.REGION.findall(page) == [rooms.diagram()]


def test_the_diagram_leaves_out_arrows_that_follow_from_others() -> None:
    imports = {"a": {"b", "c"}, "b": {"c"}, "c": set[str]()}
    assert list(rooms.direct(imports)) == [("a", "b"), ("b", "c")]


def test_every_room_stands_in_the_table(graph: grimp.ImportGraph) -> None:
    page = rooms.PAGE.read_text(encoding="utf-8")
    rooms_of_page = page.partition("## Who may import whom")[0]
    named = re.findall(r"^\| `([\w.]+)` \| ", rooms_of_page, re.MULTILINE)
    inside = {
        f"{package}.{room}"
        for package in rooms.DRAWN_INSIDE
        for room in rooms.room_imports(graph, package)
    }
    base = {f"ztcir_sdk.{name}" for name in rooms.BASE}
    assert sorted(named) == sorted({*rooms.PACKAGES, *inside} - base)
