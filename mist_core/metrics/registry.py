"""All metrics by name: how to compute them, how to read them, and their parameters.

Add one by adding to ``METRICS``. What a metric is worth where a mask is empty is said by three
parameters that all have, ``both_empty``, ``reference_empty`` and ``prediction_empty``: a word of
``WORDS`` or a number. A missed structure must not vanish from a mean.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import nan
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mist_core.metrics import counts
from mist_core.metrics.distances import (
    ONE_WAY,
    average_hausdorff,
    avg_surf,
    boundary_iou,
    cldice,
    hausdorff,
    masd,
    surf_dice,
)
from mist_core.metrics.instances import CONNECTIVITIES
from mist_core.metrics.lesionwise import (
    lesion_dice,
    lesion_f1,
    lesion_hausdorff,
    lesion_surf_dice,
    panoptic_quality,
    recognition_quality,
    segmentation_quality,
)
from mist_core.metrics.pairs import Counts, MaskPair
from mist_core.metrics.surfaces import SURFACES

Value = float | str
Parameters = Mapping[str, Value]

# computed: the formula says it, without a mask, too; diagonal: of the whole image, in mm.
WORDS = ("computed", "best", "worst", "nan", "diagonal")
EMPTY = ("both_empty", "reference_empty", "prediction_empty")


@dataclass(frozen=True)
class Choice:
    """A parameter that is one of some words or numbers."""

    default: Value
    values: tuple[Value, ...]

    def expected(self) -> str:
        """In words."""
        return f"one of {', '.join(map(str, self.values))}"

    def fits(self, value: Any) -> bool:
        """Whether it may have this value."""
        return not isinstance(value, bool) and value in self.values


@dataclass(frozen=True)
class Number:
    """A parameter that is a number in a range, or one of some words."""

    default: Value
    low: float = 0.0
    high: float = float("inf")
    whole: bool = False
    words: tuple[str, ...] = ()

    def expected(self) -> str:
        """In words."""
        kind = "a whole number" if self.whole else "a number"
        least = f" of at least {self.low:g}" if self.low > -float("inf") else ""
        most = f" and at most {self.high:g}" if self.high < float("inf") else ""
        return " or ".join([f"{kind}{least}{most}", *self.words])

    def fits(self, value: Any) -> bool:
        """Whether it may have this value."""
        if isinstance(value, str):
            return value in self.words
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            return False
        number = float(value)
        return self.low <= number <= self.high and (not self.whole or number.is_integer())


Parameter = Choice | Number


@dataclass(frozen=True)
class Metric:
    """How to compute a score and how to read it.

    ``compute`` takes a MaskPair and the parameters. ``better`` says which values are: "higher",
    "lower", those "near_zero", or "neither" where values cannot be ranked. A perfect score is
    ``best``, the worst ``worst``: "diagonal" stands for that of the whole image, NaN for no bound.
    """

    compute: Callable[..., float]
    better: Literal["higher", "lower", "near_zero", "neither"]
    best: float
    worst: float | Literal["diagonal"]
    unit: str = ""  # mm, mm3, voxels; none: a share or a coefficient
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    main: str = ""  # the parameter that a name such as surf_dice@2 sets
    empty: tuple[Value, Value, Value] = ("computed", "computed", "computed")  # as in EMPTY

    def all_parameters(self) -> dict[str, Parameter]:
        """Its own, and those for empty masks."""
        words = WORDS if self.worst == "diagonal" else WORDS[:-1]
        rules = {
            name: Number(default, low=-float("inf"), words=words)
            for name, default in zip(EMPTY, self.empty, strict=True)
        }
        return {**self.parameters, **rules}


def of_counts(formula: Callable[..., float]) -> Callable[..., float]:
    """The metric of a MaskPair that a formula of counts makes."""

    def compute(pair: MaskPair, **parameters: float) -> float:
        return formula(pair.counts, **parameters)

    return compute


def _count(name: Literal["tp", "fp", "fn", "tn"]) -> Callable[[Counts], float]:
    return lambda c: float(getattr(c, name))


def _overlap(formula: Callable[..., float], worst: float = 0.0, **more: Any) -> Metric:
    return Metric(of_counts(formula), "higher", 1.0, worst, **more)


def _volume_reference(pair: MaskPair) -> float:
    return (pair.counts.tp + pair.counts.fn) * pair.voxel_mm3


def _volume_prediction(pair: MaskPair) -> float:
    return (pair.counts.tp + pair.counts.fp) * pair.voxel_mm3


SURFACE = {"surface": Choice("surfel", SURFACES)}
PERCENTILE_OF = {"directions": Choice("max_of_directed", ("max_of_directed", "pooled", *ONE_WAY))}
MEAN_OF = {"directions": Choice("pooled", ("pooled", *ONE_WAY))}
TOLERANCE = {"tolerance": Number(1.0)}
BEST_OR_WORST = ("best", "worst", "worst")
LESIONS: Mapping[str, Parameter] = {
    "min_lesion_volume": Number(10.0),
    "dilation_iters": Number(3, whole=True),
    "gt_consolidation_iters": Number(0, whole=True),
    "connectivity": Choice(26, CONNECTIVITIES),
}
PENALTY = {"penalty": Number("diagonal", words=("diagonal",))}
MATCHED: Mapping[str, Parameter] = {
    "threshold": Number(0.5, high=1.0),
    "connectivity": Choice(26, CONNECTIVITIES),
}


METRICS: Mapping[str, Metric] = {
    "dice": _overlap(counts.dice),
    "iou": _overlap(counts.iou),
    "sensitivity": _overlap(counts.sensitivity),
    "specificity": _overlap(counts.specificity),
    "precision": _overlap(counts.precision),
    "accuracy": _overlap(counts.accuracy),
    "balanced_accuracy": _overlap(counts.balanced_accuracy),
    "auc": _overlap(counts.balanced_accuracy),
    "f_beta": _overlap(counts.f_beta, parameters={"beta": Number(1.0, high=1e6)}, main="beta"),
    "mcc": _overlap(counts.mcc, worst=-1.0),
    "kappa": _overlap(counts.kappa, worst=-1.0),
    "ari": _overlap(counts.adjusted_rand_index, worst=-0.5),
    "volumetric_similarity": _overlap(counts.volumetric_similarity),
    "relative_volume_difference": Metric(
        of_counts(counts.relative_volume_difference), "near_zero", 0.0, nan
    ),
    "volume_reference": Metric(_volume_reference, "neither", nan, nan, "mm3"),
    "volume_prediction": Metric(_volume_prediction, "neither", nan, nan, "mm3"),
    "tp": Metric(of_counts(_count("tp")), "higher", nan, 0.0, "voxels"),
    "fp": Metric(of_counts(_count("fp")), "lower", 0.0, nan, "voxels"),
    "fn": Metric(of_counts(_count("fn")), "lower", 0.0, nan, "voxels"),
    "tn": Metric(of_counts(_count("tn")), "higher", nan, 0.0, "voxels"),
    "haus95": Metric(
        hausdorff, "lower", 0.0, "diagonal", "mm",
        {"percentile": Number(95.0, high=100.0), **SURFACE, **PERCENTILE_OF},
        empty=BEST_OR_WORST,
    ),
    "hausdorff": Metric(
        hausdorff, "lower", 0.0, "diagonal", "mm",
        {"percentile": Number(100.0, high=100.0), **SURFACE, **PERCENTILE_OF},
        main="percentile", empty=BEST_OR_WORST,
    ),
    "avg_surf": Metric(
        avg_surf, "lower", 0.0, "diagonal", "mm", {**SURFACE, **MEAN_OF}, empty=BEST_OR_WORST
    ),
    "masd": Metric(masd, "lower", 0.0, "diagonal", "mm", SURFACE, empty=BEST_OR_WORST),
    "surf_dice": Metric(
        surf_dice, "higher", 1.0, 0.0, "",
        {**TOLERANCE, **SURFACE, **MEAN_OF},
        main="tolerance", empty=BEST_OR_WORST,
    ),
    "average_hausdorff": Metric(
        average_hausdorff, "lower", 0.0, "diagonal", "mm",
        {"form": Choice("max", ("max", "mean"))},
        empty=BEST_OR_WORST,
    ),
    "boundary_iou": Metric(
        boundary_iou, "higher", 1.0, 0.0, "", {"width": Number(2.0)},
        main="width", empty=BEST_OR_WORST,
    ),
    "cldice": Metric(cldice, "higher", 1.0, 0.0, empty=BEST_OR_WORST),
    "lesion_wise_dice": Metric(lesion_dice, "higher", 1.0, 0.0, parameters=LESIONS),
    "lesion_wise_haus95": Metric(
        lesion_hausdorff, "lower", 0.0, "diagonal", "mm",
        {**LESIONS, **PENALTY, "percentile": Number(95.0, high=100.0), **SURFACE, **PERCENTILE_OF},
    ),
    "lesion_wise_surf_dice": Metric(
        lesion_surf_dice, "higher", 1.0, 0.0, "",
        {**LESIONS, **TOLERANCE, **SURFACE, **MEAN_OF},
        main="tolerance",
    ),
    "lesion_wise_f1": Metric(lesion_f1, "higher", 1.0, 0.0, parameters=LESIONS),
    "panoptic_quality": Metric(
        panoptic_quality, "higher", 1.0, 0.0, parameters=MATCHED, main="threshold"
    ),
    "recognition_quality": Metric(
        recognition_quality, "higher", 1.0, 0.0, parameters=MATCHED, main="threshold"
    ),
    "segmentation_quality": Metric(
        segmentation_quality, "higher", 1.0, 0.0, parameters=MATCHED, main="threshold"
    ),
}  # fmt: skip

# Other words for metrics, in small letters: abbreviations, and all names of miseval.
ALIASES: Mapping[str, str] = {
    **dict.fromkeys(("dsc", "dicesimilaritycoefficient", "f1"), "dice"),
    **dict.fromkeys(("jaccard", "intersectionoverunion"), "iou"),
    **dict.fromkeys(("sens", "recall", "tpr", "truepositiverate"), "sensitivity"),
    **dict.fromkeys(("spec", "tnr", "truenegativerate"), "specificity"),
    **dict.fromkeys(("prec", "ppv"), "precision"),
    **dict.fromkeys(("acc", "ri", "randindex"), "accuracy"),
    **dict.fromkeys(("bacc", "balancedaccuracy"), "balanced_accuracy"),
    **dict.fromkeys(("adjustedrandindex",), "ari"),
    **dict.fromkeys(("auc_trapezoid",), "auc"),
    **dict.fromkeys(("kap", "cohenskappa"), "kappa"),
    **dict.fromkeys(("hd", "hausdorffdistance"), "hausdorff"),
    **dict.fromkeys(("hd95",), "haus95"),
    **dict.fromkeys(("ahd", "averagehausdorffdistance"), "average_hausdorff"),
    **dict.fromkeys(("vs", "volumetricsimilarity"), "volumetric_similarity"),
    **dict.fromkeys(("rvd",), "relative_volume_difference"),
    **dict.fromkeys(("fbeta",), "f_beta"),
    **dict.fromkeys(("matthewscorrelationcoefficient",), "mcc"),
    **dict.fromkeys(("truepositive",), "tp"),
    **dict.fromkeys(("falsepositive",), "fp"),
    **dict.fromkeys(("truenegative",), "tn"),
    **dict.fromkeys(("falsenegative",), "fn"),
    **dict.fromkeys(("assd", "asd"), "avg_surf"),
    **dict.fromkeys(("nsd",), "surf_dice"),
    **dict.fromkeys(("biou",), "boundary_iou"),
    **dict.fromkeys(("pq",), "panoptic_quality"),
    **dict.fromkeys(("rq",), "recognition_quality"),
    **dict.fromkeys(("sq",), "segmentation_quality"),
}


def _for(metrics: Iterable[str], parameters: Parameters) -> dict[str, Parameters]:
    return {name: {**parameters} for name in metrics}


_VOXELS = {"surface": "voxel"}
_NAN = dict.fromkeys(EMPTY, "nan")
_INFINITE = {"reference_empty": float("inf"), "prediction_empty": float("inf")}
_OVERLAPS = ("dice", "iou")
_BRATS: Parameters = {
    "min_lesion_volume": 50.0,
    "dilation_iters": 3,
    "gt_consolidation_iters": 3,
    "connectivity": 26,
}

# How others define metrics: parameters, by metric, that differ from the defaults.
PRESETS: Mapping[str, Mapping[str, Parameters]] = {
    "mist": {},
    "brats2023": {
        "lesion_wise_dice": _BRATS,
        "lesion_wise_haus95": {**_BRATS, "penalty": 374.0},
        "lesion_wise_surf_dice": _BRATS,
        "lesion_wise_f1": _BRATS,
        "haus95": {"reference_empty": 374.0, "prediction_empty": 374.0},
    },
    "monai": {
        **_for(_OVERLAPS, {"both_empty": "nan", "reference_empty": "nan"}),
        "haus95": {**_VOXELS, **_NAN},
        **_for(("hausdorff", "avg_surf", "masd"), {**_VOXELS, **_NAN, **_INFINITE}),
        "surf_dice": {**_VOXELS, "both_empty": "nan"},
    },
    "medpy": {
        **_for(("haus95", "hausdorff"), {**_VOXELS, **_NAN, "directions": "pooled"}),
        **_for(("avg_surf", "masd"), {**_VOXELS, **_NAN}),
    },
    "nnunet": _for(_OVERLAPS, {"both_empty": "nan"}),
    "miseval": {"hausdorff": _VOXELS},
}  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """A metric with a value for each of its parameters."""

    metric: Metric
    parameters: Parameters

    def of(self, pair: MaskPair) -> float:
        """The score of one structure."""
        rule = "computed" if pair.status == "ok" else self.parameters[pair.status]
        if rule == "computed":
            own = {k: v for k, v in self.parameters.items() if k not in EMPTY}
            return self.metric.compute(pair, **own)
        return self._worth(rule, pair.diagonal_mm)

    def worst(self, diagonal_mm: float) -> float:
        """The score of a prediction that is not there: no better than that of an empty one."""
        named = [self.parameters.get(name) for name in ("prediction_empty", "penalty")]
        numbers = [float(value) for value in named if isinstance(value, int | float)]
        worst = self._worth("worst", diagonal_mm)
        return max([worst, *numbers]) if self.metric.better == "lower" else min([worst, *numbers])

    def _worth(self, rule: Value, diagonal_mm: float) -> float:
        if not isinstance(rule, str):
            return float(rule)
        value: Any = {"best": self.metric.best, "worst": self.metric.worst, "nan": nan}.get(rule)
        return diagonal_mm if "diagonal" in (rule, value) else float(value)

    @property
    def definition(self) -> str:
        """All parameters in one line."""
        return " ".join(f"{name}={value}" for name, value in self.parameters.items())


def choose(
    metrics: Iterable[str] | Mapping[str, Mapping[str, Any]],
    preset: str = "mist",
    **options: Any,
) -> dict[str, Chosen]:
    """Metrics by name, or name to parameters; names in any case, also ``name@value``.

    Parameters come from the metric's defaults, then the preset, then ``options`` (for all metrics
    that have them), then from those given for the metric. Raises ValueError with every mistake.
    """
    if isinstance(metrics, str):
        metrics = [metrics]
    given = metrics if isinstance(metrics, Mapping) else {name: {} for name in metrics}
    problems = problems_of_metrics(given) + _problems_of_options(given, preset, options)
    if problems:
        raise ValueError(" ".join(problems))
    chosen = {}
    for name, own in given.items():
        key, at = resolve(name)
        assert key is not None
        metric = METRICS[key]
        known = metric.all_parameters()
        values: dict[str, Value] = {k: p.default for k, p in known.items()}
        values.update(PRESETS[preset].get(key, {}))
        values.update({k: v for k, v in options.items() if k in known})
        values.update({metric.main: at} if at is not None else {})
        chosen[name] = Chosen(metric, {**values, **own})
    return chosen


def problems_of_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each name that is no metric, and for each parameter that does not fit."""
    lines = []
    for name, own in metrics.items():
        key, at = resolve(name)
        if key is None:
            near = get_close_matches(name.lower(), [*METRICS, *ALIASES], 1)
            remedy = f"Did you mean {near[0]}?" if near else f"There are {', '.join(METRICS)}."
            lines.append(f"{name}: expected the name of a metric, found {name!r}. {remedy}")
            continue
        metric = METRICS[key]
        if at is not None and metric.main in own:
            lines.append(f"{name}: expected {metric.main} once, found it here and in the name.")
        values = own if at is None else {metric.main: at, **own}
        lines += _problems_of_parameters(name, values, metric.all_parameters())
    return lines


def _problems_of_options(
    metrics: Mapping[str, Any], preset: str, options: Mapping[str, Any]
) -> list[str]:
    """The same for the preset and for parameters that several metrics share."""
    lines = []
    if preset not in PRESETS:
        lines.append(f"preset: expected one of {', '.join(PRESETS)}, found {preset!r}.")
    keys = filter(None, (resolve(name)[0] for name in metrics))
    known = {name: p for key in keys for name, p in METRICS[key].all_parameters().items()}
    return lines + _problems_of_parameters("options", options, known)


def _problems_of_parameters(
    name: str, values: Mapping[str, Any], known: Mapping[str, Parameter]
) -> list[str]:
    lines = []
    for key, value in values.items():
        if key not in known:
            lines.append(f"{name}: expected parameters among {', '.join(known)}, found {key!r}.")
        elif not known[key].fits(value):
            lines.append(f"{name}.{key}: expected {known[key].expected()}, found {value!r}.")
    return lines


def resolve(name: str) -> tuple[str | None, float | None]:
    """The name of a metric in METRICS, None for none, and what stands behind its @."""
    word, at, value = name.lower().partition("@")
    key = ALIASES.get(word, word)
    if key not in METRICS:
        return None, None
    if not at:
        return key, None
    try:
        return (key, float(value)) if METRICS[key].main else (None, None)
    except ValueError:
        return None, None


def split_column(column: str) -> tuple[str, str] | None:
    """Class and metric of a column ``<class>_<metric>``, of all that fit the longest metric.

    None for a column of another form.
    """
    places = [i for i, letter in enumerate(column) if letter == "_"]
    return next(
        ((column[:i], column[i + 1 :]) for i in places if resolve(column[i + 1 :])[0]), None
    )


def lowest_best(values: NDArray[np.float64], better: str) -> NDArray[np.float64]:
    """The values turned so that the lowest is the best; ``better`` as in Metric."""
    if better == "near_zero":
        return np.abs(values)
    return -values if better == "higher" else values


def metric_of(name: str) -> Metric:
    """The metric that a name or an alias stands for. Raises KeyError where there is none."""
    key, _ = resolve(name)
    if key is None:
        raise KeyError(name)
    return METRICS[key]
