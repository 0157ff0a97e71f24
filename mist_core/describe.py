"""What the training cases look like, for people: one description per case, then a merge.

The data dump has the names and the rules of MIST's. Nothing that follows depends on it. Per-axis
values are in array order here and in (x, y, z) in the files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from numpy.typing import NDArray

from mist_core.config import array_order
from mist_core.dataset import Case, Dataset
from mist_core.errors import DataError
from mist_core.files import parts_of
from mist_core.geometry import ANISOTROPY, Geometry, Shape, Triple
from mist_core.io import Volume, read_image, read_labels
from mist_core.labels import without
from mist_core.observations import named, observations
from mist_core.plan import Plan
from mist_core.resample import canonical
from mist_core.shapes import isoperimetric_quotient, masks_of, principal_shape, skeleton_ratio

SAMPLES = 5000  # labelled voxels of a case whose intensities are kept, or up to twice as many
DECIMALS = 4
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
SHAPES = {"linearity": "tubular", "planarity": "planar", "sphericity": "blob"}
OF_SHAPE = (*SHAPES, "compactness", "skeleton_ratio")
SIZES = {"tiny": 0.1, "small": 1.0, "medium": 5.0}  # % of the foreground, below; else large


@dataclass(frozen=True)
class Structure:
    """A label in one case; what cannot be said of its shape is None."""

    voxels: int
    linearity: float | None = None
    planarity: float | None = None
    sphericity: float | None = None
    compactness: float | None = None
    skeleton_ratio: float | None = None


@dataclass(frozen=True, eq=False)
class Description:
    """A case as the data dump needs it. Per-axis values (z, y, x), axes along LPS."""

    id: str
    n_bytes: int  # of all its files
    spacing: Triple  # mm
    size: Shape  # voxels
    labels: Mapping[int, Structure]  # those that it has
    samples: NDArray[np.float32]  # (C, N) intensities of N voxels inside any label; NaN: missing
    missing: tuple[int, ...] = ()  # numbers of the channels that it lacks


def describe(case: Case) -> Description:
    """Read a training case once and describe it.

    Raises DataError when a file is unreadable or an image does not share the grid of the mask.
    """
    assert case.mask is not None
    mask = canonical(read_labels(case.mask))
    mask = Volume(without(mask.array, case.ignore_label), mask.geometry)
    labelled = mask.array > 0
    images = dict(enumerate(case.images))
    there = {n: _intensities(path, mask.geometry, labelled) for n, path in images.items() if path}
    samples = np.full((len(images), len(next(iter(there.values())))), np.nan, np.float32)
    for number, values in there.items():
        samples[number] = values
    files = [part for path in case.files for part in parts_of(path)]
    return Description(
        id=case.id,
        n_bytes=sum(file.stat().st_size for file in files),
        spacing=mask.geometry.spacing,
        size=mask.geometry.shape,
        labels={v: _structure(m, mask.geometry.spacing) for v, m in masks_of(mask.array)},
        samples=samples,
        missing=tuple(number for number in images if number not in there),
    )


def _intensities(path: Path, grid: Geometry, labelled: NDArray[np.bool_]) -> NDArray[np.float32]:
    image = canonical(read_image(path))
    if not image.geometry.matches(grid):
        raise DataError(
            f"{path}: expected the grid of the mask ({grid}), found {image.geometry}. Resample one "
            "onto the other, or mend the header."
        )
    values = image.array[labelled]
    return values[:: max(1, values.size // SAMPLES)].astype(np.float32)


def _structure(mask: NDArray[np.bool_], spacing_mm: Triple) -> Structure:
    voxels = int(np.count_nonzero(mask))
    extents = principal_shape(mask, spacing_mm)
    if extents is None:
        return Structure(voxels)
    return Structure(
        voxels,
        **asdict(extents),
        compactness=isoperimetric_quotient(mask, spacing_mm),
        skeleton_ratio=skeleton_ratio(mask),
    )


def description_to_json(value: Description) -> dict[str, Any]:
    """All but the samples, as written to a file: per-axis values in (x, y, z)."""
    return {
        "id": value.id,
        "n_bytes": value.n_bytes,
        "spacing": array_order(value.spacing),
        "size": array_order(value.size),
        "labels": {str(label): asdict(each) for label, each in value.labels.items()},
        "missing": value.missing,
    }


def description_from_json(fields: Mapping[str, Any], samples: NDArray[np.float32]) -> Description:
    """The inverse of ``description_to_json``."""
    (sx, sy, sz), (nx, ny, nz) = fields["spacing"], fields["size"]
    return Description(
        id=fields["id"],
        n_bytes=fields["n_bytes"],
        spacing=(sz, sy, sx),
        size=(nz, ny, nx),
        labels={int(label): Structure(**each) for label, each in fields["labels"].items()},
        samples=samples,
        missing=tuple(fields.get("missing", ())),  # older ones lack it
    )


def data_dump(
    descriptions: Sequence[Description],
    plan: Plan,
    dataset: Dataset,
    box_voxels: Mapping[str, int],
    plan_path: Path,
    left_out: Sequence[str] = (),
) -> dict[str, Any]:
    """Merge descriptions, in the order of the ids, into all of ``data_dump.json``.

    ``box_voxels`` are the voxels in the foreground box of each case, by id: all that there is of
    an image when the plan crops. ``left_out`` are the ids of cases that could not be described.
    Raises DataError without any description.
    """
    if not descriptions:
        raise DataError(f"{dataset.path}: expected cases to describe, found none that can be read.")
    descriptions = sorted(descriptions, key=lambda each: each.id)
    cropped = plan.preprocessing.crop_to_foreground
    image_voxels = np.array(
        [box_voxels[each.id] if cropped else prod(each.size) for each in descriptions]
    )
    dump = _rounded(
        {
            "dataset_summary": _dataset_summary(descriptions, dataset),
            "image_statistics": {
                "spacing": _spacing(descriptions),
                "dimensions": {
                    "original": {"per_axis": _per_axis([each.size for each in descriptions])},
                    "cropped_to_foreground": cropped,
                    "resampled_median": list(plan.spatial_config.median_resampled_image_size),
                },
                "intensity": {
                    "per_channel": _per_channel(descriptions, dataset.channels),
                    "foreground_fraction": _spread(_foreground(descriptions) / image_voxels),
                },
            },
            "label_statistics": _label_statistics(descriptions, dataset, image_voxels),
        }
    )
    return {
        **dump,
        "observations": [*_missing(left_out), *observations(dump)],
        "mist_config_path": str(plan_path.absolute()),
    }


def _missing(ids: Sequence[str]) -> list[str]:
    return [f"Left out, since they could not be described: {', '.join(sorted(ids))}."] * bool(ids)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, DECIMALS) if isinstance(value, float) else value


def _dataset_summary(descriptions: Sequence[Description], dataset: Dataset) -> dict[str, Any]:
    return {
        "task": dataset.task,
        "modality": dataset.modality,
        "num_patients": len(descriptions),
        "num_channels": len(dataset.channels),
        "channel_names": list(dataset.channels),
        "missing_images": {
            name: sum(dataset.channels.index(name) in each.missing for each in descriptions)
            for name in dataset.optional_images
        },
        "num_labels": len(dataset.labels),
        "labels": list(dataset.labels),
        "final_classes": {name: list(labels) for name, labels in dataset.final_classes.items()},
        "dataset_size_gb": sum(each.n_bytes for each in descriptions) / 1e9,
    }


def _spacing(descriptions: Sequence[Description]) -> dict[str, Any]:
    spacings = [each.spacing for each in descriptions]
    medians = np.median(spacings, axis=0).tolist()
    ratio = round(max(medians) / min(medians), DECIMALS)
    return {
        "per_axis": _per_axis(spacings),
        "median_spacing_mm": list(array_order(medians)),
        "anisotropy_ratio": ratio,
        "is_anisotropic": ratio > ANISOTROPY,
    }


def _per_axis(rows: Sequence[tuple[float, float, float]]) -> dict[str, Any]:
    """Statistics over the cases of (z, y, x) values, by the name of the axis."""
    z, y, x = np.asarray(rows).T
    return {"x": _spread(x), "y": _spread(y), "z": _spread(z)}


def _spread(values: NDArray[Any]) -> dict[str, float]:
    low, middle, high = np.percentile(values, [25, 50, 75]).tolist()
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "p25": low,
        "median": middle,
        "p75": high,
        "max": float(values.max()),
    }


def _per_channel(
    descriptions: Sequence[Description], channels: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Statistics of the samples of all cases together; nothing of a channel without any."""
    found = {}
    for index, channel in enumerate(channels):
        values = np.concatenate([each.samples[index] for each in descriptions]).astype(np.float64)
        values = values[~np.isnan(values)]
        if values.size:
            percentiles = np.percentile(values, PERCENTILES).tolist()
            found[channel] = {"mean": float(values.mean()), "std": float(values.std())} | {
                f"p{q:02d}": value for q, value in zip(PERCENTILES, percentiles, strict=True)
            }
    return found


def _voxels(descriptions: Sequence[Description], labels: Sequence[int]) -> NDArray[np.int64]:
    """Voxels of some labels together, in each case."""
    return np.array(
        [sum(each.labels[v].voxels for v in labels if v in each.labels) for each in descriptions]
    )


def _foreground(descriptions: Sequence[Description]) -> NDArray[np.int64]:
    return np.array([sum(s.voxels for s in each.labels.values()) for each in descriptions])


def _label_statistics(
    descriptions: Sequence[Description], dataset: Dataset, image_voxels: NDArray[np.int64]
) -> dict[str, Any]:
    foreground = max(float(_foreground(descriptions).mean()), 1.0)
    per_label, classes = {}, {}
    for label in dataset.labels[1:]:
        voxels = _voxels(descriptions, [label])
        per_label[str(label)] = {
            "voxel_count": {
                "mean": float(voxels.mean()),
                "std": float(voxels.std()),
                "min": int(voxels.min()),
                "median": float(np.median(voxels)),
                "max": int(voxels.max()),
            },
            **_share_of_foreground(voxels, foreground),
            "mean_volume_fraction_of_image_pct": 100 * float(voxels.mean() / image_voxels.mean()),
            "shape": _shape([each.labels[label] for each in descriptions if label in each.labels]),
        }
    for name, labels in dataset.final_classes.items():
        voxels = _voxels(descriptions, labels)
        share = _share_of_foreground(voxels, foreground)
        classes[name] = {"constituent_labels": list(labels), **share}
    return {
        "per_label": per_label,
        "final_classes": classes,
        "class_imbalance": _imbalance(per_label),
    }


def _share_of_foreground(voxels: NDArray[np.int64], foreground: float) -> dict[str, Any]:
    """How large and how common a label or class is; ``foreground`` voxels are labelled on average.

    Means are divided, not averaged ratios, so that a case with hardly any foreground hardly counts.
    """
    percent = 100 * float(voxels.mean()) / foreground
    return {
        "mean_volume_fraction_of_foreground_pct": percent,
        "presence_rate_pct": 100 * float((voxels > 0).mean()),
        "size_category": next((size for size, end in SIZES.items() if percent < end), "large"),
    }


def _shape(structures: Sequence[Structure]) -> dict[str, Any]:
    """Means over the cases that have a label, of what could be said of each."""
    means = {name: _mean([getattr(each, name) for each in structures]) for name in OF_SHAPE}
    known = {kind: means[name] for name, kind in SHAPES.items() if means[name] is not None}
    return {
        **{name: means[name] for name in SHAPES},
        "shape_class": max(known, key=lambda kind: known[kind] or 0) if known else "unknown",
        "compactness": means["compactness"],
        "skeleton_ratio": means["skeleton_ratio"],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _imbalance(per_label: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The largest and the smallest label that there is; a single one has no smaller."""
    shares = {
        int(label): each["mean_volume_fraction_of_foreground_pct"]
        for label, each in per_label.items()
        if each["mean_volume_fraction_of_foreground_pct"] > 0
    }
    ranked = sorted(shares, key=lambda label: shares[label])
    several = len(ranked) > 1
    return {
        "imbalance_ratio": shares[ranked[-1]] / shares[ranked[0]] if several else 1.0,
        "dominant_label": ranked[-1] if ranked else None,
        "minority_label": ranked[0] if several else None,
    }


def to_markdown(dump: Mapping[str, Any]) -> str:
    """The data dump for reading: tables, an explanation of every number, room for notes."""
    environment = Environment(  # noqa: S701 (Markdown is not HTML)
        loader=PackageLoader("mist_core", "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["short"] = _short
    classes = dump["dataset_summary"]["final_classes"]
    names = {label: named(label, classes) for label in dump["label_statistics"]["per_label"]}
    return environment.get_template("data_dump.md").render(dump, names=names)


def _short(value: float | None) -> str:
    """A number with as many digits as a reader wants; a dash for none."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
