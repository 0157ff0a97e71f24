"""Residual U-Net whose depth, strides and kernels follow from patch and spacing.

Residual blocks: He et al., "Deep Residual Learning", CVPR 2016. Deep supervision: two coarser heads
beside the output.

Shapes: B batch, C channels in, F features of a level, K classes, (Z, Y, X) voxels.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from mist_core.geometry import Shape, Triple
from mist_core.models.blocks import SLOPE, Convolution, Upsampling, initialise, join, run
from mist_core.topology import Level, topology

MAX_FEATURES = 320
POCKET_FEATURES = 32
DEEP_HEADS = 2


def nnunet(
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    spacing: Triple,
    *,
    gradient_checkpointing: bool = False,
) -> nn.Module:
    """Residual encoder, plain decoder, 32 features doubling to 320, two deep-supervision heads."""
    levels = topology(patch_size, spacing)
    features = [min(32 * 2**i, MAX_FEATURES) for i in range(len(levels))]
    return UNet(in_channels, out_channels, levels, features, gradient_checkpointing)


def nnunet_pocket(
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    spacing: Triple,
    *,
    gradient_checkpointing: bool = False,
) -> nn.Module:
    """The same network with 32 features at every level.

    Celaya et al., "PocketNet", IEEE Transactions on Medical Imaging 42 (2023) 1172-1184.
    """
    levels = topology(patch_size, spacing)
    features = [POCKET_FEATURES] * len(levels)
    return UNet(in_channels, out_channels, levels, features, gradient_checkpointing)


class UNet(nn.Module):
    """Encoder, decoder with skip connections, and a head for each of the finest resolutions."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        levels: list[Level],
        features: list[int],
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        widths = [in_channels, *features]
        self.encoder = nn.ModuleList(
            ResidualBlock(widths[i], widths[i + 1], level) for i, level in enumerate(levels)
        )
        self.decoder = nn.ModuleList(
            UpBlock(features[i], features[i - 1], levels[i])
            for i in reversed(range(1, len(levels)))
        )
        heads = min(DEEP_HEADS + 1, max(1, len(levels) - 1))
        self.heads = nn.ModuleList(
            nn.Conv3d(features[i], out_channels, kernel_size=1) for i in range(heads)
        )
        self.apply(initialise)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, C, Z, Y, X) to logits (B, K, Z, Y, X) and, in training, (B, K, Z/2, Y/2, X/2), ..."""
        skips = []
        for block in self.encoder:
            x = run(block, x, checkpointing=self.checkpointing)  # (B, F, Z, Y, X) of this level
            skips.append(x)
        outputs = [skips.pop()]
        for block in self.decoder:
            outputs.append(run(block, outputs[-1], skips.pop(), checkpointing=self.checkpointing))
        finest_first = outputs[::-1]
        used = self.heads if self.training else self.heads[:1]
        return tuple(head(x) for head, x in zip(used, finest_first, strict=False))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which is projected where the shape changes."""

    def __init__(self, in_features: int, out_features: int, level: Level) -> None:
        super().__init__()
        self.first = Convolution(in_features, out_features, level.kernel, level.stride, leaky=True)
        self.second = Convolution(out_features, out_features, level.kernel)
        same = in_features == out_features and level.stride == (1, 1, 1)
        self.shortcut = (
            nn.Identity() if same else Convolution(in_features, out_features, 1, level.stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, F in, Z, Y, X) to (B, F out, Z / stride, ...)."""
        y = self.second(self.first(x)).add_(self.shortcut(x))
        return F.leaky_relu(y, SLOPE, inplace=True)


class UpBlock(nn.Module):
    """Transposed convolution to the finer level, joined with its skip, then two convolutions."""

    def __init__(self, in_features: int, out_features: int, level: Level) -> None:
        super().__init__()
        self.up = Upsampling(in_features, out_features, level.stride)
        self.first = Convolution(2 * out_features, out_features, level.kernel, leaky=True)
        self.second = Convolution(out_features, out_features, level.kernel, leaky=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, F in, Z, Y, X) and skip (B, F out, Z * stride, ...) to the skip's shape."""
        joined: Tensor = self.second(self.first(join(self.up(x), skip)))
        return joined
