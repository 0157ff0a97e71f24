"""The config: defaults that agree, mistakes named all at once, values that stay as chosen."""

import pytest
import yaml
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mist_core.config import Config, Predict, Train, array_order, merged, read_config, schema
from mist_core.errors import DataError


def problems(values):
    """The lines of the refusal, without its heading."""
    with pytest.raises(DataError) as caught:
        read_config(values)
    heading, *lines = str(caught.value).splitlines()
    assert heading == f"config: {len(lines)} problem{'s' * (len(lines) > 1)}"
    return [line.strip() for line in lines]


def test_config_yaml_lists_every_option_with_its_default():
    values = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    assert read_config(values) == read_config({}) == Config()

    def keys(tree):
        return {k: keys(v) if isinstance(v, dict) else None for k, v in tree.items()}

    assert keys(values | {"experiments": {}}) == keys(Config().model_dump())


@pytest.mark.parametrize("path", sorted((ROOT / "config/examples").glob("*.yaml")), ids=str)
def test_examples_are_valid(path):
    read_config(yaml.safe_load(path.read_text()))


def test_the_schema_for_editors_is_fresh():
    assert (ROOT / "workflow/schemas/config.schema.json").read_text() == schema()


def test_an_empty_section_means_its_defaults():
    assert read_config(yaml.safe_load("train:\nanalyze:\n")) == Config()


def test_numbers_as_yaml_reads_them():
    values = yaml.safe_load("train: {learning_rate: 1e-3, epochs: 5}")  # YAML: 1e-3 is text
    assert read_config(values).train.learning_rate == 1e-3


def test_a_misspelt_key_is_named_with_its_place():
    (line,) = problems({"train": {"augment": {"mirrors": 1.0}}})
    assert line.startswith("train.augment.mirrors: expected no such key, found 1.0.")


WRONG = [
    ("analyze.folds", 1),
    ("analyze.patch_voxels", 0),
    ("analyze.patch_size", [64, 64, 0]),
    ("analyze.patch_size", [64, -64, 64]),
    ("analyze.patch_size", [64, 64]),
    ("analyze.target_spacing", [1.0, 0.0, 1.0]),
    ("analyze.target_spacing", [1.0, 1.0]),
    ("analyze.crop_to_foreground", "sometimes"),
    ("limit_cases", 1),
    ("cases_per_job", 0),
    ("preprocess.foreground_samples", 0),
    ("train.model", "unet++"),
    ("train.epochs", 0),
    ("train.learning_rate", float("nan")),
    ("train.steps_per_epoch", 0),
    ("train.augment.mirror", 1.5),
    ("train.mirror_axes", "zx"),
    ("train.augmentation", "some"),
    ("predict.overlap", 1.0),
    ("evaluate.metrics", {}),
    ("evaluate.metrics", {"dyce": {}}),
    ("evaluate.classes", {"organ": []}),
    ("experiments.default", {"evaluate": {}}),
    ("experiments.../up", {}),
    ("experiments.rank", {}),
    ("rank.scheme", "best"),
    ("rank.nan", "zero"),
    ("rank.weights.organ", -1),
    ("rank.bootstraps", -1),
    ("rank.alpha", 0),
    ("ensemble.both", {}),
    ("ensemble.both", {"experiments": ["default"]}),
    ("ensemble.both", {"experiments": ["default", "default"]}),
    ("ensemble.both", {"experiments": ["default", "other"]}),
    ("ensemble.../up", {"experiments": ["default", "other"]}),
    ("colour", "red"),
]


@pytest.mark.parametrize(("place", "value"), WRONG)
def test_a_value_that_cannot_work_is_named_with_its_place(place, value):
    keys = place.split(".", 1) if place.startswith(("exp", "ens")) else place.split(".")
    for key in reversed(keys):
        value = {key: value}
    lines = problems(value)
    assert lines
    assert all(line.startswith(place) and "expected" in line for line in lines)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("analyze", "target_spacing", [1.0, 1.0]),
        ("analyze", "patch_size", "large"),
        ("train", "steps_per_epoch", 0),
        ("evaluate", "classes", {"organ": []}),
    ],
)
def test_mistakes_in_what_may_be_auto_are_said_in_the_words_of_the_file(section, key, value):
    lines = problems({section: {key: value}})
    for word in ("literal[", "tuple[", "dict[", "constrained", "Field required"):
        assert word not in " ".join(lines)


def test_an_experiment_that_is_not_listed_is_the_default_one():
    assert Config().experiment_names() == ["default"]
    assert Config().for_experiment("default") == Config()
    assert read_config({"experiments": {"a": {}, "b": {}}}).experiment_names() == ["a", "b"]


def ensembled(name="both", **own):
    """A config with two experiments and an ensemble of them."""
    own = {"experiments": ["a", "b"]} | own
    return {"experiments": {"a": {}, "b": {}, "c": {}}, "ensemble": {name: own}}


def test_an_ensemble_is_of_experiments_under_a_name_of_its_own():
    both = read_config(ensembled()).ensemble["both"]
    assert (both.experiments, both.backend, both.weights) == (["a", "b"], "staple", None)
    for name in ("c", "rank", "done"):
        (line,) = problems(ensembled(name))
        assert line.startswith(f"ensemble.{name}: expected a name that no experiment has")
    (line,) = problems(ensembled(experiments=["a", "d"]))
    assert "ensemble.both.experiments: expected some of a, b, c, each once, found a, d" in line


def test_weights_of_an_ensemble_are_one_for_each_vote():
    vote = {"backend": "majority_vote"}
    assert read_config(ensembled(**vote, weights=[2, 0.5])).ensemble["both"].weights == [2, 0.5]
    for weights in ([1, 0], [1, -1], [1, float("inf")], [1, float("nan")], ["x", 1]):
        assert problems(ensembled(**vote, weights=weights))[0].startswith("ensemble.both.weights.")
    (line,) = problems(ensembled(**vote, weights=[1, 2, 3]))
    assert "ensemble.both.weights: expected 2, one for each experiment, found 3." in line
    (line,) = problems(ensembled(weights=[1, 2]))
    assert "ensemble.both.weights: expected the backend majority_vote beside them" in line
    (line,) = problems(ensembled(backend="mean"))
    assert line.startswith("ensemble.both.backend: expected 'staple' or 'majority_vote', found")


def test_all_mistakes_are_said_at_once():
    lines = problems({"folds": 3, "train": {"epochs": 0, "amp": "no!"}, "predict": {"overlap": 2}})
    for place in ("folds", "train.epochs", "train.amp", "predict.overlap"):
        assert any(line.startswith(place) for line in lines)


def test_mistakes_in_every_section_of_every_experiment_are_said_at_once():
    lines = problems(
        {
            "experiments": {
                "a": {"train": {"epochs": 0, "augment": {"mirror": 2}}, "predict": {"flip": True}},
                "b": {"predict": {"overlap": 1}},
                "logs": {},
            }
        }
    )
    assert [line.split(":")[0] for line in lines] == [
        "experiments.a.train.epochs",
        "experiments.a.train.augment.mirror",
        "experiments.a.predict.flip",
        "experiments.b.predict.overlap",
        "experiments.logs",
    ]


def test_an_experiment_changes_what_it_names_and_nothing_else():
    config = read_config(
        {
            "train": {"epochs": 7, "mirror_axes": "x", "augment": {"mirror": 0.1, "noise": 0.9}},
            "experiments": {
                "plain": {},
                "no-flip": {"train": {"augment": {"mirror": 0}}, "predict": {"flips": False}},
            },
        }
    )
    assert config.for_experiment("plain") == config
    changed = config.for_experiment("no-flip")
    assert (changed.train.augment.mirror, changed.train.augment.noise) == (0, 0.9)
    assert changed.train.epochs == 7
    assert changed.predict == Predict(flips=False)
    assert changed.model_copy(update={"train": config.train, "predict": Predict()}) == config


def test_parameters_of_another_network_or_loss_are_not_taken_over():
    base = {"model": "mednext-small", "model_params": {"kernel_size": 5}, "epochs": 7}
    experiments = {
        "same": {"train": {"epochs": 3}},
        "other": {"train": {"model": "nnunet"}},
        "larger": {"train": {"model_params": {"kernel_size": 7}}},
        "none": {"train": {"model_params": {}}},
    }
    config = read_config({"train": base, "experiments": experiments})
    found = {name: config.for_experiment(name).train.model_params for name in experiments}
    assert found == {
        "same": {"kernel_size": 5},
        "other": {},
        "larger": {"kernel_size": 7},
        "none": {},
    }


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"model": "unet"}, "train.model: expected one of nnunet, nnunet-pocket,"),
        ({"loss": "ce"}, "train.loss: expected one of dice, dice_ce,"),
        ({"model_params": {"kernel_size": 5}}, "expected nothing for nnunet, found kernel_size"),
        (
            {"loss": "cldice", "loss_params": {"tolerance_mm": 5}},
            "train.loss_params: expected iterations or smoothing for cldice, found tolerance_mm",
        ),
        ({"loss": "gsl"}, "train.loss: expected preprocess.compute_dtms to be true for gsl"),
        ({"pretrained_config": "a.json"}, "expected train.pretrained_weights beside it"),
        ({"early_stopping": 3}, "train.early_stopping: expected train.val_percent above 0"),
        ({"val_percent": 0.1, "validate_every": 0}, "train.validate_every: expected auto"),
        ({"augment": {"mirror": 0.5}}, "train.augment.mirror: expected axes in train.mirror_axes"),
    ],
)
def test_training_that_cannot_be_is_refused(train, words):
    with pytest.raises(DataError) as caught:
        read_config({"train": train})
    assert words in str(caught.value)


def test_losses_with_distance_maps_know_no_regions():
    fields = {"train": {"loss": "bl", "regions": True}, "preprocess": {"compute_dtms": True}}
    with pytest.raises(DataError, match=r"without distance maps for train\.regions, found bl"):
        read_config(fields)


def test_nothing_can_be_changed_later():
    with pytest.raises(ValidationError, match="frozen"):
        Config().train.epochs = 3


def test_the_parts_survive_the_way_to_a_job_as_json():
    train = read_config({"train": {"epochs": 3, "mirror_axes": "yz"}}).train
    assert Train.model_validate_json(train.model_dump_json()) == train


def test_xyz_of_the_user_is_zyx_of_arrays():
    assert array_order((1, 2, 3)) == (3, 2, 1)


def test_laying_over_by_hand():
    base = {"a": {"x": 1, "y": {"z": 2}}, "b": 3}
    assert merged(base, {"a": {"y": {"w": 4}}, "c": 5}) == {
        "a": {"x": 1, "y": {"z": 2, "w": 4}}, "b": 3, "c": 5
    }  # fmt: skip
    assert merged(base, {"a": 1, "b": {"x": 1}}) == {"a": 1, "b": {"x": 1}}
    assert base == {"a": {"x": 1, "y": {"z": 2}}, "b": 3}


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["auto", "a", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["train", "epochs", "a", "predict", "augment"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from([*Config.model_fields, "colour"]), TREES))
def test_any_values_give_a_config_or_a_refusal_in_words(values):
    try:
        config = read_config(values)
    except DataError:  # anything else is a traceback for the user
        return
    assert all(config.for_experiment(name) for name in config.experiment_names())


@given(
    st.dictionaries(st.sampled_from("abc"), TREES), st.dictionaries(st.sampled_from("bcd"), TREES)
)
def test_laying_over_is_idempotent(base, changes):
    once = merged(base, changes)
    assert merged(once, changes) == once
    assert merged(base, {}) == base
    assert once.keys() == base.keys() | changes.keys()
