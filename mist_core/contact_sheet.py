"""What training sees: patches of its cases and what augmentation makes of them, on one picture."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from mist_core.augment import Recipe, augment, recipe_for
from mist_core.config import Train
from mist_core.patches import Batch, TrainingCase, draw_patch
from mist_core.pictures import (
    Picture,
    colour_of,
    fullest_slice,
    slice_picture,
    tile,
)
from mist_core.plan import Plan

PATCHES = 5  # rows of a sheet
VERSIONS = 5  # columns beside that of the patches as they are


def contact_sheet(cases: Sequence[TrainingCase], plan: Plan, settings: Train, fold: int) -> Picture:
    """A row for each of a few patches: as it is, then changed as training does.

    Patches are of cases spread evenly over the list, placed as in training, and show the channels
    in turn, the axial slice with most foreground.
    """
    recipe = recipe_for(settings, plan)
    spread = np.linspace(0, len(cases) - 1, min(PATCHES, len(cases))).round().astype(int)
    rows = {}
    for row, number in enumerate(spread):
        seed = (settings.seed, fold, row)
        channel = row % len(plan.dataset_info.images)
        name = f"{cases[number].id}\n{plan.dataset_info.images[channel]}"
        case = replace(cases[number], distance_maps=None)
        rows[name] = versions(case, plan, settings, recipe, seed, channel)
    titles = ["as it is", *(f"changed {n + 1}" for n in range(VERSIONS))]
    return tile(rows, titles, legend(plan))


def versions(
    case: TrainingCase,
    plan: Plan,
    settings: Train,
    recipe: Recipe,
    seed: Sequence[int],
    channel: int,
) -> list[Picture]:
    """Pictures of one patch of a case: as it is, then changed."""
    generator = np.random.default_rng(seed)
    image, labels, _ = draw_patch(case, plan.patch_size, settings.foreground_probability, generator)
    first = Batch(torch.from_numpy(image)[None], torch.from_numpy(labels)[None])
    many = Batch(*(t.expand(VERSIONS, *t.shape[1:]) for t in first if t is not None))
    generators = [np.random.default_rng([*seed, n]) for n in range(VERSIONS)]
    changed = augment(many, recipe, plan.target_spacing_mm, generators)
    low, high = np.percentile(np.nan_to_num(image[channel]), [1, 99.5])
    spacing = plan.target_spacing_mm[1:]
    pictures = []
    for one in (first, changed):
        for volume, of_voxels in zip(
            one.images[:, channel].numpy(), one.labels.numpy(), strict=True
        ):
            z = fullest_slice(of_voxels)
            pictures.append(slice_picture(volume[z], of_voxels[z], spacing, (low, high)))
    return pictures


def legend(plan: Plan) -> dict[str, str]:
    """The colour of every label value."""
    info = plan.dataset_info
    named = {f"label {v}": colour_of(n) for n, v in enumerate(info.labels) if v}
    return named if info.ignore_label is None else named | {"ignored": colour_of(len(info.labels))}
