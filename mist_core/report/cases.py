"""Which cases a report shows, by a rule and never by eye, and pictures of where they are worst."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage.measure import find_contours

from mist_core.metrics import lowest_best, metric_of, split_column
from mist_core.pictures import PLANES, Picture, colour_of, data_uri, rgb, shown_slice
from mist_core.report.comparison import (
    CONFUSED,
    ONLY_PREDICTED,
    ONLY_REFERENCE,
    RIGHT,
    STATE_COLOURS,
    Comparison,
    most_wrong,
    worst_slice,
)

Row = Mapping[str, str]

RULE = (
    "Cases are chosen by rule: by the mean of their headline scores over all classes the worst, "
    "those a quarter, half and three quarters of the way to the best, and the best; a case "
    "without a score before them; and two more that were drawn at random with a fixed seed."
)
PLACES = {"worst": 0.0, "worse quartile": 0.25, "median": 0.5, "better quartile": 0.75, "best": 1.0}
DRAWN = 2

PANEL = 440  # pixels of the width of one of two panels
SPACE = 8
TEXT = 25  # pixels of the height of letters: 10 of them where the picture is as wide as a phone
LINE = 3  # pixels of the width of a contour
DASH, DASH_GAP = 9.0, 7.0
STRIPE = 5
FINER = 4  # voxels are cut into so many before they are outlined
SHARPER = 2  # contours are drawn so many times larger
QUALITY = 84
MARGIN = 0.2  # of the longer edge of what is labelled, around it
SMALLEST = 0.2  # of the longer edge of the slice, and of the region of it that is shown
FLATTEST, STEEPEST = 0.55, 1.1  # height by width of a panel
RULERS_MM = (1, 2, 5, 10, 20, 50, 100)
LONGEST_NAME = 40

STATE_WORDS = {
    RIGHT: "right (TP)",
    ONLY_PREDICTED: "only predicted (FP)",
    ONLY_REFERENCE: "missed (FN)",
    CONFUSED: "another class (FN and FP)",
}
DIMMED = 0.5  # of the brightness of the image, below errors
RIGHT_OPACITY = 0.65


@dataclass(frozen=True)
class Chosen:
    """A case to be shown, and the rule that chose it, such as ``worst: mean dice 0.412``."""

    case_id: str
    rule: str


@dataclass(frozen=True)
class CasePicture:
    """A picture to embed, words for those who cannot see it, and its caption; all unescaped."""

    src: str
    alt: str
    caption: str


def choose(rows: Sequence[Row], columns: Sequence[str], seed: int = 0) -> list[Chosen]:
    """The cases that RULE names, each once. ``columns`` are those of one metric, for each class.

    A case is judged by the mean of the columns in which it has a value. Ties are broken by id, so
    that the order of rows does not matter.
    """
    parts = split_column(columns[0])
    metric = parts[1] if parts else columns[0]
    means = {row["id"]: _mean(row, columns) for row in rows}
    failed = sorted(name for name, mean in means.items() if np.isnan(mean))
    better = metric_of(metric).better if parts else "higher"
    badness = {name: float(lowest_best(np.array(mean), better)) for name, mean in means.items()}
    ordered = sorted(means.keys() - set(failed), key=lambda name: (-badness[name], name))
    chosen = [Chosen(failed[0], f"no {metric}, one of {len(failed)} cases")] if failed else []
    words: dict[str, list[str]] = {}
    for word, share in PLACES.items() if ordered else ():
        words.setdefault(ordered[floor(share * (len(ordered) - 1) + 0.5)], []).append(word)
    others = sorted(set(ordered) - words.keys())
    generator = np.random.default_rng(seed)
    for name in generator.permutation(np.array(others, dtype=object))[:DRAWN]:
        words[name] = ["drawn at random"]
    mean_of = f"mean {metric}" if len(columns) > 1 else metric
    return chosen + [
        Chosen(name, f"{_joined(why)}: {mean_of} {means[name]:.3f}") for name, why in words.items()
    ]


def _mean(row: Row, columns: Sequence[str]) -> float:
    """NaN where no column has a value."""
    values = np.array([float(row[column] or "nan") for column in columns])
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _joined(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def pictures(case_id: str, case: Comparison, channels: Sequence[str] = ()) -> list[CasePicture]:
    """The axial, coronal and sagittal slice of largest error: contours, and beside them errors.

    ``channels`` are the names of all images, of which the first is shown.
    """
    drawn = most_wrong(case)
    found = []
    for axis, plane in enumerate(PLANES):
        index = worst_slice(case, axis)
        state = shown_slice(case.state, axis, index)
        where = _where(case, axis, index)
        seen = _in_words(state)
        names = [case.classes[number] for number in drawn]
        alt = (
            f"Case {case_id}, {plane} {where}: contours of {_joined(names)} in reference and "
            f"prediction, and their errors; {seen}"
        )
        caption = f"{plane.capitalize()} {where}, {_why(state)}: {seen}"
        caption += f" The image is {channels[0]}." if len(channels) > 1 else ""
        if len(drawn) < len(case.classes):
            which = "most in error" if any(case.errors_of_classes()) else "that come first"
            caption += f" Contours of the {len(drawn)} of {len(case.classes)} classes {which}."
        picture = slice_panels(case, axis, index, drawn)
        found.append(CasePicture(data_uri(picture, QUALITY), alt, caption))
    return found


def _where(case: Comparison, axis: int, index: int) -> str:
    """Slices are counted from 1, and the middle of each lies at a place in mm."""
    voxel = [(n - 1) / 2 for n in case.state.shape]
    voxel[axis] = index
    mm = case.geometry.world(tuple(voxel))[2 - axis]
    letter = ("SI", "PA", "LR")[axis][mm < 0]
    return f"slice {index + 1} of {case.state.shape[axis]} ({letter} {abs(mm):.1f} mm)"


def _why(state: NDArray[np.uint8]) -> str:
    if (state >= ONLY_PREDICTED).any():
        return "the one with most errors"
    return "the one with most labels" if state.any() else "the middle one"


def _in_words(state: NDArray[np.uint8]) -> str:
    """How many voxels of a slice are wrong, and how."""
    counts = np.bincount(state.ravel(), minlength=CONFUSED + 1)
    labelled, wrong = int(counts[RIGHT:].sum()), int(counts[ONLY_PREDICTED:].sum())
    if not labelled:
        return "neither reference nor prediction has a label."
    if not wrong:
        return f"all {labelled:,} labelled voxels are right."
    kinds = [f"{counts[s]:,} {STATE_WORDS[s]}" for s in STATE_WORDS if s != RIGHT and counts[s]]
    return f"{wrong:,} of {labelled:,} labelled voxels differ in any class: {', '.join(kinds)}."


# The picture of one slice.


@dataclass(frozen=True)
class Region:
    """A part of a slice, in whole voxels, which may reach beyond it; and its size in pixels."""

    top: int
    left: int
    rows: int
    columns: int
    height: int
    width: int

    def cut(self, values: NDArray[Any]) -> NDArray[Any]:
        """The voxels of a slice that are in it, and 0 beyond."""
        found = np.zeros((self.rows, self.columns), values.dtype)
        top, left = max(self.top, 0), max(self.left, 0)
        inside = values[top : self.top + self.rows, left : self.left + self.columns]
        rows, columns = inside.shape
        found[top - self.top :, left - self.left :][:rows, :columns] = inside
        return found


def region_of(labelled: NDArray[np.bool_], spacing: tuple[float, float]) -> Region:
    """The part of a slice around all that is labelled, with a margin; all of it without labels."""
    size = np.multiply(labelled.shape, spacing)
    if labelled.any():
        edges = [np.flatnonzero(labelled.any(axis=1 - axis))[[0, -1]] for axis in (0, 1)]
        box = np.array([(first, last + 1) for first, last in edges]) * np.array(spacing)[:, None]
    else:
        box = np.stack([np.zeros(2), size], axis=1)
    extent = box[:, 1] - box[:, 0]
    extent = np.maximum(extent + 2 * MARGIN * extent.max(), SMALLEST * size.max())
    extent = np.minimum(extent, size)  # no more than there is, unless to be of a shape to look at
    extent[0] = max(extent[0], FLATTEST * extent[1])
    extent[1] = max(extent[1], extent[0] / STEEPEST)
    start = box.mean(axis=1) - extent / 2
    start = np.where(
        extent < size, np.clip(start, 0, np.maximum(size - extent, 0)), (size - extent) / 2
    )
    first = [floor(s / edge + 1e-6) for s, edge in zip(start, spacing, strict=True)]
    last = [ceil((s + e) / edge - 1e-6) for s, e, edge in zip(start, extent, spacing, strict=True)]
    rows, columns = (b - a for a, b in zip(first, last, strict=True))
    height = max(1, round(PANEL * rows * spacing[0] / (columns * spacing[1])))
    return Region(first[0], first[1], rows, columns, height, PANEL)


def slice_panels(case: Comparison, axis: int, index: int, drawn: Sequence[int]) -> Picture:
    """Contours of the drawn classes on one slice, its errors beside them, and a legend below."""
    rows, columns = (mm for other, mm in enumerate(case.geometry.spacing) if other != axis)
    grey, reference, prediction, state = (
        shown_slice(volume, axis, index)
        for volume in (case.grey, case.reference, case.prediction, case.state)
    )
    region = region_of(state > 0, (rows, columns))
    smooth = _enlarged(region.cut(grey), region, Image.Resampling.BICUBIC)
    first = Image.fromarray(np.repeat(smooth[:, :, None], 3, axis=2))
    masks = [
        [region.cut(case.mask(groups, number)) for groups in (reference, prediction)]
        for number in drawn
    ]
    first = contours(first, masks, region)
    second = Image.fromarray(errors(smooth, region.cut(state), region))
    for panel in (first, second):
        _letters(panel, axis)
    _ruler(first, region.width / (region.columns * columns))
    locator = _locator(grey, region, (rows, columns))
    legend = _legend([case.classes[number] for number in drawn], state, len(case.classes))
    return _laid_out(first, second, locator, legend)


def _enlarged(values: NDArray[Any], region: Region, how: Image.Resampling) -> NDArray[Any]:
    return np.asarray(Image.fromarray(values).resize((region.width, region.height), how))


def errors(grey: NDArray[np.uint8], state: NDArray[np.uint8], region: Region) -> Picture:
    """States of voxels in colour over an image that is dimmed; confused ones have stripes."""
    shown = _enlarged(state, region, Image.Resampling.NEAREST)
    picture = np.repeat((grey * DIMMED).astype(np.uint8)[:, :, None], 3, axis=2)
    for number, colour in STATE_COLOURS.items():
        opacity = RIGHT_OPACITY if number == RIGHT else 1.0
        mask = shown == number
        below = picture[mask] * (1 - opacity)
        picture[mask] = (below + np.array(rgb(colour)) * opacity).astype(np.uint8)
    picture[shown == CONFUSED] = _stripes(shown.shape)[shown == CONFUSED]
    return picture


def _stripes(shape: tuple[int, ...]) -> Picture:
    """Diagonal, in the colours of both errors."""
    both = np.array([rgb(STATE_COLOURS[ONLY_REFERENCE]), rgb(STATE_COLOURS[ONLY_PREDICTED])])
    rows, columns = np.indices(shape[:2])
    return np.asarray(both.astype(np.uint8)[(rows + columns) // STRIPE % 2])


def contours(
    panel: Image.Image, masks: Sequence[Sequence[NDArray[np.bool_]]], region: Region
) -> Image.Image:
    """Draw the contours of pairs of masks, a colour for each pair: the first of it solid, the
    second dashed.
    """
    layer = Image.new("RGBA", (region.width * SHARPER, region.height * SHARPER))
    pen = ImageDraw.Draw(layer)
    scale = np.array([layer.height / region.rows, layer.width / region.columns])
    for dashed in (False, True):
        for number, pair in enumerate(masks):
            for line in _outlines(pair[dashed], scale):
                parts = list(_dashes(line)) if dashed else [line]
                for width, colour in ((LINE + 2, "#000000B0"), (LINE, colour_of(number + 1))):
                    for part in parts:
                        places = [(float(x), float(y)) for y, x in part]
                        pen.line(places, colour, width * SHARPER, joint="curve")
    layer = layer.resize(panel.size, Image.Resampling.BOX)
    panel = panel.convert("RGBA")
    panel.alpha_composite(layer)
    return panel.convert("RGB")


def _outlines(mask: NDArray[np.bool_], scale: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Closed lines around a mask, (points, 2), as (y, x) in pixels. They follow the edges of
    voxels, since those of thick slices would be cut off at their corners.
    """
    fine = np.pad(mask.repeat(FINER, 0).repeat(FINER, 1), 1).astype(np.float32)
    # Voxel 0 of the finer mask is 1 in the padded one, and its middle half a voxel from its edge.
    return [(line - 0.5) * (scale / FINER) for line in find_contours(fine, 0.5)]


def _dashes(line: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Pieces of a line."""
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    place = np.concatenate([[0.0], np.cumsum(steps)])
    dash, period = DASH * SHARPER, (DASH + DASH_GAP) * SHARPER
    for start in np.arange(0.0, place[-1], period):
        ends = (start, min(start + dash, float(place[-1])))
        inner = place[(place > ends[0]) & (place < ends[1])]
        at = np.concatenate([[ends[0]], inner, [ends[1]]])
        yield np.stack([np.interp(at, place, line[:, axis]) for axis in (0, 1)], axis=1)


def _letters(panel: Image.Image, axis: int) -> None:
    """Which side of the patient is where."""
    left, right, top = (("R", "L", "A"), ("R", "L", "S"), ("A", "P", "S"))[axis]
    pen = ImageDraw.Draw(panel)
    middle = panel.height / 2
    _write(pen, (6, middle), left, "lm")
    _write(pen, (panel.width - 6, middle), right, "rm")
    _write(pen, (panel.width / 2, 6), top, "mt")


def _write(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, anchor: str) -> None:
    font = ImageFont.load_default(TEXT)
    pen.text(place, text, "white", font, anchor=anchor, stroke_width=2, stroke_fill="black")


def _ruler(panel: Image.Image, pixels_per_mm: float) -> None:
    """A bar whose length is told."""
    fitting = [mm for mm in RULERS_MM if mm * pixels_per_mm <= panel.width / 3]
    if not fitting:
        return
    length, bottom = fitting[-1] * pixels_per_mm, panel.height - 10
    pen = ImageDraw.Draw(panel)
    pen.rectangle((9, bottom - 5, 11 + length, bottom), "black")
    pen.rectangle((10, bottom - 4, 10 + length, bottom - 1), "white")
    _write(pen, (18 + length, bottom - 3), f"{fitting[-1]} mm", "lm")


def _locator(grey: NDArray[np.uint8], region: Region, spacing: tuple[float, float]) -> Image.Image:
    """The whole slice, small, with a frame around the region."""
    edge = 4.5 * TEXT
    mm = np.multiply(grey.shape, spacing)
    scale = edge / mm.max() * np.array(spacing)
    height, width = (max(1, round(n * s)) for n, s in zip(grey.shape, scale, strict=True))
    small = Image.fromarray(grey).resize((width, height), Image.Resampling.BICUBIC).convert("RGB")
    top, left = region.top * scale[0], region.left * scale[1]
    bottom, right = top + region.rows * scale[0], left + region.columns * scale[1]
    frame = (max(left, 0), max(top, 0), min(right, width) - 1, min(bottom, height) - 1)
    ImageDraw.Draw(small).rectangle(frame, outline="#F0E442", width=2)
    return small


Entry = tuple[str, str, str]  # kind of sample, its colour, the words beside it


def _legend(names: Sequence[str], state: NDArray[np.uint8], n_classes: int) -> list[Entry]:
    entries = [("line", colour_of(n + 1), _short(name)) for n, name in enumerate(names)]
    entries += [("line", "#555555", "reference"), ("dashes", "#555555", "prediction")]
    entries += [("box", colour, STATE_WORDS[number]) for number, colour in STATE_COLOURS.items()]
    if n_classes > 1:
        entries.append(("stripes", "", STATE_WORDS[CONFUSED]))
    return entries


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _laid_out(
    first: Image.Image, second: Image.Image, locator: Image.Image, legend: Sequence[Entry]
) -> Picture:
    """Both panels side by side, below them where they are and the legend in lines."""
    width = first.width + SPACE + second.width
    left, font = locator.width + 2 * SPACE, ImageFont.load_default(TEXT)
    places, x, y = [], left, 0
    for _, _, text in legend:
        length = round(2.4 * TEXT + font.getlength(text))
        if x + length > width and x > left:
            x, y = left, y + round(1.45 * TEXT)
        places.append((x, y))
        x += length + TEXT
    below = max(locator.height, y + round(1.45 * TEXT))
    top = first.height + SPACE
    sheet = Image.new("RGB", (width, top + below), "white")
    sheet.paste(first, (0, 0))
    sheet.paste(second, (first.width + SPACE, 0))
    sheet.paste(locator, (0, top))
    pen = ImageDraw.Draw(sheet)
    for (kind, colour, text), (x, y) in zip(legend, places, strict=True):
        _sample(sheet, (x, top + y), kind, colour)
        pen.text((x + 2.0 * TEXT, top + y), text, "black", font)
    return np.asarray(sheet)


def _sample(sheet: Image.Image, place: tuple[int, int], kind: str, colour: str) -> None:
    """What an entry of the legend looks like in the panels."""
    pen, (x, y), width = ImageDraw.Draw(sheet), place, round(1.7 * TEXT)
    if kind == "stripes":
        sheet.paste(Image.fromarray(_stripes((TEXT, width))), (x, y + 2))
    if kind in ("box", "stripes"):
        fill = colour if kind == "box" else None
        pen.rectangle((x, y + 2, x + width, y + 2 + TEXT), fill, "#555555")
        return
    middle, step = y + 2 + TEXT // 2, round(width / 2.6)
    spans = [(0, width)] if kind == "line" else [(0, step), (width - step, width)]
    for start, end in spans:
        pen.line((x + start, middle, x + end, middle), "black", LINE + 4)
        pen.line((x + start, middle, x + end, middle), colour, LINE + 2)
