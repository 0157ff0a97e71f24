"""The data dump: every number by hand, every remark at its limit, the same bytes every time."""

import json
import re
from copy import deepcopy
from dataclasses import replace
from math import pi

import numpy as np
import pytest
from conftest import ROOT, ball, grid, stored

from mist_core.analyze import fingerprint, make_plan
from mist_core.config import Analyze
from mist_core.dataset import Dataset
from mist_core.describe import (
    Description,
    Structure,
    data_dump,
    describe,
    description_from_json,
    description_to_json,
    to_markdown,
)
from mist_core.errors import DataError
from mist_core.geometry import Geometry
from mist_core.io import Volume
from mist_core.observations import observations
from mist_core.sources import sources_of

STATISTICS = ["mean", "std", "min", "p25", "median", "p75", "max"]


def two_cases(folder):
    """Two cases with two channels, 1 mm and 2 mm thick: a row of label 1, and a plate of label 4.

    The first channel is 10 in the row and 20 in the plate, the second is zero.
    """
    cases = {}
    for case_id, spacing, with_plate in (("a", (1.0, 1.0, 1.0), True), ("b", (2.0, 1, 1), False)):
        geometry = grid((10, 12, 14), spacing)
        mask = np.zeros(geometry.shape, np.uint8)
        mask[2, 3, 2:12] = 1
        if with_plate:
            mask[6, 2:7, 2:7] = 4
        image = np.choose(mask, [0, 10, 0, 0, 20]).astype(np.float32)
        images = [Volume(image, geometry), Volume(np.zeros_like(image), geometry)]
        cases[case_id] = stored(folder, case_id, images, Volume(mask, geometry))
    return Dataset(
        folder / "dataset.json",
        *("two", "mr", ("t1", "t2"), (0, 1, 4), {"all": (1, 4), "plate": (4,)}),
        train_files=cases,
    )


def dumped(dataset, **settings):
    """What both cases give together."""
    cases = dataset.train_files.values()
    plan = make_plan([fingerprint(case) for case in cases], dataset, Analyze(**settings))
    boxes = {"a": 500, "b": 300}
    path = dataset.path.with_name("config.json")
    return data_dump([describe(case) for case in cases], plan, dataset, boxes, path)


# --- one case -------------------------------------------------------------------------------------


def test_a_description_by_hand(tmp_path):
    case = two_cases(tmp_path).train_files["a"]
    found = describe(case)
    assert (found.id, found.spacing, found.size) == ("a", (1, 1, 1), (10, 12, 14))
    assert found.n_bytes == sum(p.stat().st_size for p in (tmp_path / "a").iterdir())
    assert found.labels.keys() == {1, 4}
    row, plate = found.labels[1], found.labels[4]
    assert (row.voxels, plate.voxels) == (10, 25)
    assert (row.linearity, row.planarity, row.sphericity) == pytest.approx((1, 0, 0))
    assert (plate.linearity, plate.planarity, plate.sphericity) == pytest.approx((0, 1, 0))
    assert row.skeleton_ratio == 1
    # Between ends that are each half of an octahedron around a voxel, 9 mm of four slanted sides.
    area = 8 * 3**0.5 / 8 + 9 * 4 * 0.5**0.5
    assert row.compactness == pytest.approx(36 * pi * 10**2 / area**3)
    assert found.samples.dtype == np.float32
    assert np.unique(found.samples[0], return_counts=True)[1].tolist() == [10, 25]
    assert found.samples.shape == (2, 35)
    assert not found.samples[1].any()


def test_a_few_voxels_have_no_shape(tmp_path):
    geometry = grid((4, 4, 4))
    mask = np.zeros(geometry.shape, np.uint8)
    mask[1, 1, :3] = 2
    case = stored(
        tmp_path, "a", [Volume(mask.astype(np.float32), geometry)], Volume(mask, geometry)
    )
    assert describe(case).labels == {2: Structure(3)}


@pytest.mark.parametrize(("voxels", "samples"), [(4999, 4999), (9999, 9999), (10_000, 5000)])
def test_of_many_voxels_every_so_manieth_is_kept(tmp_path, voxels, samples):
    geometry = grid((1, 100, 100))
    mask = np.zeros(geometry.shape, np.uint8)
    mask.flat[:voxels] = 1
    image = np.arange(10_000, dtype=np.float32).reshape(geometry.shape)
    found = describe(stored(tmp_path, "a", [Volume(image, geometry)], Volume(mask, geometry)))
    assert found.samples.shape == (1, samples)
    assert found.samples[0, 1] == (2 if samples == 5000 else 1)


@pytest.mark.parametrize(
    ("order", "flips"),
    [((2, 1, 0), (True, False, False)), ((1, 2, 0), (False, True, True))],
)
def test_native_axes_do_not_matter(tmp_path, order, flips):
    def moved(volume):
        array = np.flip(volume.array.transpose(order), tuple(a for a in range(3) if flips[a]))
        return Volume(np.ascontiguousarray(array), volume.geometry.moved_axes(order, flips))

    mask = ball(grid((9, 20, 30), (4, 1, 0.8)))
    mask.array[2, 3:9, 4] = 3
    image = Volume(np.random.default_rng(0).random(mask.array.shape, np.float32), mask.geometry)
    one = describe(stored(tmp_path / "1", "a", [image], mask))
    other = describe(stored(tmp_path / "2", "a", [moved(image)], moved(mask)))
    assert other.labels == one.labels
    assert other.size == one.size
    assert other.spacing == pytest.approx(one.spacing)
    np.testing.assert_array_equal(other.samples, one.samples)


def test_a_description_survives_its_file(tmp_path):
    found = describe(two_cases(tmp_path).train_files["b"])
    fields = json.loads(json.dumps(description_to_json(found)))
    assert fields["spacing"] == [1, 1, 2]
    assert fields["size"] == [14, 12, 10]
    again = description_from_json(fields, found.samples)
    assert {**vars(again), "samples": 0} == {**vars(found), "samples": 0}


def test_an_image_on_another_grid_is_refused(tmp_path):
    mask = ball(grid((8, 8, 8)))
    g = mask.geometry
    beside = Volume(mask.array, Geometry(g.shape, g.spacing, (5.0, 0.0, 0.0), g.direction))
    with pytest.raises(DataError, match=r"0\.nii\.gz: expected the grid of the mask"):
        describe(stored(tmp_path, "a", [beside], mask))


# --- all cases ------------------------------------------------------------------------------------


def test_the_dataset_by_hand(tmp_path):
    dataset = two_cases(tmp_path)
    dump = dumped(dataset)
    n_bytes = sum(path.stat().st_size for path in tmp_path.rglob("*.nii.gz"))
    assert dump["dataset_summary"] == {
        "task": "two",
        "modality": "mr",
        "num_patients": 2,
        "num_channels": 2,
        "channel_names": ["t1", "t2"],
        "missing_images": {},
        "num_labels": 3,
        "labels": [0, 1, 4],
        "final_classes": {"all": [1, 4], "plate": [4]},
        "dataset_size_gb": round(n_bytes / 1e9, 4),
    }
    assert dump["mist_config_path"] == str(tmp_path / "config.json")
    assert list(dump) == [
        *("dataset_summary", "image_statistics", "label_statistics", "observations"),
        "mist_config_path",
    ]


def test_a_channel_that_a_case_lacks_is_counted_and_measured_where_it_is(tmp_path):
    dataset = two_cases(tmp_path)
    a, b = dataset.train_files.values()
    b = replace(b, images=(b.images[0], None), optional=(1,))
    dataset = replace(dataset, train_files={"a": a, "b": b}, optional_images=("t2",))
    found = describe(b)
    assert found.missing == (1,)
    np.testing.assert_array_equal(found.samples, [[10.0] * 10, [np.nan] * 10])
    fields = json.loads(json.dumps(description_to_json(found)))
    assert description_from_json(fields, found.samples).missing == (1,)
    del fields["missing"]  # of an older description
    assert description_from_json(fields, found.samples).missing == ()
    dump = dumped(dataset)
    assert dump["dataset_summary"]["missing_images"] == {"t2": 1}
    assert "Channel t2 is optional: 1 of 2 patients lack it." in dump["observations"]
    per_channel = dump["image_statistics"]["intensity"]["per_channel"]
    assert per_channel["t1"]["mean"] == pytest.approx((20 * 10 + 25 * 20) / 45, abs=1e-4)
    assert set(per_channel["t2"].values()) == {0.0}
    assert "| missing | t2 in 1 of 2 |" in to_markdown(dump)


def spread(*values):
    return dict(zip(STATISTICS, values, strict=True))


def test_the_images_by_hand(tmp_path):
    found = dumped(two_cases(tmp_path), crop_to_foreground=False)["image_statistics"]
    assert found["spacing"] == {
        "per_axis": {
            "x": spread(1, 0, 1, 1, 1, 1, 1),
            "y": spread(1, 0, 1, 1, 1, 1, 1),
            "z": spread(1.5, 0.5, 1, 1.25, 1.5, 1.75, 2),
        },
        "median_spacing_mm": [1, 1, 1.5],
        "anisotropy_ratio": 1.5,
        "is_anisotropic": False,
    }
    assert found["dimensions"]["original"]["per_axis"]["x"] == spread(14, 0, 14, 14, 14, 14, 14)
    assert found["dimensions"]["original"]["per_axis"]["z"] == spread(10, 0, 10, 10, 10, 10, 10)
    # 10 and 20 mm in slices of 1.5 mm: 7 and 13.
    assert found["dimensions"]["resampled_median"] == [14, 12, 10]
    # Twenty times 10 and 25 times 20, together.
    mean = (20 * 10 + 25 * 20) / 45
    assert found["intensity"]["per_channel"]["t1"] == {
        "mean": round(mean, 4),
        "std": round((20 * 25 / 45**2) ** 0.5 * 10, 4),
        **{"p01": 10, "p05": 10, "p25": 10, "p50": 20, "p75": 20, "p95": 20, "p99": 20},
    }
    shares = np.array([35, 10]) / (10 * 12 * 14)
    fraction = found["intensity"]["foreground_fraction"]
    assert fraction["mean"] == round(shares.mean(), 4)
    assert fraction["p25"] == round(shares[1] + (shares[0] - shares[1]) / 4, 4)
    assert list(fraction) == STATISTICS


def test_the_labels_by_hand(tmp_path):
    found = dumped(two_cases(tmp_path), crop_to_foreground=False)["label_statistics"]
    row, plate = found["per_label"]["1"], found["per_label"]["4"]
    assert row["voxel_count"] == {"mean": 10, "std": 0, "min": 10, "median": 10, "max": 10}
    assert plate["voxel_count"] == {
        **{"mean": 12.5, "std": 12.5, "min": 0, "median": 12.5, "max": 25}
    }
    # 22.5 voxels are labelled on average, of 1680.
    assert row["mean_volume_fraction_of_foreground_pct"] == round(100 * 10 / 22.5, 4)
    assert plate["mean_volume_fraction_of_foreground_pct"] == round(100 * 12.5 / 22.5, 4)
    assert plate["mean_volume_fraction_of_image_pct"] == round(100 * 12.5 / 1680, 4)
    assert (row["presence_rate_pct"], plate["presence_rate_pct"]) == (100, 50)
    assert row["size_category"] == "large"
    # The row is the same in both cases but for the thickness; the plate is in one only.
    assert (row["shape"]["shape_class"], plate["shape"]["shape_class"]) == ("tubular", "planar")
    assert {key: plate["shape"][key] for key in ("linearity", "planarity", "sphericity")} == {
        **{"linearity": 0, "planarity": 1, "sphericity": 0}
    }
    assert row["shape"]["skeleton_ratio"] == 1
    assert found["final_classes"] == {
        "all": {
            "constituent_labels": [1, 4],
            "mean_volume_fraction_of_foreground_pct": 100,
            "presence_rate_pct": 100,
            "size_category": "large",
        },
        "plate": {
            "constituent_labels": [4],
            "mean_volume_fraction_of_foreground_pct": round(100 * 12.5 / 22.5, 4),
            "presence_rate_pct": 50,
            "size_category": "large",
        },
    }
    assert found["class_imbalance"] == {
        **{"imbalance_ratio": 1.25, "dominant_label": 4, "minority_label": 1}
    }


def test_an_image_that_is_cropped_is_its_box(tmp_path):
    dataset = two_cases(tmp_path)
    found = dumped(dataset, crop_to_foreground=True)
    fraction = found["image_statistics"]["intensity"]["foreground_fraction"]
    assert (fraction["max"], fraction["min"]) == (35 / 500, round(10 / 300, 4))
    plate = found["label_statistics"]["per_label"]["4"]
    assert plate["mean_volume_fraction_of_image_pct"] == 100 * 12.5 / 400
    assert found["image_statistics"]["dimensions"]["cropped_to_foreground"] is True
    assert "Of the box of bright voxels" in to_markdown(found)


def described(case_id, **voxels):
    labels = {int(label[1:]): Structure(count) for label, count in voxels.items()}
    return Description(case_id, 0, (1, 1, 1), (10, 10, 10), labels, np.zeros((2, 0), np.float32))


@pytest.fixture
def plan(tmp_path):
    dataset = two_cases(tmp_path)
    prints = [fingerprint(case) for case in dataset.train_files.values()]
    return make_plan(prints, dataset, Analyze(crop_to_foreground=False))


def test_without_any_label_there_is_nothing_to_divide_by(tmp_path, plan):
    dump = data_dump([described("a")], plan, two_cases(tmp_path), {}, tmp_path / "config.json")
    assert dump["image_statistics"]["intensity"]["per_channel"] == {}
    assert dump["label_statistics"]["per_label"]["1"]["presence_rate_pct"] == 0
    assert dump["label_statistics"]["per_label"]["1"]["shape"]["shape_class"] == "unknown"
    assert dump["label_statistics"]["class_imbalance"] == {
        **{"imbalance_ratio": 1, "dominant_label": None, "minority_label": None}
    }
    assert "| 1 | unknown | - | - | - | - | - |" in to_markdown(dump)


@pytest.mark.parametrize(
    ("voxels", "size"),
    [(99, "tiny"), (100, "small"), (999, "small"), (1000, "medium"), (5000, "large")],
)
def test_sizes_are_shares_of_the_foreground(tmp_path, plan, voxels, size):
    case = described("a", _1=voxels, _4=100_000 - voxels)
    dump = data_dump([case], plan, two_cases(tmp_path), {}, tmp_path / "config.json")
    label = dump["label_statistics"]["per_label"]["1"]
    assert (label["size_category"], label["mean_volume_fraction_of_foreground_pct"]) == (
        *(size, voxels / 1000),
    )


def test_a_case_that_could_not_be_described_is_named(tmp_path, plan):
    rest = (plan, two_cases(tmp_path), {}, tmp_path / "config.json", ["y", "x"])
    dump = data_dump([described("a", _1=5)], *rest)
    assert dump["observations"][0] == "Left out, since they could not be described: x, y."
    with pytest.raises(DataError, match="expected cases to describe, found none"):
        data_dump([], *rest)


def test_the_same_cases_give_the_same_bytes(tmp_path):
    dataset = two_cases(tmp_path)
    first, second = (json.dumps(dumped(dataset)) for _ in range(2))
    assert first == second
    assert to_markdown(json.loads(first)) == to_markdown(json.loads(second))
    turned = Dataset(
        **{**vars(dataset), "train_files": dict(reversed(dataset.train_files.items()))}
    )
    assert json.dumps(dumped(turned)) == first


# --- remarks --------------------------------------------------------------------------------------


def shape_of(kind="blob", skeleton=0.01):
    known = {"tubular": (0.6, 0.3, 0.1), "planar": (0.1, 0.6, 0.3), "blob": (0.1, 0.2, 0.7)}
    names = ("linearity", "planarity", "sphericity")
    numbers = dict(zip(names, known.get(kind, (None,) * 3), strict=True))
    return {**numbers, "shape_class": kind, "compactness": 0.5, "skeleton_ratio": skeleton}


def ordinary():
    """A dump with nothing to remark on but the shape of its one label, whose class is the liver."""
    return {
        "dataset_summary": {
            "modality": "mr",
            "num_patients": 100,
            "channel_names": ["t1"],
            "missing_images": {},
            "num_labels": 2,
            "final_classes": {"liver": [1]},
        },
        "image_statistics": {
            "spacing": {"anisotropy_ratio": 1.0, "is_anisotropic": False},
            "intensity": {
                "per_channel": {"t1": {"p01": -20.4, "p99": 80.6, "mean": 30.26, "std": 9.94}},
                "foreground_fraction": {"mean": 0.5},
            },
        },
        "label_statistics": {
            "per_label": {
                "1": {
                    "mean_volume_fraction_of_foreground_pct": 100.0,
                    "mean_volume_fraction_of_image_pct": 50.0,
                    "presence_rate_pct": 100.0,
                    "size_category": "large",
                    "shape": shape_of(),
                }
            },
            "class_imbalance": {"imbalance_ratio": 1, "dominant_label": 1, "minority_label": None},
        },
    }


BLOB = (
    "Label 1 (liver) is compact, blob-like: linearity 0.10, planarity 0.20, sphericity 0.70, "
    "compactness 0.50, skeleton ratio 0.01."
)
LABEL = "label_statistics.per_label.1."
IMBALANCE = "label_statistics.class_imbalance"
WARNING = "check that the target spacing"
REMARKS = [
    ({"dataset_summary.num_patients": 49}, "Small dataset: 49 patients, fewer than 50."),
    ({"dataset_summary.num_patients": 50}, None),
    ({"dataset_summary.num_patients": 500}, None),
    ({"dataset_summary.num_patients": 501}, "Large dataset: 501 patients, more than 500."),
    (
        {"dataset_summary.channel_names": ["t1", "t2"]},
        "Several channels: 2 images of each patient (t1, t2).",
    ),
    (
        {"dataset_summary.missing_images": {"t1c": 7}},
        "Channel t1c is optional: 7 of 100 patients lack it.",
    ),
    (
        {"image_statistics.spacing": {"anisotropy_ratio": 3.5, "is_anisotropic": True}},
        "Anisotropic spacing: voxels are 3.50 times as long as wide.",
    ),
    (
        {
            "image_statistics.intensity.foreground_fraction.mean": 0.199,
            "dataset_summary.num_labels": 3,
        },
        "Little foreground: labels fill 19.90 % of the image on average.",
    ),
    (
        {
            "image_statistics.intensity.foreground_fraction.mean": 0.2,
            "dataset_summary.num_labels": 3,
        },
        None,
    ),
    ({"image_statistics.intensity.foreground_fraction.mean": 0.1}, None),  # one label says it
    (
        {"dataset_summary.modality": "ct"},
        "CT channel t1: the foreground is between -20 and 81 HU (1st and 99th percentile), on "
        "average 30.3 ± 9.9 HU.",
    ),
    ({"dataset_summary.modality": {"t1": "other"}}, None),
    (
        {"dataset_summary.modality": {"t1": "ct"}},
        "CT channel t1: the foreground is between -20 and 81 HU (1st and 99th percentile), on "
        "average 30.3 ± 9.9 HU.",
    ),
    (
        {IMBALANCE: {"imbalance_ratio": 10.1, "dominant_label": 1, "minority_label": 2}},
        "Severe class imbalance: label 1 (liver) has 10.1 times as many voxels as label 2.",
    ),
    (
        {IMBALANCE: {"imbalance_ratio": 10, "dominant_label": 1, "minority_label": 2}},
        "Moderate class imbalance: label 1 (liver) has 10.0 times as many voxels as label 2.",
    ),
    ({IMBALANCE: {"imbalance_ratio": 3, "dominant_label": 1, "minority_label": 2}}, None),
    (
        {
            LABEL + "size_category": "tiny",
            LABEL + "mean_volume_fraction_of_foreground_pct": 0.05,
            LABEL + "presence_rate_pct": 20.0,
        },
        "Label 1 (liver) is tiny: 0.0500 % of the foreground on average, present in 20.0 % of the "
        "patients.",
    ),
    ({LABEL + "presence_rate_pct": 49.0}, "Label 1 (liver) is absent in 51.0 % of the patients."),
    ({LABEL + "presence_rate_pct": 50.0}, None),
    (
        {LABEL + "mean_volume_fraction_of_image_pct": 0.99},
        "Label 1 (liver) is very sparse: it fills 0.9900 % of the image on average.",
    ),
    (
        {LABEL + "mean_volume_fraction_of_image_pct": 4.99},
        "Label 1 (liver) is sparse: it fills 4.9900 % of the image on average.",
    ),
    ({LABEL + "mean_volume_fraction_of_image_pct": 5.0}, None),
]


def changed(changes):
    dump = deepcopy(ordinary())
    for place, value in changes.items():
        *parents, key = place.split(".")
        fields = dump
        for parent in parents:
            fields = fields[parent]
        fields[key] = value
    return dump


@pytest.mark.parametrize(("changes", "remark"), REMARKS)
def test_what_is_beyond_a_limit_is_remarked_on_and_nothing_else(changes, remark):
    assert list(observations(changed(changes))) == [*([remark] if remark else []), BLOB]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (shape_of("tubular"), "is elongated: linearity 0.60"),
        (shape_of("planar"), "is sheet-like: linearity 0.10, planarity 0.60"),
        (shape_of("blob", 0.05), "is compact, blob-like: "),
        (shape_of("blob", 0.051), "is thin or branching: "),
        (shape_of("tubular", None), "is elongated: "),
    ],
)
def test_a_shape_is_put_in_words(shape, words):
    (remark,) = observations(changed({LABEL + "shape": shape}))
    assert remark.startswith(f"Label 1 (liver) {words}")
    assert "None" not in remark


def test_of_an_unknown_shape_nothing_is_said():
    assert list(observations(changed({LABEL + "shape": shape_of("unknown", None)}))) == []


@pytest.mark.parametrize(
    ("size", "shape", "warned"),
    [
        ("small", shape_of("blob", 0.06), True),
        ("tiny", shape_of("blob", 0.06), True),
        ("medium", shape_of("blob", 0.06), False),
        ("small", shape_of("tubular", 0.05), False),
        ("small", shape_of("tubular", None), True),
        ("small", shape_of("unknown", None), False),
    ],
)
def test_small_and_thin_structures_are_in_danger_of_resampling(size, shape, warned):
    found = list(observations(changed({LABEL + "size_category": size, LABEL + "shape": shape})))
    assert any(WARNING in remark for remark in found) is warned


# --- Markdown -------------------------------------------------------------------------------------


def keys(tree):
    """All names in the dump but those that the user gave."""
    if not isinstance(tree, dict):
        return set()
    given = {"t1", "t2", "1", "4", "all", "plate", "x", "y", "z"}
    return set(tree) - given | set().union(*map(keys, tree.values()))


def test_the_markdown_explains_every_key_and_holds_every_remark(tmp_path):
    dump = dumped(two_cases(tmp_path))
    text = to_markdown(dump)
    explained = text.split("## What the numbers mean")[1]
    simple = {*STATISTICS, "p01", "p05", "p50", "p95", "p99"}
    top = {"dataset_summary", "image_statistics", "label_statistics", "shape"}
    for key in keys(dump) - simple - {"per_label"}:
        place = "### `" if key in top else "`"
        assert f"{place}{key}`" in explained, key
    for remark in dump["observations"]:
        assert f"- {remark}\n" in text
    assert "## Description\n\n<!--" in text
    for name in (*STATISTICS, "p01", "p05", "p50", "p95", "p99"):
        assert f" {name} |" in text


def test_the_markdown_gives_the_formulas_that_are_computed(tmp_path):
    text = to_markdown(dumped(two_cases(tmp_path)))
    for name, formula in {
        "linearity": "(λ₁ − λ₂) / λ₁",  # noqa: RUF001
        "planarity": "(λ₂ − λ₃) / λ₁",  # noqa: RUF001
        "sphericity": "λ₃ / λ₁",
        "compactness": "36π V² / S³",
    }.items():
        (line,) = re.findall(rf"^\| `{name}` \|.*$", text, re.MULTILINE)
        assert formula in line


def test_the_template_is_a_source_of_the_scripts_that_fill_it():
    scripts = ROOT / "workflow/scripts"
    names = [
        {path.name for path in sources_of(scripts / f"{n}.py")} for n in ("describe", "report")
    ]
    assert "data_dump.md" in names[0] - names[1]
    assert {"report.html", "report.css", "report.js", "viewer.js"} <= names[1] - names[0]


def test_every_table_of_the_markdown_is_whole(tmp_path):
    lines = to_markdown(dumped(two_cases(tmp_path))).splitlines()
    heads = [i for i, line in enumerate(lines) if line.startswith("|---")]
    assert len(heads) == 13
    for head in heads:
        assert lines[head - 2] == ""
        columns = lines[head].count("|")
        end = next(i for i in range(head, len(lines)) if not lines[i].startswith("|"))
        assert end > head + 1
        assert all(line.count("|") == columns for line in lines[head - 1 : end])
        assert lines[end] == ""
    assert not re.search(r"\n{5}|[{}%]{2}", "\n".join(lines))
    row = next(line for line in lines if line.startswith("| z |"))
    assert row == "| z | 1.5 | 0.5 | 1 | 1.25 | 1.5 | 1.75 | 2 |"
    assert "| 4 (plate) | planar | 0 | 1 | 0 |" in "\n".join(lines)
