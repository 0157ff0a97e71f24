"""Pictures of patches: what is grey, what is coloured, and that they show what training sees."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from test_patches import training_case
from test_predict import plan_of

from mist_core.config import Train
from mist_core.contact_sheet import PATCHES, VERSIONS, contact_sheet
from mist_core.pictures import EDGE, colour_of, fullest_slice, slice_picture, tile, write_png


def rgb(number):
    return tuple(bytes.fromhex(colour_of(number)[1:]))


def test_a_slice_in_grey_has_contours_within_the_labels():
    image = np.array([[0.0, 1], [2, 3]]).repeat(11, 0).repeat(11, 1)  # 22 x 22 voxels
    labels = np.zeros((22, 22), np.uint16)
    labels[:11], labels[11:] = 0, 2
    picture = slice_picture(image, labels, (1.0, 1.0), (1.0, 3.0))
    assert picture.shape == (EDGE, EDGE, 3)
    assert picture[50, 50].tolist() == picture[50, 150].tolist() == [0, 0, 0]
    assert picture[170, 50].tolist() == [127] * 3
    assert picture[170, 150].tolist() == [255] * 3
    assert tuple(picture[EDGE // 2, 50]) == rgb(2)
    assert picture[EDGE // 2 - 1, 50].tolist() == [0, 0, 0]
    assert picture[-1, 50].tolist() == [127] * 3  # none along the edge of the patch


def test_voxels_have_their_shape_in_mm():
    picture = slice_picture(np.zeros((10, 20)), np.zeros((10, 20)), (3.0, 1.0), (0, 1))
    assert picture.shape == (EDGE, round(EDGE * 2 / 3), 3)


def test_the_fullest_slice():
    labels = np.zeros((5, 4, 4))
    assert fullest_slice(labels) == 2
    labels[1, 0, :2], labels[3, 0, 0] = 1, 4
    assert fullest_slice(labels) == 1


def test_tiles_have_their_places(tmp_path):
    cells = [np.full((20, 30, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = tile(
        {"a": cells[:2], "b\nlonger": cells[2:]}, ["one", "two"], {"label 1": colour_of(1)}
    )
    assert {10, 20, 30} < set(np.unique(sheet))
    places = [np.argwhere((sheet == value).all(axis=2)) for value in (10, 20, 30)]
    assert all(len(place) >= 600 for place in places[:2])
    assert places[0][:, 1].max() < places[1][:, 1].max()
    assert (sheet == rgb(1)).all(axis=2).any()
    write_png(tmp_path / "new/sheet.png", sheet)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new/sheet.png")), sheet)


def sheet(path, *arguments):
    write_png(path, contact_sheet(*arguments))


@pytest.mark.parametrize("n_cases", [1, 9])
def test_a_sheet_shows_a_row_for_each_patch(tmp_path, n_cases):
    labels = np.zeros((12, 12, 12))
    labels[4:9, 4:9, 4:9] = 3
    cases = [replace(training_case(labels), id=f"case_{n}") for n in range(n_cases)]
    path = tmp_path / "sheet.png"
    sheet(path, cases, plan_of(), Train(), 0)
    height, width, _ = np.asarray(Image.open(path)).shape
    assert height // EDGE == min(n_cases, PATCHES)
    assert width > EDGE * (VERSIONS + 1)
    first = path.read_bytes()
    sheet(path, cases, plan_of(), Train(), 0)
    assert path.read_bytes() == first
    sheet(path, cases, plan_of(), Train(), 1)
    assert path.read_bytes() != first
