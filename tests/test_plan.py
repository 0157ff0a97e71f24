"""The plan: kept exactly in its file, checked when a hand has been at it, obeyed in parts."""

import copy
import json

import pytest

from mist_core.errors import DataError
from mist_core.files import write_json
from mist_core.plan import READ_BY, parse_plan, part_read_by, read_plan

FIELDS = {
    "mist_version": "0",
    "dataset_info": {"task": "t", "modality": "ct", "images": ["ct", "pet"], "labels": [0, 1, 4]},
    "spatial_config": {
        "patch_size": [128, 96, 64],
        "target_spacing": [0.7, 0.8, 3.0],
        "median_resampled_image_size": [500, 400, 90],
    },
    "preprocessing": {
        "skip": False,
        "crop_to_foreground": False,
        "crop_margin_mm": 2.5,
        "normalize_with_nonzero_mask": [False, False],
        "ct_normalization": [
            {"window_min": -100.0, "window_max": 300.0, "z_score_mean": 50.0, "z_score_std": 60.0},
            {"window_min": 0.0, "window_max": 9.0, "z_score_mean": 2.0, "z_score_std": 1.5},
        ],
    },
    "model": {"in_channels": 2, "out_channels": 3},
    "evaluation": {"all": {"labels": [1, 4]}},
}


def changed(path, value):
    """The fields with one value changed; ``path`` is dotted."""
    fields = copy.deepcopy(FIELDS)
    *parents, last = path.split(".")
    part = fields
    for key in parents:
        part = part[key]
    part[last] = value
    return fields


def test_the_file_speaks_xyz_and_arrays_are_zyx():
    plan = parse_plan(FIELDS, "here")
    assert plan.patch_size == (64, 96, 128)
    assert plan.target_spacing_mm == (3.0, 0.8, 0.7)


def test_a_plan_survives_its_file(tmp_path):
    path = tmp_path / "config.json"
    plan = parse_plan(FIELDS, "here")
    write_json(path, plan.model_dump(mode="json"))
    assert read_plan(path) == plan
    told = {"dataset": "", "limit_cases": None, "analyze": {}}
    new = {"optional_images": [], "image_names": {}, "ignore_label": None, "mirrored_labels": []}
    info = FIELDS["dataset_info"] | new  # of an older plan they are missing
    added = {"dataset_info": info, "training_volumes": {}, "left_out": {}, "analysis": told}
    assert json.loads(path.read_text()) == FIELDS | added


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spatial_config.patch_size", [1, 2]),
        ("spatial_config.target_spacing", None),
        ("preprocessing.crop", True),
        ("dataset_info.labels", "all"),
        ("model", {}),
        ("evaluation.all", [1]),
    ],
)
def test_a_mistake_of_a_hand_edit_is_named(tmp_path, path, value):
    write_json(tmp_path / "config.json", changed(path, value))
    with pytest.raises(DataError) as caught:
        read_plan(tmp_path / "config.json")
    assert str(tmp_path / "config.json") in str(caught.value)
    assert f"mistakes in: {path}" in str(caught.value)
    assert "Delete the file" in str(caught.value)


def test_all_mistakes_of_a_hand_edit_are_named():
    fields = changed("model.in_channels", "two")
    fields["spatial_config"]["patch_size"] = 3
    with pytest.raises(DataError, match=r"spatial_config\.patch_size, model\.in_channels"):
        parse_plan(fields, "here")


@pytest.mark.parametrize("fields", [None, [], 3, {}])
def test_what_is_no_plan_is_refused(fields):
    with pytest.raises(DataError, match=r"^here: expected a plan written by analyze"):
        parse_plan(fields, "here")


# Who has to work again when a part of the plan changes.
CHANGES = [
    ("spatial_config.target_spacing", [1, 1, 1], {"preprocess", "train"}),
    ("spatial_config.patch_size", [32, 32, 32], {"train"}),
    ("spatial_config.median_resampled_image_size", [1, 1, 1], {"data_dump"}),
    ("preprocessing.crop_to_foreground", True, {"preprocess", "train", "data_dump"}),
    ("preprocessing.normalize_with_nonzero_mask", [True, False], {"preprocess", "train"}),
    ("preprocessing.ct_normalization", [None, None], {"preprocess", "train"}),
    ("dataset_info.labels", [0, 1, 2, 4], {"preprocess", "train"}),
    ("dataset_info.mirrored_labels", [[1, 4]], {"train"}),
    ("dataset_info.optional_images", ["pet"], {"train"}),
    ("dataset_info.image_names", {"ct": ["ct"]}, set()),
    ("training_volumes", {"all": {"smallest_ml": 1}}, set()),
    ("model.out_channels", 4, {"train"}),
    ("evaluation", {"core": {"labels": [4]}}, {"evaluate"}),
    ("mist_version", "1", set()),
]


@pytest.mark.parametrize(("path", "value", "stages"), CHANGES)
def test_a_change_concerns_the_stages_that_read_it(path, value, stages):
    new = changed(path, value)
    again = {s for s in READ_BY if part_read_by(s, new) != part_read_by(s, FIELDS)}
    assert again == stages


def test_the_order_of_keys_concerns_nobody():
    turned = dict(reversed(FIELDS.items()))
    turned["preprocessing"] = dict(reversed(FIELDS["preprocessing"].items()))
    assert all(part_read_by(s, turned) == part_read_by(s, FIELDS) for s in READ_BY)


def test_channels_that_a_case_may_lack_have_numbers():
    assert parse_plan(FIELDS, "an older one").optional_channels == ()
    new = changed("dataset_info.optional_images", ["pet"])
    assert parse_plan(new, "here").optional_channels == (1,)
