"""What can be said of cases before they are read for good: wrong headers, labels that occur.

A problem is one line: the file, what was expected, what was found, what to do.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mist_core.dataset import Case
from mist_core.errors import DataError
from mist_core.files import read_json
from mist_core.geometry import Geometry
from mist_core.io import read_geometry, read_labels
from mist_core.labels import value_counts

READERS = 4  # threads: reading is waiting for the disk, and inflating without Python's lock


def misplaced(paths: Sequence[Path], geometries: Sequence[Geometry]) -> list[str]:
    """A problem for every file that is not on the grid of the others, of which most decide."""
    right = max(geometries, key=lambda own: sum(other.matches(own) for other in geometries))
    where = paths[list(geometries).index(right)]
    problems = []
    for path, geometry in zip(paths, geometries, strict=True):
        if not geometry.matches(right):
            apart = (
                f"{geometry.distance_mm(right):.3g} mm apart"
                if geometry.shape == right.shape
                else "different sizes"
            )
            problems.append(
                f"{path}: expected the grid of {where} ({right}), found {geometry}: {apart}. "
                "Resample one onto the other, or mend the header."
            )
    return problems


def problems_of_headers(cases: Sequence[Case]) -> dict[str, list[str]]:
    """What the headers alone show to be wrong, by id; cases without a problem are left out."""
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(_problems_of_header, cases)
        return {case.id: lines for case, lines in zip(cases, found, strict=True) if lines}


def _problems_of_header(case: Case) -> list[str]:
    problems, geometries = [], []
    for path in case.files:
        try:
            geometries.append(read_geometry(path))
        except DataError as error:
            problems.append(str(error))
    return problems or misplaced(case.files, geometries)


def labels_present(cases: Sequence[Case], fingerprints: Path) -> dict[str, frozenset[int]]:
    """The labels above 0 of every case, from its fingerprint or else its label map.

    A label map that cannot be read has none here: the fingerprint will tell.
    """
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda case: _labels_of(case, fingerprints), cases)
        return {case.id: labels for case, labels in zip(cases, found, strict=True)}


def _labels_of(case: Case, fingerprints: Path) -> frozenset[int]:
    known = fingerprints / f"{case.id}.json"
    if known.exists():
        counted = read_json(known)["label_counts"] or ()
        return frozenset(map(int, counted)) - {0, case.ignore_label}
    assert case.mask is not None
    try:
        values, _ = value_counts(read_labels(case.mask).array)
    except DataError:
        return frozenset()
    return frozenset(values.tolist()) - {0, case.ignore_label}
