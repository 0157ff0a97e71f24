"""Strategies that change label maps."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, ball, grid
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage import measure

from mist_core.errors import DataError
from mist_core.files import read_json, read_rows, write_json, write_rows
from mist_core.io import Volume, read_labels, write_probabilities, write_volume
from mist_core.postprocess import (
    Step,
    needs_probabilities,
    postprocess,
    read_strategy,
    unknown_labels,
)
from mist_core.transforms import TRANSFORMS

TOP = "get_top_k_connected_components"
SMALL = "remove_small_objects"
FILL = "fill_holes_with_label"
REPLACE = "replace_small_objects_with_label"
WITHIN = "keep_within_label"
SMOOTH = "smooth_boundary"
LIKELY = "remove_by_mean_probability"
OF_MIST = (SMALL, TOP, FILL, REPLACE)
MM = (1.0, 1.0, 1.0)
label_maps = arrays(np.uint8, (4, 5, 6), elements=st.sampled_from([0, 0, 0, 1, 2, 4]))


def apply(
    labels, transform, apply_to=(-1,), per_label=True, spacing_mm=MM, probabilities=None, **kwargs
):
    step = Step(
        transform=transform, apply_to_labels=list(apply_to), per_label=per_label, kwargs=kwargs
    )
    return postprocess(labels, [step], spacing_mm, probabilities)


def row(*labels):
    """A label map of one line of voxels."""
    return np.array(labels, np.uint8).reshape(1, 1, -1)


def values(labels):
    return labels.ravel().tolist()


def shell(outer=1, inner=0, size=7):
    """A hollow cube of one label with a cube of another in its middle."""
    labels = np.zeros((size,) * 3, np.uint8)
    labels[1:-1, 1:-1, 1:-1] = outer
    labels[2:-2, 2:-2, 2:-2] = 0
    labels[3:-3, 3:-3, 3:-3] = inner
    return labels


def test_objects_below_the_threshold_go_and_those_at_it_stay():
    labels = np.zeros((4, 4, 12), np.uint8)
    labels[:, :, :4] = 1  # 64 voxels
    labels[:, :, 6:10] = 1
    labels[0, 0, 6] = 0  # 63 voxels
    expected = labels.copy()
    expected[:, :, 6:] = 0
    np.testing.assert_array_equal(apply(labels, SMALL), expected)


def test_voxels_that_touch_at_a_corner_are_one_object():
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[2, 2, 2] = 1
    np.testing.assert_array_equal(apply(labels, SMALL, small_object_threshold=3), labels)
    assert not apply(labels, SMALL, small_object_threshold=4).any()


def test_grouped_labels_are_one_object_and_single_ones_are_not():
    labels = row(1, 1, 2, 2, 0, 1)
    grouped = apply(labels, SMALL, [1, 2], per_label=False, small_object_threshold=3)
    assert values(grouped) == [1, 1, 2, 2, 0, 0]
    single = apply(labels, SMALL, [1, 2], per_label=True, small_object_threshold=2)
    assert values(single) == [1, 1, 2, 2, 0, 0]
    assert not apply(labels, SMALL, [1, 2], per_label=True, small_object_threshold=3).any()


def test_only_the_named_labels_change():
    labels = row(1, 0, 2, 0, 4)
    assert values(apply(labels, SMALL, [2])) == [1, 0, 0, 0, 4]
    assert values(apply(labels, SMALL, [3])) == [1, 0, 2, 0, 4]


@pytest.mark.parametrize("transform", OF_MIST)
@given(labels=label_maps)
def test_minus_one_per_label_is_every_label_by_name(transform, labels):
    kwargs = {
        SMALL: {"small_object_threshold": 3},
        REPLACE: {"small_object_threshold": 3, "replacement_label": 7},
        FILL: {"fill_holes_label": 7},
    }.get(transform, {})
    by_name = apply(labels, transform, [1, 2, 4], **kwargs)
    np.testing.assert_array_equal(apply(labels, transform, [-1], **kwargs), by_name)


def test_minus_one_per_label_changes_every_label():
    assert values(apply(row(1, 0, 2, 2, 0, 4), SMALL, small_object_threshold=2)) == [
        0,
        0,
        2,
        2,
        0,
        0,
    ]
    assert values(apply(row(1, 1, 0, 1, 2, 0, 2, 2), TOP)) == [1, 1, 0, 0, 0, 0, 2, 2]


def test_minus_one_grouped_is_the_union():
    labels = row(1, 2, 4, 0, 2, 2)
    assert values(apply(labels, TOP, per_label=False)) == [1, 2, 4, 0, 0, 0]


def test_the_largest_components_are_kept():
    labels = row(1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1)
    kept = {1: [5, 6, 7], 2: [2, 3, 5, 6, 7], 3: [2, 3, 5, 6, 7, 9, 10], 9: range(11)}
    for k, places in kept.items():
        expected = [label if i in places else 0 for i, label in enumerate(values(labels))]
        assert values(apply(labels, TOP, top_k_connected_components=k)) == expected


CLEAN = {"apply_morphological_cleaning": True, "morphological_cleaning_iterations": 1}


def dumbbell():
    """Two cubes, the first the larger, joined by a line one voxel thin; and a third apart."""
    labels = np.zeros((9, 9, 28), np.uint8)
    labels[1:8, 1:8, 1:8] = 1
    labels[2:7, 2:7, 12:17] = 1
    labels[4, 4, 8:12] = 1
    labels[3:6, 3:6, 22:25] = 1
    return labels


def test_cleaning_cuts_thin_bridges_and_stays_inside():
    labels = dumbbell()
    kept = apply(labels, TOP, **CLEAN)
    assert kept[4, 4, 4] == 1
    assert not kept[:, :, 10:].any()
    assert not kept[labels == 0].any()
    assert apply(labels, TOP)[4, 4, 14] == 1  # without cleaning the bridge holds


def test_holes_are_filled_with_the_label():
    filled = apply(shell(), FILL, [1], fill_holes_label=1)
    assert (filled[1:-1, 1:-1, 1:-1] == 1).all()
    assert filled.sum() == 5**3


def test_a_gap_that_is_open_to_the_outside_is_no_hole():
    labels = shell()
    labels[1, 3, 3] = 0
    np.testing.assert_array_equal(apply(labels, FILL, [1], fill_holes_label=1), labels)


@pytest.mark.parametrize("label", [0, 1, 4])
@pytest.mark.parametrize("per_label", [True, False])
def test_filling_holes_keeps_the_structure_inside(label, per_label):
    labels = shell(outer=1, inner=2)
    filled = apply(labels, FILL, per_label=per_label, fill_holes_label=label)
    np.testing.assert_array_equal(filled[labels > 0], labels[labels > 0])
    assert (filled[2:-2, 2:-2, 2:-2][labels[2:-2, 2:-2, 2:-2] == 0] == label).all()


@given(label_maps, st.sampled_from([[1], [1, 2], [-1]]), st.booleans())
def test_filling_holes_never_changes_a_labelled_voxel(labels, apply_to, per_label):
    filled = apply(labels, FILL, apply_to, per_label, fill_holes_label=3)
    np.testing.assert_array_equal(filled[labels > 0], labels[labels > 0])
    assert set(np.unique(filled[labels == 0])) <= {0, 3}


def test_small_objects_may_get_another_label():
    labels = row(1, 0, 1, 1, 0, 2)
    changed = apply(labels, REPLACE, [1], small_object_threshold=2, replacement_label=4)
    assert values(changed) == [4, 0, 1, 1, 0, 2]


@given(label_maps, st.integers(0, 8))
def test_removal_agrees_with_components_counted_elsewhere(labels, threshold):
    expected = labels.copy()
    for label in (1, 2, 4):
        components = measure.label(labels == label, connectivity=3)
        for region in measure.regionprops(components):
            if region.area < threshold:
                expected[components == region.label] = 0
    found = apply(labels, SMALL, small_object_threshold=threshold)
    np.testing.assert_array_equal(found, expected)


@given(label_maps, st.integers(1, 4))
def test_kept_components_are_as_large_as_any_that_went(labels, k):
    kept = apply(labels, TOP, [1], top_k_connected_components=k) == 1
    components = measure.label(labels == 1, connectivity=3)
    sizes = {r.label: r.area for r in measure.regionprops(components)}
    stayed = set(np.unique(components[kept])) - {0}
    assert len(stayed) == min(k, len(sizes))
    np.testing.assert_array_equal(kept, np.isin(components, list(stayed)))
    gone = [size for label, size in sizes.items() if label not in stayed]
    assert min((sizes[s] for s in stayed), default=0) >= max(gone, default=0)


@given(label_maps, st.sampled_from([SMALL, TOP, FILL]))
def test_a_second_time_changes_nothing(labels, transform):
    kwargs = {SMALL: {"small_object_threshold": 3}, FILL: {"fill_holes_label": 7}}.get(
        transform, {}
    )
    once = apply(labels, transform, [1, 2, 4], **kwargs)
    np.testing.assert_array_equal(apply(once, transform, [1, 2, 4], **kwargs), once)


@given(label_maps, st.sampled_from(OF_MIST))
def test_the_input_is_left_alone(labels, transform):
    before = labels.copy()
    apply(labels, transform)
    np.testing.assert_array_equal(labels, before)


def test_steps_are_applied_in_order():
    few = {"small_object_threshold": 2}
    remove = Step(transform=SMALL, apply_to_labels=[1], per_label=True, kwargs=few)
    few = few | {"replacement_label": 2}
    replace = Step(transform=REPLACE, apply_to_labels=[1], per_label=True, kwargs=few)
    labels = row(2, 1, 0, 1, 1)
    assert values(postprocess(labels, [remove, replace], MM)) == [2, 0, 0, 1, 1]
    assert values(postprocess(labels, [replace, remove], MM)) == [2, 2, 0, 1, 1]


def test_labels_above_255_survive():
    labels = np.array([300, 0, 300, 300, 44], np.uint16).reshape(1, 1, -1)
    assert values(apply(labels, TOP)) == [0, 0, 300, 300, 44]
    narrow = row(1, 0, 1, 1)
    wide = apply(narrow, REPLACE, small_object_threshold=2, replacement_label=300)
    assert values(wide) == [300, 0, 1, 1]


def test_an_empty_label_map_or_strategy_changes_nothing():
    empty = np.zeros((3, 3, 3), np.uint8)
    for transform in TRANSFORMS:
        assert not apply(empty, transform).any()
    labels = row(1, 0, 2)
    np.testing.assert_array_equal(postprocess(labels, [], MM), labels)


def strategy_file(folder, steps):
    path = folder / "mine.json"
    path.write_text(json.dumps(steps))
    return path


GOOD = {"transform": SMALL, "apply_to_labels": [-1], "per_label": True, "kwargs": {}}


def test_every_mistake_of_a_strategy_is_said_at_once(tmp_path):
    steps = [
        GOOD | {"transform": "melt"},
        GOOD | {"kwargs": {"threshold": 3}},
        GOOD | {"kwargs": {"small_object_threshold": "3"}},
        GOOD | {"kwargs": {"small_object_threshold": -3}},
        GOOD | {"apply_to_labels": [0, 1]},
        GOOD | {"transform": REPLACE, "per_label": False},
        GOOD,
        GOOD | {"transform": SMOOTH},
        GOOD | {"kwargs": {"small_object_threshold": 3, "min_volume_mm3": 2.5}},
        GOOD | {"transform": WITHIN},
        GOOD | {"transform": WITHIN, "apply_to_labels": [1], "kwargs": {"within_labels": [2, 1]}},
        GOOD | {"transform": "no_such_file:close"},
        GOOD | {"per_label": "yes"},
        {k: v for k, v in GOOD.items() if k != "per_label"},
        GOOD | {"apply_to_labels": ["1"]},
        GOOD | {"apply_to_labels": [1, 1.0]},
        GOOD | {"apply_to_labels": [True]},
        GOOD | {"apply_to_labels": [65536]},
        GOOD | {"apply_to_labels": [1, 2, 1]},
        "fill",
    ]
    with pytest.raises(DataError) as caught:
        read_strategy(strategy_file(tmp_path, steps))
    lines = str(caught.value).splitlines()
    words = ["'melt'", "threshold: expected no such key", "'3'", "-3", "[0, 1]", "per_label true"]
    words += ["per_label false", "found both", "within_labels: expected a value", "[1] in both"]
    words += ["no_such_file.py"]
    words += ["true or false, found 'yes'", "per_label: expected a value", "number, found '1'"]
    words += ["number, found 1.0", "number, found True", "at most 65535", "once", "found 'fill'"]
    assert lines[0] == "postprocess: 19 problems"
    numbers = [0, 1, 2, 3, 4, 5, *range(7, 20)]
    for number, line, word in zip(numbers, lines[1:], words, strict=True):
        assert f"mine.json: steps.{number}" in line
        assert word in line


@pytest.mark.parametrize(
    ("transform", "name", "value"),
    [
        (TOP, "morphological_cleaning_iterations", 0),  # scipy would take it for endless
        (TOP, "top_k_connected_components", 0),
        (TOP, "apply_morphological_cleaning", 1),
        (FILL, "fill_holes_label", 65536),
        (REPLACE, "replacement_label", -1),
        (SMALL, "small_object_threshold", True),
        (SMALL, "min_volume_mm3", float("nan")),
        (SMALL, "min_volume_mm3", -1),
        (WITHIN, "min_contact", 1.5),
        (WITHIN, "within_labels", []),
        (WITHIN, "within_labels", [0]),
        (LIKELY, "min_mean_probability", "0.5"),
        (SMOOTH, "sigma_mm", 0),
    ],
)
def test_a_value_out_of_range_is_refused(tmp_path, transform, name, value):
    kwargs = {"within_labels": [3]} if transform == WITHIN else {}
    step = GOOD | {"transform": transform, "per_label": transform != SMOOTH}
    step = step | {"kwargs": kwargs | {name: value}}
    with pytest.raises(DataError, match=rf"steps\.0\.kwargs\.{name}.*: expected .* found"):
        read_strategy(strategy_file(tmp_path, [step]))


@pytest.mark.parametrize(
    "steps",
    [{}, [1], [{"transform": SMALL}], [GOOD | {"extra": 1}], [GOOD | {"apply_to_labels": []}]],
)
def test_a_malformed_strategy_is_refused_by_its_file(tmp_path, steps):
    with pytest.raises(DataError, match=r"mine\.json"):
        read_strategy(strategy_file(tmp_path, steps))


def test_a_file_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "mine.json").write_text("[")
    with pytest.raises(DataError, match=r"mine\.json: expected JSON"):
        read_strategy(tmp_path / "mine.json")


def test_kwargs_may_be_left_out(tmp_path):
    step = {k: v for k, v in GOOD.items() if k != "kwargs"}
    assert read_strategy(strategy_file(tmp_path, [step])) == [Step(**GOOD)]


def test_the_strategies_that_come_along_are_valid_and_do_something():
    files = sorted((ROOT / "config/strategies").glob("*.json"))
    assert files
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[:4], labels[7, 7, 7] = 2, 2
    for file in files:
        assert postprocess(labels, read_strategy(file), MM)[7, 7, 7] == 0


def test_the_script_does_the_good_cases_and_names_the_bad(tmp_path):
    volume = ball(grid((12, 12, 12)), value=2)
    speck = volume.array.copy()
    speck[0, 0, 0] = 2
    write_volume(tmp_path / "in/good.nii.gz", Volume(speck, volume.geometry))
    (tmp_path / "in/bad.nii.gz").write_bytes(b"not an image")
    command = [sys.executable, ROOT / "workflow/scripts/postprocess.py"]
    command += ["--base-predictions", tmp_path / "in"]
    command += ["--postprocess-strategy", strategy_file(tmp_path, [GOOD])]
    command += ["--case", "bad", "good", "--output", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ERROR: case bad: " in done.stderr
    after = read_labels(tmp_path / "out/good.nii.gz")
    np.testing.assert_array_equal(after.array, volume.array)
    assert after.geometry.matches(volume.geometry)
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == ["good.nii.gz"]


def test_labels_that_a_dataset_does_not_have_are_found(tmp_path):
    steps = [
        GOOD | {"apply_to_labels": [1, 9]},
        GOOD | {"transform": "fill_holes_with_label", "kwargs": {"fill_holes_label": 7}},
        GOOD | {"apply_to_labels": [-1]},
        GOOD | {"transform": REPLACE, "kwargs": {"replacement_label": 0}},
    ]
    strategy = read_strategy(strategy_file(tmp_path, steps))
    assert unknown_labels(strategy, [0, 1, 2]) == [7, 9]


def test_volumes_in_mm3_follow_the_spacing():
    labels = row(1, 0, 1, 1, 0, 1, 1, 1)
    for spacing_mm, kept in {(1.0, 1.0, 1.0): [5, 6, 7], (1.0, 1.0, 1.5): [2, 3, 5, 6, 7]}.items():
        expected = [label if i in kept else 0 for i, label in enumerate(values(labels))]
        assert values(apply(labels, SMALL, spacing_mm=spacing_mm, min_volume_mm3=3.0)) == expected
    replaced = apply(labels, REPLACE, min_volume_mm3=2.0, replacement_label=4)
    assert values(replaced) == [4, 0, 1, 1, 0, 1, 1, 1]


def test_an_object_of_just_the_volume_stays_though_headers_round():
    """3 voxels of 0.1 x 1 x 1 mm, where 3 * 0.1 is 0.30000000000000004, and as float32 has them."""
    for step in (0.1, float(np.float32(0.1)), 0.1 - 1e-9):
        assert apply(row(1, 1, 1), SMALL, spacing_mm=(1, 1, step), min_volume_mm3=0.3).all()
    assert not apply(row(1, 1, 1), SMALL, spacing_mm=(1, 1, 0.1), min_volume_mm3=0.301).any()


@given(label_maps, st.integers(0, 8), st.booleans())
def test_a_voxel_of_one_mm3_makes_both_thresholds_one(labels, threshold, per_label):
    voxels = apply(labels, SMALL, per_label=per_label, small_object_threshold=threshold)
    volumes = apply(labels, SMALL, per_label=per_label, min_volume_mm3=float(threshold))
    np.testing.assert_array_equal(voxels, volumes)


@given(label_maps, st.integers(0, 3), st.booleans(), st.data())
def test_a_wide_margin_changes_nothing(labels, before, per_label, data):
    """What is cut away before the work could not have mattered: of no transform."""
    transform = data.draw(st.sampled_from([SMALL, TOP, FILL, WITHIN, SMOOTH]))
    kwargs = {SMALL: {"small_object_threshold": 3}, WITHIN: {"within_labels": [4]}}
    kwargs = kwargs.get(transform, {})
    kwargs = {"fill_holes_label": 7} if transform == FILL else kwargs
    wide = np.pad(labels, [(before, 9)] * 3)
    per_label = per_label and transform != SMOOTH
    expected = wide  # what the transform makes of the whole image
    for group in ([1], [2]) if per_label else ([1, 2],):
        mask = np.isin(expected, group)
        if mask.any():
            spacing = {"spacing_mm": MM} if transform in (SMALL, SMOOTH) else {}
            expected = TRANSFORMS[transform](expected.copy(), mask, **spacing, **kwargs)
    found = apply(wide, transform, [1, 2], per_label, **kwargs)
    np.testing.assert_array_equal(found, expected)


def test_what_touches_the_structure_stays_and_what_does_not_goes():
    labels = row(4, 1, 1, 0, 4, 0, 2, 4)
    assert values(apply(labels, WITHIN, [4], within_labels=[1])) == [4, 1, 1, 0, 0, 0, 2, 0]
    assert values(apply(labels, WITHIN, [4], within_labels=[1, 2])) == [4, 1, 1, 0, 0, 0, 2, 4]
    assert values(apply(labels, WITHIN, [4], within_labels=[3])) == [0, 1, 1, 0, 0, 0, 2, 0]


def test_a_corner_is_enough_to_touch():
    labels = np.zeros((2, 2, 2), np.uint8)
    labels[0, 0, 0], labels[1, 1, 1] = 1, 2
    assert apply(labels, WITHIN, [2], within_labels=[1])[1, 1, 1] == 2


def test_contact_is_the_share_of_the_voxels_around():
    """A voxel in the middle has 26 around it: 9 of one side are 9 / 26 = 0.346 of them."""
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[0], labels[1, 1, 1] = 1, 2
    assert apply(labels, WITHIN, [2], within_labels=[1], min_contact=0.34)[1, 1, 1] == 2
    assert apply(labels, WITHIN, [2], within_labels=[1], min_contact=0.35)[1, 1, 1] == 0
    labels[labels == 0] = 1
    assert apply(labels, WITHIN, [2], within_labels=[1], min_contact=1.0)[1, 1, 1] == 2


def test_with_all_labels_those_to_lie_within_stay():
    labels = row(1, 1, 2, 0, 2, 4)
    assert values(apply(labels, WITHIN, [-1], within_labels=[1])) == [1, 1, 2, 0, 0, 0]


def test_grouped_labels_stay_together_within_a_label():
    labels = row(1, 2, 4, 0, 2, 4)
    together = apply(labels, WITHIN, [2, 4], per_label=False, within_labels=[1])
    assert values(together) == [1, 2, 4, 0, 0, 0]
    assert values(apply(labels, WITHIN, [2, 4], within_labels=[1])) == [1, 2, 0, 0, 0, 0]


def smoothed(labels, apply_to=(-1,), **kwargs):
    return apply(labels, SMOOTH, apply_to, per_label=False, **kwargs)


def test_smoothing_takes_a_spike_and_fills_a_dent():
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[4:12, 4:12, 4:12] = 1
    flat = labels.copy()
    labels[12, 8, 8], labels[4, 8, 8] = 1, 0
    after = smoothed(labels, sigma_mm=1.0)
    assert (after[12, 8, 8], after[4, 8, 8]) == (0, 1)
    np.testing.assert_array_equal(after[4:12, 6:10, 6:10], flat[4:12, 6:10, 6:10])


def test_smoothing_follows_mm_and_not_voxels():
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[:, :, :5] = 1
    labels[4, 4, 5] = 1
    assert smoothed(labels, sigma_mm=1.0)[4, 4, 5] == 0
    assert smoothed(labels, sigma_mm=1.0, spacing_mm=(6.0, 6.0, 6.0))[4, 4, 5] == 1


def test_a_border_that_ends_with_the_image_stays():
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[:, :, :4] = 1
    np.testing.assert_array_equal(smoothed(labels, sigma_mm=2.0), labels)


def test_smoothing_keeps_a_thin_structure_whole():
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[4, 4, 1:8] = 2  # every voxel of it is weaker than its surroundings
    labels[1, 1, 1] = 1
    np.testing.assert_array_equal(smoothed(labels, sigma_mm=2.0), labels)


@given(label_maps, st.sampled_from([0.4, 0.8, 2.0]), st.sampled_from([(-1,), (1,), (1, 2)]))
def test_smoothing_erases_no_component_and_leaves_other_labels_alone(labels, sigma_mm, apply_to):
    after = smoothed(labels, apply_to, sigma_mm=sigma_mm)
    named = [1, 2, 4] if apply_to == (-1,) else apply_to
    others = ~np.isin(labels, [0, *named])
    np.testing.assert_array_equal(after[others], labels[others])
    assert set(np.unique(after[~others])) <= {0, *named}
    for label in named:
        numbers = measure.label(labels == label, connectivity=3)
        assert set(np.unique(numbers[after == label])) | {0} == set(range(numbers.max() + 1))


@given(label_maps)
def test_smoothing_does_not_depend_on_the_numbers_of_the_labels(labels):
    other = np.array([0, 4, 2, 0, 1], np.uint8)  # 1 and 4 change places
    np.testing.assert_array_equal(other[smoothed(labels)], smoothed(other[labels]))


def test_components_that_are_unlikely_on_average_go():
    labels = row(1, 1, 0, 1, 1, 0, 2)
    likely = {
        1: row(0, 0, 0, 0, 0, 0, 0).astype(np.float32),
        2: np.full((1, 1, 7), 0.3, np.float32),
    }
    likely[1][0, 0, [0, 1, 3, 4]] = [0.9, 0.2, 0.4, 0.5]  # means 0.55 and 0.45
    found = apply(labels, LIKELY, probabilities=likely, min_mean_probability=0.5)
    assert values(found) == [1, 1, 0, 0, 0, 0, 0]
    found = apply(labels, LIKELY, probabilities=likely, min_mean_probability=0.45 - 1e-6)
    assert values(found) == [1, 1, 0, 1, 1, 0, 0]


def test_probabilities_of_grouped_labels_are_summed():
    labels = row(1, 2, 0, 1)
    likely = {1: np.full((1, 1, 4), 0.4, np.float32), 2: np.full((1, 1, 4), 0.2, np.float32)}
    together = apply(labels, LIKELY, [1, 2], per_label=False, probabilities=likely)
    assert values(together) == values(labels)
    assert not apply(labels, LIKELY, [1, 2], probabilities=likely).any()


def test_a_step_that_fails_is_named_and_ends_the_strategy(tmp_path, monkeypatch):
    """Nothing of what follows is done: there is no label map."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_calls.py").write_text(
        "def note(labels, mask):\n    open('called', 'w').close()\n    return labels\n"
    )
    steps = [GOOD, GOOD | {"transform": LIKELY}, GOOD | {"transform": "my_calls:note"}]
    strategy = read_strategy(strategy_file(tmp_path, steps))
    with pytest.raises(DataError, match=rf"^step 2 \({LIKELY}\): expected probabilities"):
        postprocess(np.ones((4, 4, 4), np.uint8), strategy, MM)
    assert not (tmp_path / "called").exists()
    with pytest.raises(DataError, match="expected probabilities of label 1, found those of 2"):
        postprocess(np.ones((4, 4, 4), np.uint8), strategy, MM, {2: np.zeros((4, 4, 4))})


OWN = """
import numpy as np

def grow(labels, mask, *, by, spacing_mm):
    if by == 13:
        raise KeyError("by 13\\nnever")
    return np.where(labels, labels.astype(int) + by * int(spacing_mm[2]), 0)

def half(labels, mask):
    return labels[:1] if mask.sum() > 1 else labels / 2
"""


@pytest.fixture
def own_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_steps_of_labels.py").write_text(OWN)

    def step(name, **kwargs):
        return GOOD | {"transform": f"my_steps_of_labels:{name}", "kwargs": kwargs}

    return step


def test_a_transform_of_the_users_own_gets_kwargs_and_what_it_asks_for(tmp_path, own_steps):
    strategy = read_strategy(strategy_file(tmp_path, [own_steps("grow", by=150)]))
    found = postprocess(row(1, 0, 0), strategy, (1.0, 1.0, 2.0))
    assert values(found) == [301, 0, 0]
    assert not needs_probabilities(strategy)


def test_kwargs_of_an_own_transform_are_held_to_its_signature(tmp_path, own_steps):
    steps = [
        own_steps("grow"),
        own_steps("grow", by=1, to=2),
        own_steps("grow", spacing_mm=1, by=1),
    ]
    steps += [own_steps("shrink")]
    with pytest.raises(DataError) as caught:
        read_strategy(strategy_file(tmp_path, steps))
    lines = str(caught.value).splitlines()[1:]
    words = ["missing a required argument: 'by'", "'to'", "spacing_mm, which comes from", "shrink"]
    for number, (line, word) in enumerate(zip(lines, words, strict=True)):
        assert f"steps.{number}: " in line
        assert word in line


@pytest.mark.parametrize(
    ("name", "kwargs", "labels", "words"),
    [
        ("grow", {"by": 13}, (1, 0), "found KeyError"),
        ("half", {}, (1, 1), r"shape \(2, 1, 2\) from it, found"),
        ("half", {}, (1, 0), "of integers"),
        ("grow", {"by": -3}, (1, 0), "labels from 0 to 65535 from it, found -2"),
    ],
)
def test_an_own_transform_that_fails_says_so_in_a_line(
    tmp_path, own_steps, name, kwargs, labels, words
):
    strategy = read_strategy(strategy_file(tmp_path, [own_steps(name, **kwargs)]))
    labels = np.stack([row(*labels)[0], np.zeros((1, 2), np.int16)])
    with pytest.raises(DataError, match=rf"^step 1 \(my_steps_of_labels:{name}\): .*{words}") as e:
        postprocess(labels, strategy, MM)
    assert "\n" not in str(e.value)


def test_a_transform_may_be_made_of_a_mask_by_its_own_kwargs_alone():
    """The function of every transform takes the mask itself, for use without a strategy."""
    labels = row(1, 0, 1, 1)
    kept = TRANSFORMS[TOP](labels, labels == 1)
    assert values(kept) == [0, 0, 1, 1]


def test_the_example_of_the_docs_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/postprocess.md").read_text()
    (tmp_path / "my_steps.py").write_text(text.split("```python\n")[1].split("```")[0])
    step = GOOD | {
        "transform": "my_steps:close_gaps",
        "apply_to_labels": [1],
        "kwargs": {"mm": 3.0},
    }
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[5:11, 5:11, [5, 6, 9, 10]], labels[8, 8, 8] = 1, 2
    found = postprocess(labels, read_strategy(strategy_file(tmp_path, [step])), MM)
    assert (found[8, 8, 7], found[8, 8, 8], found[8, 8, 12]) == (1, 2, 0)


def test_the_docs_name_every_transform_and_kwarg():
    text = (ROOT / "docs/postprocess.md").read_text()
    for name, transform in TRANSFORMS.items():
        assert f"`{name}`" in text
        for kwarg in transform.__kwdefaults__ or {}:
            assert f"`{kwarg}`" in text


def script(tmp_path, *words, strategy):
    command = [sys.executable, ROOT / "workflow/scripts/postprocess.py"]
    command += ["--base-predictions", tmp_path / "in", "--output", tmp_path / "out"]
    command += ["--postprocess-strategy", strategy_file(tmp_path, strategy), *words]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def test_the_command_never_replaces_what_it_reads(tmp_path):
    write_volume(tmp_path / "y/predictions/1.nii.gz", ball(grid((5, 5, 5))))
    before = (tmp_path / "y/predictions/1.nii.gz").read_bytes()
    folder = tmp_path / "y/../y/predictions"
    for words in (("--output", tmp_path / "y"), ("--output", folder, "--case", "1")):
        done = script(tmp_path, "--base-predictions", folder, *words, strategy=[GOOD])
        assert done.returncode == 1
        assert "ERROR: --output: expected another folder than --base-predictions" in done.stderr
    assert (tmp_path / "y/predictions/1.nii.gz").read_bytes() == before


def test_a_bad_case_does_not_keep_the_others_from_their_scores(tmp_path):
    """The second time: a case is gone, one is broken, and the strategy is the copy itself."""
    out, whole = tmp_path / "out", ball(grid((9, 9, 9)))
    for case in ("bad", "gone", "good"):
        write_volume(tmp_path / f"in/{case}.nii.gz", whole)
    write_json(tmp_path / "e.json", {"organ": {"labels": [1], "metrics": {"dice": {}}}})
    assert script(tmp_path, strategy=[GOOD]).returncode == 0
    (out / "postprocess_results_lesions.csv").write_text("old")
    (tmp_path / "in/gone.nii.gz").unlink()
    write_volume(tmp_path / "mask.nii.gz", whole)
    (tmp_path / "in/bad.nii.gz").write_bytes(b"not an image")
    rows = [{"id": case, "mask": tmp_path / "mask.nii.gz"} for case in ("bad", "good")]
    write_rows(tmp_path / "paths.csv", ["id", "mask"], rows)
    words = ["--postprocess-strategy", out / "strategy.json", "--eval-config", tmp_path / "e.json"]
    done = script(tmp_path, *words, "--paths-csv", tmp_path / "paths.csv", strategy=[GOOD])
    assert done.returncode == 1
    assert "case bad: " in done.stderr.splitlines()[-1]
    assert [path.name for path in (out / "predictions").glob("*.gz")] == ["good.nii.gz"]
    scores = {row["id"]: row["organ_dice"] for row in read_rows(out / "postprocess_results.csv")}
    assert (scores["bad"], scores["good"]) == ("0.0", "1.0")
    assert read_json(out / "strategy.json") == [GOOD]
    assert not (out / "postprocess_results_lesions.csv").exists()


def test_the_command_looks_at_probabilities(tmp_path):
    """The labels of config.json say which is whose; 004 lacks its file, 003 is on another grid."""
    geometry = grid((2, 2, 6))
    labels = np.zeros(geometry.shape, np.uint8)
    labels[..., :2], labels[..., 4:] = 4, 4
    likely = np.zeros((3, *geometry.shape), np.float32)
    likely[2, ..., :2], likely[1, ..., 4:] = 0.9, 0.9
    for case in ("001", "002", "003", "004"):
        write_volume(tmp_path / f"in/{case}.nii.gz", Volume(labels, geometry))
    write_probabilities(tmp_path / "in/probabilities/001.nii.gz", likely, geometry)
    write_probabilities(tmp_path / "in/probabilities/002.nii.gz", likely[:2], geometry)
    other = grid(geometry.shape, (1.0, 1.0, 2.0))
    write_probabilities(tmp_path / "in/probabilities/003.nii.gz", likely, other)
    strategy = [GOOD | {"transform": LIKELY}]
    done = script(tmp_path, strategy=strategy)
    assert done.returncode == 1
    assert "expected --config with the config.json" in done.stderr
    write_json(tmp_path / "config.json", {"dataset_info": {"labels": [0, 2, 4]}})
    done = script(tmp_path, "--config", tmp_path / "config.json", strategy=strategy)
    assert done.returncode == 1
    assert "case 002: " in done.stderr
    assert "expected the 3 classes of --config, found 2" in done.stderr
    assert "expected the grid of the label map" in done.stderr
    assert "probabilities/004.nii.gz: expected a file, found none" in done.stderr
    assert [path.name for path in (tmp_path / "out/predictions").glob("*.gz")] == ["001.nii.gz"]
    found = read_labels(tmp_path / "out/predictions/001.nii.gz").array
    assert (found[..., :2] == 4).all()
    assert not found[..., 2:].any()


def test_a_failing_step_is_told_by_strategy_number_and_transform(tmp_path):
    write_volume(tmp_path / "in/007.nii.gz", Volume(row(1, 2), grid((1, 1, 2))))
    (tmp_path / "in/probabilities").mkdir()
    write_probabilities(
        tmp_path / "in/probabilities/007.nii.gz", np.ones((2, 1, 1, 2), np.float32), grid((1, 1, 2))
    )
    write_json(tmp_path / "config.json", {"dataset_info": {"labels": [0, 2]}})
    steps = [GOOD | {"kwargs": {"small_object_threshold": 1}}, GOOD | {"transform": LIKELY}, GOOD]
    done = script(tmp_path, "--config", tmp_path / "config.json", strategy=steps)
    assert done.returncode == 1
    line = f"mine.json: step 2 ({LIKELY}): expected probabilities of label 1, found those of 0, 2."
    assert line in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "out/predictions").glob("*.gz"))
