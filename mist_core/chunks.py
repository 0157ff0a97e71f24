"""Which cases share a job. Sticky: a case that comes or goes changes one chunk of its group."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from mist_core.errors import DataError
from mist_core.files import read_json, write_json


def chunk_cases(groups: Mapping[str, str], present: set[str], size: int) -> dict[str, list[str]]:
    """Chunks ``<group>-<number>`` of at most ``size`` cases of one group.

    ``groups`` names the group of every case there ever was, in the order in which they came; those
    that are not ``present`` keep their place and are left out.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for case, group in groups.items():
        members[group].append(case)
    chunks = {}
    for group, cases in members.items():
        for start in range(0, len(cases), size):
            kept = [case for case in cases[start : start + size] if case in present]
            if kept:
                chunks[f"{group}-{start // size}"] = kept
    return chunks


def group_cases(
    recorded: Mapping[str, str], folds: Mapping[str, int], tests: Iterable[str]
) -> dict[str, str]:
    """The group of every case there ever was: its fold, or the test cases.

    Cases keep their order; new ones come last.
    """
    groups = dict(recorded) | {case: f"fold_{fold}" for case, fold in folds.items()}
    return groups | dict.fromkeys(tests, "test")


def read_record(path: Path, task: str) -> tuple[int | None, dict[str, str]]:
    """Cases per job and groups by case as recorded; (None, {}) without a record.

    Raises DataError when the record is of another task: its results would be mixed with this one's.
    """
    if not path.exists():
        return None, {}
    record = read_json(path)
    try:
        recorded, size, groups = record["task"], int(record["cases_per_job"]), record["groups"]
        groups = dict(groups)
    except (TypeError, ValueError, KeyError):
        raise DataError(
            f"{path}: expected task, cases_per_job and groups, found {record!r}. Delete the file."
        ) from None
    if recorded != task:
        raise DataError(
            f"{path.parents[1]}: expected the results of {task}, found those of {recorded}. Choose "
            "other folders for results and numpy, or delete them."
        )
    return size, groups


def write_record(path: Path, task: str, size: int, groups: Mapping[str, str]) -> None:
    """Remember the order in which cases came, and how many share a job."""
    write_json(path, {"task": task, "cases_per_job": size, "groups": dict(groups)})
