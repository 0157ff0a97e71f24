"""Volumes, flags and pictures of predictions: computed by hand, seen by pixel."""

import json

import numpy as np
import pytest
from conftest import grid
from PIL import Image
from test_predict import plan_of

from mist_core.files import read_rows
from mist_core.geometry import Geometry
from mist_core.io import Volume
from mist_core.pictures import colour_of
from mist_core.plan import Volumes, parse_plan
from mist_core.quality import EDGE, flags, overlay, volumes_ml, write_quality, write_table

KNOWN = Volumes(smallest_ml=3.0, largest_ml=10.0, in_every_case=True)
IN_SOME = KNOWN.model_copy(update={"in_every_case": False})


def plan_with(known=(), labels=(0, 1, 2, 4)):
    fields = plan_of(labels=labels).model_dump(mode="json")
    fields["evaluation"] = {"liver": {"labels": [1]}, "all": {"labels": labels[1:]}}
    fields["training_volumes"] = {name: value.model_dump() for name, value in dict(known).items()}
    return parse_plan(fields, "test")


def test_volumes_are_voxels_times_their_size():
    array = np.zeros((4, 5, 6), np.uint8)
    array[0], array[1, 0] = 1, 4
    labels = Volume(array, grid(array.shape, (5.0, 2.0, 10.0)))
    found = volumes_ml(labels, {"one": (1,), "four": (4,), "both": (1, 4), "none": (2,)})
    assert found == {"one": 3.0, "four": 0.6, "both": 3.6, "none": 0.0}


@pytest.mark.parametrize("largest", [256, 70000])
def test_labels_of_any_width_are_measured(largest):
    array = np.full((10, 10, 10), largest, np.min_scalar_type(largest))
    assert volumes_ml(Volume(array, grid(array.shape)), {"one": (largest,)}) == {"one": 1.0}


@pytest.mark.parametrize(
    ("ml", "known", "expected"),
    [
        (0.0, KNOWN, ["liver empty"]),
        (0.0, IN_SOME, []),
        (0.99, KNOWN, ["liver small"]),
        (0.99, IN_SOME, ["liver small"]),
        (1.0, KNOWN, []),
        (30.0, KNOWN, []),
        (30.1, KNOWN, ["liver large"]),
    ],
)
def test_flags_are_of_volumes_far_from_those_in_training(ml, known, expected):
    assert flags({"liver": ml}, True, {"liver": known}) == expected


def test_a_plan_without_volumes_knows_empty_label_maps_only():
    assert flags({"liver": 0.0}, False, {}) == ["empty"]
    assert flags({"liver": 0.0}, False, {"liver": KNOWN}) == ["empty"]
    assert flags({"liver": 1e9}, True, {}) == []


def test_a_table_has_a_row_for_each_case_and_those_before(tmp_path):
    plan = plan_with({"liver": KNOWN})
    array = np.ones((10, 20, 10), np.uint8)
    for case, values in (("010", array), ("9", array * 0)):
        image = Volume(values.astype(np.float32), grid(array.shape))
        write_quality(tmp_path / "qc", case, image, Volume(values, image.geometry), plan)
    odd = write_table(tmp_path / "t.csv", tmp_path / "qc", ["9", "bad"], plan)
    assert odd == {"9": ["empty"], "bad": ["no prediction"]}
    rows = read_rows(tmp_path / "t.csv")
    assert list(rows[0]) == ["id", "liver_volume_ml", "all_volume_ml", "flags"]
    assert [list(row.values()) for row in rows] == [
        ["010", "2.0", "2.0", ""],
        ["9", "0.0", "0.0", "empty"],
        ["bad", "", "", "no prediction"],
    ]
    assert json.loads((tmp_path / "qc/9.json").read_text())["flags"] == ["empty"]
    with Image.open(tmp_path / "qc/9.png") as picture:
        assert picture.format == "PNG"


def test_channels_that_a_case_lacks_are_flagged_first(tmp_path):
    array = np.zeros((4, 5, 6), np.uint8)
    image = Volume(array.astype(np.float32), grid(array.shape))
    labels = Volume(array, image.geometry)
    write_quality(tmp_path / "qc", "1", image, labels, plan_with(), ["t1c", "flair"])
    write_quality(tmp_path / "qc", "2", image, Volume(array + 1, image.geometry), plan_with(), [])
    odd = write_table(tmp_path / "t.csv", tmp_path / "qc", ["1", "2"], plan_with())
    assert odd == {"1": ["t1c missing", "flair missing", "empty"]}
    assert read_rows(tmp_path / "t.csv")[0]["flags"] == "t1c missing; flair missing; empty"


def rgb(number):
    return tuple(bytes.fromhex(colour_of(number)[1:]))


def extent(picture, colour):
    """First and last row and column of a colour."""
    where = np.argwhere((picture == colour).all(axis=2))
    return where.min(axis=0), where.max(axis=0)


def cells(picture):
    """The three slices of a sheet, axial, coronal and sagittal: what is not white."""
    dark = (picture != 255).any(axis=2)
    rows = np.flatnonzero(dark.sum(axis=1) > EDGE // 2)
    columns = np.flatnonzero(dark[rows].sum(axis=0) > EDGE // 4)
    pieces = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    wide = [piece for piece in pieces if len(piece) > EDGE // 4]
    return [picture[rows[0] : rows[-1] + 1, piece[0] : piece[-1] + 1] for piece in wide]


def test_voxels_are_drawn_in_their_proportion_and_the_fullest_slices_are_shown():
    """A bar of 8 x 40 x 20 mm (z, y, x) in thick slices, in the upper half, at the front, right."""
    geometry = grid((10, 80, 80), (8.0, 1.0, 1.0))
    image = np.full(geometry.shape, 50, np.float32)
    image[0], image[2] = 0, 90
    labels = np.zeros(geometry.shape, np.uint8)
    labels[7, 5:45, 10:30] = 4
    picture = overlay(Volume(image, geometry), Volume(labels, geometry), plan_with(), "x")
    axial, coronal, sagittal = cells(picture)
    pixels = EDGE / 80  # per mm
    for cell, height_mm, width_mm in ((axial, 40, 20), (coronal, 8, 20), (sagittal, 8, 40)):
        first, last = extent(cell, rgb(3))
        assert (last - first + 1) / pixels == pytest.approx([height_mm, width_mm], abs=1)
        assert first[0] < EDGE / 2  # superior, or anterior, is on top
    assert extent(axial, rgb(3))[0] / pixels == pytest.approx([5, 10], abs=1)
    assert extent(coronal, rgb(3))[0] / pixels == pytest.approx([16, 10], abs=1)


def test_whatever_way_a_scanner_stores_it_a_picture_is_the_same():
    geometry = grid((10, 12, 14), (2.0, 1.5, 1.0))
    image = np.random.default_rng(0).normal(size=geometry.shape).astype(np.float32)
    labels = (image > 1).astype(np.uint16) * 300
    plain = overlay(Volume(image, geometry), Volume(labels, geometry), plan_with(), "x")
    towards = np.array([[-1.0, 0, 0], [0, 0, 1], [0, 1, 0]])  # right to left backwards, then z, y
    turned = Geometry((14, 10, 12), (1.0, 2.0, 1.5), (13.0, 0.0, 0.0), towards)

    def stored(array):
        return np.ascontiguousarray(array.transpose(2, 0, 1)[::-1])

    back = overlay(Volume(stored(image), turned), Volume(stored(labels), turned), plan_with(), "x")
    np.testing.assert_array_equal(back, plain)


def test_more_labels_than_colours_have_no_legend_and_a_picture_all_the_same():
    geometry = grid((6, 10, 10))
    labels = np.arange(600, dtype=np.uint16).reshape(geometry.shape) // 60
    plan = plan_with(labels=tuple(range(10)))
    image = Volume(labels.astype(np.float32), geometry)
    with_all = overlay(image, Volume(labels, geometry), plan, "x")
    with_few = overlay(image, Volume(labels % 3, geometry), plan, "x")
    assert with_all.shape[0] < with_few.shape[0]
