"""nnU-Net's raw datasets: what their dataset.json says, and which file is which channel of a case.

Version 2 has ``channel_names``, and labels from name to value; version 1 has ``modality``, labels
from value to name, and lists of cases. Every function adds what is wrong to ``problems``.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The images of each case by channel, None for an optional one that is missing, and its label map.
Cases = dict[str, tuple[list[Path | None], Path | None]]


def channel_names(path: Path, fields: Mapping[str, Any], problems: list[str]) -> list[str]:
    """The names of the channels by number: channel_names of version 2, modality of version 1."""
    key = "channel_names" if "channel_names" in fields else "modality"
    names = fields.get(key)
    if not isinstance(names, dict) or not names or names.keys() != set(map(str, range(len(names)))):
        problems.append(
            f"{path}: expected channel_names to be a mapping from 0, 1, ... to names, found "
            f"{'nothing' if names is None else repr(names)}. Mend it."
        )
        return []
    return [str(name) for _, name in sorted(names.items(), key=lambda item: int(item[0]))]


def label_names(path: Path, labels: Any, problems: list[str]) -> dict[str, list[int]]:
    """Names to label values: version 2 has name to value or values, version 1 value to name.

    Version 2's label ``ignore`` is among them.
    """
    if not isinstance(labels, dict) or not labels:
        problems.append(f"{path}: expected labels to be a mapping, found {labels!r}. Mend it.")
        return {}
    if all(isinstance(name, str) for name in labels.values()):
        named: list[tuple[str, Any]] = [
            (name, int(value) if value.isdecimal() else value) for value, name in labels.items()
        ]
    else:
        named = list(labels.items())
    members = {name: value if isinstance(value, list) else [value] for name, value in named}
    odd = {n: v for n, v in members.items() if not v or any(type(each) is not int for each in v)}
    if odd or len(members) < len(named):
        problems.append(
            f"{path}: expected labels to have names of their own for whole numbers or, as regions, "
            f"lists of them, found {odd or labels}. Mend it."
        )
    return {name: value for name, value in members.items() if name not in odd}


def find_cases(
    path: Path,
    fields: Mapping[str, Any],
    ending: str,
    n_channels: int,
    problems: list[str],
    optional: Sequence[int] = (),
) -> dict[str, Cases]:
    """The images and the label map of every complete case, by part and id; problems of the others.

    Cases are those that ``dataset`` lists, or else those in the folders and those that the lists of
    version 1 name, whose images have no channel number there. In folders the ``optional`` channels
    may be missing.
    """
    source = path.parent
    numbers = {number: number not in optional for number in range(n_channels)}
    listed = fields.get("dataset")
    if listed is not None:
        train = _listed(path, listed, n_channels, problems)
        count = len(listed) if isinstance(listed, dict) else 0
    else:
        images = _numbered(source / "imagesTr", ending, problems)
        masks = _masks(source / "labelsTr", ending, problems)
        ids = {*images, *masks, *_named(fields, "training", ending)}
        train = {}
        for case in sorted(ids):
            files = _channels(source / "imagesTr", case, images, ending, numbers, problems)
            if case not in masks:
                problems.append(
                    f"{source / 'labelsTr' / case}{ending}: expected a label map, found none. Add "
                    "it, or take the case out."
                )
            elif files:
                train[case] = files, masks[case]
        count = len(ids)
    if fields.get("numTraining", count) != count:
        problems.append(
            f"{path}: expected {fields['numTraining']} cases (numTraining), found {count}. Add the "
            "missing ones, or mend the number."
        )
    test: Cases = {}
    named = _named(fields, "test", ending)
    if (source / "imagesTs").exists() or named:
        images = _numbered(source / "imagesTs", ending, problems)
        for case in sorted({*images, *named}):
            files = _channels(source / "imagesTs", case, images, ending, numbers, problems)
            if files:
                test[case] = files, None
    return {"train": train, "test": test}


def _listed(path: Path, listed: Any, n_channels: int, problems: list[str]) -> Cases:
    """The cases of the mapping ``dataset``; its paths are relative to the folder."""
    cases: Cases = {}
    for case, entry in listed.items() if isinstance(listed, dict) else [("all", listed)]:
        match entry:
            case {"images": [*images], "label": str(mask)} if len(images) == n_channels and all(
                isinstance(image, str) for image in images
            ):
                cases[case] = [path.parent / image for image in images], path.parent / mask
            case _:
                problems.append(
                    f"{path}: expected {case!r} in dataset to have images, {n_channels} of them as "
                    f"there are channels, and a label, found {entry!r}. Mend it."
                )
    return cases


def _entries(folder: Path, ending: str, problems: list[str]) -> list[str]:
    """Names of the files with this ending, sorted and without hidden ones."""
    if not folder.is_dir():
        problems.append(f"{folder}: expected a folder, found none. Restore it.")
        return []
    names = sorted(entry.name for entry in folder.iterdir() if not entry.is_dir())
    return [name for name in names if name.endswith(ending) and not name.startswith(".")]


def _numbered(folder: Path, ending: str, problems: list[str]) -> dict[str, dict[int, Path]]:
    """The files CASE_0000, CASE_0001, ... of each case, by number of the channel."""
    cases: dict[str, dict[int, Path]] = {}
    for name in _entries(folder, ending, problems):
        match = re.fullmatch(r"(.+)_([0-9]{4})", name.removesuffix(ending))
        if match:
            cases.setdefault(match[1], {})[int(match[2])] = folder / name
        else:
            problems.append(
                f"{folder / name}: expected a name that ends with the number of the channel, such "
                f"as case_0000{ending}, found none. Rename it."
            )
    return cases


def _masks(folder: Path, ending: str, problems: list[str]) -> dict[str, Path]:
    return {n.removesuffix(ending): folder / n for n in _entries(folder, ending, problems)}


def _named(fields: Mapping[str, Any], key: str, ending: str) -> set[str]:
    """Ids in a list of version 1; version 2 does not look at it."""
    entries = fields.get(key) if "channel_names" not in fields else None
    entries = entries if isinstance(entries, list) else []
    images = [each.get("image") if isinstance(each, dict) else each for each in entries]
    return {Path(image).name.removesuffix(ending) for image in images if isinstance(image, str)}


def _channels(
    folder: Path,
    case: str,
    images: Mapping[str, Mapping[int, Path]],
    ending: str,
    numbers: Mapping[int, bool],
    problems: list[str],
) -> list[Path | None]:
    """The files of a case by channel, of which ``numbers`` says whether a case must have it; none,
    and the problems, when one is missing or too many.
    """
    found = images.get(case, {})
    missing = [n for n, required in numbers.items() if required and n not in found]
    problems += [
        f"{folder / case}_{n:04d}{ending}: expected channel {n} of the case, found none. Restore "
        "it, or take the case out."
        for n in missing
    ]
    surplus = [path for n, path in sorted(found.items()) if n not in numbers]
    problems += [
        f"{path}: expected channels up to {len(numbers) - 1:04d}, found another. Name it in "
        "channel_names, or delete it."
        for path in surplus
    ]
    return [] if missing or surplus else [found.get(n) for n in numbers]
