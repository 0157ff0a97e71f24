"""Small files, written whole or not at all, and read with their mistakes named."""

import csv
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mist_core.errors import DataError


def write_json(path: Path, value: Any) -> None:
    """Write JSON that a person can read, under a temporary name that is then renamed."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text under a temporary name that is then renamed."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; rename it to ``path`` if the block succeeds.

    Readers see the old file or the new one, never a part. The suffix is kept: writers choose the
    format by it. A link at ``path`` is replaced; what it points to stays as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    # A killed process of the same number may have left a link there: never write through it.
    remove(temporary)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        remove(temporary)


def remove_leftovers(path: Path) -> None:
    """Delete what killed processes left of ``replacing``; none may be at work on ``path``."""
    for temporary in path.parent.glob(f".*-{path.name}"):
        remove(temporary)


def remove(path: Path) -> None:
    """Delete a file, a folder, or a link but not what it points to; nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def parts_of(path: Path) -> list[Path]:
    """The file itself, or the files in a folder, such as those of a DICOM series; sorted."""
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]


def read_json(path: Path) -> Any:
    """Read JSON. Raises DataError, naming line and column, when it is malformed or missing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: expected a JSON file, found none. Check the path.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected JSON, found a mistake ({error}). Mend it.") from error


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV under a temporary name that is then renamed."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV; every value stays a string, so that the id 001 is not the number 1.

    Raises DataError when it is missing, not UTF-8, or has two columns of one name.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            names = [name for name in reader.fieldnames or [] if name]
            rows = list(reader)
    except FileNotFoundError:
        raise DataError(f"{path}: expected a CSV file, found none. Check the path.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text in UTF-8, found {error}.") from error
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: expected every column once, found {twice!r} twice. Rename one.")
    return rows
