"""The dataset description: which cases there are, and which file is which channel.

Two layouts are read. MIST's: a JSON with ``train-data`` and substrings that tell the files of a
patient's folder apart. The Medical Segmentation Decathlon's: a ``dataset.json`` with a list
``training``. Looking up one case touches that case's folder only, so a job may do it cheaply.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mist_core.errors import WHOLE, DataError, raise_all
from mist_core.files import read_json

LARGEST_LABEL = 65535
MODALITIES = ("ct", "mr", "other")
KEYS = (
    *("task", "modality", "train-data", "test-data"),
    *("mask", "images", "optional_images"),
    *("labels", "final_classes", "ignore_label", "mirrored_labels"),
)
# Names of the summary rows of results.csv; a case of that name would be lost among them.
RESERVED_IDS = ("Mean", "Std", "25th Percentile", "Median", "75th Percentile")
COUNTED = {  # columns of a summary, and the status of the scores that each counts
    "n_absent": "both_empty",
    "n_missed": "prediction_empty",
    "n_invented": "reference_empty",
    "n_failed": "failed",
}
# Words by which MR shows in the name of a channel: t1, t1w, t1ce, t1gd, t2f and so on among them.
MR_WORD = re.compile(r"mri?|t[12][a-z]*|flair|adc|dwi|swi|pdw?|dce")
# Endings of files that lie beside images and are none: notes, and the voxels of a .mhd or .nhdr.
SIDECARS = (".json", ".txt", ".csv", ".xml", ".pdf", ".bval", ".bvec", ".raw", ".zraw", ".raw.gz")


@dataclass(frozen=True)
class Case:
    """One set of co-registered images and, for training, its label map."""

    id: str
    images: tuple[Path | None, ...]  # by Dataset.channels; None: an optional one that is missing
    mask: Path | None
    ignore_label: int | None = None  # of the mask: where nobody said what is there
    optional: tuple[int, ...] = ()  # numbers of the channels that may be missing

    @property
    def places(self) -> tuple[Path | None, ...]:
        """The channels in order, None for a missing one, then the label map if there is one."""
        return (*self.images, *([self.mask] if self.mask else []))

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of them that there are; the first is that of a channel."""
        return tuple(file for file in self.places if file)


@dataclass(frozen=True)
class Found:
    """The cases whose files are all there, by id, and what is wrong with the others."""

    train: dict[str, Case]
    test: dict[str, Case]
    problems: dict[str, list[str]]  # by id
    bad_tests: frozenset[str] = frozenset()  # those of them that are test cases only

    def number(self) -> int:
        """Of all cases, good or bad."""
        return len(self.train) + len(self.test) + len(self.problems)


@dataclass(frozen=True)
class Dataset:
    """What the user's JSON says. ``labels`` are label values, background 0 first."""

    path: Path
    task: str
    modality: str | Mapping[str, str]  # of all channels, or of each
    channels: tuple[str, ...]
    labels: tuple[int, ...]
    final_classes: Mapping[str, tuple[int, ...]]
    optional_images: tuple[str, ...] = ()  # channels that a case may lack
    ignore_label: int | None = None  # voxels that training and evaluation leave out
    mirrored_labels: tuple[tuple[int, int], ...] = ()  # left and right of each other
    # MIST's layout: folders of patients, and the substrings of the file names
    train_data: Path | None = None
    test_data: Path | None = None
    image_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mask_names: tuple[str, ...] = ()
    # the Decathlon's layout: listed files
    train_files: Mapping[str, Case] = field(default_factory=dict)
    test_files: Mapping[str, Case] = field(default_factory=dict)

    def modalities(self) -> tuple[str, ...]:
        """The modality of each channel."""
        if isinstance(self.modality, str):
            return (self.modality,) * len(self.channels)
        return tuple(self.modality[channel] for channel in self.channels)

    def facts(self) -> dict[str, Any]:
        """What the plan is made from, beside the images."""
        return {
            "task": self.task,
            "modality": self.modality,
            "channels": self.channels,
            "optional_images": self.optional_images,
            "labels": self.labels,
            "final_classes": dict(self.final_classes),
            "ignore_label": self.ignore_label,
            "mirrored_labels": self.mirrored_labels,
            "image_names": dict(self.image_names),
        }

    def train_ids(self) -> list[str]:
        """Ids of the training cases, sorted."""
        return sorted([*self.train_files, *_folders(self.train_data)])

    def test_ids(self) -> list[str]:
        """Ids of the test cases, sorted."""
        return sorted([*self.test_files, *_folders(self.test_data)])

    def case(self, case_id: str) -> Case:
        """The files of one case, None for an optional channel that it lacks.

        Raises DataError listing every file that is missing or unclear.
        """
        for listed in (self.train_files, self.test_files):
            if case_id in listed:
                return _existing(listed[case_id])
        if self.train_data and (self.train_data / case_id).is_dir():
            return self._in_folder(case_id, self.train_data / case_id, with_mask=True)
        if self.test_data and (self.test_data / case_id).is_dir():
            return self._in_folder(case_id, self.test_data / case_id, with_mask=False)
        for root in (self.train_data, self.test_data):
            if root and _leads_nowhere(root / case_id):
                raise DataError(
                    f"{root / case_id}: expected a folder, found a link to nothing. Restore what "
                    "it led to, or make it again."
                )
        raise DataError(f"{self.path}: expected a case {case_id!r}, found none of that name.")

    def _in_folder(self, case_id: str, folder: Path, with_mask: bool) -> Case:
        problems: list[str] = []
        seen = sorted(e.name for e in os.scandir(folder) if not e.name.startswith("."))
        names = [name for name in seen if not name.lower().endswith(SIDECARS)]
        known = {s for some in (*self.image_names.values(), self.mask_names) for s in some}

        def pick(what: str, substrings: tuple[str, ...], required: bool = True) -> Path | None:
            # A whole name beats a part of one: t1.nii.gz is not ct1.nii.gz, which is no t1 where
            # that is missing.
            whole = [name for name in names if name in substrings]
            others = [name for name in names if name not in known]
            found = whole or [name for name in others if any(s in name for s in substrings)]
            if not found and not required:
                return None
            if len(found) != 1:
                text = " or ".join(map(repr, substrings))
                seen = ", ".join(found) if found else "none"
                remedy = (
                    f"Give a longer substring for {what} in {self.path}."
                    if found
                    else f"Add the file, or mend the substrings of {what} in {self.path}."
                )
                problems.append(
                    f"{folder}: expected one file with {text} in its name for {what}, "
                    f"found {seen}. {remedy}"
                )
                return folder
            return folder / found[0]

        images = tuple(
            pick(f"channel {channel}", substrings, channel not in self.optional_images)
            for channel, substrings in self.image_names.items()
        )
        mask = pick("the mask", self.mask_names) if with_mask else None
        optional = tuple(n for n, c in enumerate(self.channels) if c in self.optional_images)
        case = Case(case_id, images, mask, self.ignore_label, optional)
        chosen = case.files
        if not problems and len(set(chosen)) < len(chosen):
            twice = next(path for path in chosen if chosen.count(path) > 1)
            problems.append(
                f"{twice}: expected a file of its own for every channel and the mask, found this "
                f"one for two. Add the missing file, or mend the substrings in {self.path}."
            )
        if problems:
            raise DataError("\n".join(problems))
        return _existing(case)


def missing_channels(channels: Sequence[str], images: Sequence[Path | None]) -> list[str]:
    """The names of the channels that have no file."""
    return [name for name, file in zip(channels, images, strict=True) if file is None]


def _folders(root: Path | None) -> list[str]:
    if root is None:
        return []
    seen = [entry for entry in os.scandir(root) if not entry.name.startswith(".")]
    return [e.name for e in seen if e.is_dir() or _leads_nowhere(Path(e.path))]


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _existing(case: Case) -> Case:
    missing = [
        f"{path}: expected a file, found {'a link to nothing' if path.is_symlink() else 'none'}. "
        "Restore it, or take the case out."
        for path in case.files
        if not path.exists()
    ]
    if missing:
        raise DataError("\n".join(missing))
    return case


def read_dataset(path: Path) -> Dataset:
    """Read a description; a folder stands for the ``dataset.json`` in it.

    Relative paths in it are relative to it. Raises one DataError with all that is wrong in it.
    """
    if not path.exists():
        raise DataError(f"{path}: expected a dataset, found nothing there. Check the path.")
    if path.is_dir():
        path = path / "dataset.json"
    fields = read_json(path)
    if not isinstance(fields, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(fields).__name__}.")
    if "channel_names" in fields:
        raise DataError(
            f"{path}: expected MIST's or the Decathlon's layout, found nnU-Net's (channel_names). "
            f"Convert it: mist_convert_nnunet --source {path.parent} --output NEW-FOLDER"
        )
    return _decathlon(path, fields) if "training" in fields else _mist(path, fields)


def _mist(path: Path, fields: dict[str, Any]) -> Dataset:
    problems: list[str] = []

    def get(key: str, kind: type, what: str, required: bool = True) -> Any:
        value = fields.get(key)
        if value is None and not required:
            return kind()
        if not isinstance(value, kind) or not value:
            found = "nothing" if key not in fields else repr(value)
            problems.append(f"{path}: expected {key} to be {what}, found {found}. Mend it.")
            return kind()
        return value

    for key in sorted(fields.keys() - set(KEYS)):
        problems.append(f"{path}: expected keys among {', '.join(KEYS)}, found {key!r}. Mend it.")

    task = get("task", str, "the name of the task")
    train = get("train-data", str, "the folder of the training cases")
    test = get("test-data", str, "the folder of the test cases", required=False)
    for key, folder in (("train-data", train), ("test-data", test)):
        if folder and not (path.parent / folder).is_dir():
            problems.append(
                f"{path}: expected {key} to be a folder, found none at {path.parent / folder}."
            )
        elif folder and not _folders(path.parent / folder):
            problems.append(
                f"{path.parent / folder}: expected one folder per patient, found no folder. "
                "Put the files of each patient into a folder named by its id."
            )
    mask = get("mask", list, "a list of substrings of the mask's file name")
    images = get("images", dict, "a mapping from channel name to a list of substrings")
    for key, substrings in [("mask", mask), *((f"images.{c}", s) for c, s in images.items())]:
        good = isinstance(substrings, list) and all(isinstance(s, str) and s for s in substrings)
        if not good or (not substrings and key != "mask"):
            problems.append(
                f"{path}: expected {key} to be a list of substrings, found {substrings!r}."
            )
    modality = _modality(path, fields.get("modality"), list(images), problems)
    optional = optional_channels(path, fields.get("optional_images"), list(images), problems)
    labels = label_values(path, get("labels", list, "a list of label values with 0"), problems)
    classes = get("final_classes", dict, "a mapping from class to labels", required=False)
    for name, members in classes.items():
        listed = isinstance(members, list) and bool(members)
        if not labels:
            break  # said already
        if not listed or any(type(m) is not int or m not in labels[1:] for m in members):
            problems.append(
                f"{path}: expected final_classes.{name} to be a list of labels among "
                f"{list(labels[1:])}, found {members!r}."
            )
    ignored = fields.get("ignore_label")
    if ignored is not None and (
        type(ignored) is not int or not 0 < ignored <= LARGEST_LABEL or ignored in labels
    ):
        problems.append(
            f"{path}: expected ignore_label to be a whole number up to {LARGEST_LABEL} that is "
            f"none of labels, found {ignored!r}. Mend it."
        )
    mirrored = label_pairs(path, fields.get("mirrored_labels"), labels, problems)
    raise_all(problems, "dataset")
    return Dataset(
        path=path,
        task=task,
        modality=modality,
        channels=tuple(images),
        optional_images=optional,
        labels=labels,
        final_classes={k: tuple(v) for k, v in classes.items()} or _one_each(labels),
        ignore_label=ignored,
        mirrored_labels=mirrored,
        train_data=path.parent / train,
        test_data=path.parent / test if test else None,
        image_names={k: tuple(v) for k, v in images.items()},
        mask_names=tuple(mask),
    )


def _modality(
    path: Path, value: Any, channels: list[str], problems: list[str]
) -> str | dict[str, str]:
    """One modality for all channels, or a mapping with one for each; in lower case."""
    each = value if isinstance(value, dict) else dict.fromkeys(channels or ["all"], value)
    lower = {k: v.lower() if isinstance(v, str) else v for k, v in each.items()}
    odd = [v for v in lower.values() if v not in MODALITIES]
    if odd or (isinstance(value, dict) and set(each) != set(channels)):
        problems.append(
            f"{path}: expected modality to be one of {', '.join(MODALITIES)}, or a mapping from "
            f"every channel to one, found {'nothing' if value is None else repr(value)}. Mend it."
        )
        return "other"
    return lower if isinstance(value, dict) else str(value).lower()


def optional_channels(
    path: Path, value: Any, channels: Sequence[str], problems: list[str]
) -> tuple[str, ...]:
    """The channels that a case may lack, in the order of all; none, if one is no channel.

    What is wrong with them is added to ``problems``.
    """
    if value is None or not channels:
        return ()  # without channels it is said already
    listed = value if isinstance(value, list) else [None]
    if not all(type(name) is str and name in channels for name in listed) or (
        not len(set(listed)) == len(listed) < len(channels)
    ):
        problems.append(
            f"{path}: expected optional_images to be some of {', '.join(channels)}, each once and "
            f"one less than all at most, found {value!r}. Mend it."
        )
        return ()
    return tuple(name for name in channels if name in listed)


def label_values(path: Path, values: list[Any], problems: list[str]) -> tuple[int, ...]:
    """Label values sorted, so that the background has class index 0; none, if one is no value.

    What is wrong with them is added to ``problems``.
    """
    good = all(
        isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= LARGEST_LABEL for v in values
    )
    if values and (not good or 0 not in values or not 1 < len(set(values)) == len(values)):
        problems.append(
            f"{path}: expected labels to be 0 and other whole numbers up to {LARGEST_LABEL}, "
            f"each once, found {values}. Mend the list{'' if 0 in values else ': 0 is missing'}."
        )
        return ()
    return tuple(sorted(values))


def label_pairs(
    path: Path, value: Any, labels: tuple[int, ...], problems: list[str]
) -> tuple[tuple[int, int], ...]:
    """Pairs of labels that are left and right of each other; none, if one is no pair.

    What is wrong with them is added to ``problems``.
    """
    if value is None or not labels:
        return ()  # without labels it is said already
    listed = isinstance(value, list) and all(isinstance(p, list) and len(p) == 2 for p in value)
    used = [label for pair in value for label in pair] if listed else []
    known = all(type(label) is int and label in labels[1:] for label in used)
    if not listed or not known or len(set(used)) < len(used):
        problems.append(
            f"{path}: expected mirrored_labels to be pairs of labels among {list(labels[1:])}, "
            f"each label in one pair at most, found {value!r}. Mend it."
        )
        return ()
    return tuple((left, right) for left, right in value)


def two_sided(classes: Mapping[str, tuple[int, ...]]) -> list[tuple[str, str]]:
    """Pairs of classes whose names differ in the words left and right only."""
    names = {name.lower(): name for name in classes}
    others = {name: re.sub(r"(?<![a-z])left(?![a-z])", "right", name) for name in names}
    return [(names[name], names[other]) for name, other in others.items() if name != other in names]


def _one_each(labels: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"label_{value}": (value,) for value in labels if value}


def _decathlon(path: Path, fields: dict[str, Any]) -> Dataset:
    problems: list[str] = []
    for key in ("modality", "labels"):
        if not isinstance(fields.get(key), dict) or not fields[key]:
            problems.append(f"{path}: expected {key} to be a mapping, found {fields.get(key)!r}.")
    raise_all(problems, "dataset")
    channels = tuple(str(name) for _, name in sorted(fields["modality"].items()))
    if len(channels) > 1:
        raise DataError(
            f"{path}: expected one modality, found {len(channels)}, which are volumes of one 4-D "
            f"file. Split them: mist_convert_msd --source {path.parent} --output NEW-FOLDER"
        )
    names = {int(v) if str(v).isdigit() else v: str(n) for v, n in fields["labels"].items()}
    labels = label_values(path, list(names), problems)
    mirrored = label_pairs(path, fields.get("mirrored_labels"), labels, problems)
    # There is one channel, which no case may lack.
    optional_channels(path, fields.get("optional_images"), channels, problems)
    train = _listed(path, "training", fields["training"], problems)
    test = _listed(path, "test", fields.get("test") or [], problems)
    raise_all(problems, "dataset")
    classes = {names[v].replace(" ", "_"): (v,) for v in labels if v}
    if len(classes) < len(labels) - 1:
        raise DataError(f"{path}: expected a name of its own for each label, found {names}.")
    return Dataset(
        path=path,
        task=str(fields.get("name", path.parent.name)),
        modality=modality_of(channels[0]),
        channels=channels,
        labels=labels,
        final_classes=classes,
        mirrored_labels=mirrored,
        train_files=train,
        test_files=test,
    )


def modality_of(channel_name: str) -> str:
    """The modality that the name of a channel tells: ct, mr or other.

    Only the name CT is ct, as in nnU-Net: its intensities are taken for Hounsfield units. A name
    with the word MR, MRI or that of a common sequence (T1-weighted, t1ce, FLAIR, ADC) is mr.
    """
    words = [word for word in re.split(r"[\W_]+", channel_name.lower()) if word]
    if words == ["ct"]:
        return "ct"
    return "mr" if any(MR_WORD.fullmatch(word) for word in words) else "other"


def _listed(path: Path, key: str, entries: Any, problems: list[str]) -> dict[str, Case]:
    """Cases of a Decathlon list: objects with image and label, or for the test just the image."""
    cases: dict[str, Case] = {}
    if not isinstance(entries, list):
        problems.append(f"{path}: expected {key} to be a list, found {entries!r}.")
        return cases
    for entry in entries:
        fields = {"image": entry} if key == "test" and isinstance(entry, str) else entry
        needed = ("image",) if key == "test" else ("image", "label")
        if not isinstance(fields, dict) or any(type(fields.get(n)) is not str for n in needed):
            problems.append(
                f"{path}: expected entries of {key} to have {' and '.join(needed)}, "
                f"found {entry!r}."
            )
            continue
        case_id = Path(fields["image"]).name.split(".")[0]
        if case_id in cases:
            problems.append(f"{path}: expected different file names, found {case_id!r} twice.")
        mask = path.parent / fields["label"] if "label" in needed else None
        cases[case_id] = Case(case_id, (path.parent / fields["image"],), mask)
    return cases


# What usable_id asks for, in words.
ID = f"an id without /, braces or leading dash or dot that is none of {', '.join(RESERVED_IDS)}"


def usable_id(case_id: str) -> bool:
    """Whether a case may be called so: in names of files, arguments of commands and tables."""
    odd = not case_id or case_id[0] in "-." or any(c in case_id for c in "/{}\n\t")
    return not odd and case_id not in (*RESERVED_IDS, WHOLE)


def find_cases(dataset: Dataset, limit: int | None = None) -> Found:
    """Look for the files of all training cases (the first ``limit`` by id) and all test cases.

    A case with a missing or unclear file, or with an id that cannot be used, is a problem and none
    of the cases.
    """
    train_ids, test_ids = dataset.train_ids()[:limit], dataset.test_ids()
    in_both = set(train_ids) & set(test_ids)
    cases: dict[str, Case] = {}
    problems: dict[str, list[str]] = {}
    owners: dict[Path, str] = {}
    for case_id in dict.fromkeys(train_ids + test_ids):
        if not usable_id(case_id):
            problems[case_id] = [
                f"{dataset.path}: expected {ID}, found {case_id!r}. Rename the case."
            ]
        elif case_id in in_both:
            problems[case_id] = [
                f"{dataset.path}: expected different ids for training and test, found {case_id!r} "
                "in both. Rename one."
            ]
        else:
            try:
                cases[case_id] = dataset.case(case_id)
            except DataError as error:
                problems[case_id] = str(error).splitlines()
                continue
            shared = [f for f in cases[case_id].files if owners.setdefault(f, case_id) != case_id]
            if shared:
                problems[case_id] = [
                    f"{file}: expected a file of {case_id} alone, found that of {owners[file]}. "
                    f"Mend {dataset.path}."
                    for file in shared
                ]
                del cases[case_id]
    return Found(
        {i: cases[i] for i in train_ids if i in cases},
        {i: cases[i] for i in test_ids if i in cases},
        problems,
        frozenset(problems.keys() - set(train_ids)),
    )


def problems_of_number(dataset: Dataset, n_cases: int, folds: int) -> list[str]:
    """Too few training cases for the folds."""
    if n_cases >= folds:
        return []
    fewer = f" or set analyze.folds to {n_cases}" if n_cases > 1 else ""
    return [
        f"{dataset.path}: expected at least {folds} training cases for {folds} folds, "
        f"found {n_cases}. Add cases{fewer}."
    ]
