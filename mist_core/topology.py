"""Depth, strides and kernels of a U-Net, from patch and spacing. No torch: the plan needs it too.

Isensee et al., "nnU-Net", Nature Methods 18 (2021) 203-211.
"""

from dataclasses import dataclass
from math import prod

from mist_core.geometry import Shape, Triple

MAX_LEVELS = 5


@dataclass(frozen=True)
class Level:
    """One resolution: the kernel of its blocks, and the stride by which it is reached."""

    kernel: Shape
    stride: Shape


def topology(patch_size: Shape, spacing: Triple) -> list[Level]:
    """Levels from full resolution down, at most ``MAX_LEVELS`` below the first.

    An axis is halved while it has 8 voxels or more and its voxels are at most twice as long as the
    shortest edge; until they are, the kernel does not reach across them.
    """
    size, edges = list(patch_size), list(spacing)
    strides: list[Shape] = [(1, 1, 1)]
    kernels: list[Shape] = []
    while len(kernels) < MAX_LEVELS:
        near = [edge / min(edges) <= 2 for edge in edges]
        sz, sy, sx = (2 if near[a] and size[a] >= 8 else 1 for a in range(3))
        if (sz, sy, sx) == (1, 1, 1):
            break
        kz, ky, kx = (3 if n else 1 for n in near)
        kernels.append((kz, ky, kx))
        strides.append((sz, sy, sx))
        size = [n // s for n, s in zip(size, strides[-1], strict=True)]
        edges = [e * s for e, s in zip(edges, strides[-1], strict=True)]
    kernels.append((3, 3, 3))
    return [Level(k, s) for k, s in zip(kernels, strides, strict=True)]


def divisor(patch_size: Shape, spacing: Triple) -> Shape:
    """What the size of each axis must be a multiple of, or skip connections would not fit."""
    levels = topology(patch_size, spacing)
    z, y, x = (prod(level.stride[axis] for level in levels) for axis in range(3))
    return (z, y, x)
