"""What the training cases imply: numbers computed by hand, and every bad case said at once."""

import json
import re
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from conftest import ball, grid, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from mist_core.analyze import (
    Fingerprint,
    Moments,
    box_row,
    choose_patch,
    ct_statistics,
    fingerprint,
    fingerprint_from_json,
    fingerprint_to_json,
    judge,
    make_plan,
    median_size,
    patch_budget,
    target_spacing,
    training_volumes,
)
from mist_core.config import Analyze
from mist_core.dataset import Case, Dataset, Found
from mist_core.errors import DataError
from mist_core.geometry import Geometry
from mist_core.io import Volume
from mist_core.plan import Plan, parse_plan
from mist_core.topology import ARCHITECTURES

BUDGET = 128**3
MOVES = [
    ((0, 1, 2), (False, False, False)),
    ((2, 1, 0), (True, False, False)),
    ((1, 2, 0), (False, True, True)),
    ((2, 0, 1), (True, True, True)),
]


def dataset(tmp_path, labels=(0, 1), modality="mr", channels=("t1",), optional=()):
    classes = {f"label_{v}": (v,) for v in labels[1:]}
    path = tmp_path / "dataset.json"
    return Dataset(path, "task", modality, channels, labels, classes, optional_images=optional)


def moved(volume, order, flips):
    array = np.flip(volume.array.transpose(order), tuple(a for a in range(3) if flips[a]))
    return Volume(np.ascontiguousarray(array), volume.geometry.moved_axes(order, flips))


def shifted(volume, mm):
    g = volume.geometry
    origin = (g.origin[0] + mm, g.origin[1], g.origin[2])
    return Volume(volume.array, Geometry(g.shape, g.spacing, origin, g.direction))


def bright_ball(geometry, inside=100.0):
    """An image with a bright ball on zero, and its label map."""
    mask = ball(geometry)
    noise = np.random.default_rng(0).uniform(-5, 5, geometry.shape)
    return Volume(np.where(mask.array > 0, inside + noise, 0).astype(np.float32), geometry), mask


def print_of(case_id="a", **changes):
    fields = {
        "problems": (),
        "spacing": (1.0, 1.0, 1.0),
        "size": (100, 100, 100),
        "cropped_size": (100, 100, 100),
        "label_counts": {0: 10, 1: 10},
        "intensities": (Moments(0, 0.0, 0.0, {}),),
        "nonzero_fractions": (1.0,),
    }
    return Fingerprint(case_id, **(fields | changes))


# --- one case -------------------------------------------------------------------------------------


def test_a_fingerprint_by_hand(tmp_path):
    geometry = grid((10, 12, 14), (3, 2, 1))
    image, mask = np.zeros(geometry.shape, np.float32), np.zeros(geometry.shape, np.uint8)
    image[2:6, 3:9, 4:12] = 50
    mask[2:6, 3:9, 4:8] = 1
    mask[2:6, 3:9, 8:9] = 4
    case = stored(tmp_path, "a", [Volume(image, geometry)], Volume(mask, geometry))
    found = fingerprint(case)
    assert found.problems == ()
    assert (found.spacing, found.size, found.native_size) == ((3, 2, 1), (10, 12, 14), (10, 12, 14))
    assert found.box == ((2, 6), (3, 9), (4, 12))
    assert found.cropped_size == (4, 6, 8)
    assert found.nonzero_fractions == pytest.approx((4 * 6 * 8 / (10 * 12 * 14),))
    assert found.label_counts == {0: 1680 - 120, 1: 96, 4: 24}
    assert found.intensities == (Moments(12, 50.0, 0.0, {50: 12}),)  # every tenth of 120 voxels


def test_labels_above_255_are_counted(tmp_path):
    mask = ball(grid((8, 8, 8)), value=1)
    mask = Volume(mask.array.astype(np.uint16) * 300, mask.geometry)
    image = Volume(mask.array.astype(np.float32), mask.geometry)
    assert fingerprint(stored(tmp_path, "a", [image], mask)).label_counts.keys() == {0, 300}


def test_the_box_never_cuts_labelled_voxels(tmp_path):
    image, mask = bright_ball(grid((20, 20, 20)))
    mask.array[0, 10, 19] = 1  # dark, far from the ball
    found = fingerprint(stored(tmp_path, "a", [image], mask))
    low, high = np.transpose(found.box)
    where = np.argwhere(mask.array)
    assert (where >= low).all()
    assert (where < high).all()
    assert found.box[1] != (0, 20)


@pytest.mark.parametrize(("order", "flips"), MOVES)
def test_native_axes_do_not_matter_to_a_fingerprint(tmp_path, order, flips):
    image, mask = bright_ball(grid((8, 20, 30), (5, 1, 0.8)))
    one = fingerprint(stored(tmp_path, "a", [image], mask))
    other = fingerprint(
        stored(tmp_path, "b", [moved(image, order, flips)], moved(mask, order, flips))
    )
    for name in ("size", "cropped_size", "label_counts", "nonzero_fractions"):
        assert getattr(one, name) == getattr(other, name)
    assert other.spacing == pytest.approx(one.spacing)
    assert other.native_size == tuple(one.size[a] for a in order)


def test_float_noise_in_an_origin_is_accepted(tmp_path):
    image, mask = bright_ball(grid((10, 10, 10), (1, 0.7, 0.7)))
    assert fingerprint(stored(tmp_path, "a", [shifted(image, 1e-4)], mask)).problems == ()


def test_a_shifted_image_is_named_with_the_distance(tmp_path):
    image, mask = bright_ball(grid((10, 10, 10)))
    case = stored(tmp_path, "a", [image, shifted(image, 1.5)], mask)
    (problem,) = fingerprint(case).problems
    assert problem.startswith(f"{case.images[1]}: expected the grid of {case.images[0]}")
    assert "1.5 mm apart" in problem


def test_an_image_of_another_size_is_named(tmp_path):
    image, mask = bright_ball(grid((10, 10, 10)))
    small = Volume(image.array[:9], image.geometry.cropped((slice(0, 9), *[slice(0, 10)] * 2)))
    (problem,) = fingerprint(stored(tmp_path, "a", [small], mask)).problems
    assert "different sizes" in problem


def test_all_unreadable_files_of_a_case_are_named(tmp_path):
    image, mask = bright_ball(grid((10, 10, 10)))
    case = stored(tmp_path, "a", [image, image, image], mask)
    case.images[1].write_text("not an image")
    case.mask.unlink()
    problems = fingerprint(case).problems
    assert [p.split(":")[0] for p in problems] == [str(case.images[1]), str(case.mask)]


@pytest.mark.parametrize("problems", [(), ("a.nii.gz: expected a file, found none.",)])
def test_a_fingerprint_survives_its_file(tmp_path, problems):
    image, mask = bright_ball(grid((10, 12, 14), (3, 2, 1)))
    found = fingerprint(stored(tmp_path, "001", [image, image], mask))
    found = Fingerprint("001", problems) if problems else found
    text = json.dumps(fingerprint_to_json(found))
    assert fingerprint_from_json(json.loads(text)) == found
    if not problems:
        assert json.loads(text)["size"] == [14, 12, 10]


def test_a_box_row_speaks_xyz_with_inclusive_ends():
    row = box_row(print_of("001", box=((1, 4), (2, 9), (0, 7)), native_size=(5, 10, 8)))
    assert row == {
        "x_start": 0, "x_end": 6, "y_start": 2, "y_end": 8, "z_start": 1, "z_end": 3,
        "x_og_size": 8, "y_og_size": 10, "z_og_size": 5, "id": "001",
    }  # fmt: skip


# --- spacing and size -----------------------------------------------------------------------------


def test_the_target_spacing_is_the_median_per_axis():
    assert target_spacing([(1, 1, 1), (2, 1, 1), (3, 0.5, 1.5)]) == (2, 1, 1)


def test_thick_slices_get_the_tenth_percentile():
    spacings = [(z, 0.8, 0.8) for z in (5, 5, 5, 3, 10)]
    assert target_spacing(spacings) == pytest.approx((3.8, 0.8, 0.8))
    sagittal = [(0.8, 0.8, x) for x in (5, 5, 5, 3, 10)]
    assert target_spacing(sagittal) == pytest.approx((0.8, 0.8, 3.8))


def test_three_times_as_thick_is_not_thick_yet():
    assert target_spacing([(3, 1, 1), (3, 1, 1), (1, 1, 1)]) == (3, 1, 1)
    assert target_spacing([(3.1, 1, 1), (3.1, 1, 1), (1, 1, 1)])[0] == pytest.approx(1.42)


def test_the_median_size_by_hand():
    sizes, spacings = (
        [(10, 100, 100), (20, 90, 80), (30, 50, 60)],
        [(5, 1, 1), (3, 1, 1), (1, 2, 2)],
    )
    # resampled to (2, 1, 1): 25, 30, 15 slices; 100, 90, 100 rows; 100, 80, 120 columns
    assert median_size(sizes, spacings, (2, 1, 1)) == (25, 100, 100)
    assert median_size([(1, 1, 1)], [(1, 1, 1)], (9, 9, 9)) == (1, 1, 1)


# --- patch ----------------------------------------------------------------------------------------

TABLE = [  # (x, y, z): median size, spacing, patch
    ((512, 512, 90), (0.78, 0.78, 5), (512, 512, 8)),
    ((240, 240, 155), (1, 1, 1), (128, 128, 128)),
    ((320, 320, 130), (1.25, 1.25, 1.37), (128, 128, 96)),
    ((36, 50, 35), (1, 1, 1), (32, 32, 32)),
    ((512, 512, 482), (0.77, 0.77, 1), (128, 128, 96)),
    ((256, 232, 12), (1.5, 1.5, 10), (224, 224, 12)),
    ((144, 512, 512), (2.5, 0.8, 0.8), (8, 512, 512)),
]
SIZES = st.tuples(*[st.integers(8, 600)] * 3)
EDGES = st.tuples(*[st.sampled_from([0.4, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0, 8.0])] * 3)
BUDGETS = st.sampled_from([32**3, 64**3, 128**3, 4 * 128**3])


@pytest.mark.parametrize(("size", "spacing", "patch"), TABLE)
def test_the_patch_table(size, spacing, patch):
    assert choose_patch(size[::-1], spacing[::-1], BUDGET) == patch[::-1]


BY_HAND = [  # (z, y, x): median size, spacing, patch
    # 2^21 / 240^2 = 36 slices; the network halves them three times: 40 if there are so many, or 32
    ((50, 240, 240), (5, 1, 1), (40, 224, 224)),
    ((38, 240, 240), (5, 1, 1), (32, 224, 224)),
    # 2^21 / 1000^2 = 2 slices; five at least, or all there are; the root of 2^21 / 5 is 648
    ((30, 1000, 1000), (5, 1, 1), (5, 640, 640)),
    ((3, 1000, 1000), (5, 1, 1), (3, 832, 832)),
    # 40 slices are fewer than a cube of 128 needs: 32 of them leave a square of 256
    ((40, 400, 400), (1, 1, 1), (32, 256, 256)),
    ((40, 100, 900), (1, 1, 1), (32, 96, 672)),
]


@pytest.mark.parametrize(("size", "spacing", "patch"), BY_HAND)
def test_more_patches_by_hand(size, spacing, patch):
    assert choose_patch(size, spacing, BUDGET) == patch


@settings(max_examples=300)
@given(SIZES, EDGES, BUDGETS, st.sampled_from(list(ARCHITECTURES)))
def test_every_network_can_halve_the_patch_that_is_planned_for_it(size, spacing, budget, model):
    patch = choose_patch(size, spacing, budget, model)
    levels = ARCHITECTURES[model].levels
    strides = [levels] * 3
    if callable(levels):
        strides = np.prod([level.stride for level in levels(patch, spacing)], axis=0)
    else:
        assert max(patch) > levels  # one voxel has no spread to normalise by
    assert not np.mod(patch, strides).any(), f"{patch} cannot be halved to 1/{strides}"


@pytest.mark.parametrize(
    ("model", "patch"),
    [
        ("nnunet", (12, 224, 224)),
        ("mednext-base", (16, 224, 224)),
        ("swinunetr-small", (32, 224, 224)),
        ("nnunet-plain", (12, 224, 224)),
    ],
)
def test_thick_slices_are_planned_as_the_network_halves_them(model, patch):
    assert choose_patch((12, 232, 256), (10, 1.5, 1.5), BUDGET, model) == patch


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_what_a_network_asks_of_thick_slices_is_within_the_budget(model):
    patch = choose_patch((90, 512, 512), (5, 0.78, 0.78), BUDGET, model)
    assert 0.7 * BUDGET < prod(patch) <= BUDGET


def test_a_patch_that_the_network_cannot_halve_is_refused_with_one_that_it_can(tmp_path):
    for model, patch, take in (
        ("mednext-base", (20, 40, 16), "[16, 32, 16]"),
        ("mednext-base", (16, 16, 16), "and more on one axis, as mednext-base halves the axes"),
        ("swinunetr-base", (32, 32, 32), "[32, 32, 64]"),
        ("resenc-m", (36, 40, 38), "[32, 40, 40]"),
    ):
        chosen = Analyze(patch_size=patch)
        with pytest.raises(DataError, match=re.escape(take)):
            make_plan([print_of()], dataset(tmp_path), chosen, model=model)


@given(st.tuples(*[st.integers(32, 600)] * 3), EDGES, BUDGETS)
def test_a_patch_fits_the_image_and_the_budget(size, spacing, budget):
    patch = choose_patch(size, spacing, budget)
    assert all(p <= n for p, n in zip(patch, size, strict=True))
    thick = max(spacing) / min(spacing) > 3
    assert all(p % 32 == 0 for a, p in enumerate(patch) if not (thick and a == np.argmax(spacing)))
    if budget > 32**3:  # which is the smallest patch there is, at 5 slices or more
        assert prod(patch) <= 1.05 * budget


@given(SIZES, EDGES, st.permutations([0, 1, 2]))
def test_the_order_of_axes_does_not_matter_to_a_patch(size, spacing, order):
    if spacing.count(max(spacing)) > 1 and max(spacing) > 3 * min(spacing):
        return  # two thick axes: the first is taken
    patch = choose_patch(size, spacing, BUDGET)
    turned = choose_patch([size[a] for a in order], [spacing[a] for a in order], BUDGET)
    assert turned == tuple(patch[a] for a in order)


# --- CT -------------------------------------------------------------------------------------------


def ct_case(folder, case_id, values, channels=1):
    """A case whose foreground holds every value ten times in a row, so that each is sampled."""
    geometry = grid((len(values), 10, 5))
    image = np.full(geometry.shape, -1000, np.float32)
    image[:, :, 1] = np.asarray(values, np.float32)[:, None]
    mask = np.zeros(geometry.shape, np.uint8)
    mask[:, :, 1] = 1
    images = [Volume(image * (k + 1), geometry) for k in range(channels)]
    return fingerprint(stored(folder, case_id, images, Volume(mask, geometry)))


def test_ct_statistics_agree_with_numpy(tmp_path):
    rng = np.random.default_rng(0)
    values = [np.concatenate([rng.normal(m, 80, 70), [-2000, 5000]]) for m in (0, 60, 300)]
    prints = [ct_case(tmp_path, str(i), v) for i, v in enumerate(values)]
    found = ct_statistics([p.intensities[0] for p in prints])
    pooled = np.concatenate(values)
    assert found["z_score_mean"] == pytest.approx(pooled.mean(), rel=1e-6)
    assert found["z_score_std"] == pytest.approx(pooled.std(), rel=1e-6)
    counts, edges = np.histogram(pooled, 4096, (-1024, 3072))
    share = counts.cumsum() / counts.sum()
    assert found["window_min"] == edges[np.argmax(share >= 0.005)]
    assert found["window_max"] == edges[np.argmax(share >= 0.995)]


def test_a_ct_window_by_hand():
    low = Moments(500, 10.5, 0.0, {10: 499, -1000: 1})
    high = Moments(500, 10.5, 0.0, {10: 499, 2000: 1})
    found = ct_statistics([low, high])  # 0.1 % below, 0.1 % above: neither reaches 0.5 %
    assert (found["window_min"], found["window_max"]) == (10, 10)
    low, high = Moments(5, 0, 0.0, {-1000: 5}), Moments(995, 0, 0.0, {10: 985, 2000: 10})
    found = ct_statistics([low, high])
    assert (found["window_min"], found["window_max"]) == (-1000, 2000)


def test_no_foreground_gives_four_zeros():
    assert set(ct_statistics([Moments(0, 0.0, 0.0, {})]).values()) == {0.0}


def test_every_ct_channel_has_its_own_numbers(tmp_path):
    prints = [ct_case(tmp_path, "a", [10, 20, 30], channels=2)]
    plan = make_plan(prints, dataset(tmp_path, modality="ct", channels=("ct", "pet")), Analyze())
    one, two = plan.preprocessing.ct_normalization
    assert (one.z_score_mean, two.z_score_mean) == (20, 40)
    assert (one.window_max, two.window_max) == (30, 60)
    assert plan.model.in_channels == 2


def test_ct_and_pet_are_normalised_each_in_its_own_way(tmp_path):
    """What is one modality for all channels in other systems."""
    prints = [ct_case(tmp_path, "a", [10, 20, 30], channels=2)]
    prints = [replace(p, nonzero_fractions=(0.3, 0.4)) for p in prints]
    both = {"pet": "other", "ct": "ct"}
    plan = make_plan(prints, dataset(tmp_path, modality=both, channels=("ct", "pet")), Analyze())
    ct, pet = plan.preprocessing.ct_normalization
    assert ct.z_score_mean == 20
    assert pet is None
    assert plan.preprocessing.normalize_with_nonzero_mask == (False, True)
    assert plan.dataset_info.modality == both


def test_the_box_holds_what_is_bright_in_any_channel(tmp_path):
    image, mask = bright_ball(grid((20, 20, 20)))
    other = np.zeros_like(image.array)
    other[1:6, 1:6, 1:6] = 9
    found = fingerprint(stored(tmp_path, "a", [image, Volume(other, image.geometry)], mask))
    assert [start for start, _ in found.box] == [1, 1, 1]


# --- all cases ------------------------------------------------------------------------------------


def test_a_plan_by_hand(tmp_path):
    size, cropped = (60, 300, 310), (59, 299, 309)
    prints = [
        print_of(str(i), spacing=(5, 0.8, 0.7), size=size, cropped_size=cropped) for i in range(3)
    ]
    plan = make_plan(prints, dataset(tmp_path), Analyze(folds=2))
    assert plan.spatial_config.target_spacing == (0.7, 0.8, 5)
    assert plan.spatial_config.median_resampled_image_size == (310, 300, 60)
    assert plan.patch_size == choose_patch(size, (5, 0.8, 0.7), BUDGET)
    assert plan.preprocessing.crop_to_foreground is False
    assert plan.preprocessing.normalize_with_nonzero_mask == (False,)
    assert plan.preprocessing.ct_normalization == (None,)
    assert (plan.model.in_channels, plan.model.out_channels) == (1, 2)
    assert plan.evaluation["label_1"].labels == (1,)
    assert parse_plan(json.loads(plan.model_dump_json()), "file") == plan


def test_native_orientation_does_not_matter_to_the_plan(tmp_path):
    def plan(move) -> Plan:
        prints = []
        for k, shape in enumerate([(12, 40, 36), (10, 44, 38), (14, 42, 40)]):
            image, mask = (moved(v, *move) for v in bright_ball(grid(shape, (5, 1, 1.1))))
            prints.append(
                fingerprint(stored(tmp_path / str(MOVES.index(move)), str(k), [image], mask))
            )
        return make_plan(prints, dataset(tmp_path), Analyze(crop_to_foreground=False))

    first, *others = (plan(move) for move in MOVES)
    assert first.spatial_config.median_resampled_image_size == (38, 42, 12)
    assert all(
        other.spatial_config.median_resampled_image_size == (38, 42, 12)
        and other.patch_size == first.patch_size
        and other.target_spacing_mm == pytest.approx(first.target_spacing_mm)
        for other in others
    )


@pytest.mark.parametrize(("sizes", "crop"), [((79, 82), False), ((78, 81), True)])
def test_cropping_is_for_a_mean_fifth(tmp_path, sizes, crop):
    # what is removed on average: 19.5 and 20.5 %
    prints = [print_of(str(n), cropped_size=(n, 100, 100)) for n in sizes]
    plan = make_plan(prints, dataset(tmp_path), Analyze())
    assert plan.preprocessing.crop_to_foreground is crop
    wanted = make_plan(prints, dataset(tmp_path), Analyze(crop_to_foreground=not crop))
    assert wanted.preprocessing.crop_to_foreground is not crop


def test_a_crop_sets_the_median_size(tmp_path):
    prints = [print_of(str(n), cropped_size=(n, 60, 50)) for n in (38, 40, 44)]
    plan = make_plan(prints, dataset(tmp_path), Analyze())
    assert plan.spatial_config.median_resampled_image_size == (50, 60, 40)


@pytest.mark.parametrize(("fractions", "expected"), [((0.7, 0.85), True), ((0.7, 0.95), False)])
def test_zero_is_background_when_a_fifth_is_zero(tmp_path, fractions, expected):
    prints = [print_of(str(f), nonzero_fractions=(f,)) for f in fractions]
    plan = make_plan(prints, dataset(tmp_path), Analyze())
    assert plan.preprocessing.normalize_with_nonzero_mask == (expected,)


def test_zero_is_water_in_ct(tmp_path):
    plan = make_plan(
        [print_of(nonzero_fractions=(0.1,))], dataset(tmp_path, modality="ct"), Analyze()
    )
    assert plan.preprocessing.normalize_with_nonzero_mask == (False,)


def test_what_the_user_sets_is_xyz_and_wins(tmp_path):
    chosen = Analyze(target_spacing=(1, 2, 3), patch_size=(32, 64, 96))
    plan = make_plan([print_of()], dataset(tmp_path), chosen)
    assert plan.target_spacing_mm == (3, 2, 1)
    assert plan.patch_size == (96, 64, 32)
    assert plan.spatial_config.median_resampled_image_size == (100, 50, 33)
    small = make_plan([print_of()], dataset(tmp_path), Analyze(), budget=64**3)
    assert small.patch_size == (64, 64, 64)


def described(tmp_path, cases):
    """A dataset whose cases have masks of the given names, for messages."""
    listed = {c: Case(c, (tmp_path / f"{c}.nii.gz",), tmp_path / f"{c}.nii.gz") for c in cases}
    for case in listed.values():
        case.mask.touch()
    fields = dataset(tmp_path)
    return Dataset(**{k: getattr(fields, k) for k in ("path", "task", "modality", "channels")},
                   labels=(0, 1), final_classes={"a": (1,)}, train_files=listed)  # fmt: skip


def judged(prints, dataset, problems=None, dealt=None, patients=None, **choices):
    """Problems by id, and whether they stop, of fingerprints in as many folds."""
    settings = Analyze(**{"folds": 2} | choices)
    found = Found({p.id: None for p in prints}, {}, problems or {})
    dealt = dealt or {p.id: number % settings.folds for number, p in enumerate(prints)}
    return judge(prints, dataset, found, settings, dealt, patients or {})


def test_all_problems_of_all_cases_come_together(tmp_path):
    prints = [
        print_of("a", problems=("a.nii.gz: expected a file, found none.", "b: also bad")),
        print_of("c"),
        print_of("d", label_counts={0: 5, 1: 6, 7: 2, 300: 9}),
        print_of("e", label_counts={0: 5}),
    ]
    problems, stops = judged(prints, described(tmp_path, "acde"), {"f": ["f: no file"]})
    assert stops
    assert list(problems) == ["a", "d", "e", "f"]
    assert problems["a"] == ["a.nii.gz: expected a file, found none.", "b: also bad"]
    assert f"{tmp_path / 'd.nii.gz'}: expected labels among [0, 1], " in problems["d"][0]
    assert "found 7 (2 voxels), 300 (9 voxels)" in problems["d"][0]
    assert "found background only" in problems["e"][0]


def test_bad_cases_are_left_out_where_that_is_asked_for(tmp_path):
    prints = [print_of(i) for i in "abc"] + [print_of("d", problems=("d: bad",))]
    data = described(tmp_path, "abcd")
    assert judged(prints, data) == ({"d": ["d: bad"]}, True)
    assert judged(prints, data, verify="drop") == ({"d": ["d: bad"]}, False)


@pytest.mark.parametrize("n_good", [0, 1])
def test_too_few_good_cases_stop_the_run_also_where_bad_ones_are_left_out(tmp_path, n_good):
    prints = [*[print_of("a")][:n_good], print_of("b", problems=("b: bad",))]
    data = described(tmp_path, "ab")
    problems, stops = judged(prints, data, verify="drop")
    assert stops
    assert list(problems) == ["(dataset)", "b"]
    assert f"at least 2 training cases for 2 folds, found {n_good}" in problems["(dataset)"][0]


def test_fewer_cases_than_folds_are_one_clear_line(tmp_path):
    problems, stops = judged([print_of("a"), print_of("b")], described(tmp_path, "ab"), folds=3)
    assert stops
    assert problems == {
        "(dataset)": [
            f"{tmp_path / 'dataset.json'}: expected at least 3 training cases for 3 folds, found "
            "2. Add cases or set analyze.folds to 2."
        ]
    }


def test_cases_that_are_to_be_mended_count_for_the_folds(tmp_path):
    prints = [print_of("a"), print_of("b", problems=("b: bad",))]
    problems, _ = judged(prints, described(tmp_path, "ab"))
    assert list(problems) == ["b"]


def test_a_fold_without_a_case_is_refused(tmp_path):
    prints = [print_of(i) for i in "abc"]
    problems, stops = judged(prints, described(tmp_path, "abc"), dealt={"a": 0, "b": 0, "c": 0})
    assert stops
    assert "found none in fold 1" in problems["(dataset)"][0]


def test_a_case_without_labels_may_be_meant(tmp_path):
    prints = [print_of("a"), print_of("b"), print_of("c", label_counts={0: 5})]
    data = described(tmp_path, "abc")
    assert "set analyze.empty_masks to true" in judged(prints, data)[0]["c"][0]
    assert judged(prints, data, empty_masks=True) == ({}, False)


def test_a_copy_of_a_case_is_told_unless_it_is_of_the_same_patient(tmp_path):
    prints = [print_of("a", voxels="x"), print_of("b", voxels="y"), print_of("c", voxels="x")]
    data = described(tmp_path, "abc")
    problems, _ = judged(prints, data)
    assert list(problems) == ["c"]
    assert "found those of a" in problems["c"][0]
    patients = {"a": "p", "b": "q", "c": "p"}
    assert judged(prints, data, patients=patients) == ({}, False)


def test_a_copy_of_a_bad_case_is_no_copy_of_a_case(tmp_path):
    odd = print_of("a", voxels="x", label_counts={9: 1})
    prints = [odd, print_of("b", voxels="x"), print_of("c")]
    assert list(judged(prints, described(tmp_path, "abc"))[0]) == ["a"]


def test_a_run_of_few_cases_may_lack_a_label(tmp_path):
    prints, data = [print_of("a"), print_of("b")], dataset(tmp_path, labels=(0, 1, 2))
    found = Found({"a": None, "b": None}, {}, {})
    folds = {"a": 0, "b": 1}
    assert judge(prints, data, found, Analyze(folds=2), folds, {}, limited=True) == ({}, False)


def test_a_label_that_no_case_has_is_reported(tmp_path):
    prints = [print_of("a"), print_of("b")]
    problems, stops = judged(prints, dataset(tmp_path, labels=(0, 1, 2, 4)))
    assert stops
    assert "found none with 2, 4" in problems["(dataset)"][0]


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ((0.0, 1.0), True),  # rescaled
        ((1e4, 1e6), True),  # far beyond what the histogram holds
        ((-3.0, 5.0), True),  # z-scores
        ((-80.0, 140.0), False),
        ((0.0, 40.0), False),
    ],
)
def test_a_ct_that_is_not_in_hounsfield_units_is_refused(tmp_path, values, refused):
    prints = []
    for seed, name in enumerate("ab"):
        mask = ball(grid((20, 20, 20)))
        noise = np.random.default_rng(seed).uniform(*values, mask.array.shape)
        image = Volume(noise.astype(np.float32), mask.geometry)
        prints.append(fingerprint(stored(tmp_path, name, [image], mask)))
    problems, stops = judged(prints, dataset(tmp_path, modality="ct"))
    assert stops == refused
    assert bool(problems) == refused
    if refused:
        assert "expected Hounsfield units in channel t1" in problems["(dataset)"][0]
        assert judged(prints, dataset(tmp_path, modality="other")) == ({}, False)


def test_an_image_that_shows_nothing_is_a_problem(tmp_path):
    image, mask = bright_ball(grid((8, 8, 8)))
    blank = Volume(np.full_like(image.array, -1000), image.geometry)
    (problem,) = fingerprint(stored(tmp_path, "a", [blank], mask)).problems
    assert "found -1000 in every voxel" in problem
    # A channel of zeros may be one that was not acquired.
    assert fingerprint(stored(tmp_path, "b", [image, blank], mask)).problems == ()


def test_a_copy_has_the_key_of_its_original(tmp_path):
    image, mask = bright_ball(grid((8, 8, 8)))
    other = Volume(image.array + 1, image.geometry)
    one, same, different = (
        fingerprint(stored(tmp_path, name, [i], mask)).voxels
        for name, i in (("a", image), ("b", image), ("c", other))
    )
    assert one == same != different


def test_a_label_that_one_case_lacks_is_fine(tmp_path):
    prints = [print_of("a", label_counts={0: 5}), print_of("b", label_counts={1: 5})]
    assert make_plan(prints, dataset(tmp_path), Analyze()).dataset_info.labels == (0, 1)


def test_the_plan_knows_the_volumes_of_the_training_cases():
    prints = [
        print_of("a", label_counts={0: 10, 1: 500, 2: 100}, spacing=(2.0, 1.0, 1.0)),
        print_of("b", label_counts={0: 10, 1: 4000}, spacing=(0.5, 0.5, 1.0)),
    ]
    classes = {"all": (1, 2), "one": (1,), "two": (2,), "never": (7,)}
    assert training_volumes(prints, classes) == {
        "all": {"smallest_ml": 1.0, "largest_ml": 1.2, "in_every_case": True},
        "one": {"smallest_ml": 1.0, "largest_ml": 1.0, "in_every_case": True},
        "two": {"smallest_ml": 0.2, "largest_ml": 0.2, "in_every_case": False},
    }


# --- optional channels ----------------------------------------------------------------------------


def without_channel(case, number=1):
    """The same case with a channel that it lacks, since it is optional."""
    images = tuple(None if n == number else path for n, path in enumerate(case.images))
    return replace(case, images=images, optional=(number,))


def test_a_fingerprint_of_what_is_there(tmp_path):
    image, mask = bright_ball(grid((20, 20, 20)))
    other = Volume(image.array + 7, image.geometry)
    whole = fingerprint(stored(tmp_path, "a", [image, other], mask))
    part = fingerprint(without_channel(stored(tmp_path, "b", [image, other], mask)))
    alone = fingerprint(stored(tmp_path, "b", [image], mask))
    assert whole.nonzero_fractions == (whole.nonzero_fractions[0], 1.0)
    assert part.nonzero_fractions == (*alone.nonzero_fractions, None)
    assert part.intensities == (*alone.intensities, Moments(0, 0.0, 0.0, {}))
    assert (part.box, part.voxels, part.problems) == (alone.box, alone.voxels, ())
    first = fingerprint(without_channel(stored(tmp_path, "c", [other, image], mask), 0))
    assert (first.nonzero_fractions[0], first.intensities[1]) == (None, alone.intensities[0])
    text = json.dumps(fingerprint_to_json(part))
    assert fingerprint_from_json(json.loads(text)) == part


def test_what_is_wrong_with_a_case_that_lacks_a_channel_is_told_of_its_files(tmp_path):
    image, mask = bright_ball(grid((8, 8, 8)))
    blank = Volume(np.zeros_like(image.array), image.geometry)
    case = without_channel(stored(tmp_path, "a", [image, blank], mask), 0)
    (problem,) = fingerprint(case).problems
    assert problem.startswith(f"{case.images[1]}: expected an image, found 0 in every voxel. ")
    case = without_channel(stored(tmp_path, "b", [image, shifted(image, 1.5)], mask), 0)
    (problem,) = fingerprint(case).problems
    assert problem.startswith(f"{case.mask}: expected the grid of {case.images[1]}")


def test_the_margin_of_a_crop_does_not_count_on_optional_channels(tmp_path):
    """Labels reach 3 voxels of 2 mm beyond what is bright in the first channel, and none beyond the
    second: a case without that must not lose them.
    """
    geometry = grid((20, 20, 20), (2, 2, 2))
    images = [np.zeros(geometry.shape, np.float32) for _ in range(2)]
    images[0][8:12, 8:12, 8:12] = images[1][5:15, 5:15, 5:15] = 9
    mask = np.zeros(geometry.shape, np.uint8)
    mask[5:12, 8:12, 8:12] = 1
    volumes = [Volume(image, geometry) for image in images]
    case = stored(tmp_path, "a", volumes, Volume(mask, geometry))
    assert fingerprint(case).crop_margin_mm == 0
    found = fingerprint(replace(case, optional=(1,)))
    assert (found.crop_margin_mm, found.box) == (6.0, ((5, 15),) * 3)
    assert fingerprint(without_channel(case)).crop_margin_mm == 6.0
    assert fingerprint(replace(case, optional=(0,))).crop_margin_mm == 0


def test_a_missing_channel_counts_for_no_statistics(tmp_path):
    """Of the second channel, 0.9 of the voxels are not zero in the one case that has it."""
    ct = Moments(10, 50.0, 40.0, {50: 10})
    none = Moments(0, 0.0, 0.0, {})
    prints = [
        print_of("a", nonzero_fractions=(0.5, 0.9), intensities=(ct, ct)),
        print_of("b", nonzero_fractions=(0.7, None), intensities=(ct, none)),
    ]
    both = ("t1", "t1c")
    data = dataset(tmp_path, channels=both, optional=("t1c",))
    plan = make_plan(prints, data, Analyze())
    assert plan.dataset_info.optional_images == ("t1c",)
    assert plan.preprocessing.normalize_with_nonzero_mask == (True, False)
    data = dataset(tmp_path, channels=both, optional=("t1c",), modality="ct")
    one, two = make_plan(prints, data, Analyze()).preprocessing.ct_normalization
    assert (one.z_score_std, two.z_score_std) == (2.0, 2.0)
    assert two == one


@pytest.mark.parametrize(
    ("has", "found"),
    [
        ("", "none with it"),
        ("a", "it in fold 0 only"),
        ("ac", "it in fold 0 only"),
        ("ab", ""),
        ("abcd", ""),
    ],
)
def test_a_channel_that_a_model_would_never_see_is_refused(tmp_path, has, found):
    data = dataset(tmp_path, channels=("t1", "t1c"), optional=("t1c",))
    nothing = (Moments(0, 0.0, 0.0, {}),) * 2
    prints = [
        print_of(i, nonzero_fractions=(1.0, 1.0 if i in has else None), intensities=nothing)
        for i in "abcd"
    ]
    known = Found(dict.fromkeys("abcd"), {}, {})
    folds = {"a": 0, "b": 1, "c": 0, "d": 1}
    problems, stops = judge(prints, data, known, Analyze(folds=2), folds, {})
    assert stops == bool(found)
    if found:
        (line,) = problems["(dataset)"]
        assert "expected channel t1c in training cases of two folds or more" in line
        assert f"found {found}. Add cases that have it, or take it out of images." in line
        problems, _ = judge(prints, data, known, Analyze(folds=2), folds, {}, limited=True)
        assert f"found {found}. Raise limit_cases, or take" in problems["(dataset)"][0]


# --- the patch and the GPU ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "batch_size", "memory", "voxels"),
    [
        ({}, 2, None, 128**3),
        ({}, 8, None, 128**3),  # as MIST: without a GPU the batch does not matter
        ({}, 2, 16.0, 128**3),
        ({}, 2, 8.0, 128**3 // 2),
        ({}, 4, 16.0, 128**3 // 2),
        ({}, 1, 24.0, 128**3 * 3),
        ({"patch_voxels": 1000}, 1, 24.0, 1000),
    ],
)
def test_a_patch_grows_with_the_memory_of_the_gpu_and_shrinks_with_the_batch(
    choices, batch_size, memory, voxels
):
    assert patch_budget(Analyze(**choices), batch_size, memory) == voxels


def test_images_that_are_preprocessed_are_planned_as_they_are(tmp_path):
    sizes = {"size": (60, 100, 100), "cropped_size": (30, 50, 50), "nonzero_fractions": (0.5,)}
    spacings = {"a": (2.0, 1.0, 1.0), "b": (2.0, 1.0, 1.0), "c": (4.0, 1.0, 1.0)}
    prints = [print_of(i, spacing=spacing, **sizes) for i, spacing in spacings.items()]
    plan = make_plan(prints, dataset(tmp_path, modality="ct"), Analyze(), skip=True)
    assert plan.preprocessing.skip
    assert not plan.preprocessing.crop_to_foreground
    assert plan.preprocessing.normalize_with_nonzero_mask == (False,)
    assert plan.preprocessing.ct_normalization == (None,)
    assert plan.spatial_config.median_resampled_image_size == (100, 100, 60)
    assert not make_plan(prints, dataset(tmp_path), Analyze()).preprocessing.skip
