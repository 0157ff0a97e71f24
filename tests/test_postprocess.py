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
from mist_core.io import Volume, read_labels, write_volume
from mist_core.postprocess import TRANSFORMS, Step, postprocess, read_strategy, unknown_labels

TOP = "get_top_k_connected_components"
SMALL = "remove_small_objects"
FILL = "fill_holes_with_label"
REPLACE = "replace_small_objects_with_label"
label_maps = arrays(np.uint8, (4, 5, 6), elements=st.sampled_from([0, 0, 0, 1, 2, 4]))


def apply(labels, transform, apply_to=(-1,), per_label=True, **kwargs):
    step = Step(
        transform=transform, apply_to_labels=list(apply_to), per_label=per_label, kwargs=kwargs
    )
    return postprocess(labels, [step])


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


@pytest.mark.parametrize("transform", TRANSFORMS)
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
    once = apply(labels, transform)
    np.testing.assert_array_equal(apply(once, transform), once)


@given(label_maps, st.sampled_from(sorted(TRANSFORMS)))
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
    assert values(postprocess(labels, [remove, replace])) == [2, 0, 0, 1, 1]
    assert values(postprocess(labels, [replace, remove])) == [2, 2, 0, 1, 1]


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
    np.testing.assert_array_equal(postprocess(labels, []), labels)


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
    ]
    with pytest.raises(DataError) as caught:
        read_strategy(strategy_file(tmp_path, steps))
    lines = str(caught.value).splitlines()
    assert lines[0] == "postprocess: 6 problems"
    for number, (line, word) in enumerate(
        zip(
            lines[1:],
            ["'melt'", "'threshold'", "'3'", "-3", "[0, 1]", "per_label"],
            strict=True,
        )
    ):
        assert f"mine.json: steps.{number}: " in line
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
    ],
)
def test_a_value_out_of_range_is_refused(tmp_path, transform, name, value):
    step = GOOD | {"transform": transform, "kwargs": {name: value}}
    with pytest.raises(DataError, match=f"expected {name} like .* found {value}"):
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
        assert postprocess(labels, read_strategy(file))[7, 7, 7] == 0


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
