"""What to look at after prediction: a picture of each case, its volumes, what is odd in them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mist_core.files import read_json, write_json, write_rows
from mist_core.io import Volume
from mist_core.labels import value_counts
from mist_core.pictures import (
    COLOURS,
    PLANES,
    Picture,
    colour_of,
    fullest_slice,
    shown_slice,
    slice_picture,
    tile,
    write_png,
)
from mist_core.plan import Plan, Volumes
from mist_core.resample import canonical

MARGIN = 3.0  # times smaller or larger than in any training case is odd
EDGE = 330  # pixels of the longest edge of the volume
NOTHING = {"volumes_ml": {}, "flags": ["no prediction"]}


def volumes_ml(labels: Volume, classes: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """The volume in millilitres of each class, which is a list of label values."""
    values, counts = value_counts(labels.array)
    voxels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    ml = float(np.prod(labels.geometry.spacing)) / 1000
    return {
        name: float(f"{ml * sum(voxels.get(value, 0) for value in members):.6g}")
        for name, members in classes.items()
    }


def flags(found_ml: Mapping[str, float], anything: bool, known: Mapping[str, Volumes]) -> list[str]:
    """What is odd in the volumes of a case: ``empty`` where there is not ``anything`` in it, else
    ``<class> empty``, ``<class> small`` or ``<class> large``, by those of the training cases.
    """
    if not anything:
        return ["empty"]
    words = {name: _oddity(found_ml[name], known[name]) for name in found_ml if name in known}
    return [f"{name} {word}" for name, word in words.items() if word]


def _oddity(ml: float, known: Volumes) -> str:
    if ml == 0:
        return "empty" if known.in_every_case else ""
    if ml < known.smallest_ml / MARGIN:
        return "small"
    return "large" if ml > known.largest_ml * MARGIN else ""


def write_quality(
    folder: Path,
    case_id: str,
    image: Volume,
    prediction: Volume,
    plan: Plan,
    missing: Sequence[str] = (),
) -> None:
    """Write ``<id>.png`` and ``<id>.json`` of a case: its picture, its volumes and its flags.

    ``missing`` are the names of the channels that it lacks.
    """
    found_ml = volumes_ml(prediction, plan.regions)
    odd = [f"{channel} missing" for channel in missing]
    odd += flags(found_ml, bool(prediction.array.any()), plan.training_volumes)
    write_json(folder / f"{case_id}.json", {"volumes_ml": found_ml, "flags": odd})
    title = "\n".join([case_id, *odd])
    write_png(folder / f"{case_id}.png", overlay(image, prediction, plan, title))


def overlay(image: Volume, prediction: Volume, plan: Plan, title: str) -> Picture:
    """The image with the contours of all labels, on the slice of each plane with most of them.

    Superior and anterior are on top; the patient's right is on the left.
    """
    shown = canonical(image)
    values = canonical(prediction).array
    known = sorted({*plan.dataset_info.labels, *value_counts(values)[0].tolist()})
    spacing = shown.geometry.spacing
    extent_mm = np.multiply(shown.geometry.shape, spacing)
    low, high = np.percentile(np.nan_to_num(shown.array[::2, ::2, ::2]), [1, 99.5])
    pictures, seen = [], set()
    for axis in range(3):
        index = fullest_slice(np.moveaxis(values, axis, 0))
        labels = np.searchsorted(known, shown_slice(values, axis, index))
        grey = shown_slice(shown.array, axis, index)
        rows, columns = (edge for other, edge in enumerate(spacing) if other != axis)
        longest_mm = max(np.multiply(grey.shape, (rows, columns)))
        edge = round(EDGE * longest_mm / max(extent_mm))  # one scale for all planes
        pictures.append(
            slice_picture(grey, labels, (rows, columns), (float(low), float(high)), edge)
        )
        seen |= set(np.unique(labels).tolist()) - {0}
    return tile({title: pictures}, PLANES, _legend(sorted(seen), known, plan))


def _legend(numbers: Sequence[int], known: Sequence[int], plan: Plan) -> dict[str, str]:
    """The colour of each label that is to be seen, unless there are more labels than colours."""
    if max(numbers, default=0) > len(COLOURS):
        return {}
    names = {members[0]: name for name, members in plan.regions.items() if len(members) == 1}
    return {names.get(known[n], f"label {known[n]}"): colour_of(n) for n in numbers}


def write_table(path: Path, folder: Path, cases: Sequence[str], plan: Plan) -> dict[str, list[str]]:
    """Write a row for each of the cases, and for all that were predicted to the same place before:
    volumes and flags, from what ``write_quality`` wrote in ``folder``; ``no prediction`` where it
    wrote nothing. Returns the flags of those cases that have some.
    """
    before = [file.stem for file in folder.glob("[!.]*.json")]
    rows, odd = [], {}
    for case_id in sorted({*cases, *before}):
        file = folder / f"{case_id}.json"
        found: dict[str, Any] = read_json(file) if file.exists() else NOTHING
        volumes = {f"{name}_volume_ml": found["volumes_ml"].get(name, "") for name in plan.regions}
        rows.append({"id": case_id, **volumes, "flags": "; ".join(found["flags"])})
        odd[case_id] = found["flags"]
    columns = ["id", *(f"{name}_volume_ml" for name in plan.regions), "flags"]
    write_rows(path, columns, rows)
    return {case_id: odd[case_id] for case_id in cases if odd[case_id]}
