"""Scores of one structure: what most who use the library by hand will call."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mist_core.metrics.pairs import MaskPair, Status
from mist_core.metrics.registry import Chosen, choose
from mist_core.metrics.surfaces import Mask


class Scores(dict[str, float]):
    """Metric name to value.

    ``status`` says whether both masks had something in them; ``definitions``, by metric, what
    exactly was computed.
    """

    status: Status
    definitions: dict[str, str]


def score(
    reference: Mask,
    prediction: Mask,
    spacing: Sequence[float],
    metrics: Iterable[str] | Mapping[str, Mapping[str, Any]],
    preset: str = "mist",
    **options: Any,
) -> Scores:
    """All ``metrics`` of one structure; its surfaces are found once.

    Masks are booleans of one shape with 2 or 3 axes, with 1 for metrics that know no distances;
    ``spacing`` is in mm per array axis. ``metrics`` are names of ``METRICS`` or their aliases, such
    as ``dice``, ``haus95`` or ``surf_dice@2``, or a mapping of names to parameters. ``preset``
    chooses how others define them (``PRESETS``); ``options`` are parameters for all metrics that
    have them. By default a structure that is in neither mask is worth the best, one that is in only
    one of them the worst value, but for metrics that count the background or are volumes; the
    table in docs/metrics.md has all. Raises ValueError for what does not fit.
    """
    reference, prediction = np.asarray(reference), np.asarray(prediction)
    for mask in (reference, prediction):
        if mask.dtype != bool:
            raise ValueError(
                f"expected boolean masks, found {mask.dtype}: compare label maps with a label first"
            )
    chosen = choose(metrics, preset, **options)
    return scores_of(MaskPair.of(reference, prediction, spacing), chosen)


def scores_of(pair: MaskPair, chosen: Mapping[str, Chosen]) -> Scores:
    """The same for a pair of masks and metrics that were chosen before."""
    scores = Scores({name: each.of(pair) for name, each in chosen.items()})
    scores.status = pair.status
    scores.definitions = {name: each.definition for name, each in chosen.items()}
    return scores
