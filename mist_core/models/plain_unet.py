"""U-Net of nnU-Net: plain convolutions, and a deep-supervision head at every decoder stage.

Isensee et al., "nnU-Net", Nature Methods 18 (2021) 203-211.

Shapes: B batch, C channels in, F features of a stage, K classes, (Z, Y, X) voxels.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from mist_core.geometry import Shape, Triple
from mist_core.models.blocks import Convolution, Upsampling, initialise, join, run
from mist_core.topology import Level, nnunet_v2_topology

MAX_FEATURES = 320
ENCODER_CONVOLUTIONS = 2  # in a stage
DECODER_CONVOLUTIONS = 2


def nnunet_plain(
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    spacing: Triple,
    *,
    gradient_checkpointing: bool = False,
) -> nn.Module:
    """Two convolutions in a stage, the first of them strided; 32 features doubling to 320."""
    levels = nnunet_v2_topology(patch_size, spacing)
    features = features_of(levels)
    widths = [in_channels, *features]
    stages = [
        [Convolutions(ENCODER_CONVOLUTIONS, widths[i], widths[i + 1], level.kernel, level.stride)]
        for i, level in enumerate(levels)
    ]
    return StagedUNet(
        stages, features, levels, DECODER_CONVOLUTIONS, out_channels, gradient_checkpointing
    )


def features_of(levels: list[Level]) -> list[int]:
    """Features of each stage: 32, doubled at each up to 320."""
    return [min(32 * 2**i, MAX_FEATURES) for i in range(len(levels))]


class StagedUNet(nn.Module):
    """Encoder of given stages, a plain decoder, and a head for each of its stages."""

    def __init__(
        self,
        stages: Iterable[Iterable[nn.Module]],
        features: list[int],
        levels: list[Level],
        decoder_convolutions: int,
        out_channels: int,
        checkpointing: bool,
    ) -> None:
        """``stages`` are the blocks of the encoder, from full resolution down."""
        super().__init__()
        self.checkpointing = checkpointing
        self.encoder = nn.ModuleList(nn.ModuleList(blocks) for blocks in stages)
        self.decoder = nn.ModuleList(
            UpStage(
                decoder_convolutions,
                features[i],
                features[i - 1],
                levels[i - 1].kernel,
                levels[i].stride,
            )
            for i in reversed(range(1, len(levels)))
        )
        self.heads = nn.ModuleList(
            nn.Conv3d(features[i], out_channels, kernel_size=1)
            for i in range(max(1, len(levels) - 1))
        )
        self.apply(initialise)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, C, Z, Y, X) to logits (B, K, Z, Y, X) and, in training, (B, K, Z/2, Y/2, X/2), ..."""
        skips = self._encode(x)
        outputs = [skips.pop()]
        for stage in self.decoder:
            outputs.append(run(stage, outputs[-1], skips.pop(), checkpointing=self.checkpointing))
        finest_first = outputs[::-1]
        used = self.heads if self.training else self.heads[:1]
        return tuple(head(x) for head, x in zip(used, finest_first, strict=False))

    def _encode(self, x: Tensor) -> list[Tensor]:
        """(B, C, Z, Y, X) to the features (B, F, Z, Y, X) of each stage, finest first."""
        skips = []
        for stage in self.encoder:
            for block in stage.children():
                x = run(block, x, checkpointing=self.checkpointing)
            skips.append(x)
        return skips


class Convolutions(nn.Sequential):
    """Convolutions with bias, normalised and leaky, one after the other; the first is strided.

    (B, F in, Z, Y, X) to (B, F out, Z / stride, ...).
    """

    def __init__(
        self,
        number: int,
        in_features: int,
        out_features: int,
        kernel: Shape,
        stride: Shape = (1, 1, 1),
    ) -> None:
        layers: list[nn.Module] = []
        for i in range(number):
            before, step = (in_features, stride) if i == 0 else (out_features, (1, 1, 1))
            layers.append(Convolution(before, out_features, kernel, step, bias=True, leaky=True))
        super().__init__(*layers)


class UpStage(nn.Module):
    """Transposed convolution to the finer stage, joined with its skip, then convolutions."""

    def __init__(
        self, convolutions: int, in_features: int, out_features: int, kernel: Shape, stride: Shape
    ) -> None:
        super().__init__()
        self.up = Upsampling(in_features, out_features, stride)
        self.convolutions = Convolutions(convolutions, 2 * out_features, out_features, kernel)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, F in, Z, Y, X) and skip (B, F out, Z * stride, ...) to the skip's shape."""
        joined = join(self.up(x), skip)
        for convolution in self.convolutions:  # each lets go of what the one before gave
            joined = convolution(joined)
        return joined
