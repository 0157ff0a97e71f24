"""FMG-Net and W-Net: U-Nets that go down and up several times, as multigrid solvers do.

Celaya, Riviere and Fuentes, "FMG-Net and W-Net: Multigrid Inspired Deep Learning Architectures For
Medical Imaging Segmentation", arXiv 2304.02725 (2023).

Between the encoder and the decoder are peaks: a climb from the coarsest level by some levels, and
the descent back. A climb joins at each level the last features that came down there, and the top of
an earlier peak if one is there that no climb has joined yet. All levels have 32 features.

Shapes: B batch, C channels in, F = 32 features, K classes, (Z, Y, X) voxels.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from mist_core.geometry import Shape, Triple
from mist_core.models.blocks import Upsampling, initialise, join, run
from mist_core.models.unet import DEEP_HEADS, ResidualBlock
from mist_core.topology import Level, topology

FEATURES = 32


def fmgnet(
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    spacing: Triple,
    *,
    gradient_checkpointing: bool = False,
) -> nn.Module:
    """Full multigrid: each peak is one level higher than the one before it."""
    levels = topology(patch_size, spacing)
    heights = list(range(1, len(levels)))
    return MultigridNet(in_channels, out_channels, levels, heights, gradient_checkpointing)


def wnet(
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    spacing: Triple,
    *,
    gradient_checkpointing: bool = False,
) -> nn.Module:
    """W-cycle: peaks that rise to full resolution and fall, and one of height 1 between any two."""
    levels = topology(patch_size, spacing)
    return MultigridNet(
        in_channels, out_channels, levels, _w_heights(len(levels) - 1), gradient_checkpointing
    )


def _w_heights(highest: int) -> list[int]:
    """Heights of the peaks of a W-Net: 1, 2, 1, 3, 1, ..., ``highest``, ..., 1, 3, 1, 2, 1."""
    if highest == 0:
        return []
    peaks = [*range(2, highest + 1), *reversed(range(2, highest))]
    return [1, *(height for peak in peaks for height in (peak, 1))]


class MultigridNet(nn.Module):
    """Encoder, peaks, decoder, and a head for each of the finest resolutions."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        levels: list[Level],
        heights: list[int],
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        widths = [in_channels] + [FEATURES] * len(levels)
        self.encoder = nn.ModuleList(
            ResidualBlock(widths[i], widths[i + 1], level) for i, level in enumerate(levels)
        )
        self.climbs, self.descents = nn.ModuleList(), nn.ModuleList()
        self.tops = [len(levels) - 1 - height for height in heights]
        waiting: set[int] = set()  # levels of the tops that no later climb has reached yet
        for top in self.tops:
            self.climbs.append(_climb(levels, top, waiting))
            self.descents.append(_descent(levels, top))
            waiting = {top} | {level for level in waiting if level < top}
        self.decoder = _climb(levels, 0, waiting)
        self.heads = nn.ModuleList(
            nn.Conv3d(FEATURES, out_channels, kernel_size=1)
            for _ in range(min(DEEP_HEADS + 1, max(1, len(levels) - 1)))
        )
        self.apply(initialise)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, C, Z, Y, X) to logits (B, K, Z, Y, X) and, in training, (B, K, Z/2, Y/2, X/2), ..."""
        skips = self._down(self.encoder, x)  # of each level the last features on a way down
        tops: dict[int, Tensor] = {}
        for top, climb, descent in zip(self.tops, self.climbs, self.descents, strict=True):
            tops[top] = self._up(climb.children(), skips, tops)[-1]
            skips[top + 1 :] = self._down(descent.children(), tops[top])
        finest_first = self._up(self.decoder, skips, tops)[::-1]
        used = self.heads if self.training else self.heads[:1]
        return tuple(head(x) for head, x in zip(used, finest_first, strict=False))

    def _down(self, blocks: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
        """Features after each block, (B, F, Z, Y, X) of its level, finest first."""
        features = []
        for block in blocks:
            x = run(block, x, checkpointing=self.checkpointing)
            features.append(x)
        return features

    def _up(
        self, blocks: Iterable[nn.Module], skips: list[Tensor], tops: dict[int, Tensor]
    ) -> list[Tensor]:
        """Features of each level from the coarsest up; takes the tops that it meets."""
        features = [skips[-1]]
        for level, block in zip(reversed(range(len(skips) - 1)), blocks, strict=False):
            beside = [skips[level], *([tops.pop(level)] if level in tops else [])]
            features.append(run(block, features[-1], *beside, checkpointing=self.checkpointing))
        return features


def _climb(levels: list[Level], top: int, waiting: set[int]) -> nn.ModuleList:
    """Blocks from the coarsest level up to ``top``; ``waiting`` are the levels of earlier tops."""
    return nn.ModuleList(
        JoinBlock(2 if level - 1 in waiting else 1, levels[level])
        for level in reversed(range(top + 1, len(levels)))
    )


def _descent(levels: list[Level], top: int) -> nn.ModuleList:
    """Blocks from below ``top`` down to the coarsest level."""
    return nn.ModuleList(ResidualBlock(FEATURES, FEATURES, level) for level in levels[top + 1 :])


class JoinBlock(nn.Module):
    """Transposed convolution to the finer level, joined with skips, then a residual block."""

    def __init__(self, skips: int, level: Level) -> None:
        super().__init__()
        self.up = Upsampling(FEATURES, FEATURES, level.stride)
        same_size = Level(level.kernel, (1, 1, 1))
        self.block = ResidualBlock((1 + skips) * FEATURES, FEATURES, same_size)

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        """(B, F, Z, Y, X) and skips (B, F, Z * stride, ...) to the shape of a skip."""
        joined: Tensor = self.block(join(self.up(x), *skips))
        return joined
