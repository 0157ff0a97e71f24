"""Cases that a report shows: which, which slices, in which colours, and what words say of them."""

import base64
import io
import itertools
import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
from conftest import ball, geometries, grid
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from mist_core.errors import DataError
from mist_core.io import Volume
from mist_core.pictures import COLOURS, colour_of, rgb, shown_slice
from mist_core.report import figures, viewer
from mist_core.report.cases import (
    PANEL,
    SPACE,
    Region,
    choose,
    contours,
    errors,
    pictures,
    region_of,
    slice_panels,
)
from mist_core.report.comparison import (
    CONFUSED,
    NOTHING,
    ONLY_PREDICTED,
    ONLY_REFERENCE,
    RIGHT,
    STATE_COLOURS,
    compare,
    most_wrong,
    to_grey,
    worst_slice,
)
from mist_core.report.viewer import block_means, scene, steps_of

TWO = {"organ": [1, 2], "tumour": [2]}  # one within the other


def highest_best(score):
    return -score


def chosen_of(scores, failed=(), seed=0, what="Dice"):
    numbers = {name: float(value) for name, value in scores.items()}
    return choose(numbers, highest_best, what, failed, seed)


def rules(scores, **options):
    return {chosen.case_id: chosen.rule for chosen in chosen_of(scores, **options)}


def volume(array, spacing=(1.0, 1.0, 1.0)):
    return Volume(np.asarray(array), grid(np.shape(array), spacing))


# Which cases.


def test_the_choice_by_hand():
    found = chosen_of({f"c{n}": n / 10 for n in range(9)})
    assert [c.case_id for c in found[:5]] == ["c0", "c2", "c4", "c6", "c8"]
    assert [c.rule for c in found[:5]] == [
        "worst: Dice 0.000",
        "worse quartile: Dice 0.200",
        "median: Dice 0.400",
        "better quartile: Dice 0.600",
        "best: Dice 0.800",
    ]
    assert len(found) == 7
    for one in found[5:]:
        assert one.case_id in {"c1", "c3", "c5", "c7"}
        assert one.rule == f"drawn at random: Dice 0.{one.case_id[1]}00"


def test_cases_without_a_score_come_first():
    found = chosen_of({"a": 0.5, "z": "nan", "m": "nan", "b": 0.7})
    assert (found[0].case_id, found[0].rule) == ("m", "no Dice, one of 2 cases")
    assert [c.case_id for c in found[1:]] == ["a", "b"]
    assert [c.case_id for c in chosen_of({"z": "nan"})] == ["z"]


def test_failed_cases_take_no_place_of_others():
    scores = {f"c{n}": n / 10 for n in range(9)}
    failed = {"f2": 0.0, "f1": 0.0, "f3": float("nan")}
    first, *others = chosen_of(scores | failed, failed)
    assert first.case_id == "f1"
    assert first.rule == "failed (no usable prediction or reference), one of 3 cases"
    assert others == chosen_of(scores)


def test_far_is_worse_where_the_score_is_a_distance():
    found = choose({"near": 1.0, "far": 9.0}, lambda score: score, "HD95")
    assert [c.case_id for c in found] == ["far", "near"]


def test_one_case_has_all_the_rules():
    words = "worst, worse quartile, median, better quartile and best: Dice 0.500"
    assert rules({"only": 0.5}) == {"only": words}


@given(
    st.dictionaries(
        st.text("ab<&é1", min_size=1, max_size=4),
        st.sampled_from([0.0, 0.25, 0.5, 1.0, "nan"]),
        min_size=1,
        max_size=20,
    ),
    st.integers(0, 3),
    st.randoms(),
)
def test_the_choice_follows_from_the_scores_alone(values, seed, generator):
    found = chosen_of(values, seed=seed)
    rows = list(values.items())
    generator.shuffle(rows)
    assert chosen_of(dict(rows), seed=seed) == found
    names = [c.case_id for c in found]
    assert len(set(names)) == len(names) <= 8
    known = [v for v in values.values() if v != "nan"]
    scored = [c for c in found if not c.rule.startswith("no ")]
    assert len(scored) == min(len(known), len(scored))
    if known:
        assert f"Dice {min(known):.3f}" in scored[0].rule
        assert any("best" in c.rule and f"{max(known):.3f}" in c.rule for c in scored)


def test_another_seed_draws_others():
    scores = {f"c{n:02}": n / 100 for n in range(60)}
    drawn = {tuple(c.case_id for c in chosen_of(scores, seed=s)[5:]) for s in range(5)}
    assert len(drawn) > 1


# What is right and wrong.


def test_states_by_hand_where_classes_overlap():
    reference = volume([[[0, 0, 1, 2, 1, 2, 0, 9, 5]]])
    prediction = volume([[[0, 1, 0, 2, 2, 1, 2, 1, 0]]])
    case = compare("a", reference, reference, prediction, TWO, ignore_label=9)
    assert case.state.ravel().tolist() == [
        NOTHING,
        ONLY_PREDICTED,
        ONLY_REFERENCE,
        RIGHT,
        ONLY_PREDICTED,  # organ in both, tumour in one
        ONLY_REFERENCE,
        ONLY_PREDICTED,
        NOTHING,  # ignored
        NOTHING,  # 5 is of no class
    ]
    assert case.errors_of_classes() == [3, 3]


def test_a_voxel_of_another_class_is_wrong_twice():
    case = compare("a", volume([[[1]]]), volume([[[1]]]), volume([[[2]]]), {"a": [1], "b": [2]})
    assert case.state.item() == CONFUSED
    assert case.errors_of_classes() == [1, 1]


@given(st.integers(0, 2**32 - 1))
def test_states_are_those_of_masks(seed):
    generator = np.random.default_rng(seed)
    classes = {"a": [1, 2], "b": [2, 3], "c": [4]}
    reference, prediction = (generator.integers(0, 6, (3, 4, 5), dtype=np.uint8) for _ in range(2))
    case = compare("a", volume(reference), volume(reference), volume(prediction), classes)
    masks = [(np.isin(reference, m), np.isin(prediction, m)) for m in classes.values()]
    missed = np.any([r & ~p for r, p in masks], axis=0)
    invented = np.any([p & ~r for r, p in masks], axis=0)
    assert np.array_equal(np.isin(case.state, (ONLY_REFERENCE, CONFUSED)), missed)
    assert np.array_equal(np.isin(case.state, (ONLY_PREDICTED, CONFUSED)), invented)
    assert case.errors_of_classes() == [int((r ^ p).sum()) for r, p in masks]
    for number, (r, p) in enumerate(masks):
        assert np.array_equal(case.mask(case.reference, number), r)
        assert np.array_equal(case.mask(case.prediction, number), p)


def test_the_slice_of_largest_error_is_found():
    reference, prediction = np.zeros((2, 6, 7, 8), np.uint8)
    reference[4, 2:5, 2:5] = 1
    prediction[1, 3, :2], prediction[5, 3, 7] = 1, 1
    case = compare("a", volume(reference), volume(reference), volume(prediction), {"a": [1]})
    assert [worst_slice(case, axis) for axis in range(3)] == [4, 3, 2]
    same = compare("a", volume(reference), volume(reference), volume(reference), {"a": [1]})
    assert worst_slice(same, 0) == 4
    empty = volume(np.zeros_like(reference))
    assert worst_slice(compare("a", empty, empty, empty, {"a": [1]}), 0) == 3


def test_a_prediction_on_another_grid_is_refused():
    reference = ball(grid((8, 9, 10)))
    moved = replace(reference, geometry=replace(reference.geometry, origin=(0.0, 0.5, 0.0)))
    with pytest.raises(DataError, match="case_7: expected a prediction on the grid of the ref"):
        compare("case_7", reference, reference, moved, {"a": [1]})


def test_an_image_on_another_grid_is_brought_to_the_labels():
    fine = grid((12, 12, 12))
    ramp = Volume(np.arange(12, dtype=np.float32) * np.ones((12, 12, 1), np.float32), fine)
    labels = ball(fine.with_spacing((2.0, 2.0, 2.0)))
    grey = compare("a", ramp, labels, labels, {"a": [1]}).grey
    assert grey.shape == (6, 6, 6)
    assert (np.diff(grey[3, 3].astype(int)) > 0).all()


def grey_of(values, labelled=()):
    values = np.asarray(values, np.float32).reshape(1, 1, -1)
    mask = np.zeros(values.shape, bool)
    mask[0, 0, list(labelled)] = True
    return to_grey(values, mask).ravel().tolist()


def test_grey_values_of_any_image():
    assert grey_of([7] * 5) == grey_of([np.nan] * 5) == grey_of([np.inf] * 5) == [0] * 5
    assert grey_of([7] * 5, [2]) == [0] * 5
    assert grey_of([0, 5, 5, 0]) == [0, 255, 255, 0]
    ramp = np.linspace(0, 100, 10_000)
    ramp[0], ramp[1] = np.nan, np.inf
    grey = grey_of(ramp)
    assert (grey[0], grey[1], grey[2], grey[-1]) == (0, 0, 0, 255)
    assert abs(grey[5000] - 127) <= 1


def test_the_window_is_made_for_what_is_labelled():
    # Air, soft tissue of 0 to 100 and bone: a label of 40 to 60 is seen from 20 to 80.
    image = [-1000.0] * 500 + list(np.linspace(0, 100, 1001)) + [1500.0] * 500
    grey = grey_of(image, range(900, 1101))  # 40 to 60
    assert abs(grey[1000] - 127) <= 3
    assert grey[500 + 205] < 8
    assert grey[500 + 195] == 0
    assert grey[500 + 795] > 247
    assert grey[500 + 805] == 255


def test_a_small_bright_lesion_is_not_saturated():
    grey = grey_of([*range(1000), 5000, 5500, 6000], [1000, 1001, 1002])
    assert 0 < grey[1000] < grey[1001] < grey[1002]


def phantom():
    """A head that differs in all six directions, in LPS, with a prediction that is off."""
    shape = (10, 14, 18)
    z, y, x = np.indices(shape)
    image = (100.0 * (x > 11) + 60.0 * (y > 9) + 30.0 * (z > 6)).astype(np.float32)
    reference = ((z > 2) & (z < 8) & (y > 2) & (y < 9) & (x > 4) & (x < 12)).astype(np.uint8)
    prediction = np.roll(reference, (1, 2), (1, 2))
    prediction[5:, 6:8] *= 2
    geometry = grid(shape, (2.0, 1.0, 1.5))
    return [Volume(array, geometry) for array in (image, reference, prediction)]


def turned(one, order, flips):
    array = np.flip(one.array.transpose(order), tuple(a for a in range(3) if flips[a]))
    return Volume(np.ascontiguousarray(array), one.geometry.moved_axes(order, flips))


@given(st.permutations([0, 1, 2]), st.tuples(*[st.booleans()] * 3))
@settings(max_examples=5)
def test_pictures_do_not_depend_on_how_a_file_is_turned(order, flips):
    image, reference, prediction = phantom()
    found = pictures("a", compare("a", image, reference, prediction, TWO))
    other = [turned(one, tuple(order), flips) for one in (image, reference, prediction)]
    assert pictures("a", compare("a", *other, TWO)) == found


def test_pictures_are_as_radiologists_look():
    array = np.zeros((4, 5, 6))
    array[3], array[:, 0], array[:, :, 5] = 1, 2, 3  # superior, anterior, left
    assert shown_slice(array, 0, 1)[0, 2] == 2
    assert shown_slice(array, 0, 1)[2, -1] == 3
    assert shown_slice(array, 1, 2)[0, 2] == 1
    assert shown_slice(array, 1, 2)[2, -1] == 3
    assert shown_slice(array, 2, 2)[0, 2] == 1
    assert shown_slice(array, 2, 2)[2, 0] == 2


# What is drawn.


def test_errors_have_their_colours():
    state = np.array([[NOTHING, RIGHT], [ONLY_PREDICTED, ONLY_REFERENCE], [CONFUSED, NOTHING]])
    region = Region(0, 0, 3, 2, 60, 40)
    grey = np.full((60, 40), 100, np.uint8)
    drawn = errors(grey, state.astype(np.uint8), region)
    assert drawn[10, 10].tolist() == drawn[50, 30].tolist() == [50, 50, 50]
    blue = 0.35 * 50 + 0.65 * np.array(rgb(STATE_COLOURS[RIGHT]))
    assert np.abs(drawn[10, 30] - blue).max() < 1
    assert tuple(drawn[30, 10]) == rgb(STATE_COLOURS[ONLY_PREDICTED])
    assert tuple(drawn[30, 30]) == rgb(STATE_COLOURS[ONLY_REFERENCE])
    striped = {tuple(pixel) for pixel in drawn[40:, :20].reshape(-1, 3).tolist()}
    assert striped == {rgb(STATE_COLOURS[s]) for s in (ONLY_PREDICTED, ONLY_REFERENCE)}


def test_colours_of_errors_differ_in_lightness():
    weights = np.array([0.2126, 0.7152, 0.0722])
    lightness = sorted(weights @ (np.array(rgb(c)) / 255) ** 2.2 for c in STATE_COLOURS.values())
    assert min((b + 0.05) / (a + 0.05) for a, b in itertools.pairwise(lightness)) > 1.3
    assert not set(COLOURS) & set(STATE_COLOURS.values())


def test_contours_lie_on_the_edges_of_masks():
    mask = np.zeros((10, 10), bool)
    mask[2:8, 3:7] = True
    black = Image.new("RGB", (200, 200))
    nothing = np.zeros_like(mask)
    region = Region(0, 0, 10, 10, 200, 200)
    solid = np.asarray(contours(black, [[nothing, nothing], [mask, nothing]], region))
    assert tuple(solid[100, 60]) == rgb(colour_of(2))  # left edge: voxel 3
    assert tuple(solid[100, 140]) == rgb(colour_of(2))
    assert tuple(solid[40, 100]) == tuple(solid[160, 100]) == rgb(colour_of(2))
    assert solid[41, 62].any()  # the corner is not cut off
    assert not solid[100, 100].any()
    assert not solid[100, 40].any()
    dashed = np.asarray(contours(black, [[nothing, nothing], [nothing, mask]], region))
    share = (dashed[60:140, 60] == rgb(colour_of(2))).all(axis=1).mean()
    assert 0.4 < share < 0.7
    assert (solid[60:140, 60] == rgb(colour_of(2))).all()


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (10.0, 1.0), (1.0, 10.0)])
def test_a_square_is_a_square_in_mm(spacing):
    rows, columns = (round(60 / mm) for mm in spacing)
    labelled = np.zeros((rows * 3, columns * 3), bool)
    labelled[rows : 2 * rows, columns : 2 * columns] = True
    region = region_of(labelled, spacing)
    height = 60 / spacing[0] * region.height / region.rows
    width = 60 / spacing[1] * region.width / region.columns
    assert height == pytest.approx(width, rel=0.02)
    assert region.top <= rows
    assert region.top + region.rows >= 2 * rows
    assert region.left <= columns
    assert region.left + region.columns >= 2 * columns


@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.floats(0.3, 8), st.floats(0.3, 8)),
    st.integers(0, 2**32 - 1),
)
def test_a_region_holds_all_labels(shape, spacing, seed):
    labelled = np.random.default_rng(seed).random(shape) > 0.97
    region = region_of(labelled, spacing)
    assert region.cut(labelled).sum() == labelled.sum()
    assert region.cut(labelled).shape == (region.rows, region.columns)
    assert region.width == PANEL
    edge = max(spacing) / min(spacing)
    assert 0.3 / edge < region.height / region.width < 1.6 * edge


def test_a_region_beyond_the_slice_is_black_there():
    values = np.arange(1, 7, dtype=np.uint8).reshape(2, 3)
    cut = Region(-1, 1, 4, 3, 40, 30).cut(values)
    assert cut.tolist() == [[0, 0, 0], [2, 3, 0], [5, 6, 0], [0, 0, 0]]


def test_both_panels_are_of_the_same_region():
    image, reference, prediction = phantom()
    case = compare("a", image, reference, prediction, TWO)
    found = slice_panels(case, 0, worst_slice(case, 0), [0, 1])
    height = next(y for y in range(10, len(found)) if (found[y] == 255).all())
    assert found.shape[1] == 2 * PANEL + SPACE
    right = found[:height, PANEL + SPACE :]
    for state in (ONLY_PREDICTED, ONLY_REFERENCE):
        assert (right == rgb(STATE_COLOURS[state])).all(axis=2).any()
    assert not (found[:height, :PANEL] == rgb(STATE_COLOURS[ONLY_PREDICTED])).all(axis=2).any()
    assert (found[:height, :PANEL] == rgb(colour_of(1))).all(axis=2).any()


def test_words_say_what_is_seen():
    reference, prediction = np.zeros((2, 5, 6, 7), np.uint8)
    reference[3, 2:4, 2:5], prediction[3, 2:4, 3:6] = 1, 1
    case = compare("p<1>", volume(reference), volume(reference), volume(prediction), {"organ": [1]})
    first, *_ = pictures("p<1>", case, ("t1", "t2"))
    counts = "4 of 8 labelled voxels differ in any class: 2 only predicted (FP), 2 missed (FN)."
    assert first.caption == (
        f"Axial slice 4 of 5 (S 3.0 mm), the one with most errors: {counts} The image is t1."
    )
    assert first.alt == (
        "Case p<1>, axial slice 4 of 5 (S 3.0 mm): contours of organ in reference and prediction, "
        f"and their errors; {counts}"
    )
    assert first.src.startswith("data:image/webp;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(first.src.split(",")[1])))
    assert picture.width == 2 * PANEL + SPACE


@pytest.mark.parametrize(
    ("of_reference", "of_prediction", "words"),
    [
        (0, 0, "the middle one: neither reference nor prediction has a label."),
        (1, 1, "the one with most labels: all 30 labelled voxels are right."),
        (1, 0, "30 of 30 labelled voxels differ in any class: 30 missed (FN)."),
        (0, 1, "30 of 30 labelled voxels differ in any class: 30 only predicted (FP)."),
    ],
)
def test_empty_and_full_label_maps_have_pictures(of_reference, of_prediction, words):
    volumes = [volume(np.full((4, 5, 6), n, np.uint8)) for n in (of_reference, of_prediction)]
    first, *_ = pictures("a", compare("a", volumes[0], *volumes, {"organ": [1]}))
    assert words in first.caption


def test_of_many_classes_the_worst_are_drawn():
    reference = np.repeat(np.arange(40, dtype=np.uint8), 4).reshape(1, 40, 4)
    prediction = reference.copy()
    prediction[0, 30:37, :2] = 0
    classes = {f"class {n}": [n] for n in range(1, 40)}
    case = compare("a", volume(reference), volume(reference), volume(prediction), classes)
    assert most_wrong(case) == [29, 30, 31, 32, 33, 34, 35]
    found = pictures("a", case)
    assert "Contours of the 7 of 39 classes most in error." in found[0].caption
    assert "class 30, class 31" in found[0].alt
    assert scene("a", case)["drawn"] == most_wrong(case)
    right = pictures("a", compare("a", *[volume(reference)] * 3, classes))
    assert "Contours of the 7 of 39 classes that come first." in right[0].caption


# The viewer's data.


def unpacked(made):
    """The volumes of a scene: grey, reference and prediction."""
    depth, height, width = made["size"]
    columns = made["grey"]["columns"]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(made["grey"]["src"].split(",")[1]))))
    tiles = sheet[:, :, 0].reshape(-1, height, columns, width).transpose(0, 2, 1, 3)
    labels = np.frombuffer(zlib.decompress(base64.b64decode(made["labels"])), np.uint8)
    return (tiles.reshape(-1, height, width)[:depth], *labels.reshape(2, *made["size"]))


@given(geometries(low=3, high=11), st.integers(0, 2**32 - 1))
def test_a_scene_holds_labels_exactly_and_slices_nearly(geometry, seed):
    generator = np.random.default_rng(seed)
    reference, prediction = (
        Volume(generator.integers(0, 4, geometry.shape, dtype=np.uint8), geometry) for _ in range(2)
    )
    image = Volume(np.cumsum(reference.array, axis=0, dtype=np.float32), geometry)
    classes = {"a": [1, 2], "b": [2], "c": [3]}
    made = json.loads(json.dumps(scene("x", compare("x", image, reference, prediction, classes))))
    case = compare("x", image, reference, prediction, classes)
    grey, *labels = unpacked(made)
    box = tuple(slice(f, f + n) for f, n in zip(made["first"], made["size"], strict=True))
    assert np.abs(grey.astype(int) - case.grey[box]).mean() < 12
    assert np.array_equal(labels[0], case.reference[box])
    assert np.array_equal(labels[1], case.prediction[box])
    assert (case.state > 0).sum() == (case.state[box] > 0).sum()
    at = tuple(generator.integers(0, made["size"]).tolist())
    # The place of a voxel in the file, as viewer.js works it out.
    whole = [f + i * step for f, i, step in zip(made["first"], at, made["steps"], strict=True)]
    place = [0, 0, 0]
    for axis, source in enumerate(made["file"]["order"]):
        flip = made["file"]["flips"][axis]
        place[source] = made["file"]["size"][axis] - 1 - whole[axis] if flip else whole[axis]
    names = [made["classes"][n] for n in made["members"][int(labels[0][at])]]
    assert names == [n for n, m in classes.items() if reference.array[tuple(place)] in m]
    mm = made["origin"] + np.array(made["direction"]) @ (np.array(made["spacing"]) * at)
    assert np.allclose(mm, geometry.world(tuple(place)), atol=1e-6)


def test_a_scene_starts_where_it_is_worst():
    image, reference, prediction = phantom()
    made = scene("x", compare("x", image, reference, prediction, TWO))
    case = compare("x", image, reference, prediction, TWO)
    assert [f + n for f, n in zip(made["first"], made["start"], strict=True)] == [
        worst_slice(case, axis) for axis in range(3)
    ]


def test_large_volumes_are_reduced_thick_slices_last(monkeypatch):
    assert steps_of((35, 51, 35), (1, 1, 1), 10**6) == [1, 1, 1]
    assert steps_of((300, 512, 512), (1.0, 0.8, 0.8), 4 * 10**6) == [3, 3, 3]
    assert steps_of((40, 512, 512), (5.0, 0.5, 0.5), 10**6) == [1, 4, 3]
    monkeypatch.setattr(viewer, "MOST_VOXELS", (200,))
    image, reference, prediction = phantom()
    made = scene("x", compare("x", image, reference, prediction, TWO))
    assert np.prod(made["size"]) <= 200
    case = compare("x", image, reference, prediction, TWO)
    _, *labels = unpacked(made)
    used = tuple(slice(f, None, s) for f, s in zip(made["first"], made["steps"], strict=True))
    assert np.array_equal(labels[0], case.reference[used])
    assert np.array_equal(labels[1], case.prediction[used])
    of_axes = zip(*(made[key] for key in ("start", "first", "steps", "size")), strict=True)
    for axis, (n, first, step, size) in enumerate(of_axes):
        begin, worst = first - step // 2 + n * step, worst_slice(case, axis)
        assert 0 <= n < size
        assert begin <= worst < begin + step or n == size - 1  # the last has the rest


def test_block_means_by_hand():
    values = np.array([[[0, 10, 20, 31, 100]]], np.uint8)
    assert block_means(values, (1, 1, 2)).tolist() == [[[5, 26]]]  # the last lacks its middle
    assert block_means(values, (1, 1, 3)).tolist() == [[[10, 77]]]
    assert block_means(values, (1, 1, 1)).tolist() == values.tolist()


def test_a_black_border_is_left_out_unless_labelled():
    def same(image, labels):
        return scene("x", compare("x", *map(volume, (image, labels, labels)), {"a": [1]}))

    image = np.zeros((10, 10, 10))
    image[3:7, 2:8, 4:6] = 5
    reference = np.zeros((10, 10, 10), np.uint8)
    made = same(image, reference)
    assert (made["first"], made["size"]) == ([3, 2, 4], [4, 6, 2])
    reference[9, 9, 9] = 1
    made = same(image, reference)
    assert (made["first"], made["size"]) == ([3, 2, 4], [7, 8, 6])
    made = same(reference * 0, reference * 0)
    assert made["size"] == [10, 10, 10]


def test_a_noisy_case_stays_small():
    shape = (120, 192, 192)
    noise = np.random.default_rng(0).normal(100, 30, shape).astype(np.float32)
    reference = ball(grid(shape), 0.3)
    image = Volume(noise + 50 * reference.array, reference.geometry)
    prediction = Volume(np.roll(reference.array, 3, 2), reference.geometry)
    made = scene("x", compare("x", image, reference, prediction, {"a": [1]}))
    assert made["steps"] == [2, 2, 1]
    assert len(json.dumps(made)) < 1_000_000


def test_a_case_with_many_small_labels_stays_small():
    """Labels count as slices do."""
    generator = np.random.default_rng(0)
    labels = [volume(generator.integers(0, 39, (100, 150, 150), np.uint8)) for _ in range(2)]
    classes = {f"class {n}": [n] for n in range(1, 39)}
    made = scene("x", compare("x", volume(np.ones((100, 150, 150))), *labels, classes))
    assert np.prod(made["size"]) <= viewer.MOST_VOXELS[-1]


def test_a_page_of_200_cases_and_12_classes_stays_under_15_mb():
    """Eight cases are shown, and every class has a panel of each kind, with 8 candidates."""
    generator = np.random.default_rng(0)
    reference = ball(grid((120, 192, 192)), 0.3)
    noise = ndimage.gaussian_filter(generator.normal(0, 1, reference.array.shape), 1.5)
    image = Volume((100 + 100 * noise).astype(np.float32), reference.geometry)
    prediction = Volume(np.roll(reference.array, 3, 2), reference.geometry)
    case = compare("x", image, reference, prediction, {"a": [1]})
    shown = len(json.dumps(scene("x", case))) + sum(len(p.src) for p in pictures("x", case))
    scores = generator.beta(9, 1, (8, 200))
    volumes = generator.uniform(1, 50, (2, 200))
    panels = (
        figures.boxes("a", {f"candidate {n}": row for n, row in enumerate(scores)}, "Dice", (0, 1)),
        figures.histogram("a", scores[0], "Dice", share=True),
        figures.volumes("a", *volumes),
        figures.bland_altman("a", *volumes),
        figures.score_by_volume("a", volumes[0], scores[0], "Dice"),
    )
    assert all(len(panel.src) < 120_000 for panel in panels), [len(p.src) for p in panels]
    assert 8 * shown + 12 * sum(len(panel.src) for panel in panels) < 15_000_000
