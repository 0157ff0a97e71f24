"""Every network with every loss: five steps on a case of the demo make the loss smaller."""

from functools import cache
from inspect import signature

import numpy as np
import pytest
import torch

from mist_core.config import LOSSES as KNOWN_LOSSES
from mist_core.config import LOSSES_OF_DISTANCES, Train
from mist_core.criterion import GIVEN, criterion
from mist_core.demo import CHANNELS, CLASSES, LABELS
from mist_core.distance import signed_distance_map
from mist_core.intensity import z_score
from mist_core.labels import sample_coordinates, to_indices
from mist_core.loading import Draws
from mist_core.losses import LOSSES
from mist_core.models import MODELS, for_plan
from mist_core.parallel import Part
from mist_core.patches import TrainingCase
from mist_core.phantom import make_case
from mist_core.plan import parse_plan
from mist_core.topology import ARCHITECTURES
from mist_core.train import Paths, train

CPU = torch.device("cpu")
PLAN = parse_plan(
    {
        "mist_version": "0",
        "dataset_info": {"task": "t", "modality": "mr", "images": CHANNELS, "labels": LABELS},
        "spatial_config": {
            "patch_size": (32, 32, 32),
            "target_spacing": (1, 1, 1),
            "median_resampled_image_size": (64, 64, 64),
        },
        "preprocessing": {
            "crop_to_foreground": False,
            "normalize_with_nonzero_mask": [False] * 2,
            "ct_normalization": [None] * 2,
        },
        "model": {"in_channels": 2, "out_channels": len(LABELS)},
        "evaluation": {name: {"labels": members} for name, members in CLASSES.items()},
    },
    "test",
)


@cache
def demo_case():
    """The first case of the demo, preprocessed, with distance maps."""
    images, mask = make_case("demo_01", 0)
    labels = to_indices(mask.array, LABELS)
    maps = [signed_distance_map(labels == k, normalize=True) for k in range(len(LABELS))]
    return TrainingCase(
        "demo",
        np.stack([z_score(images[name].array) for name in CHANNELS]),
        labels,
        sample_coordinates(labels, len(LABELS), 1000, 0),
        np.stack(maps),
    )


def plan_for(model):
    """The plan; one network cannot do with the smallest patch."""
    fields = PLAN.model_dump()
    if model.startswith("swinunetr"):
        fields["spatial_config"]["patch_size"] = (64, 32, 32)
    return PLAN.model_validate(fields)


def losses(folder, model, loss="dice_ce", **settings):
    """The loss of one batch, before and after five steps."""
    still = {"warmup_epochs": 0, "augment": {"rotation": 0, "scaling": 0}}
    length = {"epochs": 1, "steps_per_epoch": 5, "batch_size": 1, "loss": loss}
    if loss == "dice_topk":  # other voxels are the worst after a large step
        settings["learning_rate"] = 1e-4
    chosen = Train(model=model, **length, **still, **settings)
    plan = plan_for(model)
    case = demo_case()
    draws = Draws([case], plan, chosen.model_copy(update={"batch_size": 2}), 0, Part())
    batch = draws.batch(draws[0], 0, CPU)
    torch.manual_seed(chosen.seed)
    fresh = for_plan(plan, chosen)
    paths = Paths(folder / "c.pt", folder / "logs")
    trained = train([case], [], plan, chosen, 0, paths, "mine").network
    (folder / "c.pt").unlink()  # gigabytes, of the largest
    measure = criterion(plan, chosen, CPU)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return [measure(each.train()(batch.images), batch, 0).item() for each in (fresh, trained)]


def test_names_in_the_config_are_those_of_the_library():
    assert list(MODELS) == list(ARCHITECTURES)
    assert list(LOSSES) == list(KNOWN_LOSSES)
    for name, loss in LOSSES.items():
        keywords = [p for p in signature(loss).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert [p.name for p in keywords if p.name not in GIVEN] == list(KNOWN_LOSSES[name])
    for name, builder in MODELS.items():
        of_all = {"features", "size", "in_channels", "out_channels", "patch_size", "spacing"}
        own = signature(builder).parameters.keys() - of_all - {"gradient_checkpointing"}
        assert own == set(ARCHITECTURES[name].parameters)
    needing = {name for name, loss in LOSSES.items() if "distance_maps" in loss.needs}
    assert needing == set(LOSSES_OF_DISTANCES)


@pytest.mark.parametrize("regions", [False, True])
def test_a_network_learns_labels_and_regions(tmp_path, regions):
    before, after = losses(tmp_path, model="nnunet-pocket", regions=regions)
    assert after < before


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("model", ARCHITECTURES)
def test_every_network_learns_by_every_loss(tmp_path, model, loss):
    before, after = losses(tmp_path, model=model, loss=loss)
    assert np.isfinite(after)
    assert after < before
