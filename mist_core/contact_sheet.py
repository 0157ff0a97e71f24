"""What training sees: patches of its cases and what augmentation makes of them, on one picture."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mist_core.augment import Recipe, augment, draw, reach, recipe_for
from mist_core.config import Train
from mist_core.patches import TrainingCase, cut_out, draw_piece, stacked
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
    size, spacing = plan.patch_size, plan.target_spacing_mm
    channels = len(plan.dataset_info.images)
    generators = [np.random.default_rng([*seed, n]) for n in range(VERSIONS)]
    drawn = [draw(recipe, channels, spacing, generator) for generator in generators]
    farthest = np.max([reach(changes, size, spacing) for changes in drawn], axis=0).tolist()
    chance, generator = settings.foreground_probability, np.random.default_rng(seed)
    piece = draw_piece(case, size, chance, generator, tuple(farthest))
    first = stacked([cut_out(piece, size)])
    changed = augment([piece] * VERSIONS, drawn, recipe, size, spacing)
    image = first.images[0].numpy()
    low, high = np.percentile(np.nan_to_num(image[channel]), [1, 99.5])
    pictures = []
    for one in (first, changed):
        for volume, of_voxels in zip(
            one.images[:, channel].numpy(), one.labels.numpy(), strict=True
        ):
            z = fullest_slice(of_voxels)
            pictures.append(slice_picture(volume[z], of_voxels[z], spacing[1:], (low, high)))
    return pictures


def legend(plan: Plan) -> dict[str, str]:
    """The colour of every label value."""
    info = plan.dataset_info
    named = {f"label {v}": colour_of(n) for n, v in enumerate(info.labels) if v}
    return named if info.ignore_label is None else named | {"ignored": colour_of(len(info.labels))}
