"""Which case is held out when. Sticky: a case keeps its fold when others come or go."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from mist_core.errors import DataError
from mist_core.files import read_json, write_json


def assign_folds(
    patients: Iterable[str], n_folds: int, recorded: Mapping[str, int]
) -> dict[str, int]:
    """Give every patient a fold in 0..n_folds-1; recorded patients keep theirs.

    New patients go, in an order that depends on their ids only, to the smallest fold: the same
    patients get the same folds on every machine, and no fold is larger than another by more than
    one when all are new.
    """
    patients = sorted(set(patients))
    folds = {p: recorded[p] for p in patients if p in recorded}
    sizes = Counter(folds.values())
    for patient in sorted(set(patients) - set(folds), key=_shuffled):
        fold = min(range(n_folds), key=lambda k: (sizes[k], k))
        folds[patient] = fold
        sizes[fold] += 1
    return {p: folds[p] for p in patients}


def _shuffled(patient: str) -> str:
    return hashlib.sha256(patient.encode()).hexdigest()


def read_recorded_folds(path: Path, n_folds: int) -> dict[str, int]:
    """Folds given out earlier; none without a record, or if it is for another number of folds."""
    if not path.exists():
        return {}
    record = read_json(path)
    folds = record.get("folds") if isinstance(record, dict) else None
    if not isinstance(folds, dict) or "n_folds" not in record:
        raise DataError(
            f'{path}: expected {{"n_folds": ..., "folds": {{"case": fold}}}}, found {record!r}. '
            "Mend it, or delete it to deal the folds anew."
        )
    if record["n_folds"] != n_folds:
        return {}
    for patient, fold in folds.items():
        if fold not in range(n_folds):
            raise DataError(
                f"{path}: expected folds 0 to {n_folds - 1}, found {fold!r} for {patient}. Mend it."
            )
    return folds


def write_recorded_folds(path: Path, n_folds: int, folds: Mapping[str, int]) -> None:
    """Remember the folds. Patients who left stay in the record, so that they may come back."""
    recorded = read_recorded_folds(path, n_folds) | dict(folds)
    write_json(path, {"n_folds": n_folds, "folds": dict(sorted(recorded.items()))})
