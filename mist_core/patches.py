"""Random pieces of volumes to train on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mist_core.geometry import Shape
from mist_core.io import open_array


@dataclass(frozen=True, eq=False)
class TrainingCase:
    """A preprocessed case, memory-mapped: only the patches that are drawn are read."""

    id: str
    image: NDArray[np.floating]  # (C, Z, Y, X), float16 or float32
    labels: NDArray[Any]  # (Z, Y, X), class indices
    coordinates: NDArray[np.int32]  # rows (class, z, y, x), sorted by class
    distance_maps: NDArray[np.floating] | None = None  # (K, Z, Y, X), where they are asked for

    @cached_property
    def rows_of_classes(self) -> list[tuple[int, int]]:
        """First and last row + 1 of the coordinates of each class that is there."""
        classes = np.asarray(self.coordinates[:, 0])
        ends = [*(np.flatnonzero(np.diff(classes)) + 1).tolist(), len(classes)]
        return list(pairwise([0, *ends])) if len(classes) else []

    @property
    def n_bytes(self) -> int:
        """Of all arrays that patches are taken from."""
        maps = 0 if self.distance_maps is None else self.distance_maps.nbytes
        return self.image.nbytes + self.labels.nbytes + maps


class Batch(NamedTuple):
    """Patches of several cases."""

    images: Tensor  # (B, C, Z, Y, X)
    labels: Tensor  # (B, Z, Y, X), class indices
    distance_maps: Tensor | None = None  # (B, K, Z, Y, X)


@dataclass(frozen=True)
class StoredCases(Sequence[TrainingCase]):
    """The cases that preprocess wrote to a folder, by their ids, each opened when it is asked for.

    So there may be more of them than files that a process may hold open.
    """

    folder: Path
    ids: Sequence[str]
    with_distances: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: Any) -> Any:
        return open_case(self.folder, self.ids[number], self.with_distances)


@lru_cache(maxsize=128)
def open_case(folder: Path, case_id: str, with_distances: bool = False) -> TrainingCase:
    """Map the arrays that preprocess wrote for one case."""
    return TrainingCase(
        case_id,
        open_array(folder / "images" / f"{case_id}.npy"),
        open_array(folder / "labels" / f"{case_id}.npy"),
        open_array(folder / "foreground" / f"{case_id}.npy"),
        open_array(folder / "dtms" / f"{case_id}.npy") if with_distances else None,
    )


class Piece(NamedTuple):
    """What is read of a case to make a patch of: more where that is to be turned or scaled, less
    where the case ends.
    """

    image: Tensor  # (C, Z, Y, X)
    labels: Tensor  # (Z, Y, X), class indices
    distance_maps: Tensor | None  # (K, Z, Y, X)
    corner: Shape = (0, 0, 0)  # where in the piece the patch begins, in voxels; may lie outside


def draw_piece(
    case: TrainingCase,
    patch_size: Shape,
    foreground_probability: float,
    generator: np.random.Generator,
    reach: Shape = (0, 0, 0),
) -> Piece:
    """A random patch with so many voxels more on each side, as far as the case goes.

    With ``foreground_probability`` it holds a voxel of a class drawn evenly among those present,
    at a random place inside it; else it lies anywhere in the case. A case that is smaller than the
    patch is in its middle.
    """
    shape = case.labels.shape
    start = [
        int(generator.integers(0, max(n - p, 0) + 1))
        for n, p in zip(shape, patch_size, strict=True)
    ]
    if case.rows_of_classes and generator.random() < foreground_probability:
        rows = case.rows_of_classes[int(generator.integers(len(case.rows_of_classes)))]
        voxel = case.coordinates[int(generator.integers(*rows)), 1:]
        inside = [int(generator.integers(p)) for p in patch_size]
        start = [
            min(max(int(v) - i, 0), max(n - p, 0))
            for v, i, n, p in zip(voxel, inside, shape, patch_size, strict=True)
        ]
    start = [s - max(p - n, 0) // 2 for s, p, n in zip(start, patch_size, shape, strict=True)]
    box = tuple(
        slice(max(s - r, 0), min(s + p + r, n))
        for s, p, r, n in zip(start, patch_size, reach, shape, strict=True)
    )
    part = (slice(None), *box)
    maps = None if case.distance_maps is None else case.distance_maps[part].astype(np.float32)
    z, y, x = (s - each.start for s, each in zip(start, box, strict=True))
    return Piece(
        torch.from_numpy(case.image[part].astype(np.float32)),
        torch.from_numpy(np.array(case.labels[box])),
        None if maps is None else torch.from_numpy(maps),
        (z, y, x),
    )


def draw_pieces(
    cases: Sequence[TrainingCase],
    items: Iterable[int],
    patch_size: Shape,
    foreground_probability: float,
    seed: tuple[int, ...],
    reaches: Iterable[Shape] | None = None,
) -> list[Piece]:
    """Pieces of random cases, one for each item.

    ``seed`` and the numbers in ``items`` alone decide what is drawn: a step can be repeated without
    those before it, and a batch can be drawn in parts.
    """
    pieces = []
    for item, reach in zip(items, reaches or repeat((0, 0, 0)), strict=False):
        generator = np.random.default_rng([*seed, item])
        case = draw_case(cases, generator)
        pieces.append(draw_piece(case, patch_size, foreground_probability, generator, reach))
    return pieces


def cut_out(piece: Piece, patch_size: Shape) -> Piece:
    """The patch in a piece as it is; zeros, background and the border of distance maps where the
    case ends.
    """
    image, labels, maps, corner = piece
    size = tuple(labels.shape)
    if corner == (0, 0, 0) and size == tuple(patch_size):
        return piece
    there, here = [], []  # of the piece and of the patch, what they share
    for c, n, p in zip(corner, size, patch_size, strict=True):
        low, high = max(c, 0), min(c + p, n)
        there.append(slice(low, high))
        here.append(slice(low - c, high - c))
    new_image = image.new_zeros((len(image), *patch_size))
    new_image[:, *here] = image[:, *there]
    new_labels = labels.new_zeros(patch_size)
    new_labels[*here] = labels[*there]
    if maps is not None:
        for axis, (c, n, p) in enumerate(zip(corner, size, patch_size, strict=True)):
            places = torch.arange(c, c + p, device=maps.device).clamp_(0, n - 1)
            maps = maps.index_select(axis + 1, places)
    return Piece(new_image, new_labels, maps)


def stacked(pieces: Sequence[Piece]) -> Batch:
    """Patches of one size as a batch."""
    images, labels, maps, _ = zip(*pieces, strict=True)
    distances = None if maps[0] is None else torch.stack(maps)
    return Batch(torch.stack(images), torch.stack(labels), distances)


def draw_case(cases: Sequence[TrainingCase], generator: np.random.Generator) -> TrainingCase:
    """A random case: what is drawn first for an item."""
    return cases[int(generator.integers(len(cases)))]
