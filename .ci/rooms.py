"""Draw the rooms of docs/architecture.md from the imports that the packages really have.

    python .ci/rooms.py            write the diagram
    python .ci/rooms.py --check    exit 1 if the page shows another one

An arrow means "imports"; imports inside functions count. Arrows that follow from others are left
out, and so are the modules that every room of the SDK may import.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import grimp

PAGE = Path(__file__).resolve().parents[1] / "docs" / "architecture.md"
PACKAGES = ("cli", "export", "train", "ztcir_sdk")
DRAWN_INSIDE = ("train", "ztcir_sdk")
BASE = ("errors", "files", "lazy_names", "names", "schema", "version")
"""Modules of the SDK that import nothing else."""
REGION = re.compile(r"(?<=<!-- rooms -->\n).*(?=<!-- /rooms -->)", re.DOTALL)

Imports = dict[str, set[str]]


def package_imports(graph: grimp.ImportGraph) -> Imports:
    """Return package -> the packages that it imports."""
    return _grouped(graph, lambda module: module.partition(".")[0])


def room_imports(graph: grimp.ImportGraph, package: str) -> Imports:
    """Return room of a package -> the rooms that it imports."""

    def room(module: str) -> str:
        parts = module.split(".")
        return parts[1] if parts[0] == package and len(parts) > 1 else ""

    return _grouped(graph, room)


def _grouped(graph: grimp.ImportGraph, group: Callable[[str], str]) -> Imports:
    imports: Imports = {name: set() for name in map(group, graph.modules) if name}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            here, there = group(module), group(imported)
            if here and there and here != there:
                imports[here].add(there)
    return imports


def direct(imports: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Yield the arrows that do not follow from others (the transitive reduction)."""

    def reachable(name: str) -> set[str]:
        return imports[name].union(*map(reachable, imports[name]))

    for name in sorted(imports):
        for imported in sorted(imports[name]):
            if not any(imported in reachable(other) for other in imports[name]):
                yield name, imported


def diagram() -> str:
    """Return the diagram as a Mermaid block."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    lines = ["```mermaid", "flowchart TD"]
    for package in DRAWN_INSIDE:
        rooms = room_imports(graph, package)
        shown = {name: rooms[name] - {*BASE} for name in rooms if name not in BASE}
        lines.append(f"  subgraph {package}")
        lines += [f"    {package}.{name}[{name}]" for name in sorted(shown)]
        lines += [f"    {package}.{a} --> {package}.{b}" for a, b in direct(shown)]
        lines.append("  end")
    lines += [f"  {a} --> {b}" for a, b in direct(package_imports(graph))]
    return "\n".join([*lines, "```\n"])


def main() -> int:
    """Write the diagram, or with --check compare it; give the exit code."""
    before = PAGE.read_text(encoding="utf-8")
    after = REGION.sub(lambda found: diagram(), before)
    if before == after:
        return 0
    if "--check" in sys.argv[1:]:
        print(f"{PAGE} shows other rooms: run `python .ci/rooms.py`.", file=sys.stderr)
        return 1
    PAGE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
