"""Ensembles: what follows from votes and probabilities, and what is refused."""

import json
import weakref

import numpy as np
import pytest
from conftest import grid
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_commands import label_map, mist

from mist_core.ensemble import (
    BACKENDS,
    ensemble,
    majority_vote,
    mean_probabilities,
    staple,
)
from mist_core.errors import DataError
from mist_core.io import Volume, read_labels, read_probabilities, write_probabilities
from mist_core.labels import strongest

SHAPE = (2, 2, 3)
GRID = grid(SHAPE)
VALUES = (1, 2, 300, 65535)
MAPS = st.lists(
    arrays(np.uint16, SHAPE, elements=st.sampled_from([0, *VALUES])), min_size=2, max_size=5
)
# Multiples of a power of two: their sums are exact, so ties are ties.
PARTS = st.lists(
    arrays(np.float32, (3, *SHAPE), elements=st.integers(0, 1024).map(lambda n: n / 1024)),
    min_size=2,
    max_size=5,
)


def line(*values):
    """Values along x: a label map of one row."""
    return np.array(values, np.uint8).reshape(1, 1, -1)


def mean(parts, weights=None):
    named = ((str(number), part, GRID) for number, part in enumerate(parts))
    return mean_probabilities(named, weights)[0]


# --- label maps -----------------------------------------------------------------------------------


def test_a_tie_is_background_and_never_a_label_that_nobody_gave():
    found = majority_vote([line(1, 2, 1), line(1, 1, 0)])
    assert found.ravel().tolist() == [1, 0, 0]
    assert majority_vote([line(1), line(2), line(3)]).item() == 0
    assert majority_vote([line(1), line(2), line(2), line(1), line(3)]).item() == 0


def test_most_votes_win_and_weights_count_as_so_many_votes():
    maps = [line(1, 1, 1, 0), line(1, 2, 2, 3), line(2, 2, 3, 3)]
    assert majority_vote(maps).ravel().tolist() == [1, 2, 0, 3]
    assert majority_vote(maps, [3, 1, 1]).ravel().tolist() == [1, 1, 1, 0]
    assert majority_vote(maps, [2, 1, 1]).ravel().tolist() == [1, 0, 1, 0]


def test_weights_that_add_up_to_a_tie_but_for_rounding_are_a_tie():
    assert 0.1 + 0.2 != 0.3
    assert majority_vote([line(1), line(1), line(2)], [0.1, 0.2, 0.3]).item() == 0


@given(MAPS)
def test_a_vote_is_the_one_counted_voxel_by_voxel(maps):
    def counted(votes):
        labels, counts = np.unique(votes, return_counts=True)
        best = labels[counts == counts.max()]
        return best[0] if len(best) == 1 else 0

    expected = np.apply_along_axis(counted, 0, np.stack(maps))
    np.testing.assert_array_equal(majority_vote(maps), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@given(maps=MAPS)
def test_what_comes_out_are_labels_that_went_in_or_background(backend, maps):
    found = BACKENDS[backend](maps)
    assert found.dtype == np.uint16
    assert set(found.ravel().tolist()) <= {0, *np.concatenate(maps).ravel().tolist()}


@pytest.mark.parametrize("backend", BACKENDS)
@given(maps=MAPS, count=st.integers(2, 4))
def test_maps_that_are_alike_give_themselves(backend, maps, count):
    np.testing.assert_array_equal(BACKENDS[backend](maps[:1] * count), maps[0])


@pytest.mark.parametrize(("combine", "several"), [(majority_vote, MAPS), (mean, PARTS)])
@given(data=st.data())
def test_the_order_of_maps_with_their_weights_makes_no_difference(combine, several, data):
    maps = data.draw(several)
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(maps), max_size=len(maps)))
    order = data.draw(st.permutations(range(len(maps))))
    turned = combine([maps[i] for i in order], [weights[i] for i in order])
    np.testing.assert_array_equal(turned, combine(maps, weights))


@given(MAPS, st.data(), st.floats(0.001, 1000))
def test_weights_of_votes_count_only_in_proportion(maps, data, factor):
    weights = data.draw(st.lists(st.integers(1, 4), min_size=len(maps), max_size=len(maps)))
    scaled = majority_vote(maps, [factor * weight for weight in weights])
    np.testing.assert_array_equal(scaled, majority_vote(maps, weights))


def test_equal_weights_are_none():
    maps = [line(1, 2, 3), line(1, 2, 4), line(2, 1, 4)]
    np.testing.assert_array_equal(majority_vote(maps, [0.7] * 3), majority_vote(maps))


@given(MAPS)
def test_staple_does_not_know_the_order_of_maps(maps):
    np.testing.assert_array_equal(staple(maps[::-1]), staple(maps))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("label", [255, 256, 300, 65535])
def test_large_labels_do_not_wrap(backend, label):
    maps = [np.full(SHAPE, label, np.uint16), np.full(SHAPE, label, np.uint16)]
    maps += [np.full(SHAPE, 1, np.uint8)]
    volumes = {str(number): Volume(array, GRID) for number, array in enumerate(maps)}
    assert np.unique(ensemble(volumes, backend).array).tolist() == [label]


def test_maps_of_other_grids_are_refused_by_name():
    volumes = {"one.nii.gz": Volume(np.zeros(SHAPE, np.uint8), GRID)}
    volumes["two.nii.gz"] = Volume(np.zeros(SHAPE, np.uint8), grid(SHAPE, (1.0, 1.0, 1.1)))
    with pytest.raises(DataError, match=r"^two\.nii\.gz: expected the grid of the others"):
        ensemble(volumes, "staple")


# --- probabilities --------------------------------------------------------------------------------


def test_the_mean_of_probabilities_by_hand():
    parts = [np.zeros((2, *SHAPE), np.float32) for _ in range(2)]
    parts[0][0], parts[0][1] = 0.75, 0.25
    parts[1][0], parts[1][1] = 0.125, 0.875
    assert mean(parts)[:, 0, 0, 0].tolist() == [0.4375, 0.5625]
    assert mean(parts, [2, 1])[:, 0, 0, 0] == pytest.approx([1.625 / 3, 1.375 / 3])
    assert np.unique(strongest(mean(parts), (0, 4))).tolist() == [4]
    assert np.unique(strongest(mean(parts, [2, 1]), (0, 4))).tolist() == [0]


def test_the_lowest_of_equally_probable_classes_wins():
    parts = [np.zeros((3, *SHAPE), np.float32) for _ in range(3)]
    for number, part in enumerate(parts):
        part[[1, 2, 1][number]] = [0.5, 0.7, 0.2][number]
    assert np.unique(strongest(mean(parts), (0, 7, 9))).tolist() == [7]


@pytest.mark.parametrize(
    ("labels", "dtype"), [((0, 2, 255), np.uint8), ((0, 2, 256), np.uint16), ((0, 1), np.uint8)]
)
def test_classes_become_labels_in_a_type_that_holds_them(labels, dtype):
    certain = np.eye(len(labels), dtype=np.float32).reshape(len(labels), 1, 1, -1)
    found = strongest(certain, labels)
    assert found.dtype == dtype
    assert found.ravel().tolist() == list(labels)


@given(PARTS, st.lists(st.floats(0.01, 100), min_size=4, max_size=4))
def test_probabilities_that_are_alike_give_themselves(parts, weights):
    np.testing.assert_array_equal(mean(parts[:1] * 4), parts[0])
    np.testing.assert_array_equal(mean(parts[:1] * 4, weights), parts[0])


@given(PARTS, st.data())
def test_weights_of_probabilities_count_only_in_proportion(parts, data):
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(parts), max_size=len(parts)))
    factor = data.draw(st.floats(0.001, 1000))
    scaled = mean(parts, [factor * weight for weight in weights])
    np.testing.assert_allclose(scaled, mean(parts, weights), rtol=1e-6)


@given(PARTS)
def test_a_mean_lies_between_the_least_and_the_most(parts):
    found = mean(parts)
    assert (found >= np.min(parts, axis=0) * (1 - 1e-6)).all()  # as float32 rounds
    assert (found <= np.max(parts, axis=0) * (1 + 1e-6)).all()


def test_one_file_of_probabilities_is_held_at_a_time():
    held = []

    def parts():
        for _ in range(5):
            part = np.full((2, *SHAPE), 0.5, np.float32)
            held.append(weakref.ref(part))
            assert sum(each() is not None for each in held) <= 2  # the last, and the next
            yield "a", part, GRID

    mean_probabilities(parts())
    assert len(held) == 5


# --- the command ----------------------------------------------------------------------------------


def probable(folder, name, classes, geometry=None, n_classes=3):
    """A file in which each voxel along x has a class with probability 0.8."""
    array = np.full((n_classes, 1, 1, len(classes)), 0.2 / (n_classes - 1), np.float32)
    array[classes, 0, 0, range(len(classes))] = 0.8
    write_probabilities(folder / name, array, geometry or grid(array.shape[1:]))


@pytest.fixture
def folders(tmp_path):
    """Three folders with probabilities of two cases, and the config of labels 0, 2 and 300."""
    (tmp_path / "config.json").write_text(json.dumps({"dataset_info": {"labels": [0, 2, 300]}}))
    for name, classes in (("one", [0, 1, 2]), ("two", [0, 2, 2]), ("three", [1, 1, 2])):
        for case in "xy":
            probable(tmp_path / name, f"{case}.nii.gz", classes)
    return [tmp_path / name for name in ("one", "two", "three")]


def combine(folders, *more):
    home = folders[0].parent
    return mist(
        "ensemble",
        *("--predictions", *folders, "--output", home / "out"),
        *("--input-type", "probabilities", "--config", home / "config.json", *more),
    )


def test_probabilities_become_label_maps_with_the_labels_of_the_config(folders, tmp_path):
    done = combine(folders)
    assert done.returncode == 0, done.stderr
    for case in "xy":
        assert read_labels(tmp_path / f"out/{case}.nii.gz").array.ravel().tolist() == [0, 2, 300]
    assert not (tmp_path / "out/probabilities").exists()


def test_weights_and_the_mean_itself(folders, tmp_path):
    weights = ("--probability-ensemble-backend", "weighted", "--weights", 1, 5, 1)
    done = combine(folders, *weights, "--output-probs")
    assert done.returncode == 0, done.stderr
    assert read_labels(tmp_path / "out/x.nii.gz").array.ravel().tolist() == [0, 300, 300]
    mean_of_x, _ = read_probabilities(tmp_path / "out/probabilities/x.nii.gz")
    expected = [6 * 0.8 + 0.1, 6 * 0.1 + 0.8, 7 * 0.1]  # where two of three say class 0
    np.testing.assert_allclose(mean_of_x[:, 0, 0, 0], np.divide(expected, 7), rtol=1e-6)
    before = (tmp_path / "out/x.nii.gz").stat().st_mtime_ns
    assert combine(folders, *weights, "--output-probs").returncode == 0
    assert (tmp_path / "out/x.nii.gz").stat().st_mtime_ns == before


def test_a_case_that_does_not_fit_is_named_and_the_others_are_done(folders, tmp_path):
    probable(folders[1], "x.nii.gz", [0, 1, 2], n_classes=4)
    for folder in folders:
        probable(folder, "z.nii.gz", [0, 1, 2])
    probable(folders[2], "z.nii.gz", [0, 1, 2], grid((1, 1, 3), (2.0, 2.0, 2.0)))
    done = combine(folders)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    (of_x,) = (text for text in lines if "case x: " in text and "ERROR" in text)
    (of_z,) = (text for text in lines if text.startswith("case z: "))
    assert f"{folders[1]}/x.nii.gz: expected 3 classes as in the others, found 4" in of_x
    assert f"{folders[2]}/z.nii.gz: expected the grid of the others" in of_z
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["y.nii.gz"]


def test_a_config_of_other_labels_is_refused(folders, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"dataset_info": {"labels": [0, 2]}}))
    done = combine(folders)
    assert done.returncode == 1
    assert f"one/x.nii.gz: expected 2 classes as in {tmp_path}/config.json, found 3." in done.stderr
    (tmp_path / "config.json").write_text("{}")
    done = combine(folders)
    assert done.returncode == 1
    assert "config.json: expected dataset_info.labels with a label value for every" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", 1, 1, 1], "expected the backend weighted or majority_vote, found mean."),
        (["--probability-ensemble-backend", "weighted"], "expected one for each folder, found no"),
        (
            ["--probability-ensemble-backend", "weighted", "--weights", 1, 0, 1],
            "--weights: expected 3 numbers above 0, one for each folder, found 1 0 1.",
        ),
        (
            ["--input-type", "labels", "--ensemble-backend", "majority_vote", "--weights", 1, 2],
            "--weights: expected 3 numbers above 0, one for each folder, found 1 2.",
        ),
        (
            ["--input-type", "labels", "--weights", 1, 1, 1],
            "expected the backend weighted or majority_vote, found staple.",
        ),
        (["--input-type", "labels", "--output-probs"], "expected --input-type probabilities"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(folders, words, message):
    done = combine(folders, *words)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_named_twice_is_refused(tmp_path):
    label_map(tmp_path / "one", "x.nii.gz", np.zeros((4, 4, 4)))
    twice = [tmp_path / "one", tmp_path / "two/../one"]
    (tmp_path / "two").mkdir()
    done = mist("ensemble", "--predictions", *twice, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "--predictions: expected each folder once, found one again" in done.stderr


def test_a_folder_of_predictions_is_not_written_into(tmp_path):
    for name in ("one", "two"):
        label_map(tmp_path / name, "x.nii.gz", np.zeros((4, 4, 4)))
    folders = [tmp_path / name for name in ("one", "two")]
    done = mist("ensemble", "--predictions", *folders, "--output", tmp_path / "two")
    assert done.returncode == 1
    assert f"--output: expected a folder of its own, found {tmp_path}/two" in done.stderr


def test_weighted_votes_by_command(tmp_path):
    for name, label in (("one", 1), ("two", 2), ("three", 2)):
        label_map(tmp_path / name, "x.nii.gz", np.full((4, 4, 4), label))
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for weights, label in (((3, 1, 1), 1), ((2, 1, 1), 0), ((1, 1, 1), 2)):
        done = mist(
            "ensemble",
            *("--predictions", *folders, "--output", tmp_path / "out"),
            *("--ensemble-backend", "majority_vote", "--weights", *weights),
        )
        assert done.returncode == 0, done.stderr
        assert np.unique(read_labels(tmp_path / "out/x.nii.gz").array).tolist() == [label]
