"""Change predicted label maps by named strategies: lists of transforms, applied in order."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from scipy import ndimage

from mist_core.errors import in_words, raise_all
from mist_core.files import read_json
from mist_core.io import LARGEST_LABEL
from mist_core.labels import in_labels

Labels = NDArray[Any]
Mask = NDArray[np.bool_]
FULL = np.ones((3, 3, 3), bool)  # voxels that touch, even at a corner, belong together
CROSS = ndimage.generate_binary_structure(3, 1)
ALL_LABELS = [-1]


class Step(BaseModel):
    """One step of a strategy. ``apply_to_labels`` of [-1] stands for every label above 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    transform: str
    apply_to_labels: list[int] = Field(min_length=1)
    per_label: bool
    kwargs: dict[str, Any] = Field(default_factory=dict)


def remove_small_objects(labels: Labels, mask: Mask, *, small_object_threshold: int = 64) -> Labels:
    """Set components of the mask with fewer than the threshold's voxels to background."""
    return replace_small_objects_with_label(
        labels, mask, small_object_threshold=small_object_threshold, replacement_label=0
    )


def replace_small_objects_with_label(
    labels: Labels, mask: Mask, *, small_object_threshold: int = 64, replacement_label: int = 0
) -> Labels:
    """Give components of the mask with fewer than the threshold's voxels another label."""
    components, sizes = _components(mask)
    small = sizes < small_object_threshold
    small[0] = False
    return _painted(labels, small[components], replacement_label)


def get_top_k_connected_components(
    labels: Labels,
    mask: Mask,
    *,
    top_k_connected_components: int = 1,
    apply_morphological_cleaning: bool = False,
    morphological_cleaning_iterations: int = 2,
) -> Labels:
    """Keep the largest components of the mask, all of them when there are fewer.

    Cleaning erodes before the choice, which cuts thin bridges, and dilates what was kept within
    the original mask.
    """
    # SciPy would take no iterations for as many as change anything.
    clean = apply_morphological_cleaning and morphological_cleaning_iterations > 0
    cores = mask
    if clean:
        cores = ndimage.binary_erosion(mask, CROSS, morphological_cleaning_iterations)
    components, sizes = _components(cores)
    if sizes.size - 1 < top_k_connected_components:
        return labels
    kept = np.zeros(sizes.size, bool)
    # Largest first; equal sizes in the order of their first voxel, so the choice is fixed.
    kept[1 + np.argsort(-sizes[1:], kind="stable")[:top_k_connected_components]] = True
    chosen = kept[components]
    if clean:
        chosen = ndimage.binary_dilation(chosen, CROSS, morphological_cleaning_iterations)
    return _painted(labels, mask & ~chosen, 0)


def fill_holes_with_label(labels: Labels, mask: Mask, *, fill_holes_label: int = 0) -> Labels:
    """Give background that the mask encloses a label. Other structures in a hole stay."""
    holes = ndimage.binary_fill_holes(mask) & ~mask & (labels == 0)
    return _painted(labels, holes, fill_holes_label)


Transform = Callable[..., Labels]
TRANSFORMS: Mapping[str, Transform] = {
    "remove_small_objects": remove_small_objects,
    "fill_holes_with_label": fill_holes_with_label,
    "get_top_k_connected_components": get_top_k_connected_components,
    "replace_small_objects_with_label": replace_small_objects_with_label,
}
PER_LABEL_ONLY = ("replace_small_objects_with_label",)


def postprocess(labels: Labels, strategy: Sequence[Step]) -> Labels:
    """Apply a strategy to label values (Z, Y, X); the type widens if a new label needs it."""
    for step in strategy:
        transform = TRANSFORMS[step.transform]
        present = [int(v) for v in np.unique(labels) if v]
        wanted = present if step.apply_to_labels == ALL_LABELS else step.apply_to_labels
        groups = [[label] for label in wanted] if step.per_label else [wanted]
        for group in groups:
            mask = in_labels(labels, group) if group else np.zeros(labels.shape, bool)
            if mask.any():
                labels = transform(labels, mask, **step.kwargs)
    return labels


def read_strategy(path: Path) -> list[Step]:
    """Read and check a strategy file. Raises one DataError with every mistake in it."""
    try:
        steps = TypeAdapter(list[Step]).validate_python(read_json(path))
    except ValidationError as error:
        raise_all(in_words(error.errors(), f"{path}: steps.", Step.model_fields), "postprocess")
        raise
    problems = [p for i, step in enumerate(steps) for p in _mistakes(f"{path}: steps.{i}", step)]
    raise_all(problems, "postprocess")
    return steps


def unknown_labels(strategy: Sequence[Step], labels: Collection[int]) -> list[int]:
    """Labels that a strategy reads or writes and a dataset does not have."""
    used = set()
    for step in strategy:
        used |= set() if step.apply_to_labels == ALL_LABELS else set(step.apply_to_labels)
        used |= {value for name, value in step.kwargs.items() if name.endswith("_label")}
    return sorted(used - set(labels))


def _mistakes(place: str, step: Step) -> list[str]:
    if step.transform not in TRANSFORMS:
        return [
            f"{place}: expected a transform among {', '.join(TRANSFORMS)}, "
            f"found {step.transform!r}. Mend the name."
        ]
    defaults = TRANSFORMS[step.transform].__kwdefaults__ or {}
    problems = [
        f"{place}: expected kwargs among {', '.join(defaults)}, found {name!r}. Mend the name."
        for name in step.kwargs.keys() - defaults.keys()
    ]
    for name, value in step.kwargs.items():
        kind = type(defaults.get(name))
        if name in defaults and not (type(value) is kind and _in_range(name, value)):
            problems.append(
                f"{place}: expected {name} like {defaults[name]!r}, found {value!r}. Mend it."
            )
    if step.transform in PER_LABEL_ONLY and not step.per_label:
        problems.append(
            f"{place}: expected per_label true for {step.transform}, found false. Set it to true."
        )
    if step.apply_to_labels != ALL_LABELS and min(step.apply_to_labels) < 1:
        problems.append(
            f"{place}: expected labels above 0, or [-1] for all, found {step.apply_to_labels}. "
            "Mend it."
        )
    return problems


def _in_range(name: str, value: Any) -> bool:
    """Counts of objects and iterations from 1, sizes from 0, labels up to the largest there is."""
    counts = ("top_k_connected_components", "morphological_cleaning_iterations")
    lowest = 1 if name in counts else 0
    return bool(value >= lowest and not (name.endswith("_label") and value > LARGEST_LABEL))


def _components(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Numbered components, and the voxels of each; number 0 is the rest."""
    components, _ = ndimage.label(mask, FULL)
    return components.astype(np.int32, copy=False), np.bincount(components.ravel())


def _painted(labels: Labels, where: Mask, value: int) -> Labels:
    painted = labels.astype(np.promote_types(labels.dtype, np.min_scalar_type(value)))
    painted[where] = value
    return painted
