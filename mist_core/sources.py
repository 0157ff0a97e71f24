"""The source files that a script runs: itself and all of this library that it imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

HOME = Path(__file__).parent
TEMPLATES_OF = {  # by the module that fills them
    "report": ("report.html", "report.css", "report.js", "viewer.css", "viewer.js"),
    "describe": ("data_dump.md",),
}


def sources_of(script: Path) -> list[Path]:
    """The script and, through all imports, the modules and templates of this library."""
    found: dict[Path, None] = {}
    ahead = [script]
    while ahead:
        path = ahead.pop()
        if path not in found:
            found[path] = None
            ahead += _imported(path)
    return sorted(found)


def _imported(path: Path) -> Iterator[Path]:
    if path.suffix != ".py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            yield from _files(name)


def _files(module: str) -> Iterator[Path]:
    """The file or the package of a module of this library; nothing for any other name."""
    first, *rest = module.split(".")
    if first != HOME.name:
        return
    place = HOME.joinpath(*rest)
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            yield path
    for template in TEMPLATES_OF.get(rest[0], ()) if rest else ():
        yield HOME / "templates" / template
