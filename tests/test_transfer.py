"""Beginning with the weights of another model: what is taken over, adapted, left, and refused."""

import logging

import numpy as np
import pytest
import torch
from test_train import PLAN, SHORT, case

from mist_core.config import Train
from mist_core.errors import DataError
from mist_core.files import read_rows, write_json
from mist_core.models import for_plan
from mist_core.patches import TrainingCase
from mist_core.train import Paths, save_model, train
from mist_core.transfer import begin_with, is_larger_kernel, transfer

FIRST = "encoder.0.first.0.weight"  # of nnunet: 32 features from the image's channels


def plan_of(channels=1, classes=3, patch=8, spacing=1.0):
    fields = PLAN.model_dump()
    fields["model"] = {"in_channels": channels, "out_channels": classes}
    fields["dataset_info"] |= {
        "images": [f"t{n}" for n in range(channels)],
        "labels": list(range(classes)),
    }
    fields["spatial_config"] |= {"patch_size": (patch,) * 3, "target_spacing": (1, 1, spacing)}
    return PLAN.model_validate(fields)


def fresh(plan, seed=0, settings=SHORT):
    torch.manual_seed(seed)
    return for_plan(plan, settings)


@pytest.fixture
def weights(tmp_path):
    """A model file: one channel, three classes."""
    save_model(tmp_path / "fold_0.pt", fresh(plan_of(), 1), plan_of(), SHORT, 0)
    return tmp_path / "fold_0.pt"


def begun(weights, plan, **settings):
    chosen = SHORT.model_copy(update={"pretrained_weights": str(weights)} | settings)
    network = fresh(plan)
    return network.state_dict(), begin_with(network, plan, chosen)


def tensors(weights):
    return torch.load(weights, weights_only=True)["weights"]


def test_the_encoder_is_taken_over_and_the_rest_left_fresh(weights):
    found, done = begun(weights, plan_of())
    before, source = fresh(plan_of()).state_dict(), tensors(weights)
    for name, value in found.items():
        origin = source if name.startswith("encoder.") else before
        assert torch.equal(value, origin[name])
    assert not done.adapted
    assert set(done.left.values()) == {"not of the encoder"}
    assert len(done.loaded) + len(done.left) == len(found)


def test_everything_is_taken_over_where_it_is_asked_for(weights):
    found, done = begun(weights, plan_of(), pretrained_part="all")
    assert all(torch.equal(found[name], value) for name, value in tensors(weights).items())
    assert not done.left


def test_other_channels_and_classes_are_adapted_and_left(weights, caplog):
    """From one channel and three classes to two channels and five classes."""
    with caplog.at_level(logging.INFO):
        found, done = begun(weights, plan_of(2, 5), pretrained_part="all")
    source = tensors(weights)
    assert torch.equal(found[FIRST], source[FIRST].repeat(1, 2, 1, 1, 1) / 2)
    assert set(done.adapted) == {FIRST, "encoder.0.shortcut.0.weight"}
    assert done.adapted[FIRST] == "32 x 1 x 3 x 3 x 3 to 32 x 2 x 3 x 3 x 3"
    assert set(done.left) == {"heads.0.weight", "heads.0.bias"}
    assert "2 adapted: encoder.0.first.0.weight (32 x 1 x 3 x 3 x 3 to" in caplog.text
    assert "2 left as they were: heads.0.weight (3 x 32 x 1 x 1 x 1 to 5 x 32" in caplog.text


def test_a_network_is_tuned_to_more_channels_and_classes(weights, tmp_path):
    """From one channel and three classes to two and five: it learns, from what it began with."""
    plan = plan_of(2, 5)
    one = case()
    labels = np.where(one.image[0] > 1.8, 4, one.labels).astype(np.uint8)
    labels[9:, 9:, 9:] = 3
    rows = np.array(sorted([labels[tuple(v)], *v] for v in np.argwhere(labels)), np.int32)
    two = TrainingCase("two", np.concatenate([one.image, -one.image]), labels, rows)
    chosen = {"pretrained_weights": str(weights), "pretrained_part": "all", "steps_per_epoch": 10}
    settings = SHORT.model_copy(update=chosen | {"learning_rate": 1e-4})
    paths = Paths(tmp_path / "c.pt", tmp_path / "logs")
    network = train([two], [], plan, settings, 0, paths, "mine").network
    assert network(torch.zeros(1, 2, 8, 8, 8))[0].shape == (1, 5, 8, 8, 8)
    losses = [float(row["loss"]) for row in read_rows(tmp_path / "logs/history.csv")]
    assert losses[-1] < losses[0]
    tuned = network.state_dict()["encoder.1.first.0.weight"]
    source = tensors(weights)["encoder.1.first.0.weight"]
    fresh_one = fresh(plan).state_dict()["encoder.1.first.0.weight"]
    assert 0 < (tuned - source).norm() < 0.1 * (tuned - fresh_one).norm()


@pytest.mark.parametrize(
    ("strategy", "response"),
    [("average", 1 + 4), ("first", 1)],
)
def test_channels_by_hand(strategy, response):
    """From two channels with weights 1 and 4 to four: 5 in all, or the first one's 1."""
    source = {FIRST: torch.tensor([1.0, 4.0])[None, :, None, None, None].expand(32, 2, 3, 3, 3)}
    network = fresh(plan_of(4))
    settings = Train(input_channel_strategy=strategy)
    transfer(network, source, (2, 4), settings)
    assert torch.all(network.state_dict()[FIRST] == response / 4)


def test_channels_may_be_left_fresh(weights):
    found, done = begun(weights, plan_of(2), input_channel_strategy="skip")
    assert torch.equal(found[FIRST], fresh(plan_of(2)).state_dict()[FIRST])
    assert FIRST in done.left
    assert done.loaded


def test_another_patch_takes_what_both_have(weights):
    """A larger patch has more levels: the finer ones are those of the file."""
    found, done = begun(weights, plan_of(patch=16))
    source = tensors(weights)
    assert torch.equal(found["encoder.0.second.0.weight"], source["encoder.0.second.0.weight"])
    assert "not in the file" in done.left.values()


def test_only_depthwise_kernels_grow():
    size = torch.Size
    assert is_larger_kernel(size((4, 1, 3, 3, 3)), size((4, 1, 5, 5, 5)))
    assert not is_larger_kernel(size((4, 4, 3, 3, 3)), size((4, 4, 5, 5, 5)))
    assert not is_larger_kernel(size((4, 1, 1, 3, 3)), size((4, 1, 3, 3, 3)))
    assert not is_larger_kernel(size((4, 1, 5, 5, 5)), size((4, 1, 3, 3, 3)))


def test_weights_of_another_architecture_are_refused(weights):
    state = torch.load(weights, weights_only=True)
    state["train"]["model"] = "fmgnet"
    torch.save(state, weights)
    with pytest.raises(DataError, match="expected weights of nnunet, found those of fmgnet"):
        begun(weights, plan_of())


def test_weights_of_which_nothing_fits_are_refused(weights):
    state = torch.load(weights, weights_only=True)
    state["weights"] = {f"module.{name}": value for name, value in state["weights"].items()}
    torch.save(state, weights)
    with pytest.raises(DataError, match="expected weights that fit, found none: encoder"):
        begun(weights, plan_of())


def test_the_config_of_other_weights_is_refused(weights, tmp_path):
    write_json(tmp_path / "mine.json", plan_of().model_dump(mode="json"))
    begun(weights, plan_of(), pretrained_config=str(tmp_path / "mine.json"))
    write_json(tmp_path / "other.json", plan_of(2).model_dump(mode="json"))
    with pytest.raises(DataError, match=r"other\.json: expected the config\.json of .* model\."):
        begun(weights, plan_of(), pretrained_config=str(tmp_path / "other.json"))


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "found none"), (b"text", "found another kind")],
)
def test_files_that_are_no_models_are_refused(tmp_path, content, words):
    path = tmp_path / "w.pt"
    if content:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        begun(path, plan_of())


def test_a_checkpoint_is_no_model(tmp_path):
    torch.save({"identity": "x", "model": {}}, tmp_path / "c.pt")
    with pytest.raises(DataError, match=r"expected a model file \(models/fold_<k>.pt\), found"):
        begun(tmp_path / "c.pt", plan_of())
