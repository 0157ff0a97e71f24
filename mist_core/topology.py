"""Depth, strides and kernels of a U-Net, from patch and spacing. No torch: the plan needs it too.

Isensee et al., "nnU-Net", Nature Methods 18 (2021) 203-211.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

from mist_core.errors import DataError
from mist_core.geometry import Shape, Triple
from mist_core.own import file_of, is_own, load, source_of

MAX_LEVELS = 5
MIN_EDGE = 4  # voxels: what halving must leave of an axis


@dataclass(frozen=True)
class Level:
    """One resolution: the kernel of its blocks, and the stride by which it is reached."""

    kernel: Shape
    stride: Shape


Rule = Callable[[Shape, Triple], list[Level]]  # of (patch_size, spacing)


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
        sz, sy, sx = (2 if near[a] and size[a] >= 2 * MIN_EDGE else 1 for a in range(3))
        if (sz, sy, sx) == (1, 1, 1):
            break
        kz, ky, kx = (3 if n else 1 for n in near)
        kernels.append((kz, ky, kx))
        strides.append((sz, sy, sx))
        size = [n // s for n, s in zip(size, strides[-1], strict=True)]
        edges = [e * s for e, s in zip(edges, strides[-1], strict=True)]
    kernels.append((3, 3, 3))
    return [Level(k, s) for k, s in zip(kernels, strides, strict=True)]


def nnunet_v2_topology(patch_size: Shape, spacing: Triple) -> list[Level]:
    """Levels from full resolution down, as many as the patch allows: the rule of nnU-Net 2.

    A kernel reaches across an axis from the level on where its voxels are less than twice as long
    as the shortest edge.
    """
    size, edges = list(patch_size), list(spacing)
    levels: list[Level] = []
    kernel, stride = (1, 1, 1), (1, 1, 1)
    while (following := _strides(size, edges)) != (1, 1, 1):
        near = [edge / min(edges) < 2 for edge in edges]
        kz, ky, kx = (3 if n or k == 3 else 1 for n, k in zip(near, kernel, strict=True))
        kernel = (kz, ky, kx)
        levels.append(Level(kernel, stride))
        stride = following
        size = [-(-n // s) for n, s in zip(size, stride, strict=True)]
        edges = [e * s for e, s in zip(edges, stride, strict=True)]
    return [*levels, Level((3, 3, 3), stride)]


def _strides(size: list[int], edges: list[float]) -> Shape:
    """2 for the axes to halve: of those with 8 voxels or more, the ones whose voxels are less than
    twice as long as the shortest edge among them. A lone axis is halved from 12 voxels on.
    """
    long = [axis for axis in range(3) if size[axis] >= 2 * MIN_EDGE]
    halved = [a for a in long if edges[a] / min(edges[b] for b in long) < 2]
    if len(halved) == 1 and size[halved[0]] < 3 * MIN_EDGE:
        return (1, 1, 1)
    z, y, x = (2 if axis in halved else 1 for axis in range(3))
    return (z, y, x)


@dataclass(frozen=True)
class Architecture:
    """What a plan must know of a network."""

    levels: Rule | int  # the rule of its levels, or what every axis must be a multiple of
    # That the user may set, and the values that they may have.
    parameters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    patch_budget: float = 1.0  # voxels of a patch, relative to what is usual for a GPU's memory


MEDNEXT = {"kernel_size": (3, 5, 7)}
ARCHITECTURES: Mapping[str, Architecture] = {
    "nnunet": Architecture(topology),
    "nnunet-pocket": Architecture(topology),
    "nnunet-plain": Architecture(nnunet_v2_topology),
    "resenc-m": Architecture(nnunet_v2_topology),
    # nnU-Net fills 24 GB with three times the patch that others have for 16 GB.
    "resenc-l": Architecture(nnunet_v2_topology, patch_budget=2.0),
    "fmgnet": Architecture(topology),
    "wnet": Architecture(topology),
    "mednext-small": Architecture(16, MEDNEXT),
    "mednext-base": Architecture(16, MEDNEXT),
    "mednext-medium": Architecture(16, MEDNEXT),
    "mednext-large": Architecture(16, MEDNEXT),
    "swinunetr-small": Architecture(32),
    "swinunetr-base": Architecture(32),
    "swinunetr-large": Architecture(32),
}


def architecture(model: str) -> Architecture:
    """What a plan must know of a network by name.

    One of the user's own says with an attribute ``divisor`` of its function what the axes of its
    patches must be multiples of; without, they are as for ``nnunet``.
    """
    if is_own(model):
        levels = getattr(load(model), "divisor", topology)
        if not callable(levels) and not (isinstance(levels, int) and levels > 0):
            raise DataError(
                f"{file_of(model)}: expected divisor to be a whole number above 0, found "
                f"{levels!r}. Mend it."
            )
        return Architecture(levels)
    return ARCHITECTURES[model]


def planned_as(model: str) -> str:
    """The first architecture that a plan treats as it does this one: their plans are the same.

    For one of the user's own this is seen from its source: loading it would load torch.
    """
    if is_own(model):
        return model if "divisor" in source_of(model) else "nnunet"
    return next(n for n, each in ARCHITECTURES.items() if each == ARCHITECTURES[model])


def divisor(patch_size: Shape, spacing: Triple, model: str = "nnunet") -> Shape:
    """What the size of each axis must be a multiple of, or skip connections would not fit.

    It holds for this patch, and for this patch rounded up to it; another may need another.
    """
    levels = architecture(model).levels
    if isinstance(levels, int):
        return (levels, levels, levels)
    found = _halvings(levels(patch_size, spacing))
    while True:  # ends: ``found`` grows, and halving leaves 4 voxels at least
        z, y, x = (-(-n // m) * m for n, m in zip(patch_size, found, strict=True))
        needed = _halvings(levels((z, y, x), spacing))
        fits = [n % m == 0 for n, m in zip((z, y, x), needed, strict=True)]
        if all(fits):
            return found
        z, y, x = (m if fit else n for m, n, fit in zip(found, needed, fits, strict=True))
        found = (z, y, x)


def nearest_patch(patch: Shape, spacing: Triple, model: str) -> Shape:
    """The nearest multiples of what the model halves, downwards where two are as near.

    A model that halves every axis as often, whatever the patch, must not come down to one voxel.
    """
    multiples = divisor(patch, spacing, model)
    pairs = list(zip(patch, multiples, strict=True))
    near = [max(-(-(2 * n - m) // (2 * m)), 1) * m for n, m in pairs]
    needed = divisor((near[0], near[1], near[2]), spacing, model)
    if any(n % m for n, m in zip(near, needed, strict=True)):
        near = [-(-n // m) * m for n, m in pairs]  # for which the multiples hold, too
    if near == [architecture(model).levels] * 3:
        near[patch.index(max(patch))] *= 2
    z, y, x = near
    return (z, y, x)


def _halvings(levels: list[Level]) -> Shape:
    """Product of the strides of each axis."""
    z, y, x = (prod(level.stride[axis] for level in levels) for axis in range(3))
    return (z, y, x)
