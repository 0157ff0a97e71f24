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
