"""What the user chooses. Checked whole before the first job, never changed by a stage.

Per-axis values are in (x, y, z), as in every file; ``array_order`` turns them where they are used.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mist_core.errors import DataError, in_words, raise_all
from mist_core.own import is_own
from mist_core.topology import ARCHITECTURES, planned_as

T = TypeVar("T")
Auto = Literal["auto"]
Stage = Literal[
    "fingerprint",
    "analyze",
    "describe",
    "data_dump",
    "preprocess",
    "train",
    "predict",
    "ensemble",
    "postprocess",
    "evaluate",
    "choose",
    "rank",
    "report",
]
Voxels = Annotated[int, Field(gt=0)]
Label = Annotated[int, Field(gt=0, le=65535)]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]  # of a folder under results/
LOSSES: Mapping[str, tuple[str, ...]] = {  # names, and parameters that the user may set
    "dice": (),
    "dice_ce": (),
    "bl": (),
    "hdos": (),
    "gsl": (),
    "cldice": ("iterations", "smoothing"),
    "volumetric_sddl": ("tolerance_mm",),
    "vessel_sddl": ("tolerance_mm", "iterations", "smoothing"),
    "dice_topk": ("share",),
    "tversky": ("false_positives", "false_negatives"),
    "focal_dice": ("gamma",),
}
# Keys of train. With other values of these a run that has ended goes on, or stays ended.
WHEN_IT_ENDS = ("epochs", "minutes", "early_stopping")
OF_NO_CONSEQUENCE = ("checkpoint_minutes", "workers")  # for the weights
MIRROR_AXES = {"default": "", "mist": "xyz", "nnunet": "xyz", "none": ""}  # of each recipe
LOSSES_OF_DISTANCES = ("bl", "hdos", "gsl")  # they need preprocess.compute_dtms
# Folders that the run itself makes under results/, where experiments live.
RESERVED_EXPERIMENTS = (
    "logs",
    "benchmarks",
    "done",
    "fingerprints",
    "descriptions",
    "rank",
    "strategies",
    "test",
)


def array_order(values: tuple[T, T, T]) -> tuple[T, T, T]:
    """(x, y, z) as written by the user to (z, y, x) as arrays have it."""
    return values[::-1]


class Section(BaseModel):
    """A part of the config: unknown keys are errors, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _known(names: Iterable[str]) -> Callable[[str], str]:
    """A check that a name is one of these, or names a function of the user's."""

    def checked(name: str) -> str:
        if name not in names and not is_own(name):
            raise ValueError(f"one of {', '.join(names)}, or module:function")
        return name

    return checked


def _number(value: Any) -> Any:
    """Text that is a number as the number: so it comes from the command line of Snakemake."""
    if isinstance(value, str):
        for kind in (int, float):
            with suppress(ValueError):
                return kind(value)
    return value


Parameters = dict[str, Annotated[Any, BeforeValidator(_number)]]


class Analyze(Section):
    """What the data implies may be overruled here."""

    folds: int = Field(5, ge=2, description="cross-validation folds")
    case_table: str = Field(
        "",
        description="CSV with a column id, and fold, patient or both: a fold given here is kept, "
        "the cases of a patient share a fold",
    )
    stratify: bool = Field(
        False, description="spread the cases of each label evenly over the folds"
    )
    verify: Literal["strict", "drop"] = Field(
        "strict", description="what bad cases do: stop the run, all named, or are left out"
    )
    empty_masks: bool = Field(
        False, description="whether a training case may have no label: nothing to find in it"
    )
    target_spacing: Auto | tuple[Positive, Positive, Positive] = Field(
        "auto", description="mm, (x, y, z); auto: median over the training cases"
    )
    patch_size: Auto | tuple[Voxels, Voxels, Voxels] = Field(
        "auto", description="voxels, (x, y, z); auto: from the resampled sizes and the budget"
    )
    patch_voxels: Auto | Voxels = Field(
        "auto",
        description="voxels a patch may have when patch_size is auto; auto: 128 x 128 x 128 "
        "for 16 GiB of the GPU and a batch of 2, in proportion to both; without a GPU just these",
    )
    gpu_memory_gb: Auto | Positive = Field(
        "auto", description="GiB of the GPU that will train; auto: as seen in the first analysis"
    )
    crop_to_foreground: Auto | bool = Field(
        "auto", description="auto: when it removes 20 % of the volume on average"
    )
    data_dump: bool = Field(
        False, description="write data_dump.json and data_dump.md: what the data look like"
    )


class Preprocess(Section):
    """Bring every case to one grid and one intensity range."""

    skip: bool = Field(
        False, description="images are preprocessed already: they are only turned to LPS and stored"
    )
    dtype: Literal["float32", "float16"] = Field(
        "float32", description="of images and distance maps; float16 takes half the disk"
    )
    compute_dtms: bool = Field(False, description="distance maps, which some losses need")
    normalize_dtms: bool = Field(True, description="distances from -1 to 1, else in voxels")
    foreground_samples: int = Field(
        10_000, gt=0, description="voxels remembered per class, for drawing patches"
    )


class Augment(Section):
    """How often training patches are changed in each way, where the recipe is overruled."""

    mirror: Probability | None = Field(None, description="along each of mirror_axes")
    rotation: Probability | None = None
    scaling: Probability | None = None
    noise: Probability | None = None
    blur: Probability | None = None
    brightness: Probability | None = None
    contrast: Probability | None = None
    low_resolution: Probability | None = None
    inverted_gamma: Probability | None = None
    gamma: Probability | None = None
    missing: Probability | None = Field(None, description="each channel that cases may lack")


class Train(Section):
    """One model for each fold."""

    model: Annotated[str, AfterValidator(_known(ARCHITECTURES))] = Field(
        "nnunet", description="name of an architecture, or module:function of one's own"
    )
    model_params: Parameters = Field(
        default_factory=dict, description="of the architecture, such as kernel_size of mednext"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute the network's inside again instead of keeping it: less memory"
    )
    loss: Annotated[str, AfterValidator(_known(LOSSES))] = Field(
        "dice_ce", description="name of a loss, or module:function of one's own"
    )
    loss_params: Parameters = Field(
        default_factory=dict, description="of the loss, such as tolerance_mm of volumetric_sddl"
    )
    composite_loss_weighting: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="weight of the region part of a loss of two parts: 0.5, or falling from 1 to 0",
    )
    init_pause: int = Field(5, ge=0, description="epochs before that weight begins to fall")
    regions: bool = Field(
        False, description="learn the final_classes, which may overlap, instead of the labels"
    )
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    lr_scheduler: Literal["constant", "polynomial", "cosine"] = "cosine"
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of averaged weights, which are then the model; 0: none"
    )
    pretrained_weights: str = Field("", description="model file whose weights to begin with")
    pretrained_part: Literal["encoder", "all"] = Field(
        "encoder", description="which of them; all: whatever fits"
    )
    pretrained_config: str = Field(
        "", description="config.json of those weights, to be sure: they hold it already"
    )
    input_channel_strategy: Literal["average", "first", "skip"] = Field(
        "average", description="how weights for other channels are taken over, if at all"
    )
    epochs: int = Field(1000, ge=1)
    steps_per_epoch: Auto | Annotated[int, Field(ge=1)] = Field(
        "auto", description="auto: 250, or one pass over the cases if that is more"
    )
    batch_size: int = Field(2, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    warmup_epochs: int = Field(20, ge=0, description="at most a tenth of the run is used")
    weight_decay: float = Field(1e-4, ge=0)
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    foreground_probability: float = Field(
        0.6, ge=0, le=1, description="share of patches placed on a voxel of a random class"
    )
    accumulate: int = Field(
        1, ge=1, description="batches whose gradients are added up before a step is taken"
    )
    amp: Auto | bool | Literal["float16"] = Field(
        "auto", description="true: bfloat16; auto: where the hardware has it"
    )
    compile: bool = Field(False, description="compile the network (torch.compile) before training")
    minutes: Positive | None = Field(
        None, description="end after so long, with the learning rate fitted to it, if not before"
    )
    val_percent: float = Field(
        0.0, ge=0, lt=1, description="share of the training cases set aside for validation"
    )
    validate_every: Auto | Annotated[int, Field(ge=0)] = Field(
        "auto", description="epochs; 0: never; auto: as often as costs a twentieth of the time"
    )
    model_selection: Literal["auto", "last", "best"] = Field(
        "auto", description="which weights are the model; auto: the best if val_percent is set"
    )
    early_stopping: Annotated[int, Field(ge=1)] | None = Field(
        None, description="end after so many epochs without a better validation"
    )
    checkpoint_minutes: float = Field(10.0, ge=0, description="between checkpoints")
    workers: Auto | Annotated[int, Field(ge=0)] = Field(
        "auto", description="processes that read patches; auto: none if the arrays fit in memory"
    )
    seed: int = Field(42, ge=0)
    gpus: int = Field(1, ge=1, description="GPUs that train one fold, each with its batch_size")
    augmentation: Literal["default", "mist", "nnunet", "none"] = Field(
        "default",
        description="how patches are changed at random: of this library, as in MIST or "
        "nnU-Net, not at all",
    )
    augment: Augment = Augment()
    mirror_axes: Literal["", "x", "y", "z", "xy", "xz", "yz", "xyz"] | None = Field(
        None,
        description="axes that may be mirrored, in prediction too; null: all in mist and nnunet, "
        "none in default",
    )

    @property
    def mirrored_axes(self) -> str:
        """Those of ``xyz`` that are mirrored in training, and so in prediction."""
        chance = self.augment.mirror
        if chance == 0 or (chance is None and self.augmentation == "none"):
            return ""
        return MIRROR_AXES[self.augmentation] if self.mirror_axes is None else self.mirror_axes

    @property
    def takes_best(self) -> bool:
        """Whether the model is that of the best validation, not that of the last step."""
        return self.model_selection == "best" or (
            self.model_selection == "auto" and self.val_percent > 0
        )

    @property
    def chooses_by_held_out(self) -> bool:
        """Whether the cases that score the model choose it, too."""
        return self.takes_best and self.val_percent == 0

    def kept(self) -> dict[str, Any]:
        """What must stay as it is for a run to go on."""
        may_change = {*WHEN_IT_ENDS, *OF_NO_CONSEQUENCE, "model_selection"}
        if not self.takes_best:
            may_change |= {"validate_every"}
        return {"takes_best": self.takes_best} | self.model_dump(mode="json", exclude=may_change)

    def weights_for(self, fold: int) -> str:
        """The model file to begin a fold with: ``{fold}`` in its name is the fold's number."""
        return self.pretrained_weights.replace("{fold}", str(fold))


Blending = Literal["gaussian", "constant"]
Restore = Literal["probabilities", "labels"]


class Predict(Section):
    """Label maps on the original grid of every case."""

    overlap: float = Field(0.5, ge=0, lt=1, description="of neighbouring windows, per axis")
    flips: bool = Field(True, description="average over all mirrored copies of train's mirror_axes")
    window_batch: int = Field(4, ge=1, description="windows that go through the network at once")
    blending: Blending = Field("gaussian", description="of windows: their middle counts most")
    restore: Restore = Field(
        "probabilities",
        description="what is brought to the original grid; labels: decided before, as MIST does",
    )


Largest = Literal["none", "group", "label"]
Mm3 = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Search(Section):
    """What ``auto`` tries: every combination of these."""

    keep_largest: Annotated[list[Largest], Field(min_length=1)] = Field(
        ["none", "group", "label"],
        description="only the largest component: of all labels together, or of each label",
    )
    min_volume_mm3: Annotated[list[Mm3], Field(min_length=1)] = Field(
        [0, 10, 100], description="components of each label with less volume become background"
    )
    fill_holes: Annotated[list[bool], Field(min_length=1)] = Field(
        [False, True], description="background that a label encloses gets the label"
    )

    @model_validator(mode="after")
    def _tries_something(self) -> Self:
        if {*self.keep_largest} == {"none"} and not any([*self.min_volume_mm3, *self.fill_holes]):
            raise PydanticCustomError(
                "value_error", "", {"error": "a combination that changes something"}
            )
        return self


class Postprocess(Section):
    """Named strategies, each a JSON file; the file's stem is its name."""

    strategies: list[str] = Field(default_factory=list)
    auto: bool = Field(False, description="choose one more by cross-validation, among search")
    search: Search = Search()


def in_full(postprocess: Any) -> Any:
    """``postprocess: auto`` in full; anything else as it is."""
    return {"auto": True} if postprocess == "auto" else postprocess


# Whose definitions of metrics there are: those of mist_core.metrics.PRESETS.
Preset = Literal["mist", "brats2023", "monai", "medpy", "nnunet", "miseval"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
DEFAULT_METRICS: dict[str, dict[str, Any]] = {
    "dice": {},
    "haus95": {},
    "avg_surf": {},
    "surf_dice": {"tolerance": 1.0},
}


def _known_metrics(metrics: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    # Most configs name none, and to load them takes time.
    from mist_core.metrics import problems_of_metrics  # noqa: PLC0415

    if lines := problems_of_metrics(metrics):
        raise PydanticCustomError("metrics", "metrics", {"lines": lines})
    return metrics


Metrics = Annotated[dict[str, dict[str, Any]], Field(min_length=1), AfterValidator(_known_metrics)]
Labels = Annotated[list[Label], Field(min_length=1)]


class Evaluate(Section):
    """What is measured, for which classes."""

    metrics: Auto | Metrics = Field(
        "auto",
        description="name: parameters; auto: dice, haus95, avg_surf, and surf_dice at 1 mm",
    )
    preset: Preset = Field("mist", description="whose definitions; parameters of a metric go first")
    lesions: bool = Field(False, description="write a table with a row for every lesion, too")
    classes: Auto | dict[str, Labels] = Field(
        "auto", description="name: label values; auto: final_classes of the dataset"
    )


Scheme = Literal["rank-then-aggregate", "aggregate-then-rank", "test-based"]
NanPolicy = Literal["worst", "skip", "refuse"]
SCHEMES: tuple[str, ...] = get_args(Scheme)
NAN_POLICIES: tuple[str, ...] = get_args(NanPolicy)


class Rank(Section):
    """How candidates are ranked by their scores, and how it is found out how sure that is."""

    scheme: Scheme = Field(
        "rank-then-aggregate",
        description="ranks in each case, or of the means, or by tests won; then averaged",
    )
    nan: NanPolicy = Field(
        "worst",
        description="a missing score ranks last, is left out for all candidates, or is an error",
    )
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict, description="class, metric or <class>_<metric>: weight; others have 1"
    )
    bootstraps: int = Field(1000, ge=0, description="times that patients are drawn again")
    seed: int = Field(0, ge=0, description="of the bootstraps")
    alpha: float = Field(0.05, gt=0, lt=1, description="p after Holm that counts as better")


class EvaluatedClass(Section):
    """One class of an evaluation config: its label values, and what is measured on it."""

    labels: Labels
    metrics: Metrics = DEFAULT_METRICS


class Overrides(Section):
    """What one experiment does differently: any key of these sections.

    All experiments share the folds. They share the plan and the preprocessed arrays too, unless
    they change what those follow from.
    """

    analyze: dict[str, Any] = Field(default_factory=dict)
    preprocess: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    predict: dict[str, Any] = Field(default_factory=dict)


class Ensemble(Section):
    """Experiments whose predictions are combined into one label map of each case."""

    experiments: Annotated[list[str], Field(min_length=2)]
    backend: Literal["staple", "majority_vote", "mean"] = Field(
        "staple", description="of label maps; mean: of probabilities"
    )
    weights: Annotated[list[Weight], Field(min_length=2)] | None = Field(
        None, description="of each experiment, for majority_vote and mean"
    )


SECTIONS: dict[str, type[Section]] = {
    "analyze": Analyze,
    "preprocess": Preprocess,
    "train": Train,
    "predict": Predict,
}
WITH_PARAMETERS = ("model", "loss")
# The same for all experiments: they are compared.
OF_THE_DATASET = ("folds", "case_table", "stratify", "verify", "empty_masks", "data_dump")
BESIDE_THE_PLAN = ("data_dump",)  # the plan does not depend on it
# Part of the plan that the arrays do not depend on.
OF_THE_PATCH = ("patch_size", "patch_voxels", "gpu_memory_gb")


class Config(Section):
    """The whole of config/config.yaml."""

    dataset: str = Field("", description="dataset JSON, or a folder with one; empty: the demo")
    results: str = "results"
    numpy: str = Field("numpy", description="preprocessed arrays")
    limit_cases: int | None = Field(None, ge=2, description="use only the first so many cases")
    cases_per_job: Auto | Annotated[int, Field(ge=1)] = Field(
        "auto", description="auto: as many small cases as leave no core idle, recorded at first"
    )
    folds_to_train: Auto | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = (
        Field("auto", description="auto: all; of fewer, predictions are made but no tables")
    )
    jobs_per_gpu: int = Field(1, ge=1, description="jobs that may share a GPU")
    track_code: bool | list[Stage] = Field(
        False, description="make a stage again when its code changes; true: every stage"
    )
    analyze: Analyze = Analyze()
    preprocess: Preprocess = Preprocess()
    train: Train = Train()
    predict: Predict = Predict()
    postprocess: Annotated[
        Postprocess, BeforeValidator(in_full, json_schema_input_type=Auto | Postprocess)
    ] = Postprocess()
    evaluate: Evaluate = Evaluate()
    rank: Rank = Rank()
    experiments: dict[Name, Overrides] = Field(
        default_factory=dict, description="name: overrides; none: one experiment, default"
    )
    ensemble: dict[Name, Ensemble] = Field(
        default_factory=dict, description="name: experiments to combine, and how"
    )

    def experiment_names(self) -> list[str]:
        """As listed, or ``default`` when none is."""
        return list(self.experiments) or ["default"]

    def for_experiment(self, name: str) -> "Config":
        """The config with the overrides of one experiment in place."""
        overrides = self.experiments.get(name, Overrides())
        sections = {}
        for key, kind in SECTIONS.items():
            values, changes = getattr(self, key).model_dump(), getattr(overrides, key)
            for part in WITH_PARAMETERS if key == "train" else ():
                if {part, f"{part}_params"} & changes.keys():
                    values[f"{part}_params"] = {}  # those of the other are not of this one
            sections[key] = kind(**merged(values, changes))
        return self.model_copy(update=sections)

    def has_own_plan(self, name: str) -> bool:
        """Whether an experiment needs a plan of its own."""
        own = self.for_experiment(name)
        return _asked_of_the_plan(own) != _asked_of_the_plan(self)

    def has_own_arrays(self, name: str) -> bool:
        """Whether an experiment needs preprocessed arrays of its own."""
        own = self.for_experiment(name)
        patch = {key: getattr(self.analyze, key) for key in OF_THE_PATCH}
        same_grid = own.analyze.model_copy(update=patch) == self.analyze
        return not same_grid or own.preprocess != self.preprocess


def _asked_of_the_plan(config: Config) -> tuple[Any, ...]:
    return config.analyze, config.preprocess.skip, planned_as(config.train.model)


def problems_of_training(config: Config) -> list[str]:
    """Parameters that they do not have, and keys of training that need others beside them."""
    problems = []
    for name in config.experiment_names():
        own = config.for_experiment(name)
        place = f"experiments.{name}." if name in config.experiments else ""
        model, loss = own.train.model, own.train.loss
        if model in ARCHITECTURES:
            problems += _problems_of_network(place, own)
        if loss in LOSSES:
            problems += _problems_of_parameters(
                f"{place}train.loss_params", loss, own.train.loss_params, LOSSES[loss]
            )
        if own.train.pretrained_config and not own.train.pretrained_weights:
            problems.append(
                f"{place}train.pretrained_config: expected train.pretrained_weights beside it, "
                "found none. Name the weights, too."
            )
        if own.train.augment.mirror and not own.train.mirrored_axes:
            problems.append(
                f"{place}train.augment.mirror: expected axes in train.mirror_axes beside it, such "
                "as x or xyz, found none. Name them, or leave it out."
            )
        if own.train.early_stopping and not own.train.takes_best:
            problems.append(
                f"{place}train.early_stopping: expected train.val_percent above 0 beside it, or "
                "train.model_selection best, found neither. The cases that score a model do not "
                "say when to stop unless they are asked."
            )
        if own.train.takes_best and own.train.validate_every == 0:
            problems.append(
                f"{place}train.validate_every: expected auto or more than 0 where the best model "
                "is taken, found 0. Mend it, or set train.model_selection to last."
            )
        if own.train.loss not in LOSSES_OF_DISTANCES:
            continue
        if not own.preprocess.compute_dtms:
            problems.append(
                f"{place}train.loss: expected preprocess.compute_dtms to be true for "
                f"{own.train.loss}, which needs distance maps, found false. Set it, or choose "
                "another loss."
            )
        if own.train.regions:
            problems.append(
                f"{place}train.loss: expected a loss without distance maps for train.regions, "
                f"found {own.train.loss}. Choose another loss, or set train.regions to false."
            )
    return problems


def _problems_of_network(place: str, config: Config) -> list[str]:
    """Parameters and patches that a network of this library does not have."""
    model, given = config.train.model, config.train.model_params
    known = ARCHITECTURES[model].parameters
    problems = _problems_of_parameters(f"{place}train.model_params", model, given, tuple(known))
    problems += [
        f"{place}train.model_params.{name}: expected one of {', '.join(map(str, values))} for "
        f"{model}, found {given[name]!r}. Mend it."
        for name, values in known.items()
        if name in given and given[name] not in values
    ]
    patch, multiple = config.analyze.patch_size, ARCHITECTURES[model].levels
    if patch == "auto" or not isinstance(multiple, int):
        return problems  # the analysis knows
    if any(n % multiple for n in patch) or max(patch) == multiple:
        problems.append(
            f"{place}analyze.patch_size: expected multiples of {multiple} for {model}, and more "
            f"than {multiple} on one axis, found {list(patch)}. Mend it."
        )
    return problems


def _problems_of_parameters(
    place: str, owner: str, given: Mapping[str, Any], known: Sequence[str]
) -> list[str]:
    if odd := sorted(given.keys() - set(known)):
        words = " or ".join(known) or "nothing"
        return [f"{place}: expected {words} for {owner}, found {', '.join(odd)}. Mend it."]
    return [
        f"{place}.{name}: expected a number, found {value!r}. Mend it."
        for name, value in given.items()
        if value != "auto" and not isinstance(value, int | float)
    ]


def problems_of_ensembles(config: Config) -> list[str]:
    """Names that are taken or not known, weights that do not belong to experiments."""
    taken, problems = config.experiment_names(), []
    for name, own in config.ensemble.items():
        place = f"ensemble.{name}"
        if name in (*taken, *RESERVED_EXPERIMENTS):
            problems.append(
                f"{place}: expected a name that no experiment has and that is none of "
                f"{', '.join(RESERVED_EXPERIMENTS)}. Rename the ensemble."
            )
        if len(set(own.experiments) & set(taken)) < len(own.experiments):
            problems.append(
                f"{place}.experiments: expected some of {', '.join(taken)}, each once, found "
                f"{', '.join(own.experiments)}. Mend it."
            )
        if own.weights and own.backend == "staple":
            problems.append(
                f"{place}.weights: expected the backend majority_vote or mean beside them, found "
                "staple. Change it, or leave them out."
            )
        decided = [
            e
            for e in {*own.experiments} & {*taken}
            if own.backend == "mean" and config.for_experiment(e).predict.restore == "labels"
        ]
        problems += [
            f"{place}.backend: expected predict.restore probabilities in {experiment}, to be "
            "averaged, found labels. Change it, or take another backend."
            for experiment in decided
        ]
        if own.weights and len(own.weights) != len(own.experiments):
            problems.append(
                f"{place}.weights: expected {len(own.experiments)}, one for each experiment, found "
                f"{len(own.weights)}. Mend them."
            )
    return problems


def problems_of_overrides(name: str, overrides: Any) -> list[str]:
    """A line for everything that is wrong in one experiment."""
    place = f"experiments.{name}"
    problems = []
    if name in RESERVED_EXPERIMENTS:
        problems.append(
            f"{place}: expected a name that is none of {', '.join(RESERVED_EXPERIMENTS)}. Rename "
            "the experiment."
        )
    try:
        overrides = Overrides.model_validate({} if overrides is None else overrides)
    except ValidationError as error:
        return problems + _lines(error, f"{place}.")
    for key, section in SECTIONS.items():
        own = getattr(overrides, key)
        problems += [
            f"{place}.{key}.{shared}: expected no such key, found {own[shared]!r}. All experiments "
            f"share it: set {key}.{shared}."
            for shared in OF_THE_DATASET
            if key == "analyze" and shared in own
        ]
        try:
            section.model_validate(own)
        except ValidationError as error:
            problems += _lines(error, f"{place}.{key}.")
    return problems


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it; mappings are merged key by key."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def read_config(values: Mapping[str, Any]) -> Config:
    """Check a config read from YAML. Raises one DataError that lists every wrong key and value."""
    # An empty section in YAML is None: its defaults are meant.
    values = {k: v for k, v in values.items() if v is not None}
    experiments = values.get("experiments")
    problems = []
    for name, overrides in experiments.items() if isinstance(experiments, dict) else ():
        problems += problems_of_overrides(str(name), overrides)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        named = tuple(line.split(":")[0] for line in problems)
        own = [line for line in _lines(error, "") if line.split(":")[0] not in named]
        problems = own + problems
    else:
        if not problems:
            problems += problems_of_training(config) + problems_of_ensembles(config)
    raise_all(problems, "config")
    return config


def read_evaluated_classes(fields: Any, source: str) -> dict[str, EvaluatedClass]:
    """Check an evaluation config, or the one inside a ``config.json``, that came from a file.

    Raises one DataError that lists every mistake.
    """
    if isinstance(fields, dict) and isinstance(fields.get("evaluation"), dict):
        fields = fields["evaluation"]
    if not isinstance(fields, dict):
        raise DataError(f"{source}: expected classes by name, found {type(fields).__name__}.")
    try:
        return TypeAdapter(dict[str, EvaluatedClass]).validate_python(fields)
    except ValidationError as error:
        raise_all(_lines(error, ""), source)
        raise


def read_rank(values: Mapping[str, Any], source: str) -> Rank:
    """Check settings of a ranking that came from files and flags: all mistakes in one DataError."""
    try:
        return Rank.model_validate(values)
    except ValidationError as error:
        raise_all(_lines(error, ""), source)
        raise


def _lines(error: ValidationError, prefix: str) -> list[str]:
    return in_words(error.errors(), prefix, _known_keys(Config))


def _known_keys(section: type[BaseModel]) -> set[str]:
    """All keys that a section and the sections in it may have."""
    keys = set(section.model_fields)
    for field in section.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys |= _known_keys(field.annotation)
    return keys


def schema() -> str:
    """JSON schema of config.yaml, for editors. ``python -m mist_core.config`` prints it."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema())
