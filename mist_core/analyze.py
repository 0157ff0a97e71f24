"""What the training cases imply: one fingerprint per case, from one read, then a cheap merge.

The numbers are MIST's; per-axis values are in array order here and in (x, y, z) in the files.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import reduce
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mist_core import __version__
from mist_core.config import Analyze, array_order
from mist_core.dataset import Case, Dataset, Found, problems_of_number
from mist_core.errors import WHOLE, DataError, merged_problems
from mist_core.geometry import ANISOTROPY, Box, Shape, Triple, box_of, union_box
from mist_core.intensity import HIGHEST_HU, LOWEST_HU, foreground_box
from mist_core.io import Volume, read_image, read_labels
from mist_core.labels import value_counts, without
from mist_core.plan import Plan
from mist_core.topology import architecture, divisor, nearest_patch
from mist_core.verify import misplaced, problems_of_headers

CROP_FROM = 0.20  # crop when that removes this share of the volume on average
ZEROS_FROM = 0.20  # zero is background when this share of the voxels is zero on average
PATCH_VOXELS = 128**3  # for a batch of 2 on a GPU with this memory, or without a GPU
GPU_MEMORY_GB = 16.0
NARROWEST_WINDOW = 10  # HU; noise alone makes that of a CT wider
FEWEST_SAMPLES = 100  # of a channel, below which nothing is said about its window
CT_STRIDE = 10  # every so many foreground voxels enter the CT statistics
MIN_PATCH = 32


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of a sample, and its histogram in whole HU."""

    count: int
    mean: float
    squares: float
    histogram: Mapping[int, int]


@dataclass(frozen=True)
class Fingerprint:
    """All that analyze needs to know of one case. Per-axis values (z, y, x), axes along LPS."""

    id: str
    problems: tuple[str, ...]
    spacing: Triple = (1.0, 1.0, 1.0)
    size: Shape = (1, 1, 1)
    cropped_size: Shape = (1, 1, 1)
    box: tuple[tuple[int, int], ...] = ()  # the foreground, first and end index, native axes
    crop_margin_mm: float = 0.0  # how far labels reach beyond what is bright in required channels
    native_size: Shape = (1, 1, 1)
    nonzero_fractions: tuple[float | None, ...] = ()  # of the voxels, by channel; None: missing
    label_counts: Mapping[int, int] | None = None
    intensities: tuple[Moments, ...] = ()  # inside any label, one per channel
    voxels: str = ""  # a short key of all channels: equal for copies of a case


def fingerprint(case: Case) -> Fingerprint:
    """Read a training case once and describe it.

    What is wrong with its files is part of the description, so that the problems of all cases can
    be shown together.
    """
    problems: list[str] = []
    volumes: list[Volume | None] = []
    for path in case.places:
        read = read_labels if path is case.mask else read_image
        try:
            volumes.append(read(path) if path else None)
        except DataError as error:
            problems.append(str(error))
    problems = problems or misplaced(case.files, [v.geometry for v in volumes if v])
    problems = problems or _blank(case, volumes)
    if problems:
        return Fingerprint(case.id, tuple(problems))

    *images, mask = volumes
    assert mask is not None
    there = {number: image.array for number, image in enumerate(images) if image}
    boxes = {number: foreground_box(array) for number, array in there.items()}
    bright = reduce(union_box, boxes.values())
    foreground = without(mask.array, case.ignore_label) > 0
    labelled = box_of(foreground)
    box = union_box(bright, labelled) if labelled else bright
    # A new case may lack the other channels, and must not lose a label for it.
    inner = reduce(union_box, (b for number, b in boxes.items() if number not in case.optional))
    reach = union_box(inner, labelled) if labelled else inner
    values, counts = value_counts(mask.array)
    geometry, order = mask.geometry, mask.geometry.to_lps()
    return Fingerprint(
        id=case.id,
        problems=(),
        spacing=geometry.moved_axes(*order).spacing,
        size=geometry.moved_axes(*order).shape,
        cropped_size=geometry.cropped(box).moved_axes(*order).shape,
        box=tuple((s.start, s.stop) for s in box),
        crop_margin_mm=_growth_mm(inner, reach, geometry.spacing),
        native_size=geometry.shape,
        nonzero_fractions=tuple(
            float(np.count_nonzero(i.array) / i.array.size) if i else None for i in images
        ),
        label_counts={int(v): int(n) for v, n in zip(values, counts, strict=True)},
        intensities=tuple(
            _moments(i.array[foreground][::CT_STRIDE] if i else np.empty(0)) for i in images
        ),
        voxels=_key(list(there.values())),
    )


def _blank(case: Case, volumes: Sequence[Volume | None]) -> list[str]:
    """A problem when no channel shows anything. One that is filled with zeros may be missing."""
    images = [volume.array for volume in volumes[: len(case.images)] if volume]
    if any(image.min() < image.max() for image in images):
        return []
    return [
        f"{case.files[0]}: expected an image, found {images[0].flat[0]:g} in every voxel"
        f"{' of all channels' if len(images) > 1 else ''}. Export it again."
    ]


def _key(arrays: Sequence[NDArray[Any]]) -> str:
    """A short key of images, from one voxel in seven: enough to know a copy, in less time."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array.ravel()[::7]).data)
    return total.hexdigest()[:16]


def _growth_mm(inner: Box, outer: Box, spacing: Triple) -> float:
    """The largest distance between the faces of a box and those of a box around it."""
    sides = zip(inner, outer, spacing, strict=True)
    return max(float(max(i.start - o.start, o.stop - i.stop)) * edge for i, o, edge in sides)


def _moments(sample: NDArray[Any]) -> Moments:
    if sample.size == 0:
        return Moments(0, 0.0, 0.0, {})
    sample = sample.astype(np.float32)
    mean = float(sample.mean(dtype=np.float64))
    inside = sample[(sample >= LOWEST_HU) & (sample < HIGHEST_HU)]
    bins, counts = np.unique(np.floor(inside).astype(int), return_counts=True)
    return Moments(
        sample.size,
        mean,
        float(np.square(sample.astype(np.float64) - mean).sum()),
        {int(b): int(n) for b, n in zip(bins, counts, strict=True)},
    )


def fingerprint_to_json(value: Fingerprint) -> dict[str, Any]:
    """As written to a file: per-axis values in (x, y, z)."""
    return _turned(asdict(value))


def fingerprint_from_json(values: dict[str, Any]) -> Fingerprint:
    """The inverse of ``fingerprint_to_json``."""
    values = _turned(values)
    counts = values["label_counts"]
    values["label_counts"] = counts and {int(k): int(n) for k, n in counts.items()}
    values["intensities"] = tuple(
        Moments(**{**m, "histogram": {int(k): n for k, n in m["histogram"].items()}})
        for m in values["intensities"]
    )
    values["problems"] = tuple(values["problems"])
    values["nonzero_fractions"] = tuple(values["nonzero_fractions"])
    values["box"] = tuple((start, stop) for start, stop in values["box"])
    return Fingerprint(**values)


def _turned(values: dict[str, Any]) -> dict[str, Any]:
    per_axis = ("spacing", "size", "cropped_size", "box", "native_size")
    assert set(per_axis) <= {f.name for f in fields(Fingerprint)}
    return {k: tuple(v)[::-1] if k in per_axis else v for k, v in values.items()}


def make_plan(
    prints: Sequence[Fingerprint],
    dataset: Dataset,
    settings: Analyze,
    skip: bool = False,
    budget: int = PATCH_VOXELS,
    model: str = "nnunet",
) -> Plan:
    """Merge fingerprints of cases without problems into a plan.

    With ``skip`` the images are as they are to be: nothing is cropped, resampled or normalised.
    ``budget`` is how many voxels a patch may have, ``model`` the architecture that it must suit.
    """
    spacing = (
        target_spacing([p.spacing for p in prints])
        if settings.target_spacing == "auto"
        else array_order(settings.target_spacing)
    )
    reduction = float(np.mean([1 - prod(p.cropped_size) / prod(p.size) for p in prints]))
    crop = not skip and (
        reduction >= CROP_FROM
        if settings.crop_to_foreground == "auto"
        else settings.crop_to_foreground
    )
    size = median_size(
        [p.cropped_size if crop else p.size for p in prints],
        [spacing if skip else p.spacing for p in prints],
        spacing,
    )
    patch = (
        choose_patch(size, spacing, budget, model)
        if settings.patch_size == "auto"
        else _fitting(array_order(settings.patch_size), spacing, model)
    )
    is_ct = [modality == "ct" for modality in dataset.modalities()]
    # Over the cases that have a channel: None becomes NaN.
    zeros = 1 - np.nanmean(np.array([p.nonzero_fractions for p in prints], float), axis=0)
    channels = [[p.intensities[c] for p in prints] for c in range(len(dataset.channels))]
    return Plan.model_validate(
        {
            "mist_version": __version__,
            "dataset_info": {
                "task": dataset.task,
                "modality": dataset.modality,
                "images": dataset.channels,
                "optional_images": dataset.optional_images,
                "image_names": dataset.image_names,
                "labels": dataset.labels,
                "ignore_label": dataset.ignore_label,
                "mirrored_labels": dataset.mirrored_labels,
            },
            "spatial_config": {
                "patch_size": array_order(patch),
                "target_spacing": array_order(spacing),
                "median_resampled_image_size": array_order(size),
            },
            "preprocessing": {
                "skip": skip,
                "crop_to_foreground": crop,
                "crop_margin_mm": max(p.crop_margin_mm for p in prints),
                # In CT, 0 HU is water, not background.
                "normalize_with_nonzero_mask": [
                    not ct and not skip and bool(share >= ZEROS_FROM)
                    for ct, share in zip(is_ct, zeros, strict=True)
                ],
                "ct_normalization": [
                    ct_statistics(c) if ct and not skip else None
                    for ct, c in zip(is_ct, channels, strict=True)
                ],
            },
            "model": {
                "in_channels": len(dataset.channels),
                "out_channels": len(dataset.labels),
            },
            "evaluation": {k: {"labels": v} for k, v in dataset.final_classes.items()},
            "training_volumes": training_volumes(prints, dataset.final_classes),
        }
    )


def training_volumes(
    prints: Sequence[Fingerprint], classes: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, Any]]:
    """Of each class that there is: its smallest and largest volume in the cases that have it, in
    millilitres, and whether all have it.
    """
    found = {}
    for name, labels in classes.items():
        volumes = [
            sum((p.label_counts or {}).get(label, 0) for label in labels) * prod(p.spacing) / 1000
            for p in prints
        ]
        if present := [volume for volume in volumes if volume]:
            found[name] = {
                "smallest_ml": min(present),
                "largest_ml": max(present),
                "in_every_case": len(present) == len(volumes),
            }
    return found


def judge(
    prints: Sequence[Fingerprint],
    dataset: Dataset,
    found: Found,
    settings: Analyze,
    folds: Mapping[str, int],
    patients: Mapping[str, str],
    limited: bool = False,
    skip: bool = False,
) -> tuple[dict[str, list[str]], bool]:
    """All problems of the training cases by id, and whether they stop the run.

    With ``verify: drop`` bad cases do so only where too little is left without them. Test cases
    fail alone; what is known of theirs is told beside what stops the run. A run that is ``limited``
    to some of the cases may lack a label, and a CT that is preprocessed already (``skip``) has any
    unit.
    """
    drop = settings.verify == "drop"
    problems = merged_problems(
        {name: lines for name, lines in found.problems.items() if name not in found.bad_tests},
        problems_of(prints, dataset, settings.empty_masks, patients),
    )
    good = [p for p in prints if p.id not in problems]
    n_cases = len(good) + (0 if drop else len(problems))
    whole = problems_of_number(dataset, n_cases, settings.folds)
    if not whole and (drop or not problems):
        whole = _empty_folds(good, dataset, settings.folds, folds)
        whole += _unseen_channels(good, dataset, folds, limited)
        whole += [] if limited else _unused_labels(good, dataset)
        whole += [] if skip else _not_in_hu(good, dataset)
    stops = bool(whole) or (bool(problems) and not drop)
    if stops:
        of_tests = problems_of_headers(list(found.test.values()))
        others = {name: found.problems[name] for name in found.bad_tests}
        of_whole = {WHOLE: whole} if whole else {}
        problems = merged_problems(problems, others, of_tests, of_whole)
    return problems, stops


def problems_of(
    prints: Sequence[Fingerprint],
    dataset: Dataset,
    empty_masks: bool = False,
    patients: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:
    """All that is wrong with the training cases, by id: what their fingerprints found, labels that
    the dataset does not declare, label maps without labels (unless they are meant to be), and
    copies of another case that are not of the same patient.
    """
    problems: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    for p in prints:
        found = list(p.problems) or _problems_of_labels(p, dataset, empty_masks)
        twin = first.setdefault(p.voxels, p.id) if p.voxels and not found else p.id
        same = (patients or {}).get(twin, twin) == (patients or {}).get(p.id, p.id)
        if not same:
            found.append(
                f"{dataset.case(p.id).files[0]}: expected images of its own for {p.id}, found "
                f"those of {twin}. Take one of them out: a model would be tested on what it has "
                "learnt. Or give both one patient in analyze.case_table."
            )
        if found:
            problems[p.id] = found
    return problems


def _problems_of_labels(p: Fingerprint, dataset: Dataset, empty_masks: bool) -> list[str]:
    counts = p.label_counts or {}
    if odd := sorted(set(counts) - {*dataset.labels, dataset.ignore_label}):
        found = ", ".join(f"{v} ({counts[v]} voxels)" for v in odd)
        return [
            f"{dataset.case(p.id).mask}: expected labels among {list(dataset.labels)}, found "
            f"{found}. Mend the label map, or name the label in {dataset.path}: in labels, or as "
            "ignore_label."
        ]
    if set(counts) <= {0, dataset.ignore_label} and not empty_masks:
        return [
            f"{dataset.case(p.id).mask}: expected labels, found background only. Draw them; or, if "
            "there is nothing to draw in this case, set analyze.empty_masks to true."
        ]
    return []


def _empty_folds(
    prints: Sequence[Fingerprint], dataset: Dataset, n_folds: int, folds: Mapping[str, int]
) -> list[str]:
    """A problem when a fold holds no case: nothing would be predicted by its model."""
    empty = sorted(set(range(n_folds)) - {folds[p.id] for p in prints})
    if not empty:
        return []
    return [
        f"{dataset.path}: expected a case in each of {n_folds} folds, found none in fold "
        f"{', '.join(map(str, empty))}. Add cases or patients, lower analyze.folds, or mend the "
        "folds in analyze.case_table or folds.json."
    ]


def _not_in_hu(prints: Sequence[Fingerprint], dataset: Dataset) -> list[str]:
    """A problem for every CT channel whose values cannot be Hounsfield units: normalised by their
    window, its images would be constant.
    """
    problems = []
    channels = zip(dataset.channels, dataset.modalities(), strict=True)
    for index, (name, modality) in enumerate(channels):
        samples = [p.intensities[index] for p in prints]
        count = sum(sample.count for sample in samples)
        if modality != "ct" or count < FEWEST_SAMPLES:
            continue
        inside = sum(n for sample in samples for n in sample.histogram.values())
        found = ct_statistics(samples)
        low, high = found["window_min"], found["window_max"]
        if inside < count / 2 or high - low < NARROWEST_WINDOW:
            problems.append(
                f"{dataset.path}: expected Hounsfield units in channel {name}, found "
                f"{inside / count:.0%} of the labelled voxels from {LOWEST_HU} to {HIGHEST_HU}, "
                f"and of these nearly all from {low:g} to {high:g}. Restore the units of the "
                "images, or set the modality of this channel to other."
            )
    return problems


def _unused_labels(prints: Sequence[Fingerprint], dataset: Dataset) -> list[str]:
    """A problem when a label of the dataset is in none of its cases."""
    seen = {v for p in prints for v in p.label_counts or ()}
    never = sorted(set(dataset.labels) - seen - {0})
    if not never:
        return []
    return [
        f"{dataset.path}: expected every label in some training case, found none with "
        f"{', '.join(map(str, never))}. Take unused labels out of labels."
    ]


def _unseen_channels(
    prints: Sequence[Fingerprint], dataset: Dataset, folds: Mapping[str, int], limited: bool
) -> list[str]:
    """A problem for every channel that no case has, or cases of one fold only: the model which
    holds these out would meet it untrained.
    """
    problems = []
    for name in dataset.optional_images:
        index = dataset.channels.index(name)
        seen = {folds[p.id] for p in prints if p.nonzero_fractions[index] is not None}
        if len(seen) < 2:
            found = f"it in fold {seen.pop()} only" if seen else "none with it"
            more = "Raise limit_cases" if limited else "Add cases that have it"
            problems.append(
                f"{dataset.path}: expected channel {name} in training cases of two folds or more, "
                f"found {found}. {more}, or take it out of images."
            )
    return problems


def target_spacing(spacings: Sequence[Triple]) -> Triple:
    """Median per axis; thick slices get the 10th percentile of their axis instead.

    Slices are thick when the largest median is more than three times the smallest: then the
    thinnest slices should not be averaged away.
    """
    table = np.asarray(spacings)
    medians = np.median(table, axis=0)
    if medians.max() / medians.min() > ANISOTROPY:
        axis = int(medians.argmax())
        medians[axis] = np.percentile(table[:, axis], 10)
    z, y, x = medians.round(6).tolist()  # headers hold 32 bits: 1.2000000476837158
    return (z, y, x)


def median_size(sizes: Sequence[Shape], spacings: Sequence[Triple], target: Triple) -> Shape:
    """Median per axis of the sizes after resampling to the target spacing, in voxels."""
    resampled = np.round(np.asarray(sizes) * np.asarray(spacings) / np.asarray(target))
    z, y, x = np.median(resampled, axis=0).astype(int).tolist()
    return (max(z, 1), max(y, 1), max(x, 1))


def patch_budget(
    settings: Analyze, batch_size: int, gpu_memory_gb: float | None, model: str = "nnunet"
) -> int:
    """Voxels that a patch may have, by the memory (GiB) of the GPU; None: there is no GPU."""
    if settings.patch_voxels != "auto":
        return settings.patch_voxels
    if gpu_memory_gb is None:
        return PATCH_VOXELS
    share = gpu_memory_gb / GPU_MEMORY_GB * architecture(model).patch_budget
    return int(share * PATCH_VOXELS * 2 / batch_size)


def choose_patch(size: Shape, spacing: Triple, budget: int, model: str = "nnunet") -> Shape:
    """Patch for a median image size: isotropic in mm where it can be, within ``budget`` voxels, and
    such that the model can halve it.
    """
    if max(spacing) / min(spacing) > ANISOTROPY:
        patch = _thick_slice_patch(size, spacing, budget, model)
    else:
        patch = _even_patch(size, spacing, budget)
    return nearest_patch(patch, spacing, model)


def _fitting(patch: Shape, spacing: Triple, model: str) -> Shape:
    """The patch that the user chose, if the network can halve it."""
    near = nearest_patch(patch, spacing, model)
    if near != patch:
        multiples = divisor(patch, spacing, model)[::-1]
        more = ", and more on one axis" if list(patch) == [architecture(model).levels] * 3 else ""
        raise DataError(
            f"config: analyze.patch_size: expected multiples of {list(multiples)} (x, y, z){more}, "
            f"as {model} halves the axes, found {list(patch[::-1])}. Take {list(near[::-1])}."
        )
    return patch


def _thick_slice_patch(size: Shape, spacing: Triple, budget: int, model: str) -> Shape:
    """As many slices as the budget allows at full width, then the width that is left."""
    axis = int(np.argmax(spacing))
    depth = size[axis]
    width = min(n for a, n in enumerate(size) if a != axis)
    fewest = min(5, depth)
    slices = int(np.clip(budget / width**2, fewest, depth))
    z, y, x = (slices if a == axis else max(width, MIN_PATCH) for a in range(3))
    multiple = divisor((z, y, x), spacing, model)[axis]
    if multiple == architecture(model).levels:  # whatever the patch
        slices = max(slices // multiple, 1) * multiple
    elif multiple > 1:
        up = -(-slices // multiple) * multiple
        slices = up if up <= depth else max(slices // multiple * multiple, fewest)
    edge = _multiple_of_32(min(round((budget / slices) ** 0.5), width))
    z, y, x = (slices if a == axis else edge for a in range(3))
    return (z, y, x)


def _even_patch(size: Shape, spacing: Triple, budget: int) -> Shape:
    """A cube in mm; axes on which the image is smaller than that are taken whole."""
    fixed: dict[int, int] = {}
    while len(fixed) < 3:
        free = [a for a in range(3) if a not in fixed]
        edge_mm = (budget / prod(fixed.values()) * prod(spacing[a] for a in free)) ** (
            1 / len(free)
        )
        small = [a for a in free if edge_mm / spacing[a] >= size[a]]
        if not small:
            break
        fixed |= {a: _multiple_of_32(size[a]) for a in small}
    z, y, x = (
        fixed[a] if a in fixed else _multiple_of_32(min(round(edge_mm / spacing[a]), size[a]))
        for a in range(3)
    )
    return (z, y, x)


def _multiple_of_32(n: int) -> int:
    return max(MIN_PATCH, MIN_PATCH * (n // MIN_PATCH))


def ct_statistics(samples: Sequence[Moments]) -> dict[str, float]:
    """Window (0.5 and 99.5 %) and z-score of a CT channel, from the exact merge of all cases.

    Without any foreground all four are 0.
    """
    count = sum(s.count for s in samples)
    if count == 0:
        return dict.fromkeys(("window_min", "window_max", "z_score_mean", "z_score_std"), 0.0)
    mean = sum(s.count * s.mean for s in samples) / count
    squares = sum(s.squares + s.count * (s.mean - mean) ** 2 for s in samples)
    histogram = np.zeros(HIGHEST_HU - LOWEST_HU, np.int64)
    for s in samples:
        for value, n in s.histogram.items():
            histogram[value - LOWEST_HU] += n
    share = np.cumsum(histogram) / max(histogram.sum(), 1)
    low, high = np.searchsorted(share, [0.005, 0.995])
    return {
        "window_min": float(LOWEST_HU + low),
        "window_max": float(LOWEST_HU + high),
        "z_score_mean": mean,
        "z_score_std": (squares / count) ** 0.5,
    }


def box_row(p: Fingerprint) -> dict[str, Any]:
    """One row of fg_bboxes.csv: inclusive voxel bounds on the native axes, as MIST has them."""
    row: dict[str, Any] = {}
    for axis, (start, stop) in zip("xyz", array_order(_three(p.box)), strict=True):
        row |= {f"{axis}_start": start, f"{axis}_end": stop - 1}
    sizes = zip("xyz", array_order(p.native_size), strict=True)
    return row | {f"{axis}_og_size": n for axis, n in sizes} | {"id": p.id}


def _three(values: Any) -> Any:
    a, b, c = values
    return (a, b, c)
