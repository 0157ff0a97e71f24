"""What the viewer of a case needs, as JSON: its slices as a sheet of pictures, and its labels."""

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mist_core.geometry import Geometry, box_of, union_box
from mist_core.pictures import COLOURS, data_uri
from mist_core.report.comparison import (
    NOTHING,
    STATE_COLOURS,
    Comparison,
    most_wrong,
    worst_slice,
)

MOST_VOXELS = (4_500_000, 1_500_000, 500_000)  # of a scene: fewer where noise makes it large
MOST_LETTERS = 900_000  # of its slices and its labels
LARGEST_SHEET = 16_000  # pixels of its edges; WebP ends at 16 383
QUALITY = 65

Scene = dict[str, Any]


def scene(case_id: str, case: Comparison) -> Scene:
    """A case for ``viewer.js``: everything is in LPS, axes are (z, y, x).

    Large images are reduced: the mean of every block of voxels, with the label in its middle. A
    border of the image that is of one value is left out where it has no label. ``drawn`` are the
    numbers of the classes that have a colour.
    """
    box = _worth_showing(case)
    shape = tuple(s.stop - s.start for s in box)
    for most in MOST_VOXELS:
        steps = steps_of(shape, case.geometry.spacing, most)
        used = tuple(
            slice(s.start + step // 2, s.stop, step) for s, step in zip(box, steps, strict=True)
        )
        grey = block_means(case.grey[box], steps)
        slices = sheet(grey)
        labels = packed([groups[used] for groups in (case.reference, case.prediction)])
        if len(slices["src"]) + len(labels) <= MOST_LETTERS:
            break
    grid = _reduced(case.geometry, used)
    start = [worst_slice(case, axis) for axis in range(3)]
    order, flips = case.file_axes
    return {
        "id": case_id,
        "size": list(grey.shape),
        "spacing": list(grid.spacing),
        "origin": list(grid.origin),
        "direction": grid.direction.tolist(),
        "steps": steps,
        "first": [s.start for s in used],
        "file": {"size": list(case.state.shape), "order": list(order), "flips": list(flips)},
        "start": [
            min(max((place - b.start) // step, 0), n - 1)
            for place, b, step, n in zip(start, box, steps, grey.shape, strict=True)
        ],
        "classes": list(case.classes),
        "drawn": most_wrong(case),
        "colours": list(COLOURS),
        "states": list(STATE_COLOURS.values()),
        "members": [np.flatnonzero(row).tolist() for row in case.members],
        "grey": slices,
        "labels": labels,
    }


def _worth_showing(case: Comparison) -> tuple[slice, slice, slice]:
    """The box of all that is not black, or has a label; all where that is nothing."""
    boxes = [box for mask in (case.grey > 0, case.state > NOTHING) if (box := box_of(mask))]
    if not boxes:
        z, y, x = (slice(0, n) for n in case.state.shape)
        return z, y, x
    return union_box(boxes[0], boxes[-1])


def steps_of(shape: Sequence[int], spacing: Sequence[float], most: int) -> list[int]:
    """How many voxels along each axis become one, so that no more than ``most`` are left: the
    shortest first, so that thick slices are kept.
    """
    steps = [1, 1, 1]
    while np.prod([-(-n // step) for n, step in zip(shape, steps, strict=True)]) > most:
        edges = [
            step * mm if step < n else np.inf
            for n, step, mm in zip(shape, steps, spacing, strict=True)
        ]
        steps[int(np.argmin(edges))] += 1
    return steps


def block_means(values: NDArray[np.uint8], steps: Sequence[int]) -> NDArray[np.uint8]:
    """The mean of every block of an array; one beyond whose end its middle lies is left out."""
    counts = [-(-(n - step // 2) // step) for n, step in zip(values.shape, steps, strict=True)]
    wanted = [count * step for count, step in zip(counts, steps, strict=True)]
    padding = [(0, max(w - n, 0)) for n, w in zip(values.shape, wanted, strict=True)]
    padded = np.pad(values, padding, "edge")[tuple(slice(0, w) for w in wanted)]
    blocks = padded.reshape([n for pair in zip(counts, steps, strict=True) for n in pair])
    return np.asarray(blocks.mean(axis=(1, 3, 5), dtype=np.float32).round(), np.uint8)


def _reduced(grid: Geometry, used: Sequence[slice]) -> Geometry:
    """The grid of ``array[used]``."""
    counts = [len(range(n)[s]) for n, s in zip(grid.shape, used, strict=True)]
    z, y, x = (mm * s.step for mm, s in zip(grid.spacing, used, strict=True))
    first = tuple(float(s.start) for s in used)
    return Geometry((counts[0], counts[1], counts[2]), (z, y, x), grid.world(first), grid.direction)


def sheet(grey: NDArray[np.uint8]) -> dict[str, Any]:
    """Axial slices side by side, as a picture, with the number of them in a line."""
    depth, height, width = grey.shape
    columns = min(depth, max(1, round((depth * height / width) ** 0.5)), LARGEST_SHEET // width)
    lines = -(-depth // columns)
    tiles = np.zeros((lines * columns, height, width), np.uint8)
    tiles[:depth] = grey
    tiles = tiles.reshape(lines, columns, height, width).transpose(0, 2, 1, 3)
    picture = tiles.reshape(lines * height, columns * width)
    return {"columns": columns, "src": data_uri(picture, QUALITY)}


def packed(labels: Sequence[NDArray[np.uint8]]) -> str:
    """Bytes of label maps, one after the other, deflated, in base 64.

    Not a picture: browsers that guard against fingerprints change what is read from one.
    """
    together = b"".join(np.ascontiguousarray(one).tobytes() for one in labels)
    return base64.b64encode(zlib.compress(together, 9)).decode()
