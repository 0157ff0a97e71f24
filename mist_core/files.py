"""Small files, written whole or not at all, and read with their mistakes named."""

import csv
import json
import os
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
    format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
    """Read a CSV; every value stays a string, so that the id 001 is not the number 1."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return list(csv.DictReader(stream))
    except FileNotFoundError:
        raise DataError(f"{path}: expected a CSV file, found none. Check the path.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected text in UTF-8, found {error}.") from error
