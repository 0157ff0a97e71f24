"""Where an array sits in the patient.

Arrays are ordered (z, y, x), and so is every per-axis tuple here. World coordinates are millimetres
in LPS, as in ITK and DICOM: x grows to the patient's Left, y to Posterior, z to Superior.
"""

from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Above this ratio of voxel edges, interpolating across slices would invent what was not measured.
ANISOTROPY = 3.0
Triple = tuple[float, float, float]
Shape = tuple[int, int, int]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Geometry:
    """A grid of voxel centres: ``world = origin + direction @ (spacing * index)``.

    ``direction`` is (3, 3); its column i is the unit vector, in world (x, y, z), of array axis i.
    """

    shape: Shape  # voxels
    spacing: Triple  # mm
    origin: Triple  # mm, world position of voxel (0, 0, 0)
    direction: NDArray[np.float64]

    def __post_init__(self) -> None:
        if min(self.spacing) <= 0:
            raise ValueError(f"spacing must be positive, got {self.spacing}")
        # ITK inverts the direction with an SVD that fails on denormal cosines such as 1e-315.
        # Headers are good to 1e-6 at best.
        object.__setattr__(self, "direction", np.round(self.direction, 10) + 0.0)

    def world(self, index: tuple[float, ...]) -> Triple:
        """Position in mm of a voxel index, which may be fractional."""
        offset = self.direction @ (np.asarray(self.spacing) * np.asarray(index))
        x, y, z = (np.asarray(self.origin) + offset).tolist()
        return (x, y, z)

    def cropped(self, box: Box) -> "Geometry":
        """The grid that is left after indexing the array with ``box`` (explicit bounds)."""
        shape = tuple(s.stop - s.start for s in box)
        return replace(self, shape=shape, origin=self.world(tuple(s.start for s in box)))

    def with_spacing(self, spacing: Triple) -> "Geometry":
        """A grid over the same box with another voxel size: edges stay, centres move.

        The box is kept to within half a new voxel at the far end, because voxels are counted whole.
        """
        old, new = np.asarray(self.spacing), np.asarray(spacing, dtype=float)
        shape = np.maximum(np.round(np.asarray(self.shape) * old / new), 1).astype(int)
        first_centre = (new / old - 1) / 2  # in old voxels, counted from old voxel (0, 0, 0)
        return replace(
            self,
            shape=_triple(shape.tolist()),
            spacing=_triple(new.tolist()),
            origin=self.world(tuple(first_centre)),
        )

    def to_lps(self) -> tuple[Shape, tuple[bool, bool, bool]]:
        """How to permute, then flip, the array axes so that they run along +z, +y, +x at best.

        Returns the source axis of each new axis, and whether each new axis is reversed. An oblique
        grid stays oblique: only whole axes move, so no voxel is interpolated.
        """
        # towards[i, j]: how far array axis j runs along new axis i (rows reversed: z, y, x)
        towards = self.direction[::-1]

        def alignment(order: tuple[int, ...]) -> float:
            return float(sum(abs(towards[i, j]) for i, j in enumerate(order)))

        order = max(permutations(range(3)), key=alignment)
        flips = tuple(bool(towards[i, j] < 0) for i, j in enumerate(order))
        return _triple(order), _triple(flips)

    def moved_axes(self, order: Shape, flips: tuple[bool, bool, bool]) -> "Geometry":
        """The grid of ``np.flip(array.transpose(order), flipped axes)``."""
        first = [0, 0, 0]
        for new_axis, old_axis in enumerate(order):
            if flips[new_axis]:
                first[old_axis] = self.shape[old_axis] - 1
        signs = np.where(flips, -1.0, 1.0)
        return Geometry(
            shape=_triple([self.shape[a] for a in order]),
            spacing=_triple([self.spacing[a] for a in order]),
            origin=self.world(tuple(first)),
            direction=self.direction[:, list(order)] * signs,
        )

    def matches(self, other: "Geometry", tolerance: float = 0.01) -> bool:
        """True when both grids place every voxel at the same point.

        ``tolerance`` is a fraction of the smallest voxel edge, so that float noise in a header
        never matters and a shift of a hundredth of a voxel does.
        """
        return self.shape == other.shape and self.distance_mm(other) <= tolerance * min(
            self.spacing
        )

    def distance_mm(self, other: "Geometry") -> float:
        """Largest distance between equal indices of two grids, over the corners of this one."""
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1).T
        gaps = [np.subtract(self.world(tuple(c)), other.world(tuple(c))) for c in corners]
        return float(np.linalg.norm(gaps, axis=1).max())

    def skew(self) -> float:
        """How far the axes are from right angles: the largest cosine between two of them."""
        return float(abs(self.direction.T @ self.direction - np.eye(3)).max())

    def with_right_angles(self) -> "Geometry":
        """The grid with the nearest orthonormal axes (the polar decomposition of the direction).

        Higham, SIAM J. Sci. Stat. Comput. 7 (1986) 1160-1174.
        """
        left, _, right = np.linalg.svd(self.direction)
        return replace(self, direction=left @ right)

    def to_json(self) -> dict[str, Any]:
        """As written to files: per-axis values in (x, y, z), direction as ITK prints it."""
        return {
            "size": list(self.shape[::-1]),
            "spacing": list(self.spacing[::-1]),
            "origin": list(self.origin),
            "direction": self.direction[:, ::-1].ravel().tolist(),
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Geometry":
        """The inverse of ``to_json``."""
        return cls(
            shape=_triple([int(n) for n in fields["size"][::-1]]),
            spacing=_triple([float(s) for s in fields["spacing"][::-1]]),
            origin=_triple([float(o) for o in fields["origin"]]),
            direction=np.reshape(np.asarray(fields["direction"], float), (3, 3))[:, ::-1],
        )

    def __str__(self) -> str:
        fields = self.to_json()
        rounded = {key: np.round(value, 4).tolist() for key, value in fields.items()}
        return ", ".join(f"{key} {value}" for key, value in rounded.items())


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a preprocessed array came from, which is the way back."""

    original: Geometry  # the scanner's grid
    box: Box  # the part of it that was kept
    training: Geometry  # the grid of the array

    def to_json(self) -> dict[str, Any]:
        """As written to files: per-axis values in (x, y, z)."""
        return {
            "original": self.original.to_json(),
            "box": [[s.start, s.stop] for s in self.box[::-1]],
            "training": self.training.to_json(),
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Origin":
        """The inverse of ``to_json``."""
        return cls(
            original=Geometry.from_json(fields["original"]),
            box=_triple([slice(start, stop) for start, stop in fields["box"][::-1]]),
            training=Geometry.from_json(fields["training"]),
        )


def box_of(mask: NDArray[np.bool_]) -> Box | None:
    """Smallest box that holds every true voxel of a 3-D mask; None when there is none."""
    slices = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        hits = np.flatnonzero(mask.any(axis=others))
        if hits.size == 0:
            return None
        slices.append(slice(int(hits[0]), int(hits[-1]) + 1))
    z, y, x = slices
    return z, y, x


def widened_box(box: Box, shape: Shape, voxels: tuple[int, ...]) -> Box:
    """A box with so many voxels more on both sides of each axis, within an array of ``shape``."""
    z, y, x = (
        slice(max(s.start - v, 0), min(s.stop + v, n))
        for s, v, n in zip(box, voxels, shape, strict=True)
    )
    return z, y, x


def union_box(first: Box, second: Box) -> Box:
    """Smallest box around two boxes."""
    z, y, x = (
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(first, second, strict=True)
    )
    return z, y, x


def _triple(values: Any) -> Any:
    a, b, c = values
    return (a, b, c)
