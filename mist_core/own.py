"""Networks and losses of the user's own, named ``module:function``.

The module is a file of the folder in which the run was started, or a package that is installed.
"""

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from mist_core.errors import DataError

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_own(name: str) -> bool:
    """Whether a name is of the form ``module:function``."""
    return bool(NAME.fullmatch(name))


def load(name: str) -> Callable[..., Any]:
    """The function. Raises DataError where there is no such module or no such function in it."""
    module, function = name.split(":")
    path = file_of(name)
    found = getattr(_module(module, path), function, None)
    if not callable(found):
        raise _missing(path, function, name)
    return found  # type: ignore[no-any-return]


def check(name: str) -> None:
    """Raise DataError where the module is not there or does not name the function: without running
    it, which would load torch.
    """
    path = file_of(name)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise DataError(
            f"{path}: expected Python, found a mistake in line {error.lineno} ({error.msg}). "
            "Mend it."
        ) from None
    function = name.split(":")[1]
    if function not in {word for node in tree.body for word in _names(node)}:
        raise _missing(path, function, name)


def _names(node: ast.stmt) -> Iterator[str]:
    """What a statement at the head of a module gives a name to."""
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef | ast.ClassDef):
            yield part.name
        elif isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.alias):
            yield part.asname or part.name


def _missing(path: Path, function: str, name: str) -> DataError:
    return DataError(
        f"{path}: expected a function {function}, found none. Write it, or mend "
        f"the name {name} in the config."
    )


def source_of(name: str) -> str:
    """The text of the module and of what it imports beside it, which results depend on; "" for the
    names of this library.
    """
    if not is_own(name):
        return ""
    found: dict[Path, str] = {}
    ahead = [file_of(name)]
    while ahead:
        path = ahead.pop()
        if path not in found:
            found[path] = path.read_text(encoding="utf-8")
            ahead += _beside(path, found[path])
    return "\n".join(found[path] for path in sorted(found))


def file_of(name: str) -> Path:
    """Where the module of a function lies. Raises DataError where there is none."""
    module = name.split(":", maxsplit=1)[0]
    for path in _places(Path.cwd(), module):
        if path.is_file():
            return path
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # of the package that it should be in
        spec = None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise DataError(
            f"config: {name}: expected a file {next(_places(Path.cwd(), module))} or an installed "
            f"module {module}, found neither. Start the run in the folder of the file, or mend the "
            "name."
        )
    return Path(spec.origin)


def _places(folder: Path, module: str) -> Iterator[Path]:
    place = folder.joinpath(*module.split("."))
    yield place.with_suffix(".py")
    yield place / "__init__.py"


def _beside(path: Path, source: str) -> Iterator[Path]:
    """The files that a source imports from its own folder or from that of the run."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = f"{node.module}." if node.module else ""
            names = [base.rstrip("."), *(f"{base}{alias.name}" for alias in node.names)]
        else:
            continue
        for folder in (path.parent, Path.cwd()):
            for name in filter(None, names):
                yield from (place for place in _places(folder, name) if place.is_file())


def _module(module: str, path: Path) -> ModuleType:
    """Import a module once, from a file of the run's folder or from where it is installed.

    The folder comes after all others: a file may have the name of a module that is there already.
    """
    if path not in _places(Path.cwd(), module):
        return importlib.import_module(module)
    for folder in (str(path.parent), str(Path.cwd())):
        if folder not in sys.path:
            sys.path.append(folder)
    if "." in module:  # in a package, whose modules may import each other as such
        return importlib.import_module(module)
    name = f"_own_{module}"
    if name not in sys.modules or sys.modules[name].__file__ != str(path):
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
