"""Datasets of other layouts in this one's: a folder for every patient, and a dataset.json."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from mist_core.errors import DataError, raise_all
from mist_core.files import read_json, read_rows, replacing, write_json

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


@dataclass(frozen=True)
class Copy:
    """One file to bring into place; of a 4-D image, one of its volumes."""

    source: Path
    target: Path
    volume: int | None = None


def from_decathlon(source: Path, output: Path) -> tuple[list[Copy], dict[str, Any]]:
    """What to copy of a dataset of the Medical Segmentation Decathlon, and its description.

    Raises one DataError with every file that is missing.
    """
    path = source / "dataset.json"
    fields = read_json(path)
    try:
        modalities = [str(name) for _, name in sorted(fields["modality"].items())]
        labels = {int(value): str(name) for value, name in fields["labels"].items()}
        training, test = fields["training"], fields.get("test", [])
        train_files = [(Path(each["image"]), Path(each["label"])) for each in training]
        test_files = [Path(each if isinstance(each, str) else each["image"]) for each in test]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: expected modality, labels, training and test as in the Decathlon, found a "
            f"mistake ({type(error).__name__}: {error}). Mend it."
        ) from None
    copies = []
    for image, mask in train_files:
        folder = output / "raw/train" / _stem(image)
        copies += _volumes(source / image, folder, modalities)
        copies.append(Copy(source / mask, folder / f"mask{_ending(mask)}"))
    for image in test_files:
        copies += _volumes(source / image, output / "raw/test" / _stem(image), modalities)
    _refuse_missing(copies)
    description = {
        "task": str(fields.get("name", source.name)),
        "modality": _modality(modalities),
        "train-data": "raw/train",
        **({"test-data": "raw/test"} if test_files else {}),
        "mask": _names(copies, "mask"),
        "images": {name: _names(copies, name) for name in modalities},
        "labels": sorted(labels),
        "final_classes": {labels[v].replace(" ", "_"): [v] for v in sorted(labels) if v},
    }
    return copies, description


def from_tables(train: Path, test: Path | None, output: Path) -> tuple[list[Copy], dict[str, Any]]:
    """What to copy of the files in CSVs (id, mask, images...), and a description to fill in.

    Raises one DataError with every mistake in the tables and every file that is missing.
    """
    copies, columns = _table(train, output / "raw/train", ("id", "mask"))
    if test:
        more, _ = _table(test, output / "raw/test", ("id",))
        copies += more
    _refuse_missing(copies)
    description = {
        "task": None,
        "modality": None,
        "train-data": "raw/train",
        **({"test-data": "raw/test"} if test else {}),
        "mask": _names(copies, "mask"),
        "images": {name: _names(copies, name) for name in columns},
        "labels": None,
        "final_classes": None,
    }
    return copies, description


def _table(path: Path, folder: Path, needed: Sequence[str]) -> tuple[list[Copy], list[str]]:
    rows = read_rows(path)
    columns = list(rows[0]) if rows else []
    images = [name for name in columns if name not in ("id", "mask")]
    if not set(needed) <= set(columns) or not images:
        raise DataError(
            f"{path}: expected columns {', '.join(needed)} and images, found "
            f"{', '.join(columns) or 'no rows'}. Add them."
        )
    copies, seen = [], set()
    for row in rows:
        if row["id"] in seen or not row["id"]:
            raise DataError(f"{path}: expected every id once, found {row['id']!r}. Mend it.")
        seen.add(row["id"])
        for name in [*(["mask"] if "mask" in needed else []), *images]:
            source = Path(row[name])
            source = source if source.is_absolute() else path.parent / source
            copies.append(Copy(source, folder / row["id"] / f"{name}{_ending(source)}"))
    return copies, images


def _volumes(image: Path, folder: Path, names: Sequence[str]) -> list[Copy]:
    """The channels of one image: itself, or the volumes of a 4-D one."""
    if len(names) == 1:
        return [Copy(image, folder / f"{names[0]}{_ending(image)}")]
    return [Copy(image, folder / f"{name}.nii.gz", volume=i) for i, name in enumerate(names)]


def _names(copies: Sequence[Copy], stem: str) -> list[str]:
    """The file names of one channel, or of the masks: one for each ending that occurs."""
    names = {copy.target.name for copy in copies}
    return sorted(name for name in names if name == f"{stem}{_ending(Path(name))}")


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def _ending(path: Path) -> str:
    return next((ending for ending in ENDINGS if path.name.endswith(ending)), path.suffix)


def _modality(names: Sequence[str]) -> str:
    words = {name.lower() for name in names}
    return "ct" if "ct" in words else "mr" if words & {"mri", "mr"} else "other"


def _refuse_missing(copies: Sequence[Copy]) -> None:
    missing = dict.fromkeys(copy.source for copy in copies if not copy.source.is_file())
    raise_all(
        [f"{path}: expected a file, found none. Restore it, or take it out." for path in missing],
        "missing files",
    )


def bring(copy: Copy) -> None:
    """Copy a file into place, or take one volume out of a 4-D image."""
    with replacing(copy.target) as temporary:
        if copy.volume is None:
            shutil.copyfile(copy.source, temporary)
            return
        image = sitk.ReadImage(str(copy.source))
        if image.GetDimension() != 4 or image.GetSize()[3] <= copy.volume:
            raise DataError(
                f"{copy.source}: expected a 4-D image with volume {copy.volume}, found size "
                f"{image.GetSize()}. Mend modality in dataset.json."
            )
        size = [*image.GetSize()[:3], 0]
        sitk.WriteImage(sitk.Extract(image, size, [0, 0, 0, copy.volume]), str(temporary))


def describe(output: Path, description: Mapping[str, Any]) -> None:
    """Write the dataset.json of a converted dataset."""
    write_json(output / "dataset.json", description)
