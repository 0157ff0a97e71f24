"""New cases to predict: which file is which channel, by name and never by position."""

import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mist_core.convert import ENDINGS
from mist_core.dataset import ID, SIDECARS, Dataset, usable_id
from mist_core.errors import DataError, raise_all
from mist_core.files import read_rows
from mist_core.plan import Plan

log = logging.getLogger(__name__)
NUMBERED = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")  # nnU-Net's names of files
TABLE = "predictions.csv"  # of the cases that were predicted into a folder


@dataclass(frozen=True)
class NewCase:
    """The files of the channels of a case, in the order of the plan, or why there are none."""

    images: tuple[Path | None, ...] = ()  # None: an optional channel that is missing
    problem: str = ""

    def files(self) -> tuple[Path | None, ...]:
        """Its files. Raises DataError with what is wrong with the case."""
        if self.problem:
            raise DataError(self.problem)
        return self.images


def cases_of_table(table: Path, plan: Plan) -> dict[str, NewCase]:
    """The cases of a CSV with the columns id and the names of the channels, in any order.

    Raises DataError for columns that are missing and for ids that cannot be used. A case with an
    empty cell has a problem of its own. The column of an optional channel may be missing, and its
    cells may be empty.
    """
    rows = read_rows(table)
    columns = ["id", *_required(plan)]
    missing = [name for name in columns if not rows or name not in rows[0]]
    if missing:
        found = ", ".join(filter(None, rows[0])) if rows else "no rows"
        raise DataError(
            f"{table}: expected columns {', '.join(columns)}, found {found}. "
            f"Add {', '.join(missing)}."
        )
    ids = [(row["id"] or "").strip() for row in rows]
    _check_ids(ids, str(table))
    return {case: _of_row(row, plan, table) for case, row in zip(ids, rows, strict=True)}


def _required(plan: Plan) -> list[str]:
    """The channels that no case may lack."""
    info = plan.dataset_info
    return [channel for channel in info.images if channel not in info.optional_images]


def _of_row(row: Mapping[str, str], plan: Plan, table: Path) -> NewCase:
    cells = {channel: (row.get(channel) or "").strip() for channel in plan.dataset_info.images}
    empty = [channel for channel in _required(plan) if not cells[channel]]
    if empty:
        return NewCase(
            problem=f"{table}: expected a file for channel {' and '.join(empty)}, found an empty "
            "cell. Name the file, or take the case out."
        )
    return NewCase(tuple(Path(cell) if cell else None for cell in cells.values()))


def case_of_files(case_id: str, files: Sequence[str], plan: Plan) -> dict[str, NewCase]:
    """One case, from words ``channel=path``.

    Raises DataError unless each channel is there once; an optional one may be left out.
    """
    channels, required = plan.dataset_info.images, _required(plan)
    named = [word.partition("=") for word in files]
    paths = {name: Path(path) for name, _, path in named if path}
    if len(paths) < len(named) or not set(required) <= paths.keys() <= set(channels):
        words = {channel: f"{channel}=FILE" for channel in channels}
        example = " ".join(w if name in required else f"[{w}]" for name, w in words.items())
        raise DataError(f"--image: expected {example}, found {' '.join(files)}. Name each once.")
    _check_ids([case_id], "--id")
    return {case_id: NewCase(tuple(paths.get(channel) for channel in channels))}


def cases_in_folder(
    folder: Path, plan: Plan, config: Path, output: Path | None = None
) -> dict[str, NewCase]:
    """The cases in a folder, of one of two layouts.

    A folder for each patient: its files are told apart as those of the training cases were, by the
    substrings in the plan, which was read from ``config``. Or the files of all cases side by side:
    ``<case>_0000.nii.gz`` and so on as nnU-Net has them, for the channels in the order of the plan,
    or ``<case>.nii.gz`` where there is one channel only. ``output`` and other folders of
    predictions are no patients. Raises DataError where it is neither, or both.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of images, found none. Check the path.")
    entries = sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and not _is_of_predictions(path, output)
    )
    patients = [path for path in entries if path.is_dir()]
    files = [p for p in entries if p.is_file() and p.name.lower().endswith(ENDINGS)]
    if patients and files:
        raise DataError(
            f"{folder}: expected folders of patients or files of images, found both, such as "
            f"{patients[0].name}/ and {files[0].name}. Put them into folders of their own, or name "
            "the files in a table (--paths-csv)."
        )
    if patients:
        return _of_patients(folder, {path.name for path in entries}, plan, config)
    others = [p.name for p in entries if p not in files and not p.name.lower().endswith(SIDECARS)]
    if others:
        log.info("%s: not taken for images: %s", folder, ", ".join(others))
    return _side_by_side(folder, files, plan)


def _is_of_predictions(path: Path, output: Path | None) -> bool:
    same = output is not None and path.resolve() == output.resolve()
    return same or (path / TABLE).is_file()


def _of_patients(
    folder: Path, names: Collection[str], plan: Plan, config: Path
) -> dict[str, NewCase]:
    """A case for each folder in ``folder`` that has one of the names."""
    info = plan.dataset_info
    dataset = Dataset(
        path=config,
        task=info.task,
        modality=info.modality,
        channels=info.images,
        optional_images=info.optional_images,
        labels=info.labels,
        final_classes={},
        test_data=folder,
        image_names={name: info.image_names.get(name, (name,)) for name in info.images},
    )
    ids = [name for name in dataset.test_ids() if name in names]
    _check_ids(ids, str(folder))
    cases = {}
    for case_id in ids:
        try:
            cases[case_id] = NewCase(dataset.case(case_id).images)
        except DataError as error:
            cases[case_id] = NewCase(problem=str(error))
    return cases


def _side_by_side(folder: Path, files: Sequence[Path], plan: Plan) -> dict[str, NewCase]:
    """A case for all files that have its name, with a number for the channel."""
    channels = plan.dataset_info.images
    found: dict[str, dict[int, Path]] = {}
    problems = []
    for path in files:
        ending = next(e for e in sorted(ENDINGS, key=len)[::-1] if path.name.lower().endswith(e))
        stem = path.name[: -len(ending)]
        numbered = NUMBERED.fullmatch(stem)
        case_id = numbered["case"] if numbered else stem
        number = int(numbered["channel"]) if numbered else 0
        if (not numbered and len(channels) > 1) or number >= len(channels):
            last = f"_{len(channels) - 1:04d}"
            problems.append(
                f"{path}: expected the name of a case and _0000 to {last}, for {len(channels)} "
                "channels. Rename it, or name the files in a table (--paths-csv)."
            )
        elif number in found.setdefault(case_id, {}):
            problems.append(f"{path}: expected one file, found {found[case_id][number].name} too.")
        else:
            found[case_id][number] = path
    raise_all(problems, str(folder))
    if not found:
        raise DataError(f"{folder}: expected folders of patients, or images, found none.")
    _check_ids(list(found), str(folder))
    order = ", ".join(f"{channel} *_{n:04d}" for n, channel in enumerate(channels))
    if len(channels) > 1:
        log.info("%s: channels are taken by the numbers in the names of files: %s", folder, order)
    return {case_id: _of_numbers(own, case_id, folder, plan) for case_id, own in found.items()}


def _of_numbers(own: Mapping[int, Path], case_id: str, folder: Path, plan: Plan) -> NewCase:
    channels = list(enumerate(plan.dataset_info.images))
    needed = [(n, name) for n, name in channels if n not in plan.optional_channels]
    missing = [f"{case_id}_{n:04d} ({name})" for n, name in needed if n not in own]
    if missing:
        return NewCase(
            problem=f"{folder}: expected a file for every channel, found no {', '.join(missing)}. "
            "Add it, or take the case out."
        )
    return NewCase(tuple(own.get(number) for number, _ in channels))


def _check_ids(ids: Sequence[str], source: str) -> None:
    """Raise DataError for ids that occur twice or cannot be used as names of files."""
    counts = Counter(ids)
    raise_all(
        [
            *(
                f"{source}: expected every id once, found {case} {count} times. Rename it."
                for case, count in counts.items()
                if count > 1
            ),
            *(
                f"{source}: expected {ID}, found {case!r}. Rename the case."
                for case in counts
                if not usable_id(case)
            ),
        ],
        source,
    )
