"""From logits to a label map on the scanner's grid, and the models that give them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, ball, certain, geometries, grid
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mist_core.config import Predict, Preprocess, Train
from mist_core.errors import DataError
from mist_core.geometry import Geometry
from mist_core.io import Volume, read_labels
from mist_core.metrics import score
from mist_core.models import for_plan
from mist_core.plan import parse_plan
from mist_core.predict import (
    TrainedModel,
    device_of_sums,
    largest_weight,
    load_model,
    predict_array,
    predict_case,
    predict_cells,
    type_of_sums,
)
from mist_core.preprocess import preprocess, write
from mist_core.restore import restore
from mist_core.sliding import WindowGrid, without_halo
from mist_core.train import save_model

CPU = torch.device("cpu")
LABELS = (0, 1, 2, 4)


def plan_of(spacing=(1.0, 1.0, 1.0), labels=LABELS, crop=False, patch_size=(8, 8, 8)):
    """A plan; per-axis values here in array order (z, y, x)."""
    return parse_plan(
        {
            "mist_version": "0",
            "dataset_info": {"task": "t", "modality": "mr", "images": ["t1"], "labels": labels},
            "spatial_config": {
                "patch_size": patch_size[::-1],
                "target_spacing": spacing[::-1],
                "median_resampled_image_size": (12, 12, 12),
            },
            "preprocessing": {
                "crop_to_foreground": crop,
                "normalize_with_nonzero_mask": [False],
                "ct_normalization": [None],
            },
            "model": {"in_channels": 1, "out_channels": len(labels)},
            "evaluation": {"organ": {"labels": labels[1:]}},
        },
        "test",
    )


def native_spacing(geometry):
    return geometry.moved_axes(*geometry.to_lps()).spacing


def random_labels(shape, labels, seed=0):
    return np.random.default_rng(seed).choice(np.array(labels, np.uint16), shape)


def there_and_back(mask, plan):
    """The mask, preprocessed, predicted without a mistake and restored."""
    image = Volume((mask.array > 0).astype(np.float32) * 100, mask.geometry)
    done = preprocess([image], mask, plan)
    labels = plan.dataset_info.labels
    return restore(certain(done.labels, len(labels)), done.origin, labels)


@settings(max_examples=25)
@given(geometries(low=5, high=9), st.integers(0, 100))
def test_a_label_map_comes_back_exactly_on_any_grid(geometry, seed):
    mask = Volume(random_labels(geometry.shape, LABELS, seed), geometry)
    back = there_and_back(mask, plan_of(native_spacing(geometry)))
    np.testing.assert_array_equal(back.array, mask.array)
    assert back.geometry is geometry or back.geometry.matches(geometry, 1e-6)


@settings(max_examples=15)
@given(geometries(low=8, high=12))
def test_what_was_cropped_away_comes_back_as_background(geometry):
    array = np.zeros(geometry.shape, np.uint8)
    inside = tuple(slice(2, 5) for _ in range(3))
    array[inside] = random_labels((3, 3, 3), LABELS)
    mask = Volume(array, geometry)
    back = there_and_back(mask, plan_of(native_spacing(geometry), crop=True))
    np.testing.assert_array_equal(back.array, mask.array)


def test_labels_above_255_come_back():
    labels = (0, 7, 300, 65535)
    mask = Volume(random_labels((6, 7, 8), labels), grid((6, 7, 8)))
    back = there_and_back(mask, plan_of(labels=labels))
    assert back.array.dtype == np.uint16
    np.testing.assert_array_equal(back.array, mask.array)


def test_more_than_255_classes_come_back():
    labels = tuple(range(0, 600, 2))
    mask = Volume(np.array(labels, np.uint16).reshape(3, 10, 10), grid((3, 10, 10)))
    back = there_and_back(mask, plan_of(labels=labels))
    np.testing.assert_array_equal(back.array, mask.array)


@pytest.mark.parametrize("spacing", [(1.3, 1.3, 1.3), (0.7, 1.5, 1.0), (1.8, 1.8, 1.8)])
def test_a_ball_comes_back_from_another_spacing(spacing):
    mask = ball(grid((24, 26, 28), (1.2, 0.9, 1.0)), value=4)
    back = there_and_back(mask, plan_of(spacing))
    assert back.array.shape == mask.array.shape
    assert set(np.unique(back.array)) == {0, 4}
    masks = mask.array > 0, back.array > 0
    assert score(*masks, (1.0, 1.0, 1.0), ["dice"])["dice"] > 0.95


class Shift(nn.Module):
    """Two classes: zero, and the image plus a constant plus a slope along x of the window."""

    def __init__(self, constant=0.0, slope=0.0):
        super().__init__()
        self.constant, self.slope = constant, slope

    def forward(self, x):
        slope = self.slope * torch.arange(x.shape[-1])
        return (torch.cat([torch.zeros_like(x), x + self.constant + slope], dim=1),)


def model_of(network, **train):
    return TrainedModel(network, plan_of(labels=(0, 1)), Train(**train))


def logits_of(models, flips, image=None):
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 8)) if image is None else image
    settings = Predict(flips=flips)
    found = torch.full(
        (len(models[0].plan.dataset_info.labels) if models else 0, *image.shape[1:]), torch.nan
    )
    for cell in predict_cells(models, image.astype(np.float32), settings, CPU, half=None):
        found[(slice(None), *cell.box)] = cell.logits[(slice(None), *without_halo(cell))]
    return found


def test_several_models_are_averaged():
    models = [model_of(Shift(constant)) for constant in (0.0, 2.0, 7.0)]
    found = logits_of(models, flips=False)
    torch.testing.assert_close(found, logits_of([model_of(Shift(3.0))], flips=False))


def test_flips_change_nothing_for_a_network_that_has_no_side():
    models = [model_of(Shift(1.0), mirror_axes="xyz")]
    torch.testing.assert_close(logits_of(models, flips=True), logits_of(models, flips=False))


def test_flips_even_out_a_side():
    image = np.zeros((1, 8, 8, 8))
    ramp = logits_of([model_of(Shift(slope=2.0))], flips=False, image=image)
    assert ramp[1, 0, 0].tolist() == [0, 2, 4, 6, 8, 10, 12, 14]
    mirrored = model_of(Shift(slope=2.0), mirror_axes="x")
    level = logits_of([mirrored], flips=True, image=image)
    torch.testing.assert_close(level[1], torch.full((8, 8, 8), 7.0))


def test_axes_that_were_not_mirrored_in_training_are_not_in_prediction():
    image = np.zeros((1, 8, 8, 8))
    for train in ({}, {"mirror_axes": "yz"}, {"augment": {"mirror": 0}}, {"augmentation": "none"}):
        sided = model_of(Shift(slope=2.0), **train)
        found = logits_of([sided], flips=True, image=image)
        torch.testing.assert_close(found, logits_of([sided], flips=False, image=image))


@pytest.mark.parametrize(
    ("size", "patch_size", "overlap", "expected"),
    [
        ((1, 1, 8), (1, 1, 4), 0.0, 1),  # from 0 and 4
        ((1, 1, 8), (1, 1, 4), 0.5, 2),  # from 0, 2, 4
        ((1, 1, 8), (1, 1, 4), 0.75, 4),  # from 0, 1, 2, 3, 4: all but one show voxel 3
        ((1, 8, 8), (1, 4, 4), 0.75, 16),
        ((8, 8, 6), (4, 4, 4), 0.5, 8),
        ((3, 3, 3), (4, 4, 4), 0.9, 1),  # smaller than a window
        ((2, 1, 3), (4, 8, 4), 0.9, 1),  # whose windows begin in the padding
        ((2, 8, 8), (8, 4, 4), 0.5, 4),
    ],
)
def test_what_windows_count_together_with_constant_blending(size, patch_size, overlap, expected):
    assert largest_weight(WindowGrid.over(size, patch_size, overlap), "constant") == expected


def test_an_image_far_smaller_than_a_window_is_predicted():
    """By a network that says what a voxel is."""
    image = np.linspace(-1, 1, 2 * 3 * 1).reshape(2, 3, 1)
    found = predict_array([model_of(Shift())], image, (1.0, 1.0, 1.0))
    assert found.shape == (2, 3, 1)
    assert found.ravel().tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    image = np.zeros((4, 4, 4))
    image[1, 2, 3] = value
    with pytest.raises(ValueError, match="expected an image of finite values"):
        predict_array([model_of(Shift())], image, (1.0, 1.0, 1.0))


def test_no_model_is_said_in_words():
    with pytest.raises(ValueError, match="expected the path of a model, found none"):
        load_model([])


def test_what_windows_count_together_with_gaussian_blending():
    """Windows of 3 from 0 and 1 overlap in two voxels: weights of a and 1, and of 1 and a."""
    a = np.exp(-0.5 * (1 / (3 / 8)) ** 2)
    grid_of_two = WindowGrid.over((1, 1, 4), (1, 1, 3), 0.5)
    assert largest_weight(grid_of_two, "gaussian") == pytest.approx(1 + a)
    grid_of_eight = WindowGrid.over((4, 4, 4), (3, 3, 3), 0.5)
    assert largest_weight(grid_of_eight, "gaussian") == pytest.approx((1 + a) ** 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_sums_too_large_for_a_gpu_are_kept_by_the_computer():
    gpu = torch.device("cuda")
    free, _ = torch.cuda.mem_get_info(gpu)
    assert device_of_sums(free // 4, gpu) == gpu
    assert device_of_sums(free, gpu) == CPU


def test_sums_are_in_half_precision_only_where_memory_is_short_and_none_can_be_infinite():
    large, small = (512, 512, 512), (64, 64, 64)
    half, full = torch.float16, torch.float32

    def type_of(size, n_classes, overlap, blending):
        return type_of_sums(WindowGrid.over(size, (64, 64, 64), overlap), n_classes, blending)

    # 32 classes of 64 x 512 x 512 voxels are 2 GiB as float32.
    assert type_of(large, 32, 0.5, "gaussian") == full
    assert type_of(large, 33, 0.5, "gaussian") == half
    assert type_of(small, 600, 0.9, "gaussian") == full
    assert type_of(large, 33, 0.75, "constant") == half  # 64 windows times 1000 are 64000
    assert type_of(large, 33, 0.8, "constant") == full
    assert type_of(large, 33, 0.95, "gaussian") == full


@pytest.mark.parametrize("blending", ["constant", "gaussian"])
@pytest.mark.parametrize("overlap", [0.5, 0.9])
def test_large_logits_are_not_infinite_however_many_windows_show_a_voxel(
    overlap, blending, monkeypatch
):
    monkeypatch.setattr("mist_core.predict.LARGEST_SUMS", 0)
    models, image = [model_of(Shift(900.0))], np.random.default_rng(0).normal(size=(1, 12, 12, 12))
    settings = Predict(flips=False, overlap=overlap, blending=blending)
    for cell in predict_cells(models, image.astype(np.float32), settings, CPU, half=None):
        expected = 900 + image[0][cell.reach]
        np.testing.assert_allclose(cell.logits[1], expected, rtol=0.01)


class Sided(nn.Module):
    """Tells a left class (1) from a right one (2) by where they lie in a window."""

    def forward(self, x):
        left = torch.arange(x.shape[-1]) - (x.shape[-1] - 1) / 2
        return (torch.cat([torch.zeros_like(x), x + left, x - left], dim=1),)


class SidedRegions(Sided):
    """The same for regions: both, left, right."""

    def forward(self, x):
        return (super().forward(x)[0] + 3 * x.new_tensor([1, 0, 0])[:, None, None, None],)


@pytest.mark.parametrize("network", [Sided(), SidedRegions()])
def test_flips_keep_left_and_right_apart(network):
    regions = isinstance(network, SidedRegions)
    fields = plan_of(labels=(0, 3, 7)).model_dump()
    fields["dataset_info"]["mirrored_labels"] = [(7, 3)]
    evaluated = {"both": (3, 7), "left": (3,), "right": (7,)}
    fields["evaluation"] = {name: {"labels": labels} for name, labels in evaluated.items()}
    plan = parse_plan(fields, "test")
    model = TrainedModel(network, plan, Train(regions=regions, mirror_axes="x"))
    found = logits_of([model], flips=True)
    torch.testing.assert_close(found, logits_of([model], flips=False))
    assert found[1, 0, 0, 7] > found[2, 0, 0, 7]  # x runs from right to left


def test_prediction_without_a_model_is_a_mistake_of_ours():
    with pytest.raises(ValueError, match="at least one model"):
        logits_of([], flips=False)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A model with fresh weights, as train writes it."""
    path = tmp_path_factory.mktemp("model") / "fold_0.pt"
    torch.manual_seed(0)
    save_model(path, for_plan(plan_of(), Train()), plan_of(), Train(seed=5), 0)
    return path


def test_a_model_file_is_enough_to_predict(model_file):
    (found,) = load_model(model_file, device=CPU)
    assert found.plan == plan_of()
    assert found.train.seed == 5
    assert not found.network.training
    image = torch.randn((1, 1, 8, 8, 8), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    expected = for_plan(plan_of(), Train()).eval()(image)[0]
    torch.testing.assert_close(found.network(image)[0], expected, rtol=1e-4, atol=1e-4)


class Malicious:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"id,fold\na,1\n",
        b"{}",
        b"\x93NUMPY",
        b"\x1f\x8b\x08",
        b"PK\x03\x04",
        b".",
        b"X\xe2\xa1",
    ],
    ids=["empty", "csv", "json", "npy", "gzip", "zip", "dot", "noise"],
)
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path, content):
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"other\.pt: expected a model file"):
        load_model(path, device=CPU)


@pytest.mark.parametrize(
    "state",
    [{"weights": {}}, {"plan": {}, "train": {}}, [1], 3, None, torch.zeros(3), Malicious()],
    ids=["weights", "plan", "list", "number", "none", "tensor", "code"],
)
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
def test_a_torch_file_of_something_else_is_refused_by_name(tmp_path, state, capsys):
    path = tmp_path / "other.pt"
    torch.save(state, path)
    with pytest.raises(DataError, match=r"other\.pt: expected"):
        load_model(path, device=CPU)
    assert capsys.readouterr().out == ""  # nothing in a file is run


@pytest.mark.parametrize(
    "broken",
    [
        lambda state: state.pop("weights"),
        lambda state: state["weights"].popitem(),
        lambda state: state["train"].update(model="unheard-of"),
        lambda state: state["train"].update(new_option=1),
        lambda state: state["plan"].pop("model"),
    ],
    ids=["no weights", "fewer weights", "other network", "new option", "other plan"],
)
def test_a_model_file_of_another_version_is_refused_by_name(tmp_path, model_file, broken):
    state = torch.load(model_file, weights_only=True)
    broken(state)
    path = tmp_path / "other.pt"
    torch.save(state, path)
    with pytest.raises(DataError, match=r"other\.pt: (fold_0: )?expected"):
        load_model(path, device=CPU)


def test_a_missing_model_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.pt: expected"):
        load_model(tmp_path / "none.pt", device=CPU)


@pytest.fixture
def preprocessed(tmp_path):
    """Arrays of the cases 'a', 'b' and 'c' on a turned grid, as preprocess writes them."""
    turned = np.eye(3)[:, [1, 2, 0]] * (-1, 1, 1)
    geometry = Geometry((9, 10, 11), (1.0, 1.2, 1.5), (5.0, 6.0, 7.0), turned)
    for name in "abc":
        image = Volume(np.random.default_rng(ord(name)).normal(size=geometry.shape), geometry)
        write(preprocess([image], None, plan_of()), tmp_path / "numpy", name, 2, Preprocess())
    return tmp_path / "numpy", geometry


def test_a_case_is_predicted_on_its_own_grid(preprocessed, model_file):
    folder, geometry = preprocessed
    models = load_model(model_file, device=CPU)
    files = folder / "images/a.npy", folder / "geometry/a.json"
    found = predict_case(models, *files, Predict(flips=False)).labels
    assert found.array.shape == geometry.shape
    assert found.geometry.matches(geometry, 1e-6)
    assert set(np.unique(found.array)) <= set(LABELS)


def call_script(folder, model_file, *words):
    command = [sys.executable, ROOT / "workflow/scripts/predict.py", "--models", model_file]
    command += ["--numpy", folder, "--settings", json.dumps({"flips": False}), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_script_does_the_good_cases_and_names_the_bad(preprocessed, model_file, tmp_path):
    folder, geometry = preprocessed
    (folder / "geometry/b.json").write_text("{")
    done = call_script(
        folder, model_file, "--case", "a", "b", "c", "--output", tmp_path / "predictions"
    )
    assert done.returncode == 1
    assert "ERROR: case b: " in done.stderr
    assert "geometry/b.json" in done.stderr
    names = sorted(path.name for path in (tmp_path / "predictions").glob("[!.]*"))
    assert names == ["a.nii.gz", "c.nii.gz"]
    assert read_labels(tmp_path / "predictions/c.nii.gz").geometry.matches(geometry)
