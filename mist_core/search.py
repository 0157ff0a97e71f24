"""The strategies that ``postprocess: auto`` tries: every combination of a declared grid."""

from collections.abc import Sequence
from itertools import product
from typing import Any

from mist_core.config import Search

NONE = "none"  # no strategy at all


def strategies(search: Search, labels: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
    """Steps by name, simple ones first; what changes nothing is not among them.

    ``labels`` are those of the dataset. Small objects go first, then all but the largest, then
    holes are filled, those of each label with that label.
    """
    # The union of one label is that label.
    same = sum(label > 0 for label in labels) == 1 and "label" in search.keep_largest
    kinds = [kind for kind in search.keep_largest if not (same and kind == "group")]
    grid = product(search.fill_holes, kinds, search.min_volume_mm3)
    named = {}
    for holes, largest, min_volume_mm3 in grid:
        parts: dict[str, list[dict[str, Any]]] = {}
        if min_volume_mm3:
            kwargs = {"min_volume_mm3": float(min_volume_mm3)}  # 10 and 10.0 are one in the file
            number = repr(min_volume_mm3).removesuffix(".0")  # every digit, so that names differ
            parts[f"min-{number}mm3"] = [_step("remove_small_objects", kwargs)]
        if largest != "none":
            step = _step("get_top_k_connected_components", {}, per_label=largest == "label")
            parts[f"largest-{largest}"] = [step]
        if holes:
            parts["holes"] = [
                _step("fill_holes_with_label", {"fill_holes_label": label}, [label])
                for label in labels
                if label
            ]
        named["+".join(parts)] = [step for steps in parts.values() for step in steps]
    named.pop("", None)
    return dict(sorted(named.items(), key=lambda each: each[0].count("+")))


def _step(
    transform: str, kwargs: dict[str, Any], labels: Sequence[int] = (-1,), per_label: bool = True
) -> dict[str, Any]:
    return {
        "transform": transform,
        "apply_to_labels": list(labels),
        "per_label": per_label,
        "kwargs": kwargs,
    }
