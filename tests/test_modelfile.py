"""Packages of models: what they hold, which folds are taken, and what is refused."""

import random
import re

import pytest
import torch
from test_predict import Malicious, plan_of

from mist_core.config import Train
from mist_core.errors import DataError
from mist_core.modelfile import checksum, read_models, read_states, write_package
from mist_core.models import for_plan
from mist_core.predict import load_model
from mist_core.train import save_model

CPU = torch.device("cpu")
SETTINGS = Train(model="nnunet-pocket", seed=5)


def saved(path, fold, plan=None, settings=SETTINGS, seed=None):
    """A model file of fresh weights, as train writes it."""
    plan = plan or plan_of()
    torch.manual_seed(fold if seed is None else seed)
    save_model(path, for_plan(plan, settings), plan, settings, fold)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The models of folds 0, 2 and 10."""
    folder = tmp_path_factory.mktemp("models")
    for fold in (10, 2, 0):
        saved(folder / f"fold_{fold}.pt", fold)
    (folder / "fold_x.pt").write_text("not a fold")
    return folder


@pytest.fixture(scope="module")
def package(folder):
    path = folder.parent / "organ.pt"
    write_package(path, read_states(folder), "free for all")
    return path


def outputs(models):
    image = torch.randn((1, 1, 8, 8, 8), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return [model.network(image)[0] for model in models]


def test_a_package_holds_what_the_files_of_the_folds_hold(folder, package):
    files, packed = read_models(folder), read_models(package)
    assert list(packed) == list(files) == ["fold_0", "fold_2", "fold_10"]
    for name, model in packed.items():
        assert (model.plan, model.train) == (files[name].plan, files[name].train)
        assert model.licence == "free for all"
        torch.testing.assert_close(dict(model.weights), dict(files[name].weights), rtol=0, atol=0)
    state = torch.load(package, weights_only=True)
    assert set(state["versions"]) == {"mist_core", "torch", "python"}
    assert state["plan"]["dataset_info"]["images"] == ["t1"]


def test_a_package_of_a_package_is_the_same(package, tmp_path):
    write_package(tmp_path / "again.pt", read_states(package), "free for all")
    first, second = (torch.load(p, weights_only=True) for p in (package, tmp_path / "again.pt"))
    sums = [{n: fold["sha256"] for n, fold in p["folds"].items()} for p in (first, second)]
    assert sums[0] == sums[1]
    assert first["plan"] == second["plan"]


def test_all_ways_to_name_models_predict_the_same(folder, package):
    files = [folder / f"fold_{k}.pt" for k in (0, 2, 10)]
    expected = outputs(load_model(files, device=CPU))
    assert not torch.equal(expected[0], expected[1])
    for path in (folder, package):
        for found, wanted in zip(outputs(load_model(path, device=CPU)), expected, strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("source", ["folder", "package"])
def test_folds_are_chosen_by_number_in_the_order_asked_for(source, request):
    path = request.getfixturevalue(source)
    assert list(read_models(path, [10, 0])) == ["fold_10", "fold_0"]
    (only,) = outputs(load_model(path, [2], CPU))
    assert torch.equal(only, outputs(load_model(path, device=CPU))[1])
    with pytest.raises(DataError) as caught:
        read_models(path, [0, 1, 3])
    assert str(caught.value) == (
        f"{path}: expected fold_1, fold_3, found fold_0, fold_2, fold_10. Choose folds that are "
        "there."
    )


def test_one_file_has_the_fold_that_it_was_trained_for(tmp_path):
    path = saved(tmp_path / "best.pt", fold=3)
    assert list(read_models(path, [3])) == ["fold_3"]
    with pytest.raises(DataError, match="expected fold_0, found fold_3"):
        read_models(path, [0])


def test_a_mean_of_folds_has_the_name_of_its_file(folder, tmp_path):
    state = torch.load(folder / "fold_0.pt", weights_only=True) | {"fold": None}
    torch.save(state, tmp_path / "mean.pt")
    assert list(read_models(tmp_path / "mean.pt")) == ["mean"]


def test_a_checksum_is_of_names_types_shapes_and_values():
    value = torch.arange(6.0)
    different = [
        {"a": value},
        {"b": value},
        {"a": value.double()},
        {"a": value.view(2, 3)},
        {"a": value + 1e-6},
        {"a": value, "b": torch.tensor(0)},
    ]
    assert len({checksum(weights) for weights in different}) == len(different)
    last = torch.randn(2, 3, 4, 5, 6)
    turned = last.to(memory_format=torch.channels_last_3d)
    assert checksum({"a": last}) == checksum({"a": turned})
    assert checksum({"a": last.bfloat16()}) == checksum({"a": turned.bfloat16()})


def one_line(path, folds=None):
    with pytest.raises(DataError) as caught:
        read_models(path, folds)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_changed_weights_are_refused_by_fold(package, tmp_path):
    state = torch.load(package, weights_only=True)
    next(iter(state["folds"]["fold_2"]["weights"].values())).view(-1)[0] += 1e-3
    path = tmp_path / "changed.pt"
    torch.save(state, path)
    message = one_line(path)
    sums = re.findall("[0-9a-f]{64}", message)
    assert "expected weights of fold_2 with the SHA-256" in message
    assert sums[0] == state["folds"]["fold_2"]["sha256"] != sums[1]
    assert "Copy the file again" in message
    assert list(read_models(path, [0, 10])) == ["fold_0", "fold_10"]


def refusal(path):
    """What is said of a file; nothing where it is read."""
    try:
        read_models(path)
    except DataError as error:
        return str(error)
    return ""


def test_a_damaged_byte_is_refused_or_of_no_consequence(folder, tmp_path):
    whole = tmp_path / "whole.pt"
    write_package(whole, read_states(folder, [0]))
    content, expected = whole.read_bytes(), read_models(whole)["fold_0"]
    damaged, draw = tmp_path / "damaged.pt", random.Random(0)
    # Half of the places among the names and headers at both ends, half anywhere.
    ends = [*range(4000), *range(len(content) - 12000, len(content))]
    places = draw.sample(ends, 60) + draw.sample(range(len(content)), 60)
    refused = 0
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        damaged.write_bytes(changed)
        if message := refusal(damaged):
            assert message.startswith(str(damaged))
            assert "\n" not in message
            refused += 1
        else:
            found = read_models(damaged)["fold_0"]
            assert (found.plan, found.train) == (expected.plan, expected.train)
            assert checksum(found.weights) == checksum(expected.weights)
    assert refused > len(places) / 2


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.9999])
def test_a_file_that_was_cut_off_is_refused(package, tmp_path, share):
    content = package.read_bytes()
    path = tmp_path / "cut.pt"
    path.write_bytes(content[: int(share * len(content))])
    message = one_line(path)
    assert "expected a model file, found another kind, or one that was cut off" in message


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda p: p.update(package=2), "expected a package of format 1, found 2"),
        (lambda p: p.pop("plan"), "KeyError"),
        (lambda p: p.update(folds=[1]), "TypeError"),
        (lambda p: p.update(folds={}), "found none"),
        (lambda p: p["folds"]["fold_0"].pop("sha256"), "KeyError"),
        (lambda p: p["folds"]["fold_0"].pop("train"), "such as a checkpoint"),
        (lambda p: p["folds"]["fold_0"]["train"].update(new_option=1), "new_option"),
        (lambda p: p["plan"].pop("model"), "mistakes in: model"),
    ],
)
def test_a_package_of_another_version_is_refused(package, tmp_path, broken, words):
    state = torch.load(package, weights_only=True)
    broken(state)
    path = tmp_path / "other.pt"
    torch.save(state, path)
    assert words in one_line(path)


def test_nothing_in_a_package_is_run(tmp_path, capsys):
    path = tmp_path / "evil.pt"
    torch.save({"package": 1, "folds": {"fold_0": Malicious()}}, path)
    one_line(path)
    assert capsys.readouterr().out == ""


def test_models_of_different_plans_are_refused(tmp_path):
    saved(tmp_path / "fold_0.pt", 0)
    other = saved(tmp_path / "fold_1.pt", 1, plan_of(spacing=(2.0, 1.0, 1.0)))
    expected = f"{other}: expected the plan of {tmp_path / 'fold_0.pt'}, found another"
    for load in (read_models, load_model):
        with pytest.raises(DataError, match=re.escape(expected)):
            load(tmp_path)


def test_what_training_does_not_obey_may_differ(tmp_path):
    fields = plan_of().model_dump()
    later = plan_of().model_validate(fields | {"evaluation": {"part": {"labels": (1,)}}})
    saved(tmp_path / "fold_0.pt", 0)
    saved(tmp_path / "fold_1.pt", 1, later)
    assert len(read_models(tmp_path)) == 2


def test_a_folder_or_a_path_without_models_is_named(tmp_path):
    assert "expected models fold_<k>.pt or .onnx, found none" in one_line(tmp_path)
    assert "expected a model file, found none" in one_line(tmp_path / "none.pt")
