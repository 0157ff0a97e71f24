"""Datasets of other layouts in this one's: a folder for every patient, and a dataset.json.

``from_...`` say what is to be brought where, and how the dataset is described; they write nothing,
and refuse all that is wrong at once. ``place`` does it.
"""

import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mist_core import nnunet
from mist_core.dataset import ID, label_values, modality_of, optional_channels, usable_id
from mist_core.errors import DataError, raise_all
from mist_core.files import parts_of, read_json, read_rows, remove, replacing, write_json
from mist_core.io import read_channels, write_volume

log = logging.getLogger(__name__)
# Formats whose voxels lie in a second file, which the header names or which has the same stem: a
# copy under a new name would lose it. Each with the format that holds both.
IN_TWO_FILES = {
    ".nhdr": ".nrrd",
    ".mhd": ".mha",
    ".hdr": ".nii.gz",
    ".img": ".nii.gz",
    ".hdr.gz": ".nii.gz",
    ".img.gz": ".nii.gz",
}
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl", *IN_TWO_FILES)
KEPT = ("optional_images", "ignore_label", "mirrored_labels")  # if they have been filled in
Description = dict[str, Any]


@dataclass(frozen=True)
class Copy:
    """One image to bring into place; a 4-D one has a target for each of its volumes."""

    source: Path  # a file, or the folder of a DICOM series
    part: str  # train or test
    case: str
    targets: Mapping[str, Path]  # by channel, or "mask"


def from_decathlon(source: Path, output: Path) -> tuple[list[Copy], Description]:
    """What to copy of a dataset of the Medical Segmentation Decathlon, and its description.

    Raises one DataError with every mistake in its dataset.json and every file that is missing.
    """
    path = source / "dataset.json"
    fields = read_json(path)
    try:
        numbered = {int(number): str(name) for number, name in fields["modality"].items()}
        channels = [numbered[number] for number in sorted(numbered)]
        labels = {str(name): [int(value)] for value, name in fields["labels"].items()}
        training, test = fields["training"], fields.get("test") or []
        train_files = [(Path(each["image"]), Path(each["label"])) for each in training]
        test_files = [Path(each if isinstance(each, str) else each["image"]) for each in test]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: expected modality, labels, training and test as in the Decathlon, found a "
            f"mistake ({type(error).__name__}: {error}). Mend it."
        ) from None
    if not channels or not labels:
        raise DataError(f"{path}: expected modality and labels, found an empty one. Fill it in.")
    problems: list[str] = []
    if len(labels) < len(fields["labels"]):
        problems.append(
            f"{path}: expected a name of its own for each label, found {fields['labels']}. Mend it."
        )
    classes = _classes(path, labels, problems)
    names = safe_names(channels)
    copies = []
    for image, mask in train_files:
        copies.append(_copy(source / image, output, "train", _stem(image), *names))
        copies.append(_copy(source / mask, output, "train", _stem(image), "mask"))
    for image in test_files:
        copies.append(_copy(source / image, output, "test", _stem(image), *names))
    _refuse(path, copies, output, problems)
    return copies, {
        "task": str(fields.get("name") or source.resolve().name),
        **_contents(copies, channels, names, classes),
    }


def from_nnunet(source: Path, output: Path) -> tuple[list[Copy], Description]:
    """What to copy of a raw dataset of nnU-Net, version 1 or 2, and its description.

    A region (a list of labels) becomes a final class. Channels that a key of ours names there,
    ``optional_images``, may be missing. Raises one DataError with every mistake in its dataset.json
    and every file that is missing or too many.
    """
    path = source / "dataset.json"
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(fields).__name__}.")
    problems: list[str] = []
    channels = nnunet.channel_names(path, fields, problems)
    labels = nnunet.label_names(path, fields.get("labels"), problems)
    ignored, *others = labels.pop("ignore", [None])
    if others:
        problems.append(f"{path}: expected one value for ignore, found several. Mend labels.")
    classes = _classes(path, labels, problems)
    ending = fields.get("file_ending", ".nii.gz")
    if ending not in ENDINGS:
        problems.append(
            f"{path}: expected file_ending to be one of {', '.join(ENDINGS)}, found {ending!r}. "
            "Convert the images to a format that keeps spacing and direction."
        )
    raise_all(problems, "conversion")  # without these the files cannot be told apart
    names = safe_names(channels)
    optional = optional_channels(path, fields.get("optional_images"), channels, problems)
    may_lack = [number for number, channel in enumerate(channels) if channel in optional]

    copies = []
    found = nnunet.find_cases(path, fields, ending, len(channels), problems, may_lack)
    for part, cases in found.items():
        for case, (images, mask) in cases.items():
            for name, image in zip(names, images, strict=True):
                if image:
                    copies.append(_copy(image, output, part, case, name))
            if mask:
                copies.append(_copy(mask, output, part, case, "mask"))
    described = {
        "task": str(fields.get("name") or source.resolve().name),
        **_contents(copies, channels, names, classes),
        **({"optional_images": [names[number] for number in may_lack]} if may_lack else {}),
        **({"ignore_label": ignored} if ignored is not None else {}),
    }
    problems += _in_no_case(path, described.get("optional_images", ()), described)
    _refuse(path, copies, output, problems)
    return copies, described


def from_tables(
    train: Path, test: Path | None, output: Path, optional: Sequence[str] = ()
) -> tuple[list[Copy], Description]:
    """What to copy of the files in CSVs (id, mask, images...), and a description to fill in.

    Cells of the ``optional`` columns may be empty. What has been filled in where this was converted
    before is kept. Raises one DataError with every mistake in the tables and every file that is
    missing.
    """
    problems: list[str] = []
    channels = _columns(train, ("id", "mask"))
    names = safe_names(channels)
    columns = dict(zip(channels, names, strict=True))
    optional = optional_channels(train, list(optional), channels, problems)
    copies = _rows(train, output, "train", {**columns, "mask": "mask"}, problems, optional)
    if test:
        others = _columns(test, ("id",))
        if set(others) != set(channels):
            raise DataError(
                f"{test}: expected the images of {train}, {', '.join(channels)}, found "
                f"{', '.join(others)}. Give both tables the same columns."
            )
        copies += _rows(test, output, "test", columns, problems, optional)
    files = _files(copies, names)
    may_lack = [columns[channel] for channel in optional]
    problems += _in_no_case(train, may_lack, files)
    _refuse(train, copies, output, problems)
    path = output / "dataset.json"
    filled = read_json(path) if path.exists() else {}
    return copies, {
        "task": filled.get("task"),
        "modality": filled.get("modality"),
        **files,
        "labels": filled.get("labels"),
        "final_classes": filled.get("final_classes"),
        **{key: filled[key] for key in KEPT if key in filled},
        **({"optional_images": may_lack} if may_lack else {}),
    }


def safe_names(channels: Sequence[str]) -> list[str]:
    """The channels' names as parts of file names: without spaces, slashes and the like.

    They differ from each other, also where upper and lower case are one, and from the mask's.
    """
    names: list[str] = []
    for channel in channels:
        plain = re.sub(r"[^\w.+-]+", "_", channel).strip("._-") or "channel"
        taken = {"mask", *(name.casefold() for name in names)}
        counted = (f"{plain}_{number}" for number in range(2, len(channels) + 3))
        names.append(next(n for n in (plain, *counted) if n.casefold() not in taken))
        if names[-1] != channel:
            log.info("channel %r is called %s", channel, names[-1])
    return names


def place(
    copies: Sequence[Copy], description: Description, output: Path, link: bool, threads: int
) -> None:
    """Bring all images into place, then write the dataset.json.

    Raises one DataError with every image that could not be read, and then writes no dataset.json.
    """
    split = [copy for copy in copies if len(copy.targets) > 1]
    joined = [c for c in copies if len(c.targets) == 1 and _in_two_files(c.source)]
    linked = ", not linked" if link else ""
    if split:
        log.info("%d 4-D images are split into a file for each channel%s", len(split), linked)
    if joined:
        log.info("%d images with a file for their voxels become one%s", len(joined), linked)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        problems = [p for p in pool.map(partial(_problem_of, link=link), copies) if p]
    raise_all(problems, "conversion")
    write_json(output / "dataset.json", description)


def bring(copy: Copy, link: bool = False) -> None:
    """Copy an image into place, or link it; split a 4-D one.

    What is there is replaced. A link that is there is not followed: its file stays as it is.
    """
    targets = list(copy.targets.values())
    if len(targets) > 1 or _in_two_files(copy.source):
        volumes = read_channels(copy.source)
        if len(volumes) != len(targets):
            raise DataError(
                f"{copy.source}: expected {len(targets)} volumes, one for each channel in "
                f"dataset.json, found {len(volumes)}. Mend the file or dataset.json."
            )
        for target, volume in zip(targets, volumes, strict=True):
            write_volume(target, volume)
            _date(copy.source, target)
        return
    (target,) = targets
    if target.is_dir():
        remove(target)  # no folder is replaced by a rename, nor a link to one by a folder
    with replacing(target) as temporary:
        if link:
            temporary.symlink_to(copy.source.resolve())
        elif copy.source.is_dir():
            temporary.mkdir()
            for part in parts_of(copy.source):
                shutil.copyfile(part, temporary / part.name)
                _date(part, temporary / part.name)
        else:
            shutil.copyfile(copy.source, temporary)
            _date(copy.source, temporary)


def _problem_of(copy: Copy, link: bool) -> str | None:
    try:
        bring(copy, link)
    except DataError as error:
        return str(error)
    except OSError as error:
        return f"{copy.source}: expected to be copied, found {error}. Mend it, and convert again."
    return None


def _date(source: Path, target: Path) -> None:
    """Give a copy the date of its source: after the same conversion nothing is made again."""
    state = source.stat()
    os.utime(target, ns=(state.st_atime_ns, state.st_mtime_ns))


# --- names of files, and what is wrong with them --------------------------------------------------


def _copy(source: Path, output: Path, part: str, case: str, *names: str) -> Copy:
    ending = ".nii.gz" if len(names) > 1 else _ending(source)
    ending = IN_TWO_FILES.get(ending, ending)
    folder = output / "raw" / part / case
    return Copy(source, part, case, {name: folder / f"{name}{ending}" for name in names})


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def _ending(path: Path) -> str:
    """The ending of an image's name, .nii.gz as a whole; none of a folder."""
    if path.is_dir():
        return ""
    return next((ending for ending in ENDINGS if path.name.endswith(ending)), path.suffix)


def _in_two_files(path: Path) -> bool:
    return _ending(path) in IN_TWO_FILES


def _files(copies: Sequence[Copy], names: Sequence[str]) -> Description:
    """The part of a description that says where files are: their full names for each channel."""
    found: dict[str, set[str]] = {name: set() for name in ("mask", *names)}
    for copy in copies:
        for name, target in copy.targets.items():
            found[name].add(target.name)
    with_test = any(copy.part == "test" for copy in copies)
    return {
        "train-data": "raw/train",
        **({"test-data": "raw/test"} if with_test else {}),
        "mask": sorted(found["mask"]),
        "images": {name: sorted(found[name]) for name in names},
    }


def _in_no_case(path: Path, optional: Sequence[str], files: Description) -> list[str]:
    """A problem for every optional channel without any file, where there are files at all."""
    return [
        f"{path}: expected a file of channel {name} in some case, found none. Take the channel out."
        for name in optional
        if files["mask"] and not files["images"][name]
    ]


def _contents(
    copies: Sequence[Copy],
    channels: Sequence[str],
    names: Sequence[str],
    classes: tuple[list[int], dict[str, list[int]]],
) -> Description:
    """The part of a description that follows from channels, files, labels and classes."""
    values, final_classes = classes
    return {
        "modality": _modality(channels, names),
        **_files(copies, names),
        "labels": values,
        "final_classes": final_classes,
    }


def _modality(channels: Sequence[str], names: Sequence[str]) -> str | dict[str, str]:
    """One modality where all channels have the same, else that of each."""
    each = {name: modality_of(channel) for channel, name in zip(channels, names, strict=True)}
    return next(iter(each.values())) if len(set(each.values())) == 1 else each


def _classes(
    path: Path, labels: Mapping[str, Sequence[int]], problems: list[str]
) -> tuple[list[int], dict[str, list[int]]]:
    """All label values, and the final classes: every name but that of the background."""
    values = {value for members in labels.values() for value in members}
    named = {name: list(members) for name, members in labels.items() if set(members) != {0}}
    classes = {name.replace(" ", "_"): members for name, members in named.items()}
    if len(classes) < len(named):
        problems.append(
            f"{path}: expected names of labels that differ in more than spaces, found "
            f"{', '.join(named)}. Rename one."
        )
    for name, members in named.items():
        if 0 in members:
            problems.append(
                f"{path}: expected a region of labels above 0 for {name!r}, found {members}. "
                "Take the background out."
            )
    if labels:
        label_values(path, sorted(values), problems)
    return sorted(values), classes


def _refuse(path: Path, copies: Sequence[Copy], output: Path, problems: Sequence[str]) -> None:
    """Raise one DataError with the problems and with all that keeps the copies from being made."""
    train = {copy.case for copy in copies if copy.part == "train"}
    test = {copy.case for copy in copies if copy.part == "test"}
    found = [
        f"{path}: expected {ID}, found {case!r}. Rename the case."
        for case in sorted(train | test)
        if not usable_id(case)
    ]
    found += [
        f"{path}: expected different ids for training and test, found {case!r} in both. Rename one."
        for case in sorted(train & test)
    ]
    if not train and not problems:
        found.append(f"{path}: expected training cases, found none. Add them.")
    for source in dict.fromkeys(copy.source for copy in copies):
        if not source.is_file() and not (source.is_dir() and parts_of(source)):
            found.append(
                f"{source}: expected a file, found none. Restore it, or take it out of {path}."
            )
    takers: dict[Path, Path] = {}
    for copy in copies:
        for target in copy.targets.values():
            other = takers.setdefault(target, copy.source)
            if other is not copy.source:
                found.append(
                    f"{copy.source}: expected a case and channel of its own, found those of "
                    f"{other}. Rename one, or take it out of {path}."
                )
    raise_all([*problems, *found], "conversion")
    raise_all(_in_the_way(copies, output), "conversion")  # makes sense for whole datasets only


def _in_the_way(copies: Sequence[Copy], output: Path) -> list[str]:
    """What would mix two datasets, or write into the source: what is in the output already."""
    root = output / "raw"
    targets = {target for copy in copies for target in copy.targets.values()}
    cases = {target.parent for target in targets}
    folders = [root, *sorted({case.parent for case in cases}), *sorted(cases)]
    problems = [
        f"{folder}: expected a folder, found a {'link' if folder.is_symlink() else 'file'}. "
        "Choose an empty folder or delete it."
        for folder in folders
        if folder.is_symlink() or (folder.exists() and not folder.is_dir())
    ]
    others = [
        entry
        for folder in folders
        if folder.is_dir() and not folder.is_symlink()
        for entry in sorted(folder.iterdir())
        if entry not in targets and entry not in folders and not entry.name.startswith(".")
    ]
    if others:
        some = ", ".join(str(entry.relative_to(root)) for entry in others[:3])
        problems.append(
            f"{root}: expected nothing but what this conversion writes, found {len(others)} of "
            f"another ({some}{', ...' if len(others) > 3 else ''}). Choose an empty folder or "
            "delete it."
        )
    path = output / "dataset.json"
    before = read_json(path) if path.exists() else {"train-data": "raw/train"}
    if not isinstance(before, dict) or before.get("train-data") != "raw/train":
        problems.append(
            f"{path}: expected none, or that of an earlier conversion, found that of another "
            "dataset, perhaps of the source. Choose an empty folder."
        )
    inside, home = root.resolve(), output.resolve()
    for source in dict.fromkeys(copy.source.resolve() for copy in copies):
        if source.is_relative_to(inside) or (source.is_dir() and home.is_relative_to(source)):
            problems.append(
                f"{source}: expected a source outside of the output {output}, found it in its way. "
                "Choose another output."
            )
    return problems


# --- tables ---------------------------------------------------------------------------------------


def _columns(path: Path, needed: Sequence[str]) -> list[str]:
    """The columns of a CSV that are images."""
    rows = read_rows(path)
    columns = [name for name in rows[0] if name is not None] if rows else []
    images = [name for name in columns if name not in ("id", "mask")]
    if not set(needed) <= set(columns) or not images or "" in images:
        raise DataError(
            f"{path}: expected columns {', '.join(needed)} and images, each with a name, found "
            f"{', '.join(map(repr, columns)) or 'no rows'}. Add them."
        )
    return images


def _rows(
    path: Path,
    output: Path,
    part: str,
    columns: Mapping[str, str],
    problems: list[str],
    optional: Sequence[str],
) -> list[Copy]:
    """What to copy of a CSV; ``columns`` gives the names that the files of a column have."""
    needed = [column for column in columns if column not in optional]
    copies, seen = [], set()
    for row in read_rows(path):
        case = row["id"]
        if case in seen or not case:
            problems.append(f"{path}: expected every id once, found {case!r}. Mend it.")
        elif not all(row.get(column) for column in needed) or None in row:
            problems.append(
                f"{path}: expected a file for each of {', '.join(needed)} of {case!r}, found "
                f"{list(row.values())[1:]}. Mend the row, or take it out."
            )
        else:
            for column, name in columns.items():
                if row.get(column):
                    copies.append(_copy(path.parent / row[column], output, part, case, name))
        seen.add(case)
    return copies
