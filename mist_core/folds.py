"""Which case is held out when. Sticky: a case keeps its fold when others come or go."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mist_core.errors import DataError, raise_all
from mist_core.files import read_json, read_rows, write_json


def deal_folds(
    cases: Iterable[str],
    n_folds: int,
    record: Path,
    case_table: Path | None = None,
    labels_of: Callable[[Sequence[str]], Mapping[str, frozenset[int]]] | None = None,
) -> dict[str, int]:
    """The fold of every case, from what was recorded and what the user's table says.

    ``case_table`` is a CSV with a column ``id`` and ``fold``, ``patient`` or both: a fold given
    there is kept, and the cases of a patient share a fold. ``labels_of`` gives the labels of cases,
    by which new ones are spread evenly; it is asked only if there is a new one. Raises DataError
    with all that is wrong in the table, and when the record holds a patient in two folds.
    """
    cases = sorted(set(cases))
    patients, given = read_case_table(case_table, cases, n_folds) if case_table else ({}, {})
    known = read_recorded_folds(record, n_folds) | given
    labels = labels_of(cases) if labels_of and not known.keys() >= set(cases) else {}
    return assign_folds(cases, n_folds, known, patients, labels)


def assign_folds(
    cases: Iterable[str],
    n_folds: int,
    recorded: Mapping[str, int],
    patients: Mapping[str, str] | None = None,
    labels: Mapping[str, frozenset[int]] | None = None,
) -> dict[str, int]:
    """Give every case a fold in 0..n_folds-1; recorded cases keep theirs.

    The cases of a patient share a fold. New patients go, in an order that depends on their names
    only, to the fold with the fewest cases: the same cases get the same folds on every machine.

    With the ``labels`` of cases, patients with rarer labels go first, each to the fold with the
    fewest cases of its rarest label: iterative stratification, Sechidis et al., ECML PKDD 2011,
    LNCS 6913, 145-158.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for case in sorted(set(cases)):
        members[(patients or {}).get(case, case)].append(case)
    sizes: Counter[int] = Counter()
    folds: dict[str, int] = {}
    problems = []
    for patient, own in members.items():
        known = {recorded[case] for case in own if case in recorded}
        if len(known) > 1:
            problems.append(
                f"patient {patient}: expected all cases in one fold, found folds "
                f"{', '.join(map(str, sorted(known)))} recorded for {', '.join(own)}. Give them "
                "one fold in the case table, or delete folds.json to deal anew."
            )
        for fold in known:
            folds |= dict.fromkeys(own, fold)
            sizes[fold] += len(own)
    raise_all(problems, "folds")
    labels = labels or {}
    counts = Counter(label for own in labels.values() for label in own)
    present = Counter((fold, each) for c, fold in folds.items() for each in labels.get(c, ()))

    def rarest(patient: str) -> tuple[int, int]:
        own = {label for case in members[patient] for label in labels.get(case, ())}
        return min(((counts[label], label) for label in own), default=(len(members), 0))

    new = [patient for patient, own in members.items() if own[0] not in folds]
    for patient in sorted(new, key=lambda p: (*rarest(p), _shuffled(p))):
        _, label = rarest(patient)
        fold = min(range(n_folds), key=lambda k: (present[k, label], sizes[k], k))
        folds |= dict.fromkeys(members[patient], fold)
        sizes[fold] += len(members[patient])
        present.update((fold, each) for case in members[patient] for each in labels.get(case, ()))
    return dict(sorted(folds.items()))


def _shuffled(patient: str) -> str:
    return hashlib.sha256(patient.encode()).hexdigest()


def in_random_order(cases: Iterable[str], seed: int) -> list[str]:
    """An order in which a case keeps its place among the others when one comes or goes."""
    return sorted(cases, key=lambda case: _shuffled(f"{seed} {case}"))


def set_aside(
    cases: Sequence[str], share: float, seed: int, patients: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Cases to learn from, and at least ``share`` of them to validate with, in a random order.

    The cases of a patient stay together. Raises DataError where nothing is left to learn from.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        members[patients.get(case, case)].append(case)
    aside: list[str] = []
    for patient in in_random_order(members, seed):
        if len(aside) < share * len(cases):
            aside += members[patient]
    if len(aside) == len(cases):
        raise DataError(
            f"config: train.val_percent: expected a share that leaves cases to learn from, found "
            f"{share:g} of {len(members)} patients. Lower it."
        )
    return [case for case in cases if case not in aside], aside


def read_patients(case_table: Path) -> dict[str, str]:
    """The patient of each case of a user's table; none where it has no such column."""
    return {
        row.get("id", ""): row["patient"] for row in read_rows(case_table) if row.get("patient")
    }


def patients_of(table: Path, cases: Iterable[str]) -> dict[str, str]:
    """The patient of every case, from a table that may have others, too."""
    patients = read_patients(table)
    if missing := sorted(set(cases) - patients.keys()):
        raise DataError(
            f"{table}: expected a patient of every case, found none of {', '.join(missing[:5])}"
            f"{' and others' if len(missing) > 5 else ''}. Add them, or leave out --case-table."
        )
    return patients


def read_case_table(
    path: Path, cases: Iterable[str], n_folds: int
) -> tuple[dict[str, str], dict[str, int]]:
    """Patients and folds of the cases as a user's CSV gives them; rows of other cases are left.

    Raises one DataError with every case that is missing, listed twice, or without a good value.
    """
    rows = read_rows(path)
    columns = set(rows[0]) if rows else set()
    if "id" not in columns or not columns & {"fold", "patient"}:
        raise DataError(
            f"{path}: expected a column id, and fold or patient, found {sorted(columns)}. Add them."
        )
    problems = []
    counts = Counter(row["id"] for row in rows)
    by_id = {row["id"]: row for row in rows}
    for case in sorted(cases):
        if counts[case] != 1:
            problems.append(f"{path}: expected one row for case {case}, found {counts[case]}.")
            continue
        fold = by_id[case].get("fold", "")
        if "fold" in columns and fold not in [str(k) for k in range(n_folds)]:
            problems.append(
                f"{path}: expected fold 0 to {n_folds - 1} for {case}, found {fold!r}. Mend it, or "
                "change analyze.folds."
            )
        if "patient" in columns and not by_id[case]["patient"]:
            problems.append(f"{path}: expected a patient for {case}, found nothing.")
    raise_all(problems, str(path))
    kept = [by_id[case] for case in sorted(cases)]
    return (
        {row["id"]: row["patient"] for row in kept} if "patient" in columns else {},
        {row["id"]: int(row["fold"]) for row in kept} if "fold" in columns else {},
    )


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
    for case, fold in folds.items():
        if fold not in range(n_folds):
            raise DataError(
                f"{path}: expected folds 0 to {n_folds - 1}, found {fold!r} for {case}. Mend it."
            )
    return folds


def write_recorded_folds(path: Path, n_folds: int, folds: Mapping[str, int]) -> None:
    """Remember the folds. Cases that left stay in the record, so that they may come back."""
    recorded = read_recorded_folds(path, n_folds) | dict(folds)
    write_json(path, {"n_folds": n_folds, "folds": dict(sorted(recorded.items()))})
