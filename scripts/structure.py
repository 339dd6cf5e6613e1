#!/usr/bin/env python
"""Count rooms, floors, arrows and circles of imports, and some habits of the code.

    python scripts/structure.py

A *room* is a folder at the top of `btm/`. `FLOORS` says which stand below which (docs/design.md): a
module imports from lower floors alone. `tests/test_floors.py` holds that.
"""

import ast
import functools
import io
import re
import sys
import tokenize
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "btm"
FLOORS = [
    ["errors"],
    ["system"],
    ["config", "report"],
    ["models"],
    ["fairseq"],
    ["data"],
    ["forest"],
    ["interop"],
    ["train", "ensemble"],
    ["steps"],
    ["readers"],
    ["launch", "serve", "commons"],
    ["paper"],
    ["cli"],
]


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name."""
    return {_dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """Return the room of a module: the second part of its name, empty for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def floor_of(room: str) -> int:
    """Return the floor of a room, 0 the lowest."""
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


@functools.cache
def imports(path: Path, *, lazy: bool = True) -> tuple[str, ...]:
    """Return all that a file imports, as dotted names; without `lazy` only what is imported with
    the file itself.
    """
    tree = ast.parse(path.read_text())
    found: list[str] = []
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(found)


def graph(*, lazy: bool = True) -> dict[str, set[str]]:
    """Return the modules that each module imports, also for annotations; the package's own
    `__init__` left out.
    """
    known = modules()
    arrows: dict[str, set[str]] = {}
    for module, path in known.items():
        if module == "btm":  # it names homes, and imports nothing before it is asked
            continue
        names = [
            name if name in known else name.rpartition(".")[0] for name in imports(path, lazy=lazy)
        ]
        arrows[module] = {name for name in names if name in known and name not in ("btm", module)}
    return arrows


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import one another (strongly connected components; Tarjan
    1972).
    """
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        stack.append(module)
        for other in arrows[module]:
            if other not in number:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], number[other])
        if low[module] == number[module]:
            at = stack.index(module)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for module in arrows:
        if module not in number:
            visit(module)
    return found


def arrows_of_rooms(arrows: Mapping[str, set[str]]) -> set[tuple[str, str]]:
    """Return the pairs of rooms of which the first imports from the second."""
    pairs = {
        (room_of(module), room_of(other)) for module, others in arrows.items() for other in others
    }
    return {(room, other) for room, other in pairs if room != other}


def habits() -> dict[str, str]:
    """Return what `main` prints of the code's habits."""
    texts = [path.read_text() for path in modules().values()]
    lines = [line for text in texts for line in text.splitlines()]
    comments = [
        token
        for text in texts
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip()
    ]
    docs = [*(ROOT / "docs").glob("*.md")]
    return {
        "lines": f"{len(lines):,}",
        "full-line comments": f"{len(comments)} ({len(comments) / len(lines):.1%})",
        "lines over 100 characters": f"{sum(len(line) > 100 for line in lines)}",
        "dict[str, Any]": str(sum(len(re.findall(r"dict\[str, Any\]", text)) for text in texts)),
        'docstrings "Return what"': str(
            sum(len(re.findall(r'"""Return what', text)) for text in texts)
        ),
        "README lines": str(len((ROOT / "README.md").read_text().splitlines())),
        "words of docs/": f"{sum(len(path.read_text().split()) for path in docs):,}",
    }


def main() -> None:
    """Print the counts."""
    arrows = graph()
    rooms = {room_of(module) for module in arrows}
    sys.setrecursionlimit(10_000)
    print(
        f"rooms {len(rooms)}, floors {len(FLOORS)}, arrows between rooms "
        f"{len(arrows_of_rooms(arrows))}"
    )
    print(f"modules {len(arrows)}, circles of modules {len(circles(arrows))}")
    for name, value in habits().items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
