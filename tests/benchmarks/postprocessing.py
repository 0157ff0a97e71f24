"""Postprocessing beside MIST: seconds for 20 masks of BraTS's size, and every voxel that differs.

    python tests/benchmarks/postprocessing.py --work /scratch/postprocessing --mist /envs/mist/bin

The masks are made first: a tumour with labels 1, 2 and 4, satellites of all sizes, holes, specks
of noise. The strategy is MIST's example. The commands take turns, one worker each.
"""

import argparse
import json
import shutil
import statistics
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from metric_data import bumps, ellipsoid
from preprocessing import SCRIPTS, environment_of, measured
from scipy.ndimage import binary_fill_holes

from mist_core.files import write_json
from mist_core.geometry import Geometry
from mist_core.io import Volume, read_labels, write_volume
from mist_core.postprocess import Step, postprocess

SHAPE = (155, 240, 240)
STRATEGY = [
    {
        "transform": "remove_small_objects",
        "apply_to_labels": [1],
        "per_label": True,
        "kwargs": {"small_object_threshold": 64},
    },
    {
        "transform": "remove_small_objects",
        "apply_to_labels": [2, 4],
        "per_label": False,
        "kwargs": {"small_object_threshold": 100},
    },
    {
        "transform": "fill_holes_with_label",
        "apply_to_labels": [1, 2],
        "per_label": False,
        "kwargs": {"fill_holes_label": 1},
    },
    {
        "transform": "get_top_k_connected_components",
        "apply_to_labels": [4],
        "per_label": True,
        "kwargs": {
            "top_k_connected_components": 1,
            "apply_morphological_cleaning": True,
            "morphological_cleaning_iterations": 1,
        },
    },
    {
        "transform": "replace_small_objects_with_label",
        "apply_to_labels": [1, 2, 4],
        "per_label": True,
        "kwargs": {"small_object_threshold": 50, "replacement_label": 0},
    },
]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--work", type=Path, required=True, help="folder for masks and results")
    p.add_argument("--mist", type=Path, required=True, help="bin folder")
    p.add_argument("--cases", type=int, default=20)
    p.add_argument("--rounds", type=int, default=3)
    args = p.parse_args()
    masks = args.work / "masks"
    for number in range(args.cases):
        path = masks / f"case_{number:02d}.nii.gz"
        if not path.exists():
            write_volume(path, mask(number))
    write_json(args.work / "strategy.json", STRATEGY)
    commands = {
        "ours": ([sys.executable, SCRIPTS / "postprocess.py"], Path(sys.executable).parent),
        "mist": ([args.mist / "mist_postprocess"], args.mist),
    }
    used = {name: [] for name in commands}
    for number in range(args.rounds + 1):  # the first one fills caches
        for name, (command, bin_) in commands.items():
            output = args.work / name
            shutil.rmtree(output, ignore_errors=True)
            more = ["--base-predictions", masks, "--output", output]
            more += ["--postprocess-strategy", args.work / "strategy.json"]
            found = measured(list(map(str, [*command, *more])), environment_of(bin_), 1)
            used[name] += [found] if number else []
    medians = {
        name: statistics.median(each.seconds for each in found) for name, found in used.items()
    }
    print("| | seconds | share of MIST's | seconds of CPU | memory, MB |\n|---|---|---|---|---|")
    for name, found in used.items():
        cpu = statistics.median(each.cpu_seconds for each in found)
        memory = max(each.peak_bytes for each in found) / 1e6
        share = medians[name] / medians["mist"]
        print(f"| {name} | {medians[name]:.2f} | {share:.2f} | {cpu:.2f} | {memory:.0f} |")
    print(json.dumps(differences(args.work, masks)))


def mask(seed: int) -> Volume:
    """A tumour of three labels with satellites and holes."""
    generator = np.random.default_rng(seed)
    centre = generator.integers((60, 90, 90), (95, 150, 150))
    radii = generator.uniform(16, 38, 3)
    fine = bumps(SHAPE, 8, generator)
    depth = ellipsoid(SHAPE, centre, radii) + 0.15 * bumps(SHAPE, 25, generator)
    core = depth - 0.35 + 0.08 * fine
    labels = np.zeros(SHAPE, np.uint8)
    labels[depth + 0.03 * fine > 0] = 2
    labels[core > 0] = 1
    labels[(core > 0) & (depth < 0.6 + 0.05 * fine)] = 4
    labels[(depth > 0.1) & (bumps(SHAPE, 6, generator) > 3)] = 0  # holes
    for radius in generator.uniform(0.5, 7, 25):
        place = generator.integers((20, 40, 40), (135, 200, 200))
        labels[ellipsoid(SHAPE, place, (radius,) * 3) > 0] = generator.choice([1, 2, 4])
    specks = generator.integers((20, 40, 40), (135, 200, 200), (40, 3))
    labels[tuple(specks.T)] = generator.choice([1, 2, 4], 40)
    return Volume(labels, Geometry(SHAPE, (1.0,) * 3, (0.0,) * 3, np.eye(3)[:, ::-1]))


def differences(work: Path, masks: Path) -> dict[str, int]:
    """How many voxels differ from MIST's, and why.

    MIST gives every voxel of a hole the label, what lies in it as well; ours only background. So
    the strategy is taken once more with that one step as MIST takes it. Of components that are
    equally large either may be the largest, and is for MIST another: ``ties``.
    """
    found = Counter()
    for path in sorted(masks.glob("*.nii.gz")):
        ours, mist = (
            read_labels(work / name / f"predictions/{path.name}").array for name in ("ours", "mist")
        )
        before = read_labels(path).array
        found["differ"] += int(np.count_nonzero(ours != mist))
        found["changed"] += int(np.count_nonzero(ours != before))
        alike = overwriting(before)
        ties = np.array_equal(*(np.bincount(each.ravel(), minlength=5) for each in (alike, mist)))
        found["ties" if ties else "unexplained"] += int(np.count_nonzero(alike != mist))
    return dict(found)


def overwriting(labels: np.ndarray) -> np.ndarray:
    """The strategy with holes filled together with what lies in them."""
    steps = [Step(**step) for step in STRATEGY]
    labels = postprocess(labels, steps[:2], (1.0,) * 3)
    inside = np.isin(labels, [1, 2])
    labels[binary_fill_holes(inside) & ~inside] = 1
    return postprocess(labels, steps[3:], (1.0,) * 3)


if __name__ == "__main__":
    main()
