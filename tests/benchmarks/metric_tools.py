"""One library that scores one pair of label maps, again and again, for ``metrics.py``.

Runs with the Python of that library. For every line on its input it scores the pair once and writes
a line of JSON: seconds, what memory was used beyond what was there before, and the values.
"""

import ctypes
import json
import sys
import time
from pathlib import Path

import numpy as np

METRICS = {"dice": {}, "haus95": {}, "avg_surf": {}, "surf_dice": {"tolerance": 1.0}}
BRATS = {"min_lesion_volume": 50.0, "dilation_iters": 3, "gt_consolidation_iters": 3}
LESIONS = ("lesion_wise_dice", "lesion_wise_haus95", "lesion_wise_surf_dice", "lesion_wise_f1")


def main() -> None:
    tool, path, asked, classes = sys.argv[1:]
    with np.load(path) as stored:
        maps = stored["gt"], stored["pred"]
        spacing = tuple(map(float, stored["sp"]))
    run = TOOLS[tool](maps, spacing, json.loads(classes), asked)
    print("ready", flush=True)
    for _ in sys.stdin:
        ctypes.CDLL(None).malloc_trim(0)  # freed memory goes back, and is counted when it is used
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, started = memory_mb("VmRSS"), time.perf_counter()
        values = run()
        seconds = time.perf_counter() - started
        used = memory_mb("VmHWM") - before
        print(json.dumps({"seconds": seconds, "memory_mb": used, "values": values}), flush=True)


def memory_mb(kind):
    """Of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))


def metrics_of(asked, ours=True):
    if asked == "all":
        return METRICS
    lesions = dict.fromkeys(LESIONS, BRATS)
    return lesions | {"lesion_wise_haus95": {**BRATS, "penalty": 374.0}} if ours else lesions


def ours(maps, spacing, classes, asked):
    from mist_core.config import EvaluatedClass  # noqa: PLC0415
    from mist_core.evaluate import evaluate_arrays, wide_row  # noqa: PLC0415

    own = {k: EvaluatedClass(labels=v, metrics=metrics_of(asked)) for k, v in classes.items()}
    return lambda: wide_row(evaluate_arrays(*maps, spacing, own)[0])


def without_numba(maps, spacing, classes, asked):
    from mist_core.metrics import fallback, pairs, surfaces  # noqa: PLC0415

    pairs.backend = surfaces.backend = lambda: fallback
    return ours(maps, spacing, classes, asked)


def mist(maps, spacing, classes, asked):
    import pandas as pd  # noqa: PLC0415
    from mist.evaluation.evaluator import Evaluator  # noqa: PLC0415

    config = {
        k: {"labels": v, "metrics": metrics_of(asked, ours=False)} for k, v in classes.items()
    }
    paths = pd.DataFrame({"id": ["a"], "mask": ["-"], "prediction": ["-"]})
    evaluator = Evaluator(paths, config, "unused.csv")

    def run():
        row, problems = evaluator._evaluate_single_patient("a", *maps, spacing)
        assert not problems, problems
        return {name: float(value) for name, value in row.items() if name != "id"}

    return run


def surface_distance(maps, spacing, classes, asked):
    import surface_distance as sd  # noqa: PLC0415

    masks = {name: [np.isin(m, labels) for m in maps] for name, labels in classes.items()}

    def run():
        values = {}
        for name, (reference, prediction) in masks.items():
            found = sd.compute_surface_distances(reference, prediction, spacing)
            there, back = (found[k] for k in ("distances_gt_to_pred", "distances_pred_to_gt"))
            areas = found["surfel_areas_gt"], found["surfel_areas_pred"]
            total = there @ areas[0] + back @ areas[1]
            values |= {
                f"{name}_dice": sd.compute_dice_coefficient(reference, prediction),
                f"{name}_haus95": sd.compute_robust_hausdorff(found, 95),
                f"{name}_avg_surf": total / (areas[0].sum() + areas[1].sum()),
                f"{name}_surf_dice": sd.compute_surface_dice_at_tolerance(found, 1.0),
            }
        return {name: float(value) for name, value in values.items()}

    return run


def exacta(maps, spacing, classes, asked):
    import exacta.functional as EF  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from exacta import lesions  # noqa: PLC0415

    whole = all(len(labels) == 1 for labels in classes.values())
    if whole and asked == "all":  # its own way for many labels
        given = [torch.from_numpy(m[None].astype(np.int64)) for m in maps]
        shape = {"num_classes": len(classes) + 1, "include_background": False}
    else:
        masks = [np.stack([np.isin(m, labels) for labels in classes.values()]) for m in maps]
        given = [torch.from_numpy(m[None]) for m in masks]
        shape = {"input_format": "one-hot"}
    own = {"surface": "surfels"}
    chosen = {"dice": {}, "hd95": own, "assd": own, "nsd": {"tolerance": 1.0, **own}}
    names = dict(zip(chosen, METRICS, strict=True))

    def run():
        if asked == "lesions":
            found = lesions.brats2023(*given[::-1], challenge="GLI", spacing=spacing, **shape)
            table = {LESIONS[0]: found.lesion_dice, LESIONS[1]: found.lesion_hd95}
        else:
            found = EF.evaluate(*given[::-1], metrics=chosen, spacing=spacing, **shape)
            table = {names[name]: values for name, values in found.items()}
        return {
            f"{each}_{name}": float(value)
            for name, values in table.items()
            for each, value in zip(classes, values[0], strict=True)
        }

    return run


TOOLS = {
    "exacta": exacta,
    "ours": ours,
    "without_numba": without_numba,
    "mist": mist,
    "surface_distance": surface_distance,
}

if __name__ == "__main__":
    main()
