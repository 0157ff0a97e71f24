"""What the user chooses. Checked whole before the first job, never changed by a stage.

Per-axis values are in (x, y, z), as in every file; ``array_order`` turns them where they are used.
"""

import json
import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mist_core.errors import raise_all

T = TypeVar("T")
Auto = Literal["auto"]
Voxels = Annotated[int, Field(gt=0)]
Label = Annotated[int, Field(gt=0, le=65535)]
Positive = Annotated[float, Field(gt=0)]
PYDANTIC_KINDS = r"constrained-\w+|int|float|bool|(literal|tuple|dict|list)\[.*\]|\[key\]"
# Folders that the run itself makes under results/, where experiments live.
RESERVED_EXPERIMENTS = ("logs", "benchmarks", "fingerprints", "rank")


def array_order(values: tuple[T, T, T]) -> tuple[T, T, T]:
    """(x, y, z) as written by the user to (z, y, x) as arrays have it."""
    return values[::-1]


class Section(BaseModel):
    """A part of the config: unknown keys are errors, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Analyze(Section):
    """What the data implies may be overruled here."""

    folds: int = Field(5, ge=2, description="cross-validation folds")
    target_spacing: Auto | tuple[Positive, Positive, Positive] = Field(
        "auto", description="mm, (x, y, z); auto: median over the training cases"
    )
    patch_size: Auto | tuple[Voxels, Voxels, Voxels] = Field(
        "auto", description="voxels, (x, y, z); auto: from the resampled sizes and the budget"
    )
    patch_voxels: int = Field(
        128**3, gt=0, description="voxels a patch may have when patch_size is auto"
    )
    crop_to_foreground: Auto | bool = Field(
        "auto", description="auto: when it removes 20 % of the volume on average"
    )


class Preprocess(Section):
    """Bring every case to one grid and one intensity range."""

    foreground_samples: int = Field(
        10_000, gt=0, description="voxels remembered per class, for drawing patches"
    )


class Augment(Section):
    """Random changes to training patches; each is the probability of its kind."""

    flip: float = Field(0.5, ge=0, le=1, description="per axis of flip_axes")
    flip_axes: str = Field("xyz", pattern="^x?y?z?$", description="axes that may be mirrored")
    affine: float = Field(0.3, ge=0, le=1, description="rotation and scaling, in one resampling")
    noise: float = Field(0.15, ge=0, le=1)
    brightness: float = Field(0.15, ge=0, le=1)
    contrast: float = Field(0.15, ge=0, le=1)


class Train(Section):
    """One model for each fold."""

    model: Literal["nnunet"] = "nnunet"
    loss: Literal["dice_ce"] = "dice_ce"
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
    amp: Auto | bool = Field("auto", description="bfloat16; auto: where the hardware has it")
    seed: int = Field(42, ge=0)
    augment: Augment = Augment()


class Predict(Section):
    """Label maps on the original grid of every case."""

    overlap: float = Field(0.5, ge=0, lt=1, description="of neighbouring windows, per axis")
    flips: bool = Field(True, description="average over all mirrored copies of train's flip_axes")
    window_batch: int = Field(4, ge=1, description="windows that go through the network at once")


class Postprocess(Section):
    """Named strategies, each a JSON file; the file's stem is its name."""

    strategies: list[str] = Field(default_factory=list)


class MetricOptions(Section):
    """Parameters of one metric."""

    tolerance: float | None = Field(None, ge=0, description="mm, surf_dice only; default 1.0")


MetricName = Literal["dice", "haus95", "avg_surf", "surf_dice"]
DEFAULT_METRICS: dict[MetricName, MetricOptions] = {
    "dice": MetricOptions(),
    "haus95": MetricOptions(),
    "avg_surf": MetricOptions(),
    "surf_dice": MetricOptions(tolerance=1.0),
}


class Evaluate(Section):
    """What is measured, for which classes."""

    metrics: Auto | Annotated[dict[MetricName, MetricOptions], Field(min_length=1)] = Field(
        "auto", description="name: parameters; auto: all four, surf_dice at 1 mm"
    )
    classes: Auto | dict[str, Annotated[list[Label], Field(min_length=1)]] = Field(
        "auto", description="name: label values; auto: final_classes of the dataset"
    )

    @field_validator("metrics")
    @classmethod
    def _known_parameters(cls, metrics: Any) -> Any:
        for name, options in metrics.items() if isinstance(metrics, dict) else ():
            if options.tolerance is not None and name != "surf_dice":
                raise ValueError(f"{name} without parameters (tolerance is of surf_dice)")
        return metrics


class Overrides(Section):
    """What one experiment does differently: any key of these sections."""

    train: dict[str, Any] = Field(default_factory=dict)
    predict: dict[str, Any] = Field(default_factory=dict)


class Config(Section):
    """The whole of config/config.yaml."""

    dataset: str = Field("", description="dataset JSON, or a folder with one; empty: the demo")
    results: str = "results"
    numpy: str = Field("numpy", description="preprocessed arrays")
    limit_cases: int | None = Field(None, ge=2, description="use only the first so many cases")
    cases_per_job: Auto | Annotated[int, Field(ge=1)] = "auto"
    analyze: Analyze = Analyze()
    preprocess: Preprocess = Preprocess()
    train: Train = Train()
    predict: Predict = Predict()
    postprocess: Postprocess = Postprocess()
    evaluate: Evaluate = Evaluate()
    experiments: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")], Overrides] = Field(
        default_factory=dict, description="name: overrides; none: one experiment, default"
    )

    def experiment_names(self) -> list[str]:
        """As listed, or ``default`` when none is."""
        return list(self.experiments) or ["default"]

    def for_experiment(self, name: str) -> "Config":
        """The config with the overrides of one experiment in place."""
        overrides = self.experiments.get(name, Overrides())
        sections = {
            "train": Train(**merged(self.train.model_dump(), overrides.train)),
            "predict": Predict(**merged(self.predict.model_dump(), overrides.predict)),
        }
        return self.model_copy(update=sections)

    def problems_of_experiment(self, name: str) -> list[str]:
        """A line for every wrong override of one experiment."""
        overrides = self.experiments.get(name, Overrides())
        problems = []
        for key, section in (("train", Train), ("predict", Predict)):
            try:
                section(**merged(getattr(self, key).model_dump(), getattr(overrides, key)))
            except ValidationError as error:
                problems += _lines(error, f"experiments.{name}.{key}.")
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
    problems: list[str] = []
    config = None
    try:
        # An empty section in YAML is None: its defaults are meant.
        config = Config.model_validate({k: v for k, v in values.items() if v is not None})
    except ValidationError as error:
        problems += _lines(error, "")
    if config is not None:
        for name in config.experiment_names():
            if name in RESERVED_EXPERIMENTS:
                problems.append(
                    f"experiments.{name}: expected a name that is none of "
                    f"{', '.join(RESERVED_EXPERIMENTS)}. Rename the experiment."
                )
            problems += config.problems_of_experiment(name)
    raise_all(problems, "config")
    assert config is not None
    return config


def _lines(error: ValidationError, prefix: str) -> list[str]:
    """One line for each wrong key, in the words of the file."""
    lines: dict[str, str] = {}
    for item in error.errors():
        # Pydantic adds the names of types for each kind that a value may have: not keys of a file.
        keys = [str(part) for part in item["loc"]]
        place = prefix + ".".join(k for k in keys if not re.fullmatch(PYDANTIC_KINDS, k))
        if item["type"] == "extra_forbidden":
            lines[place] = (
                f"{place}: expected no such key, found {item['input']!r}. "
                "Check the spelling against config/README.md."
            )
        else:
            message = item["msg"].replace("Input should be ", "").replace("Value error, ", "")
            message = message.replace("Field required", "a value")
            what = (
                f"{lines[place].split(', found ')[0]}, or {message}"
                if place in lines
                else (f"{place}: expected {message}")
            )
            lines[place] = f"{what}, found {item['input']!r}."
    return list(lines.values())


def schema() -> str:
    """JSON schema of config.yaml, for editors. ``python -m mist_core.config`` prints it."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema())
