"""Residual encoder U-Nets of nnU-Net: a deep residual encoder and a light decoder.

Isensee et al., "nnU-Net Revisited", MICCAI 2024, arXiv 2404.09556. Shortcut by average pooling: He
et al., "Bag of Tricks for Image Classification", CVPR 2019, arXiv 1812.01187.

M and L are one network. They differ in the memory for which a patch is planned, 8 and 24 GB there:
a larger patch has more levels.

Shapes: B batch, F features of a stage, (Z, Y, X) voxels.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from mist_core.geometry import Shape, Triple
from mist_core.models.blocks import SLOPE, Convolution
from mist_core.models.plain_unet import Convolutions, StagedUNet, features_of
from mist_core.topology import Level, nnunet_v2_topology

BLOCKS = (1, 3, 4)  # in the first stages
MORE_BLOCKS = 6  # in each stage after them
DECODER_CONVOLUTIONS = 1


def resenc(
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    spacing: Triple,
    *,
    gradient_checkpointing: bool = False,
) -> nn.Module:
    """A convolution, then 1, 3, 4, 6, 6, ... residual blocks; one convolution to a decoder stage.

    The last normalisation of each residual block starts at zero, so that a fresh block is its
    shortcut.
    """
    levels = nnunet_v2_topology(patch_size, spacing)
    features = features_of(levels)
    stem = Convolutions(1, in_channels, features[0], levels[0].kernel)
    widths = [features[0], *features]
    stages = [_stage(i, widths[i], widths[i + 1], level) for i, level in enumerate(levels)]
    stages[0] = [stem, *stages[0]]
    network = StagedUNet(
        stages, features, levels, DECODER_CONVOLUTIONS, out_channels, gradient_checkpointing
    )
    return network.apply(_start_at_shortcut)


def _stage(number: int, in_features: int, out_features: int, level: Level) -> list[nn.Module]:
    """Residual blocks of one resolution; the first reaches it by its stride."""
    more = BLOCKS[number] if number < len(BLOCKS) else MORE_BLOCKS
    same = Level(level.kernel, (1, 1, 1))
    first = PooledResidualBlock(in_features, out_features, level)
    return [
        first,
        *(PooledResidualBlock(out_features, out_features, same) for _ in range(more - 1)),
    ]


class PooledResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which is pooled and projected where the shape changes."""

    def __init__(self, in_features: int, out_features: int, level: Level) -> None:
        super().__init__()
        self.first = Convolution(
            in_features, out_features, level.kernel, level.stride, bias=True, leaky=True
        )
        self.second = Convolution(out_features, out_features, level.kernel, bias=True)
        self.shortcut = nn.Sequential()
        if level.stride != (1, 1, 1):
            self.shortcut.append(nn.AvgPool3d(level.stride))
        if in_features != out_features:
            self.shortcut.append(Convolution(in_features, out_features, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, F in, Z, Y, X) to (B, F out, Z / stride, ...)."""
        y = self.second(self.first(x)).add_(self.shortcut(x))
        return F.leaky_relu(y, SLOPE, inplace=True)


def _start_at_shortcut(module: nn.Module) -> None:
    """Weight zero for the normalisation before the sum: for ``network.apply``."""
    if isinstance(module, PooledResidualBlock):
        normalisation = module.second[-1]
        assert isinstance(normalisation, nn.InstanceNorm3d)
        nn.init.zeros_(normalisation.weight)
