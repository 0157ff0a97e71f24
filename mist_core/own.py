"""Networks and losses of the user's own, named ``module:function``.

The module is a file of the folder in which the run was started, or a package that is installed.
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
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
    loaded = _from_file(module, path) if path == _here(module) else importlib.import_module(module)
    found = getattr(loaded, function, None)
    if not callable(found):
        raise DataError(
            f"{path}: expected a function {function}, found none. Write it, or mend "
            f"the name {name} in the config."
        )
    return found  # type: ignore[no-any-return]


def source_of(name: str) -> str:
    """The text of the module, which results depend on; "" for the names of this library."""
    return file_of(name).read_text(encoding="utf-8") if is_own(name) else ""


def file_of(name: str) -> Path:
    """Where the module of a function lies. Raises DataError where there is none."""
    module = name.split(":", maxsplit=1)[0]
    path = _here(module)
    if path.is_file():
        return path
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # of the package that it should be in
        spec = None
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        raise DataError(
            f"config: {name}: expected a file {path} or an installed module {module}, found "
            "neither. Start the run in the folder of the file, or mend the name."
        )
    return Path(spec.origin)


def _here(module: str) -> Path:
    return Path(*module.split(".")).absolute().with_suffix(".py")


def _from_file(module: str, path: Path) -> ModuleType:
    """Import a file without putting its folder before all others: ``train.py`` may be there too."""
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(module.replace(".", "_"), path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded
