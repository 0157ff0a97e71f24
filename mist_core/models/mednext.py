"""MedNeXt: a U-Net of depthwise convolutions with wide insides, in four sizes.

Roy et al., "MedNeXt: Transformer-driven Scaling of ConvNets for Medical Image Segmentation",
MICCAI 2023. Every axis is halved four times, and each of the five resolutions has a head. Weights
start as PyTorch makes them, as in the authors' code.

Shapes: B batch, C channels in, F features of a level, K classes, (Z, Y, X) voxels.
"""

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from mist_core.geometry import Shape, Triple
from mist_core.models.blocks import run

FEATURES = (32, 64, 128, 256, 512)  # of the levels, finest first
COARSEST = len(FEATURES) - 1
KERNELS = (3, 5, 7)


@dataclass(frozen=True)
class Size:
    """What the sizes differ in, level by level; the decoder has the numbers of the encoder."""

    expansions: tuple[int, ...]  # features inside a block for each one outside
    blocks: tuple[int, ...]  # besides the one that comes from another level


def mednext(
    size: Size,
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    spacing: Triple,
    *,
    kernel_size: int = 3,
    gradient_checkpointing: bool = False,
) -> nn.Module:
    """The network of a size, with depthwise kernels of 3, 5 or 7 voxels; any spacing has the same.

    Every axis of the patch can be halved four times. Raises ValueError for another kernel.
    """
    if kernel_size not in KERNELS:
        raise ValueError(f"kernel_size: expected 3, 5 or 7, found {kernel_size!r}.")
    return MedNeXt(size, in_channels, out_channels, kernel_size, gradient_checkpointing)


mednext_small = partial(mednext, Size((2, 2, 2, 2, 2), (2, 2, 2, 2, 2)))
mednext_base = partial(mednext, Size((2, 3, 4, 4, 4), (2, 2, 2, 2, 2)))
mednext_medium = partial(mednext, Size((2, 3, 4, 4, 4), (3, 4, 4, 4, 4)))
mednext_large = partial(mednext, Size((3, 4, 8, 8, 8), (3, 4, 8, 8, 8)))


class MedNeXt(nn.Module):
    """Encoder, decoder to which the skip connections are added, and a head for each resolution."""

    def __init__(
        self, size: Size, in_channels: int, out_channels: int, kernel: int, checkpointing: bool
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        steps = [  # features of two levels, and the expansion of the finer one
            (FEATURES[i], FEATURES[i + 1], size.expansions[i]) for i in range(COARSEST)
        ]
        stem = nn.Conv3d(in_channels, FEATURES[0], kernel_size=1)
        first = [stem, *(down_block(*step, kernel) for step in steps)]
        self.encoder = nn.ModuleList(
            Stage([block, *plain_blocks(size, level, kernel)], checkpointing)
            for level, block in enumerate(first)
        )
        self.up = nn.ModuleList(up_block(*step, kernel) for step in reversed(steps))
        self.decoder = nn.ModuleList(
            Stage(plain_blocks(size, level, kernel), checkpointing)
            for level in reversed(range(COARSEST))
        )
        self.heads = nn.ModuleList(nn.Conv3d(f, out_channels, kernel_size=1) for f in FEATURES)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, C, Z, Y, X) to logits (B, K, Z, Y, X) and, in training, four more, each halved."""
        skips = []
        for stage in self.encoder:
            x = stage(x)  # (B, F, Z, Y, X) of this level
            skips.append(x)
        outputs = [skips.pop()]
        for up, stage in zip(self.up, self.decoder, strict=True):
            x = run(up, outputs[-1], checkpointing=self.checkpointing) + skips.pop()
            outputs.append(stage(x))
        finest_first = outputs[::-1]
        used = self.heads if self.training else self.heads[:1]
        return tuple(head(x) for head, x in zip(used, finest_first, strict=False))


class Stage(nn.Sequential):
    """Blocks one after the other, of which each may be computed again for the gradient."""

    def __init__(self, blocks: list[nn.Module], checkpointing: bool) -> None:
        super().__init__(*blocks)
        self.checkpointing = checkpointing

    def forward(self, x: Tensor) -> Tensor:
        """(B, F in, Z, Y, X) to (B, F, Z, Y, X) of the level."""
        for block in self:
            x = run(block, x, checkpointing=self.checkpointing)
        return x


class Block(nn.Module):
    """Depthwise convolution, normalisation of each feature, expansion, GELU and compression.

    The ``shortcut`` beside them takes the input to the same shape.
    """

    def __init__(
        self, depthwise: nn.Module, shortcut: nn.Module, widths: tuple[int, int], expansion: int
    ) -> None:
        super().__init__()
        before, after = widths
        self.shortcut = shortcut
        self.body = nn.Sequential(
            depthwise,
            nn.GroupNorm(before, before),
            nn.Conv3d(before, expansion * before, kernel_size=1),
            nn.GELU(),
            nn.Conv3d(expansion * before, after, kernel_size=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, F before, Z, Y, X) to (B, F after, ...): the same size, half of it or twice."""
        y: Tensor = self.shortcut(x) + self.body(x)
        return y


def plain_blocks(size: Size, level: int, kernel: int) -> list[nn.Module]:
    """Blocks that keep the shape, as many as the level has."""
    f = FEATURES[level]
    return [
        Block(
            nn.Conv3d(f, f, kernel, padding=kernel // 2, groups=f),
            nn.Identity(),
            (f, f),
            size.expansions[level],
        )
        for _ in range(size.blocks[level])
    ]


def down_block(fine: int, coarse: int, expansion: int, kernel: int) -> nn.Module:
    """From a level to the next, half as fine."""
    return Block(
        nn.Conv3d(fine, fine, kernel, stride=2, padding=kernel // 2, groups=fine),
        nn.Conv3d(fine, coarse, kernel_size=1, stride=2),
        (fine, coarse),
        expansion,
    )


def up_block(fine: int, coarse: int, expansion: int, kernel: int) -> nn.Module:
    """From the coarse level back to the one that is twice as fine."""
    depthwise = nn.ConvTranspose3d(
        coarse, coarse, kernel, stride=2, padding=kernel // 2, output_padding=1, groups=coarse
    )
    shortcut = nn.ConvTranspose3d(coarse, fine, kernel_size=1, stride=2, output_padding=1)
    return Block(depthwise, shortcut, (coarse, fine), expansion)


def resized_kernel(weight: Tensor, size: Shape) -> Tensor:
    """A kernel (F out, F in, Z, Y, X) of another size, by trilinear interpolation: UpKern, to begin
    a network with large kernels from one with small ones.

    The paper says trilinear; that the outer faces of the cells are aligned, not their centres, is
    the authors' code. A kernel that grows keeps its corners, but not its sum: the normalisation
    that follows every depthwise convolution takes the difference away.
    """
    return F.interpolate(weight, size, mode="trilinear", align_corners=False)
