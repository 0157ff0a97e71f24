"""From scanner to training grid: nothing labelled is lost, and the way back is exact."""

import json
import subprocess
import sys
import zlib

import numpy as np
import pytest
from conftest import ROOT, ball, certain, geometries, grid
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from mist_core.config import Preprocess
from mist_core.errors import DataError
from mist_core.geometry import Geometry, Origin
from mist_core.intensity import z_score
from mist_core.io import Volume
from mist_core.labels import sample_coordinates
from mist_core.plan import parse_plan
from mist_core.preprocess import preprocess, write
from mist_core.restore import restore

LABELS = (0, 1, 2, 4)
CT = {"window_min": -1000.0, "window_max": 1000.0, "z_score_mean": 100.0, "z_score_std": 50.0}
MOVES = st.tuples(st.permutations([0, 1, 2]).map(tuple), st.tuples(*[st.booleans()] * 3))


def make_plan(spacing=(1.0, 1.0, 1.0), channels=("t1",), labels=LABELS, **preprocessing):
    """A plan; ``spacing`` is in array order."""
    usual = {
        "crop_to_foreground": False,
        "normalize_with_nonzero_mask": [False] * len(channels),
        "ct_normalization": [None] * len(channels),
    }
    fields = {
        "mist_version": "0",
        "dataset_info": {"task": "t", "modality": "mr", "images": channels, "labels": labels},
        "spatial_config": {
            "patch_size": (32, 32, 32),
            "target_spacing": spacing[::-1],
            "median_resampled_image_size": (32, 32, 32),
        },
        "preprocessing": usual | preprocessing,
        "model": {"in_channels": len(channels), "out_channels": len(labels)},
        "evaluation": {},
    }
    return parse_plan(fields, "here")


def volume(geometry, seed=0):
    array = np.random.default_rng(seed).normal(100, 20, geometry.shape).astype(np.float32)
    return Volume(array, geometry)


def gap_labels(geometry):
    """Four label values, 3 missing among them, each voxel drawn at random."""
    picks = np.random.default_rng(1).integers(0, 4, geometry.shape)
    return Volume(np.array(LABELS, np.uint8)[picks], geometry)


def bright_ball(geometry):
    mask = ball(geometry, value=4)
    return Volume(np.where(mask.array > 0, 100, 0).astype(np.float32), geometry), mask


def moved(v, order, flips):
    array = np.flip(v.array.transpose(order), tuple(a for a in range(3) if flips[a]))
    return Volume(np.ascontiguousarray(array), v.geometry.moved_axes(order, flips))


def shifted(v, mm):
    g = v.geometry
    origin = (g.origin[0], g.origin[1], g.origin[2] + mm)
    return Volume(v.array, Geometry(g.shape, g.spacing, origin, g.direction))


def lps(geometry):
    return geometry.moved_axes(*geometry.to_lps())


# --- values ---------------------------------------------------------------------------------------


def test_a_ct_on_the_target_grid_is_only_normalised():
    geometry = grid((3, 4, 5))
    image = Volume(np.linspace(-1200, 1200, 60, dtype=np.float32).reshape(3, 4, 5), geometry)
    done = preprocess([image], None, make_plan(ct_normalization=[CT]))
    expected = (image.array.clip(-1000, 1000) - 100) / 50
    np.testing.assert_allclose(done.image, expected[None], rtol=1e-6)
    assert done.image.dtype == np.float32
    assert done.labels is None
    assert done.origin.box == (slice(0, 3), slice(0, 4), slice(0, 5))


def test_labels_with_a_gap_become_indices():
    mask = gap_labels(grid((3, 4, 5)))
    done = preprocess([volume(mask.geometry)], mask, make_plan())
    assert done.labels.dtype == np.uint8
    assert np.array_equal(np.array(LABELS)[done.labels], mask.array)


def test_labels_above_255_become_indices():
    mask = ball(grid((8, 8, 8)))
    mask = Volume(mask.array.astype(np.uint16) * 300, mask.geometry)
    done = preprocess([volume(mask.geometry)], mask, make_plan(labels=(0, 44, 300)))
    assert np.array_equal(done.labels == 2, mask.array == 300)
    assert not (done.labels == 1).any()


def test_every_channel_has_its_own_numbers():
    geometry = grid((3, 4, 5))
    images = [Volume(np.full(geometry.shape, v, np.float32), geometry) for v in (150, 9)]
    pet = {"window_min": 0.0, "window_max": 8.0, "z_score_mean": 2.0, "z_score_std": 3.0}
    done = preprocess(images, None, make_plan(channels=("ct", "pet"), ct_normalization=[CT, pet]))
    assert done.image.shape == (2, 3, 4, 5)
    assert np.unique(done.image[0]).tolist() == [1]
    assert np.unique(done.image[1]).tolist() == [2]
    one, two = volume(geometry, 0), volume(geometry, 1)
    done = preprocess([one, two], None, make_plan(channels=("t1", "t2")))
    assert np.array_equal(done.image, [z_score(v.array) for v in (one, two)])


def test_water_lies_between_its_neighbours():
    geometry = grid((3, 4, 5))
    image = Volume(np.zeros(geometry.shape, np.float32), geometry)
    image.array[0, 0, :3] = (-1, 0, 1)
    done = preprocess([image], None, make_plan(ct_normalization=[CT]))
    np.testing.assert_allclose(np.diff(done.image[0, 0, 0, :3]), 0.02, rtol=1e-4)
    np.testing.assert_allclose(done.image[0, 2], -2)


def test_zero_stays_zero_where_it_is_background():
    image, _ = bright_ball(grid((12, 12, 12)))
    image.array[image.array > 0] += volume(image.geometry).array[image.array > 0]
    done = preprocess([image], None, make_plan(normalize_with_nonzero_mask=[True]))
    assert not done.image[0][image.array == 0].any()
    assert abs(done.image[0][image.array > 0].mean()) < 0.05


# --- grid -----------------------------------------------------------------------------------------


def test_thin_slices_from_thick_ones_keep_the_air_and_the_label_at_the_border():
    thick = grid((10, 6, 6), (5, 1, 1))
    air = Volume(np.full(thick.shape, -1000, np.float32), thick)
    label = Volume(np.full(thick.shape, 4, np.uint8), thick)
    done = preprocess([air], label, make_plan(ct_normalization=[CT]))
    assert done.image.shape == (1, 50, 6, 6)
    assert np.unique(done.image).tolist() == [-22]
    assert np.unique(done.labels).tolist() == [3]


@settings(max_examples=40)
@given(geometries(low=6, high=12), st.tuples(*[st.floats(0.7, 4)] * 3))
def test_the_training_grid_is_lps_at_the_target_spacing(geometry, spacing):
    done = preprocess([volume(geometry)], gap_labels(geometry), make_plan(spacing))
    training = done.origin.training
    assert training.spacing == pytest.approx(spacing)
    assert training.to_lps() == ((0, 1, 2), (False, False, False))
    assert done.image.shape == (1, *done.labels.shape) == (1, *training.shape)
    assert done.origin.original is geometry


@settings(max_examples=30)
@given(MOVES)
def test_native_axes_do_not_matter(move):
    geometry = grid((5, 12, 14), (4.0, 1.0, 1.1))
    mask = gap_labels(geometry)
    plan = make_plan((2.7, 0.83, 1.23))
    one = preprocess([volume(geometry)], mask, plan)
    other = preprocess([moved(volume(geometry), *move)], moved(mask, *move), plan)
    assert np.array_equal(one.labels, other.labels)
    np.testing.assert_allclose(one.image, other.image, atol=1e-3)
    assert one.origin.training.matches(other.origin.training)


def there_and_back(image, mask, plan):
    """The label map after preprocessing and the way back, by way of one-hot probabilities."""
    done = preprocess([image], mask, plan)
    origin = Origin.from_json(json.loads(json.dumps(done.origin.to_json())))
    return restore(certain(done.labels, len(LABELS)), origin, LABELS).array


@settings(max_examples=60)
@given(geometries(high=16), st.booleans())
def test_the_way_back_is_exact_where_spacing_stays(geometry, crop):
    image, mask = bright_ball(geometry)
    order, flips = geometry.to_lps()
    plan = make_plan(geometry.moved_axes(order, flips).spacing, crop_to_foreground=crop)
    assert np.array_equal(there_and_back(image, mask, plan), mask.array)


@settings(max_examples=100)
@given(geometries(low=14, high=24), st.tuples(*[st.floats(0.6, 4)] * 3), st.booleans())
def test_the_way_back_moves_no_border_by_more_than_a_voxel(geometry, spacing, crop):
    image, mask = bright_ball(geometry)
    back = there_and_back(image, mask, make_plan(spacing, crop_to_foreground=crop))
    assert set(np.unique(back)) <= {0, 4}
    voxel_mm = np.linalg.norm(np.maximum(spacing, lps(geometry).spacing))
    for inside in (True, False):
        wrong = ((mask.array > 0) == inside) & ((back > 0) != inside)
        depth_mm = distance_transform_edt((mask.array > 0) == inside, sampling=geometry.spacing)
        assert depth_mm[wrong].max(initial=0) <= voxel_mm


def test_a_crop_is_the_foreground_on_the_native_grid():
    image, mask = bright_ball(grid((20, 24, 22), (3, 1, 1)))
    image, mask = (moved(v, (2, 0, 1), (True, False, True)) for v in (image, mask))
    done = preprocess([image], None, make_plan((3, 1, 1), crop_to_foreground=True))
    low, high = (f(np.argwhere(mask.array), axis=0) for f in (np.min, np.max))
    assert done.origin.box == tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
    assert done.image[0].size == np.prod(high - low + 1)


def test_a_crop_has_the_margin_of_the_plan_with_or_without_labels():
    image, mask = bright_ball(grid((40, 40, 40)))
    tight = preprocess([image], mask, make_plan(crop_to_foreground=True))
    wide = preprocess([image], mask, make_plan(crop_to_foreground=True, crop_margin_mm=2.0))
    assert np.array_equal(np.subtract(wide.image.shape, tight.image.shape)[1:], [4, 4, 4])
    unlabelled = preprocess([image], None, make_plan(crop_to_foreground=True, crop_margin_mm=2.0))
    assert np.array_equal(unlabelled.image, wide.image)


def test_a_background_of_zeros_stays_zero_at_another_spacing():
    image, mask = bright_ball(grid((24, 24, 24)))
    body = Volume(np.where(mask.array > 0, image.array, 0), image.geometry)
    plan = make_plan((0.8, 0.8, 0.8), normalize_with_nonzero_mask=[True])
    done = preprocess([body], None, plan).image[0]
    inside = done[done != 0]
    assert inside.size / done.size == pytest.approx((body.array != 0).mean(), rel=0.1)
    assert inside.std() == pytest.approx(1, abs=0.1)


# --- optional channels ----------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_channel_becomes_zeros_and_the_other_is_what_it_was(missing):
    geometry = grid((6, 8, 10), (2, 1, 1))
    images, mask = [volume(geometry, 0), volume(geometry, 1)], gap_labels(geometry)
    plan = make_plan((1.5, 1, 1), channels=("t1", "ct"), ct_normalization=[None, CT])
    whole = preprocess(images, mask, plan)
    images[missing] = None
    done = preprocess(images, mask, plan)
    assert done.image.shape == whole.image.shape == (2, 8, 8, 10)
    assert not done.image[missing].any()
    assert np.array_equal(done.image[1 - missing], whole.image[1 - missing])
    assert np.array_equal(done.labels, whole.labels)
    assert done.origin.training.matches(whole.origin.training)


def test_zeros_are_the_mean_whatever_the_normalisation():
    """What a missing channel becomes: a voxel of mean intensity, or the background."""
    image, mask = bright_ball(grid((12, 12, 12)))
    image.array[mask.array > 0] += volume(image.geometry).array[mask.array > 0]
    plain = preprocess([image], None, make_plan()).image
    masked = preprocess([image], None, make_plan(normalize_with_nonzero_mask=[True])).image
    assert abs(plain.mean()) < 0.05
    assert abs(masked[masked != 0].mean()) < 0.05
    mean = Volume(np.full_like(image.array, CT["z_score_mean"]), image.geometry)
    assert not preprocess([mean], None, make_plan(ct_normalization=[CT])).image.any()


def test_a_crop_follows_the_channels_that_are_there():
    image, _ = bright_ball(grid((20, 20, 20)))
    wide = Volume(np.zeros_like(image.array), image.geometry)
    wide.array[2:18, 2:18, 2:18] = 9
    plan = make_plan(channels=("t1", "t2"), crop_to_foreground=True)
    alone = preprocess([image], None, make_plan(crop_to_foreground=True))
    assert preprocess([image, wide], None, plan).origin.box == (slice(2, 18),) * 3
    assert preprocess([image, None], None, plan).origin.box == alone.origin.box
    assert preprocess([None, wide], None, plan).origin.box == (slice(2, 18),) * 3


# --- mistakes in the data -------------------------------------------------------------------------


def test_a_channel_on_another_grid_is_named_with_both_grids():
    one = volume(grid((5, 6, 7)))
    plan = make_plan(channels=("t1", "flair"))
    with pytest.raises(DataError, match=r"^flair: expected the grid of t1 \(size \[7, 6, 5\]"):
        preprocess([one, shifted(one, 0.5)], None, plan)
    with pytest.raises(DataError, match=r"^the mask: expected the grid of t1"):
        preprocess([one, one], shifted(gap_labels(one.geometry), 0.5), plan)
    with pytest.raises(DataError, match=r"^the mask: "):
        preprocess([one, one], gap_labels(grid((5, 6, 8))), plan)
    with pytest.raises(DataError, match=r"^the mask: expected the grid of flair"):
        preprocess([None, one], shifted(gap_labels(one.geometry), 0.5), plan)


def test_float_noise_in_an_origin_is_accepted():
    geometry = grid((5, 6, 7), (2, 1, 1))
    images = [volume(geometry), shifted(volume(geometry), 1e-5)]
    mask = gap_labels(geometry)
    plan = make_plan((2, 1, 1), channels=("a", "b"))
    done = preprocess(images, shifted(mask, -1e-5), plan)
    assert np.array_equal(done.image[0], done.image[1])
    assert np.array_equal(np.array(LABELS)[done.labels], mask.array)


def test_a_label_that_the_plan_does_not_have_is_reported():
    mask = gap_labels(grid((5, 6, 7)))
    mask.array[0, 0, 0] = 3
    with pytest.raises(DataError, match=r"^the mask: .*among \[0, 1, 2, 4\], found \[3\]"):
        preprocess([volume(mask.geometry)], mask, make_plan())


# --- files ----------------------------------------------------------------------------------------


def test_the_files_of_a_case(tmp_path):
    mask = gap_labels(grid((5, 6, 7)))
    done = preprocess([volume(mask.geometry)], mask, make_plan())
    write(done, tmp_path, "001", 4, Preprocess(foreground_samples=20))
    load = {
        name: np.load(tmp_path / name / "001.npy", mmap_mode="r", allow_pickle=False)
        for name in ("images", "labels", "foreground")
    }
    assert np.array_equal(load["images"], done.image)
    assert np.array_equal(load["labels"], done.labels)
    assert [(load["foreground"][:, 0] == k).sum() for k in range(4)] == [0, 20, 20, 20]
    assert np.array_equal(done.labels[tuple(load["foreground"][:, 1:].T)], load["foreground"][:, 0])
    origin = Origin.from_json(json.loads((tmp_path / "geometry/001.json").read_text()))
    assert origin.training.matches(done.origin.training)
    assert origin.box == done.origin.box


def test_a_case_without_a_mask_has_no_labels(tmp_path):
    done = preprocess([volume(grid((5, 6, 7)))], None, make_plan())
    write(done, tmp_path, "a", 4, Preprocess(foreground_samples=20))
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*"))
    assert names == ["geometry/a.json", "images/a.npy"]


def test_remembered_voxels_follow_from_the_id(tmp_path):
    mask = gap_labels(grid((8, 8, 8)))
    done = preprocess([volume(mask.geometry)], mask, make_plan())

    def remembered(case_id):
        write(done, tmp_path, case_id, 4, Preprocess(foreground_samples=20))
        return np.load(tmp_path / "foreground" / f"{case_id}.npy")

    seed = zlib.crc32(b"a")  # the same in every process, as hash() is not
    assert np.array_equal(remembered("a"), sample_coordinates(done.labels, 4, 20, seed))
    assert not np.array_equal(remembered("a"), remembered("b"))


def test_half_the_bytes_where_that_is_asked_for(tmp_path):
    mask = gap_labels(grid((5, 6, 7)))
    done = preprocess([volume(mask.geometry)], mask, make_plan())
    write(done, tmp_path, "a", 4, Preprocess(dtype="float16", compute_dtms=True))
    for name in ("images", "dtms"):
        assert np.load(tmp_path / name / "a.npy").dtype == np.float16
    image = np.load(tmp_path / "images/a.npy").astype(np.float32)
    assert np.abs(image - done.image).max() < 2e-3


def test_the_distance_map_of_a_label_above_a_gap_is_that_of_its_voxels(tmp_path):
    """MIST looked for the value 4 among the indices 0 to 3, and found nothing."""
    geometry = grid((9, 9, 9))
    mask = np.zeros(geometry.shape, np.uint8)
    mask[2:7, 2:7, 2:7] = 4
    mask[0, 0, 0], mask[8, 8, 8] = 1, 2
    done = preprocess([volume(geometry)], Volume(mask, geometry), make_plan())
    write(done, tmp_path, "a", 4, Preprocess(compute_dtms=True, normalize_dtms=False))
    maps = np.load(tmp_path / "dtms/a.npy", mmap_mode="r")
    assert maps.shape == (4, 9, 9, 9)
    assert maps.dtype == np.float32
    assert maps[3, 4, 4].tolist() == [2, 1, 0, -1, -2, -1, 0, 1, 2]
    assert maps[1, 0, 0, :3].tolist() == [0, 1, 2]
    assert (maps[0][mask == 0] <= 0).all()
    assert (maps[0][mask > 0] > 0).all()


def test_images_that_are_preprocessed_already_are_only_turned(tmp_path):
    mask = gap_labels(Geometry((5, 6, 7), (3, 2, 1), (1, 2, 3), np.eye(3)[:, [1, 2, 0]]))
    image = volume(mask.geometry)
    plan = make_plan(skip=True)
    done = preprocess([image], mask, plan)
    order, flips = mask.geometry.to_lps()
    assert np.array_equal(done.image[0], moved(image, order, flips).array)
    assert done.origin.training.spacing == tuple((3, 2, 1)[axis] for axis in order)
    assert set(np.unique(done.labels)) == {0, 1, 2, 3}
    write(done, tmp_path, "a", 4, Preprocess(skip=True, compute_dtms=True))
    assert np.load(tmp_path / "dtms/a.npy").shape == (4, *done.labels.shape)


def test_intensities_that_do_not_fit_are_refused_and_not_made_infinite(tmp_path):
    geometry = grid((4, 4, 4))
    image = Volume(np.full(geometry.shape, 66000, np.float32), geometry)
    done = preprocess([image], None, make_plan(skip=True))
    with pytest.raises(DataError, match="up to 65504 for float16, found 66000 to 66000"):
        write(done, tmp_path, "a", 4, Preprocess(skip=True, dtype="float16"))
    assert not list(tmp_path.rglob("*.npy"))


LARGE = """
from pathlib import Path
import numpy as np
from conftest import grid
from test_preprocess import CT, make_plan
from mist_core.io import Volume
from mist_core.preprocess import preprocess

geometry = grid((600, 512, 512), (1.0, 0.8, 0.8))
mask = np.zeros(geometry.shape, np.uint8)
boxes = ((z, y, x) for z in range(5) for y in range(5) for x in range(5))
for label, (z, y, x) in zip(range(1, 105), boxes):
    mask[z * 120 + 5 : z * 120 + 110, y * 100 : y * 100 + 90, x * 100 : x * 100 + 95] = label
image = np.random.default_rng(0).integers(-1000, 1000, geometry.shape, np.int16)
plan = make_plan((1.0, 0.7, 0.7), labels=tuple(range(105)), ct_normalization=[CT])
done = preprocess([Volume(image, geometry)], Volume(mask, geometry), plan)
assert done.labels.max() == 104
# Not ru_maxrss, which a process takes over from the one that started it.
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_a_large_ct_with_104_labels_stays_under_8_gb():
    """512 x 512 x 600 voxels, resampled to 585 x 585 x 600."""
    done = subprocess.run(
        [sys.executable, "-c", LARGE],
        cwd=ROOT / "tests",
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) * 1024 < 8e9
