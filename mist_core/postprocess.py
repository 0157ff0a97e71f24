"""Change predicted label maps by named strategies: lists of transforms, applied in order."""

import inspect
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from mist_core import own
from mist_core.errors import DataError, in_words, raise_all
from mist_core.files import read_json
from mist_core.geometry import Box, Triple, box_of, widened_box
from mist_core.io import LARGEST_LABEL
from mist_core.labels import in_labels, value_counts
from mist_core.transforms import GIVEN, TRANSFORMS, Labels, Mask, Transform

log = logging.getLogger(__name__)
Probabilities = Mapping[int, NDArray[np.float32]]  # of each label, (Z, Y, X)
ALL_LABELS = [-1]
PER_LABEL = {  # transforms of which only one of the two makes sense
    "replace_small_objects_with_label": True,
    "smooth_boundary": False,
}


class Step(BaseModel):
    """One step of a strategy. ``apply_to_labels`` of [-1] stands for every label above 0."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    transform: str
    apply_to_labels: list[Annotated[int, Field(le=LARGEST_LABEL)]] = Field(min_length=1)
    per_label: bool
    kwargs: dict[str, Any] = Field(default_factory=dict)


def postprocess(
    labels: Labels,
    strategy: Sequence[Step],
    spacing_mm: Triple,
    probabilities: Probabilities | None = None,
) -> Labels:
    """Apply a strategy to label values (Z, Y, X); the type widens if a new label needs it.

    Raises DataError, with the number of the step and its transform, where one fails: no step after
    it is taken.
    """
    for number, step in enumerate(strategy, start=1):
        try:
            labels = _after(step, labels, spacing_mm, probabilities)
        except DataError as error:
            raise DataError(f"step {number} ({step.transform}): {error}") from error
    return labels


def _after(
    step: Step, labels: Labels, spacing_mm: Triple, probabilities: Probabilities | None
) -> Labels:
    """The label map after one step, a new array."""
    found = box_of(labels != 0)
    if found is None:
        return labels
    transform = _function(step.transform)
    # Ours see no more of an image than the box around all labels, and one voxel more.
    box: Any = widened_box(found, _shape(labels), (1, 1, 1))
    box = (slice(None),) * 3 if own.is_own(step.transform) else box
    part = labels[box].copy()
    for group in _groups(step, part):
        mask = in_labels(part, group)
        if mask.any():
            given: dict[str, Any] = {"spacing_mm": spacing_mm}
            if "probability" in _taken_by(transform):
                given["probability"] = _probability(group, probabilities, box)
            given = {name: given[name] for name in _taken_by(transform)}
            part = _changed(step, transform, part, mask, given)
    whole = labels.astype(part.dtype)
    whole[box] = part
    return whole


def _groups(step: Step, labels: Labels) -> list[list[int]]:
    """The labels that a step is applied to, those which it treats as one together."""
    wanted = step.apply_to_labels
    if wanted == ALL_LABELS:
        others = step.kwargs.get("within_labels", ())  # which are not to lie within themselves
        wanted = [v for v in value_counts(labels)[0].tolist() if v and v not in others]
    return [[label] for label in wanted] if step.per_label else [wanted] if wanted else []


def _changed(
    step: Step, transform: Transform, labels: Labels, mask: Mask, given: Mapping[str, Any]
) -> Labels:
    """What a transform makes of a label map."""
    if not own.is_own(step.transform):
        return transform(labels, mask, **given, **step.kwargs)
    try:
        changed = np.asarray(transform(labels.copy(), mask, **given, **step.kwargs))
    except Exception as error:
        log.exception("%s", step.transform)
        raise DataError(
            f"expected a label map from it, found {type(error).__name__}: {error}. Mend the "
            "function: its traceback is above."
        ) from error
    if changed.shape != labels.shape or changed.dtype.kind not in "iub":
        raise DataError(
            f"expected a label map of integers and of shape {labels.shape} from it, found "
            f"{changed.dtype} and {changed.shape}. Mend the function."
        )
    low, high = int(changed.min()), int(changed.max())
    if low < 0 or high > LARGEST_LABEL:
        raise DataError(
            f"expected labels from 0 to {LARGEST_LABEL} from it, found {low} to {high}. Mend the "
            "function."
        )
    return changed.astype(np.promote_types(labels.dtype, np.min_scalar_type(high)))


def _probability(
    group: Sequence[int], probabilities: Probabilities | None, box: Box
) -> NDArray[np.float32]:
    """That a voxel belongs to one of the labels."""
    if probabilities is None:
        raise DataError(
            "expected probabilities beside the label map, found none. Name their folder, or leave "
            "out the step."
        )
    if missing := [label for label in group if label not in probabilities]:
        raise DataError(
            f"expected probabilities of label {missing[0]}, found those of "
            f"{', '.join(map(str, probabilities))}. Mend apply_to_labels, or put the step before "
            "those that give new labels."
        )
    summed: NDArray[np.float32] = sum(
        (probabilities[label][box] for label in group[1:]), probabilities[group[0]][box]
    )
    return summed


def read_strategy(path: Path) -> list[Step]:
    """Read and check a strategy file. Raises one DataError with every mistake in it."""
    given = read_json(path)
    if not isinstance(given, list):
        raise DataError(f"{path}: expected a list of steps in brackets, found {given!r}. Mend it.")
    steps, problems = [], []
    for number, each in enumerate(given):
        place = f"{path}: steps.{number}"
        try:
            steps.append(Step.model_validate(each))
            problems += _mistakes(place, steps[-1])
        except ValidationError as error:
            lines = in_words(error.errors(), f"{place}.", Step.model_fields)
            problems += [line.replace(".:", ":", 1) for line in lines]  # of a step as a whole
    raise_all(problems, "postprocess")
    return steps


def needs_probabilities(strategy: Sequence[Step]) -> bool:
    """Whether a step looks at probabilities."""
    return any("probability" in _taken_by(_function(step.transform)) for step in strategy)


def own_sources(strategy: Sequence[Step]) -> list[str]:
    """The sources of the user's own transforms, which label maps depend on."""
    return [own.source_of(step.transform) for step in strategy if own.is_own(step.transform)]


def unknown_labels(strategy: Sequence[Step], labels: Collection[int]) -> list[int]:
    """Labels that a strategy reads or writes and a dataset does not have."""
    used = set()
    for step in strategy:
        used |= set() if step.apply_to_labels == ALL_LABELS else set(step.apply_to_labels)
        if step.transform in TRANSFORMS:
            used |= {value for name, value in step.kwargs.items() if name.endswith("_label")}
            used |= set(step.kwargs.get("within_labels", ()))
    return sorted(used - set(labels))


def _mistakes(place: str, step: Step) -> list[str]:
    problems = []
    if len(set(step.apply_to_labels)) < len(step.apply_to_labels):
        problems.append(
            f"{place}: expected each label once, found {step.apply_to_labels}. Take out copies."
        )
    if step.apply_to_labels != ALL_LABELS and min(step.apply_to_labels) < 1:
        problems.append(
            f"{place}: expected labels above 0, or [-1] for all, found {step.apply_to_labels}. "
            "Mend it."
        )
    if step.transform not in TRANSFORMS and not own.is_own(step.transform):
        problems.append(
            f"{place}: expected a transform among {', '.join(TRANSFORMS)}, or module:function, "
            f"found {step.transform!r}. Mend the name."
        )
        return problems
    wanted = PER_LABEL.get(step.transform, step.per_label)
    if step.per_label != wanted:
        problems.append(
            f"{place}: expected per_label {str(wanted).lower()} for {step.transform}, found "
            f"{str(step.per_label).lower()}. Set it to {str(wanted).lower()}."
        )
    if own.is_own(step.transform):
        return problems + _mistakes_of_own(place, step)
    return problems + _mistakes_of_kwargs(place, step)


def _mistakes_of_kwargs(place: str, step: Step) -> list[str]:
    kwargs = step.kwargs
    problems = []
    if {"small_object_threshold", "min_volume_mm3"} <= kwargs.keys():
        problems.append(
            f"{place}: expected small_object_threshold or min_volume_mm3, found both. Take one out."
        )
    parameters = inspect.signature(TRANSFORMS[step.transform]).parameters
    fields: Any = {
        name: (each.annotation, ... if each.default is each.empty else each.default)
        for name, each in parameters.items()
        if each.kind is each.KEYWORD_ONLY and name not in GIVEN
    }
    settings = ConfigDict(extra="forbid", strict=True)
    try:
        create_model(step.transform, __config__=settings, **fields).model_validate(kwargs)
    except ValidationError as error:
        problems += in_words(error.errors(), f"{place}.kwargs.", fields)
        return problems
    if both := sorted(set(kwargs.get("within_labels", ())) & set(step.apply_to_labels)):
        problems.append(
            f"{place}: expected other labels in within_labels than in apply_to_labels, found "
            f"{both} in both. Mend one of them."
        )
    return problems


def _mistakes_of_own(place: str, step: Step) -> list[str]:
    """What is wrong with the name of a function of the user's, or with the kwargs for it."""
    try:
        own.check(step.transform)
        function = own.load(step.transform)
    except DataError as error:
        return [f"{place}: {error}"]
    given = dict.fromkeys(_taken_by(function))
    if taken := sorted(given.keys() & step.kwargs.keys()):
        return [
            f"{place}: expected no kwarg {taken[0]}, which comes from the case, found one. Take it "
            "out."
        ]
    try:
        inspect.signature(function).bind(None, None, **given, **step.kwargs)
    except TypeError as error:
        return [
            f"{place}: expected kwargs of {step.transform}{inspect.signature(function)}, found "
            f"{step.kwargs} ({error}). Mend them."
        ]
    return []


def _function(name: str) -> Transform:
    return TRANSFORMS[name] if name in TRANSFORMS else own.load(name)


def _taken_by(function: Transform) -> list[str]:
    """What a transform wants to know of a case."""
    return [name for name in GIVEN if name in inspect.signature(function).parameters]


def _shape(labels: Labels) -> tuple[int, int, int]:
    z, y, x = labels.shape
    return z, y, x
