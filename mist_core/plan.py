"""What the data implied: written once by analyze as ``config.json``, obeyed by every later stage.

Per-axis values in the file are (x, y, z); the properties of ``Plan`` give them in array order.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mist_core.config import array_order
from mist_core.errors import DataError
from mist_core.files import read_json
from mist_core.geometry import Shape, Triple

LabelValue = Annotated[int, Field(ge=0, le=65535)]
LabelValues = TypeAdapter(Annotated[tuple[LabelValue, ...], Field(min_length=2)])
# What each stage reads of the plan. A change elsewhere in it leaves the stage's outputs alone.
READ_BY = {
    "preprocess": (
        "dataset_info.images",
        "dataset_info.labels",
        "dataset_info.ignore_label",
        "spatial_config.target_spacing",
        "preprocessing",
    ),
    "train": (
        "dataset_info.images",
        "dataset_info.optional_images",
        "dataset_info.labels",
        "dataset_info.mirrored_labels",
        "spatial_config.target_spacing",
        "spatial_config.patch_size",
        "preprocessing",
        "model",
    ),
    "evaluate": ("evaluation", "dataset_info.ignore_label"),
    "data_dump": (
        "spatial_config.median_resampled_image_size",
        "preprocessing.crop_to_foreground",
    ),
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetInfo(_Part):
    """Facts of the description. ``labels`` are label values; their position is the class index."""

    task: str
    modality: str | dict[str, str]  # of all channels, or of each
    images: tuple[str, ...]
    optional_images: tuple[str, ...] = ()  # those of them that a case may lack
    labels: tuple[int, ...]
    # Substrings by which the file of a channel is known; none: those of an older plan, or listed.
    image_names: dict[str, tuple[str, ...]] = {}
    ignore_label: int | None = None  # in label maps: where nobody said what is there
    mirrored_labels: tuple[tuple[int, int], ...] = ()  # left and right of each other


class SpatialConfig(_Part):
    """The training grid."""

    patch_size: tuple[int, int, int]
    target_spacing: tuple[float, float, float]
    median_resampled_image_size: tuple[int, int, int]


class CtNormalization(_Part):
    """Window and z-score of one CT channel, from the voxels inside any label."""

    window_min: float
    window_max: float
    z_score_mean: float
    z_score_std: float


class Preprocessing(_Part):
    """How intensities and extents are brought together."""

    skip: bool = False  # images are preprocessed already
    crop_to_foreground: bool
    crop_margin_mm: float = 0.0  # added on every side: no training label is cut
    normalize_with_nonzero_mask: tuple[bool, ...]  # one per channel
    ct_normalization: tuple[CtNormalization | None, ...]  # one per channel; None unless CT


class ModelSize(_Part):
    """Width of the network at both ends."""

    in_channels: int
    out_channels: int


class ClassLabels(_Part):
    """The label values that make up one evaluated class."""

    labels: tuple[int, ...]


class Volumes(_Part):
    """How large an evaluated class was in the training cases that have it, in millilitres."""

    smallest_ml: float
    largest_ml: float
    in_every_case: bool


class Analysis(_Part):
    """What the analysis was told: for commands that only know where its results lie."""

    dataset: str = ""
    limit_cases: int | None = None
    analyze: dict[str, Any] = {}


class Plan(_Part):
    """All of ``config.json``."""

    mist_version: str
    dataset_info: DatasetInfo
    spatial_config: SpatialConfig
    preprocessing: Preprocessing
    model: ModelSize
    evaluation: dict[str, ClassLabels]
    training_volumes: dict[str, Volumes] = {}  # by evaluated class; older plans have none
    left_out: dict[str, str] = {}  # bad cases by id, and what is wrong with them
    analysis: Analysis = Analysis()

    @property
    def regions(self) -> dict[str, tuple[int, ...]]:
        """The label values of each final class, which may overlap."""
        return {name: each.labels for name, each in self.evaluation.items()}

    @property
    def optional_channels(self) -> tuple[int, ...]:
        """The numbers of the channels that a case may lack."""
        info = self.dataset_info
        return tuple(n for n, name in enumerate(info.images) if name in info.optional_images)

    @property
    def patch_size(self) -> Shape:
        """Voxels, (z, y, x)."""
        return array_order(self.spatial_config.patch_size)

    @property
    def target_spacing_mm(self) -> Triple:
        """Millimetres, (z, y, x)."""
        return array_order(self.spatial_config.target_spacing)


def read_plan(path: Path) -> Plan:
    """Read ``config.json``. Raises DataError naming each field that a hand edit broke."""
    return parse_plan(read_json(path), str(path))


def parse_plan(fields: Any, source: str) -> Plan:
    """Check a plan that came from ``source``, a file name for the message."""
    try:
        return Plan.model_validate(fields)
    except ValidationError as error:
        places = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        raise DataError(
            f"{source}: expected a plan written by analyze, found mistakes in: {places}. "
            "Delete the file to have it made again."
        ) from error


def read_labels_of(path: Path) -> tuple[int, ...]:
    """The label value of every class index, from a ``config.json``, also one of another version.

    Raises DataError for a file without them.
    """
    fields = read_json(path)
    info = fields.get("dataset_info") if isinstance(fields, dict) else None
    labels = info.get("labels") if isinstance(info, dict) else None
    try:
        return LabelValues.validate_python(labels)
    except ValidationError:
        raise DataError(
            f"{path}: expected dataset_info.labels with a label value for every class, found "
            f"{labels}. Name the config.json of the models."
        ) from None


def left_out_of(plan: dict[str, Any], cases: Sequence[str]) -> dict[str, str]:
    """Which of the cases a plan leaves out, and why."""
    named = plan.get("left_out", {})
    return {case: named[case] for case in cases if case in named}


def part_read_by(stage: str, plan: dict[str, Any], regions: bool = False) -> str:
    """The part of a plan that one stage obeys, as JSON text to compare.

    Training for ``regions`` obeys the final classes too, and their order.
    """
    part: dict[str, Any] = {"regions": list(plan["evaluation"].items())} if regions else {}
    for path in READ_BY[stage]:
        value: Any = plan
        for key in path.split("."):
            value = value.get(key)  # of an older version it may lack one
        part[path] = value
    return json.dumps(part, sort_keys=True)


def trained_alike(one: Plan, other: Plan, regions: bool = False) -> bool:
    """Whether training obeys the same in both, so that models of one can be used with the other."""
    first, second = (
        part_read_by("train", plan.model_dump(mode="json"), regions) for plan in (one, other)
    )
    return first == second
