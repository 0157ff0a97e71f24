"""FMG-Net and W-Net: their peaks, and what each climb joins."""

import pytest
import torch

from mist_core.models import build
from mist_core.models.blocks import Convolution

CUBE = (1.0, 1.0, 1.0)


def network(name, edge):
    with torch.device("meta"):
        return build(name, in_channels=1, out_channels=2, patch_size=(edge,) * 3, spacing=CUBE)


def widths(climb):
    """How many sets of features each block of a climb joins."""
    first = [next(m for m in block.modules() if isinstance(m, Convolution)) for block in climb]
    return [convolution[0].in_channels // 32 for convolution in first]


@pytest.mark.parametrize(
    ("name", "edge", "heights"),
    [
        ("fmgnet", 4, []),
        ("fmgnet", 8, [1]),
        ("fmgnet", 32, [1, 2, 3]),
        ("fmgnet", 128, [1, 2, 3, 4, 5]),
        ("wnet", 4, []),
        ("wnet", 8, [1]),
        ("wnet", 16, [1, 2, 1]),
        ("wnet", 32, [1, 2, 1, 3, 1, 2, 1]),
        ("wnet", 128, [1, 2, 1, 3, 1, 4, 1, 5, 1, 4, 1, 3, 1, 2, 1]),
    ],
)
def test_peaks_have_the_published_heights(name, edge, heights):
    model = network(name, edge)
    assert [len(climb) for climb in model.climbs] == heights
    assert [len(descent) for descent in model.descents] == heights


@pytest.mark.parametrize(
    ("name", "joined", "last"),
    [
        # What came up, what came down there last, and the top of an earlier peak: 3, else 2.
        ("fmgnet", [[2], [3, 2], [2, 3, 2]], [2, 2, 3]),
        ("wnet", [[2], [3, 2], [2], [3, 3, 2], [2], [3, 2], [2]], [3, 3, 3]),
    ],
)
def test_a_climb_joins_the_tops_that_no_other_has(name, joined, last):
    model = network(name, 32)
    assert [widths(climb) for climb in model.climbs] == joined
    assert widths(model.decoder) == last


def by_formula(model):
    """The model with weights that follow from their place in it, deaf to the skip beside a top."""
    with torch.no_grad():
        for i, weight in enumerate(model.parameters()):
            index = torch.arange(weight.numel(), dtype=torch.float64)
            wave = torch.sin(index * (1 + i % 7 / 10) + i).reshape(weight.shape)
            scale = 0.5 if weight.ndim == 1 else (3 / weight[0].numel()) ** 0.5
            weight.copy_(wave * scale + (0.5 if weight.ndim == 1 else 0))
            if weight.shape[1:2] == (96,):
                weight[:, 32:64] = 0
    return model


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Of each head the mean size of the logits, and those of class 1 in the first and the last
        # voxel. From MIST 2.3, which joins a top twice, once in the place of that skip.
        (
            "fmgnet",
            [
                [0.77979, -1.59213, 3.57104],
                [2.03971, -5.14658, -4.19283],
                [1.18559, 2.35154, -0.41436],
            ],
        ),
        (
            "wnet",
            [
                [0.75551, -1.16894, 0.13396],
                [1.18778, -0.71014, -0.78823],
                [0.40062, -0.2481, -0.2774],
            ],
        ),
    ],
)
def test_outputs_are_those_of_mist_with_the_same_weights(name, expected):
    patch_size, spacing = (4, 16, 32), (4.0, 1.0, 1.0)
    model = build(name, in_channels=2, out_channels=3, patch_size=patch_size, spacing=spacing)
    x = torch.sin(torch.arange(4096, dtype=torch.float64)).float().reshape(1, 2, *patch_size)
    with torch.no_grad():
        heads = by_formula(model)(x)
    for head, numbers in zip(heads, expected, strict=True):
        found = [head.abs().mean(), head[0, 1, 0, 0, 0], head[0, 1, -1, -1, -1]]
        assert [n.item() for n in found] == pytest.approx(numbers, rel=5e-3, abs=5e-3)
