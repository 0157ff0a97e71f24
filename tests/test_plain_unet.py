"""U-Nets of nnU-Net, plain and with a residual encoder, beside nnU-Net's own."""

import math

import pytest
import torch
from torch import nn

from mist_core.models import build
from mist_core.models.resenc import PooledResidualBlock
from mist_core.topology import nnunet_v2_topology

PATCH, SPACING = (8, 16, 24), (2.5, 1.0, 1.0)
NAMES = ("nnunet-plain", "resenc-m")
# Of each head the mean size of the logits, then the logits of class 1 in the first, the middle and
# the last voxel: with weights and image by formula, from dynamic-network-architectures 0.4.4.
GOLDEN = {
    "nnunet-plain": [
        [0.40753, -0.06165, -0.13382, 0.5223],
        [0.67688, -0.26048, -0.10267, -0.00141],
    ],
    "resenc-m": [[0.64379, -0.29403, -0.69908, 0.32862], [0.63916, 1.20522, 1.03493, 0.88774]],
}


def network(name):
    return build(name, in_channels=2, out_channels=3, patch_size=PATCH, spacing=SPACING)


def waves(shape, phase):
    """Numbers from -1 to 1 that anybody can make again."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(index * (1 + phase % 7 / 10) + phase).float().reshape(shape)


def by_formula(model):
    """The model with weights that follow from their place in it."""
    with torch.no_grad():
        for i, weight in enumerate(model.parameters()):
            wave = waves(weight.shape, i)
            if weight.ndim == 1:
                weight.copy_(0.5 + 0.5 * wave)
            else:
                weight.copy_(wave * (3 / weight[0].numel()) ** 0.5)
    return model


@torch.no_grad()
def summary(heads):
    """What GOLDEN keeps of the outputs."""
    found = []
    for head in heads:
        z, y, x = (n // 2 for n in head.shape[2:])
        first, middle, last = head[0, 1, 0, 0, 0], head[0, 1, z, y, x], head[0, 1, -1, -1, -1]
        found.append([n.item() for n in (head.abs().mean(), first, middle, last)])
    return found


def nnunets_own(name):
    """The same network from nnU-Net's library, in training."""
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    levels = nnunet_v2_topology(PATCH, SPACING)
    blocks = {"n_blocks_per_stage": [1, 3, 4, 6][: len(levels)], "n_conv_per_stage_decoder": 1}
    if name == "nnunet-plain":
        blocks = {"n_conv_per_stage": 2, "n_conv_per_stage_decoder": 2}
    kind = unet.PlainConvUNet if name == "nnunet-plain" else unet.ResidualEncoderUNet
    return kind(
        input_channels=2,
        n_stages=len(levels),
        features_per_stage=[32, 64, 128, 256][: len(levels)],
        conv_op=nn.Conv3d,
        kernel_sizes=[level.kernel for level in levels],
        strides=[level.stride for level in levels],
        num_classes=3,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
        **blocks,
    )


def parts(here, there):
    """Pairs of parts, here and there, whose parameters come in the same order."""
    yield here.encoder, there.encoder
    below = there.decoder
    for stage, up, convolutions in zip(here.decoder, below.transpconvs, below.stages, strict=True):
        yield stage.up, up
        yield stage.convolutions, convolutions
    yield from zip(here.heads, reversed(below.seg_layers), strict=True)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_nnunet_with_the_same_weights(name):
    here, there = by_formula(network(name)), nnunets_own(name)
    with torch.no_grad():
        for part, other in parts(here, there):
            for weight, same in zip(part.parameters(), other.parameters(), strict=True):
                assert weight.shape == same.shape
                same.copy_(weight)
        x = waves((1, 2, *PATCH), 0)
        ours, theirs = here(x), there(x)
    for head, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(head, other, rtol=0, atol=1e-5)
    assert sum(p.numel() for p in here.parameters()) == sum(p.numel() for p in there.parameters())
    for head, expected in zip(summary(theirs), GOLDEN[name], strict=True):
        assert head == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_once_found_with_nnunet(name):
    found = summary(by_formula(network(name))(waves((1, 2, *PATCH), 0)))
    for head, expected in zip(found, GOLDEN[name], strict=True):
        assert head == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_a_fresh_residual_block_is_its_shortcut():
    model = network("resenc-m")
    block = next(m for m in model.modules() if isinstance(m, PooledResidualBlock))
    x = waves((1, 32, 5, 8, 8), 0)
    torch.testing.assert_close(block(x), nn.functional.leaky_relu(x, 0.01))


def test_stages_have_the_published_number_of_blocks():
    with torch.device("meta"):
        model = build(
            "resenc-l", in_channels=1, out_channels=2, patch_size=(256,) * 3, spacing=(1.0,) * 3
        )
    blocks = [sum(isinstance(b, PooledResidualBlock) for b in stage) for stage in model.encoder]
    assert blocks == [1, 3, 4, 6, 6, 6, 6]
