"""Slices in grey with the contours of labels in colour, side by side, as PNG."""

import base64
import io as byteio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from mist_core.files import replacing

# Okabe & Ito's colours, told apart by the colour-blind too.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
EDGE = 220  # pixels of the longer edge of a slice
CONTOUR = 2  # pixels of the width of a line
TEXT = 16  # pixels of the height of letters
GAP = 6
PLANES = ("axial", "coronal", "sagittal")  # across the axes z, y and x

Picture = NDArray[np.uint8]  # (height, width, 3), red, green and blue


def colour_of(number: int) -> str:
    """The colour of a class index above 0."""
    return COLOURS[(number - 1) % len(COLOURS)]


def fullest_slice(labels: NDArray[Any]) -> int:
    """The slice of a label map (Z, Y, X) with most of its foreground; the middle without any."""
    areas = (labels > 0).sum(axis=(1, 2))
    return int(areas.argmax()) if areas.any() else len(labels) // 2


def shown_slice(volume: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """A slice across an axis of a volume (Z, Y, X) in LPS as it is looked at: superior or anterior
    on top, the patient's right or anterior on the left.
    """
    found: NDArray[Any] = volume.take(index, axis)
    return found if axis == 0 else found[::-1]


def slice_picture(
    image: NDArray[np.floating],
    labels: NDArray[Any],
    spacing: tuple[float, float],
    window: tuple[float, float],
    edge: int = EDGE,
) -> Picture:
    """One slice (Y, X) in grey, black and white at the ends of ``window``, NaN as 0, with a contour
    within the border of each class. ``spacing`` is in mm, (y, x); ``edge`` in pixels.
    """
    low, high = window
    grey = np.clip((np.nan_to_num(image) - low) / max(high - low, 1e-7), 0, 1) * 255
    edges_mm = np.multiply(image.shape, spacing)
    height, width = (max(1, round(mm * edge / edges_mm.max())) for mm in edges_mm)
    picture = np.repeat(_resized(grey.astype(np.uint8), height, width)[:, :, None], 3, axis=2)
    shown = _resized(labels.astype(np.int32), height, width)
    for number in np.unique(shown[shown > 0]):
        inside = shown == number
        core = ndimage.binary_erosion(inside, iterations=CONTOUR, border_value=1)
        picture[inside & ~core] = rgb(colour_of(int(number)))
    return picture


def _resized(values: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Nearest values, so that voxels are seen as they are."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip((height, width), values.shape, strict=True)
    )
    return np.asarray(values[rows[:, None], columns])


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour such as #E69F00."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def tile(
    rows: Mapping[str, Sequence[Picture]], titles: Sequence[str], legend: Mapping[str, str]
) -> Picture:
    """Rows of pictures below the titles of their columns, beside the rows' names (which may have
    several lines). ``legend`` is what each colour means.
    """
    font = ImageFont.load_default(TEXT)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    height = max(cell.shape[0] for pictures in rows.values() for cell in pictures) + GAP
    widths = [
        max(int(ruler.textlength(title, font)), *(pictures[n].shape[1] for pictures in used)) + GAP
        for n, title in enumerate(titles)
        if (used := [pictures for pictures in rows.values() if n < len(pictures)])
    ]
    left = GAP + max(int(ruler.multiline_textbbox((0, 0), name, font)[2]) for name in rows) + GAP
    places = np.cumsum([left, *widths]).tolist()
    top = TEXT + 2 * GAP
    words = sum(TEXT + 4 * GAP + int(ruler.textlength(name, font)) for name in legend)
    size = (max(places[-1], left + words), top + height * len(rows) + (top if legend else 0))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for title, place in zip(titles, places, strict=False):
        pen.text((place, GAP), title, "black", font)
    for row, (name, pictures) in enumerate(rows.items()):
        pen.multiline_text((GAP, top + row * height), name, "black", font)
        for picture, place in zip(pictures, places, strict=False):
            sheet.paste(Image.fromarray(picture), (place, top + row * height))
    at = left
    for name, colour in legend.items():
        pen.rectangle((at, size[1] - TEXT - GAP, at + TEXT, size[1] - GAP), colour)
        pen.text((at + TEXT + GAP, size[1] - TEXT - GAP), name, "black", font)
        at += TEXT + 4 * GAP + int(pen.textlength(name, font))
    return np.asarray(sheet)


def data_uri(picture: Picture, quality: int) -> str:
    """A picture, or a grey one (height, width), as the source of an image in a page; WebP."""
    stream = byteio.BytesIO()
    Image.fromarray(picture).save(stream, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def write_png(path: Path, picture: Picture) -> None:
    """Write a picture."""
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, "PNG")
