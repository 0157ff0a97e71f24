"""Scores of one structure: two boolean masks in, a number out. Add one by adding to ``METRICS``.

Distances are in mm between surfaces as distance.py defines them. What a metric is worth when a mask
is empty stands in ``METRICS`` beside it: a missed structure must not vanish from a mean.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mist_core.distance import Floats, SurfaceDistances, surface_distances
from mist_core.geometry import Triple, box_of

Mask = NDArray[np.bool_]
Status = Literal["ok", "both_empty", "reference_empty", "prediction_empty"]


@dataclass(frozen=True)
class Metric:
    """How to compute a score and how to read it.

    ``compute`` takes what ``needs`` names: two masks, or their SurfaceDistances. A perfect score is
    ``best``; the worst is ``worst``, where "diagonal" stands for that of the whole image, in mm.
    """

    compute: Callable[..., float]
    needs: Literal["masks", "surfaces"]
    higher_is_better: bool
    best: float
    worst: float | Literal["diagonal"]


def dice(reference: Mask, prediction: Mask) -> float:
    """2 |A and B| / (|A| + |B|). Dice, Ecology 26 (1945) 297-302."""
    overlap = np.count_nonzero(reference & prediction)
    return 2 * overlap / (np.count_nonzero(reference) + np.count_nonzero(prediction))


def haus95(surfaces: SurfaceDistances) -> float:
    """The larger of the two directed 95th percentiles of surface distance, weighted by area."""
    return max(
        _percentile(surfaces.reference_to_prediction, surfaces.reference_areas, 0.95),
        _percentile(surfaces.prediction_to_reference, surfaces.prediction_areas, 0.95),
    )


def _percentile(distances: Floats, areas: Floats, share: float) -> float:
    """The first distance within which lies ``share`` of the area; nothing is interpolated."""
    covered = np.cumsum(areas) / areas.sum()
    index = int(np.searchsorted(covered, share))
    return float(distances[min(index, distances.size - 1)])


def avg_surf(surfaces: SurfaceDistances) -> float:
    """Mean surface distance over both directions together, weighted by area."""
    total = surfaces.reference_to_prediction @ surfaces.reference_areas
    total += surfaces.prediction_to_reference @ surfaces.prediction_areas
    return float(total / (surfaces.reference_areas.sum() + surfaces.prediction_areas.sum()))


def surf_dice(surfaces: SurfaceDistances, tolerance: float = 1.0) -> float:
    """Share of both surfaces that lies within ``tolerance`` mm of the other (Nikolov 2021)."""
    near = surfaces.reference_areas[surfaces.reference_to_prediction <= tolerance].sum()
    near += surfaces.prediction_areas[surfaces.prediction_to_reference <= tolerance].sum()
    return float(near / (surfaces.reference_areas.sum() + surfaces.prediction_areas.sum()))


METRICS: Mapping[str, Metric] = {
    "dice": Metric(dice, "masks", higher_is_better=True, best=1.0, worst=0.0),
    "haus95": Metric(haus95, "surfaces", higher_is_better=False, best=0.0, worst="diagonal"),
    "avg_surf": Metric(avg_surf, "surfaces", higher_is_better=False, best=0.0, worst="diagonal"),
    "surf_dice": Metric(surf_dice, "surfaces", higher_is_better=True, best=1.0, worst=0.0),
}


class Scores(dict[str, float]):
    """Metric name to value, and whether the values were computed or set by the empty policy."""

    status: Status


def score(
    reference: Mask,
    prediction: Mask,
    spacing: Triple,
    metrics: Mapping[str, Mapping[str, Any]],
) -> Scores:
    """All ``metrics`` (name to parameters) of one structure; surfaces are found once.

    Masks are 3-D booleans of one shape, ``spacing`` is in mm per array axis. Both empty gives the
    best value of each metric, one empty the worst.
    """
    scores = Scores()
    scores.status = _status(bool(reference.any()), bool(prediction.any()))
    if scores.status != "ok":
        diagonal_mm = float(np.linalg.norm(np.multiply(reference.shape, spacing)))
        for name in metrics:
            metric = METRICS[name]
            value = metric.best if scores.status == "both_empty" else metric.worst
            scores[name] = diagonal_mm if value == "diagonal" else float(value)
        return scores

    box = box_of(reference | prediction)
    assert box is not None
    masks = reference[box], prediction[box]
    needs_surfaces = any(METRICS[name].needs == "surfaces" for name in metrics)
    surfaces = surface_distances(*masks, spacing) if needs_surfaces else None
    for name, parameters in metrics.items():
        metric = METRICS[name]
        inputs = masks if metric.needs == "masks" else (surfaces,)
        scores[name] = metric.compute(*inputs, **parameters)
    return scores


def _status(in_reference: bool, in_prediction: bool) -> Status:
    if in_reference and in_prediction:
        return "ok"
    if in_reference:
        return "prediction_empty"
    return "reference_empty" if in_prediction else "both_empty"
