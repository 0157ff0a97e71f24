"""A CT with many classes: little memory, and what is said is what all at once would say."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from scipy.ndimage import map_coordinates, zoom
from torch import nn

from mist_core.config import Predict, Train
from mist_core.geometry import Geometry, Origin
from mist_core.plan import parse_plan
from mist_core.predict import TrainedModel, predict_preprocessed

CLASSES = 104
SHAPE = (800, 512, 512)
EVERY = 10  # slices: of these all voxels are compared


class Nearest(nn.Module):
    """Logits that fall with the square of the distance of a value to that of each class."""

    def forward(self, image):
        values = torch.linspace(-2, 2, CLASSES)
        logits = torch.empty((len(image), CLASSES, *image.shape[2:]), dtype=torch.bfloat16)
        for k, value in enumerate(values.tolist()):
            logits[:, k] = image[:, 0].sub(value).square_().mul_(-400)
        return (logits,)


def plan_of(spacing_mm):
    labels = list(range(CLASSES))
    fields = {
        "mist_version": "0",
        "dataset_info": {"task": "t", "modality": "ct", "images": ["ct"], "labels": labels},
        "spatial_config": {
            "patch_size": (128, 128, 128),
            "target_spacing": (spacing_mm,) * 3,
            "median_resampled_image_size": (128, 128, 128),
        },
        "preprocessing": {
            "crop_to_foreground": False,
            "normalize_with_nonzero_mask": [False],
            "ct_normalization": [None],
        },
        "model": {"in_channels": 1, "out_channels": CLASSES},
        "evaluation": {},
    }
    return parse_plan(fields, "test")


def smooth_noise(shape):
    """An image (1, Z, Y, X), from -2 to 2, that differs little from voxel to voxel."""
    small = np.random.default_rng(0).uniform(-2, 2, [n // 20 + 2 for n in shape])
    image = zoom(small.astype(np.float32), [n / m for n, m in zip(shape, small.shape, strict=True)])
    return image[None]


def dense_slice(image, origin, z):
    """Labels of a slice: all probabilities at once, interpolated by SciPy."""
    original, training = origin.original, origin.training
    grid = np.meshgrid([z], *map(np.arange, original.shape[1:]), indexing="ij")
    world = np.stack(grid, -1)[0] * original.spacing @ original.direction.T + original.origin
    places = (world - training.origin) @ training.direction / training.spacing
    places = np.clip(places, 0, np.array(training.shape) - 1).transpose(2, 0, 1)
    first = int(places[0].flat[0])
    planes = torch.from_numpy(image[None, :, first : first + 2])
    maps = Nearest()(planes)[0][0].float().softmax(0).numpy()
    places[0] -= first
    return np.stack([map_coordinates(m, places, order=1, mode="nearest") for m in maps]).argmax(0)


def main(ratio):
    """Predict; print the most memory that was ever held, and the share of voxels that are equal."""
    original = Geometry(SHAPE, (1 / ratio,) * 3, (0.0, 0.0, 0.0), np.eye(3)[:, ::-1])
    training = original.with_spacing((1.0,) * 3)
    image = smooth_noise(training.shape)
    origin = Origin(original, tuple(slice(0, n) for n in SHAPE), training)
    model = TrainedModel(Nearest(), plan_of(1.0), Train())
    found = predict_preprocessed([model], image, origin, Predict(flips=False)).labels.array
    status = Path("/proc/self/status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    slices = range(0, SHAPE[0], EVERY)
    equal = [found[z] == dense_slice(image, origin, z) for z in slices]
    sys.stdout.write(f"{int(peak) * 1024} {np.mean(equal)}")


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1.0, 1.25])
def test_a_ct_of_104_classes_stays_under_8_gb_and_is_what_all_at_once_says(ratio):
    """Where it stays on its grid, and where it was resampled to 1.25 times its spacing."""
    done = subprocess.run(
        [sys.executable, "-c", f"import test_large_images; test_large_images.main({ratio})"],
        cwd=ROOT / "tests",
        check=True,
        capture_output=True,
        text=True,
    )
    peak, equal = map(float, done.stdout.split())
    assert peak < 8e9
    assert equal > 0.999
