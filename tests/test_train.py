"""Training: its schedule, its files, and that a stopped run goes on as if it had not been."""

import csv
import dataclasses
import json
import logging
import math
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mist_core import checkpoint
from mist_core import criterion as criteria
from mist_core import train as training
from mist_core.config import Train
from mist_core.criterion import criterion
from mist_core.errors import DataError
from mist_core.files import read_json, read_rows, write_json
from mist_core.io import write_array
from mist_core.losses import LOSSES
from mist_core.models import for_plan
from mist_core.optimizers import learning_rate
from mist_core.patches import Batch, TrainingCase
from mist_core.plan import parse_plan
from mist_core.train import Paths, save_model, steps_per_epoch, train

EDGE = 8
PLAN = parse_plan(
    {
        "mist_version": "0",
        "dataset_info": {"task": "t", "modality": "mr", "images": ["t1"], "labels": (0, 1, 4)},
        "spatial_config": {
            "patch_size": (EDGE,) * 3,
            "target_spacing": (1, 1, 1),
            "median_resampled_image_size": (12, 12, 12),
        },
        "preprocessing": {
            "crop_to_foreground": False,
            "normalize_with_nonzero_mask": [False],
            "ct_normalization": [None],
        },
        "model": {"in_channels": 1, "out_channels": 3},
        "evaluation": {"organ": {"labels": [1, 4]}},
    },
    "test",
)
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
NO_PICTURE = np.zeros((4, 4, 3), np.uint8)
SHORT = Train(epochs=3, steps_per_epoch=2, batch_size=1, amp=False, checkpoint_minutes=0)


def case(number=0, edge=12):
    """A bright cube (1) with a brighter corner (2) in noise."""
    labels = np.zeros((edge,) * 3, np.uint8)
    labels[3:9, 3:9, 3:9], labels[3:6, 3:6, 3:6] = 1, 2
    noise = np.random.default_rng(number).normal(0, 0.1, labels.shape)
    image = (labels + noise).astype(np.float32)[None]
    rows = sorted([labels[tuple(v)], *v] for v in np.argwhere(labels))
    return TrainingCase(f"case {number}", image, labels, np.array(rows, np.int32))


def trained(folder, settings=SHORT, fold=0, identity="mine", cases=None, looked_at=()):
    paths = Paths(folder / "checkpoint.pt", folder / "logs")
    cases = [case(0), case(1)] if cases is None else cases
    return train(cases, looked_at, PLAN, settings, fold, paths, identity)


def run(folder, *args, **keywords):
    network = trained(folder, *args, **keywords).network
    return {name: weights.clone() for name, weights in network.state_dict().items()}


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def exact(row):
    """What of an epoch's record does not depend on the clock."""
    return {k: v for k, v in row.items() if k not in ("patches_per_second", "waiting")}


def history(folder):
    with (folder / "logs/history.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def scalars(folder):
    """(step, value) pairs of each TensorBoard tag, as TensorBoard shows them."""
    events = EventAccumulator(str(folder / "logs"))
    events.Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def test_tensorboard_shows_the_patches_and_what_is_found(tmp_path):
    run(tmp_path, SHORT.model_copy(update={"validate_every": 2}), looked_at=[case(7)])
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    shown = {tag: [e.step for e in events.Images(tag)] for tag in events.Tags()["images"]}
    assert shown == {"patches": [0], "validation": [2, 3]}
    assert all(e.width > 100 < e.height for tag in shown for e in events.Images(tag))
    assert (tmp_path / "logs/patches.png").stat().st_size > 1000


def stop_in_epoch(monkeypatch, number):
    """From now on a run dies at the end of this epoch, after its records, before its checkpoint."""
    stop_at_step(monkeypatch, 2 * number)


def stop_at_step(monkeypatch, number):
    """From now on a run dies before it writes the checkpoint of this step."""
    whole = checkpoint.save

    def dying(path, state):
        if state["state"]["step"] == number:
            raise KeyboardInterrupt
        whole(path, state)

    monkeypatch.setattr(checkpoint, "save", dying)


def test_the_schedule_by_hand():
    settings = Train(learning_rate=1.0, warmup_epochs=2, epochs=22)
    rates = [learning_rate(step / 220, settings) for step in (0, 10, 20, 120, 220)]
    assert rates == pytest.approx([0.01, 0.505, 1.0, 0.5, 0.0])


def test_the_default_warm_up_takes_a_tenth_of_a_short_run():
    settings = Train(learning_rate=1.0, epochs=5)
    rates = [learning_rate(step / 1250, settings) for step in range(1250)]
    assert int(np.argmax(rates)) == 125
    assert rates[125] == pytest.approx(1)
    assert (np.diff(rates[:126]) > 0).all()
    assert (np.diff(rates[125:]) < 0).all()


def test_a_long_run_warms_up_for_the_epochs_that_were_set():
    settings = Train(learning_rate=1.0)
    assert learning_rate(20 / 1000, settings) == 1
    assert learning_rate(20 / 1000 - 1e-6, settings) < 1


@given(st.integers(1, 300), st.integers(1, 50), st.integers(0, 400))
def test_every_step_of_any_run_has_a_positive_rate(epochs, epoch_steps, warmup):
    settings = Train(learning_rate=0.5, warmup_epochs=warmup, epochs=epochs)
    steps = epochs * epoch_steps
    for step in {0, steps // 20, steps // 10, steps // 2, steps - 1}:
        assert 0 < learning_rate(step / steps, settings) <= 0.5


def test_steps_per_epoch_are_as_set_or_250_or_a_pass_over_the_cases():
    assert steps_per_epoch(Train(steps_per_epoch=7), 1000, 2) == 7
    assert steps_per_epoch(Train(), 10, 2) == 250
    assert steps_per_epoch(Train(), 501, 2) == 251


def test_a_short_run_with_default_warm_up_learns(tmp_path):
    settings = Train(epochs=5, steps_per_epoch=6, amp=False, augment={"rotation": 0, "scaling": 0})
    run(tmp_path, settings)
    losses = [float(row["loss"]) for row in history(tmp_path)]
    assert len(losses) == 5
    assert losses[-1] < 0.7 * losses[0]


def test_two_runs_with_one_seed_give_the_same_weights(tmp_path):
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    assert same(first, second)
    for one, other in zip(history(tmp_path / "a"), history(tmp_path / "b"), strict=True):
        assert one["loss"] == other["loss"]


def test_another_seed_or_fold_gives_other_weights(tmp_path):
    first = run(tmp_path / "a")
    assert not same(first, run(tmp_path / "b", SHORT.model_copy(update={"seed": 43})))
    assert not same(first, run(tmp_path / "c", fold=1))


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    with monkeypatch.context() as context:
        stop_in_epoch(context, 3)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped")
    assert same(run(tmp_path / "stopped"), whole)
    for one, other in zip(history(tmp_path / "stopped"), history(tmp_path / "whole"), strict=True):
        assert exact(one) == exact(other)


def test_a_resumed_run_shows_every_epoch_once(tmp_path, monkeypatch):
    with monkeypatch.context() as context:
        stop_in_epoch(context, 3)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    time.sleep(1)  # TensorBoard tells the runs apart by the second in which they began
    run(tmp_path)
    assert [row["epoch"] for row in history(tmp_path)] == ["1", "2", "3"]
    assert [step for step, _ in scalars(tmp_path)["loss"]] == [1, 2, 3]


def test_a_resumed_run_does_only_what_is_left(tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as context:
        stop_in_epoch(context, 3)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    with caplog.at_level(logging.INFO):
        caplog.clear()
        run(tmp_path)
    assert "going on after epoch 2" in caplog.text
    assert caplog.text.count("patches/s") == 1


def test_a_finished_checkpoint_gives_its_model_at_once(tmp_path, caplog):
    first = run(tmp_path)
    with caplog.at_level(logging.INFO):
        caplog.clear()
        assert same(run(tmp_path), first)
    assert "patches/s" not in caplog.text
    assert len(history(tmp_path)) == 3


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_run_that_is_stopped_within_an_epoch_loses_nothing(tmp_path, monkeypatch, step):
    whole = run(tmp_path / "whole")
    with monkeypatch.context() as context:
        stop_at_step(context, step + 1)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped")
    assert same(run(tmp_path / "stopped"), whole)
    assert [exact(row) for row in history(tmp_path / "stopped")] == [
        exact(row) for row in history(tmp_path / "whole")
    ]


def test_a_finished_run_goes_on_when_it_is_to_take_longer(tmp_path, caplog):
    """With a constant rate it is then what the longer run would have been."""
    constant = SHORT.model_copy(update={"lr_scheduler": "constant", "warmup_epochs": 0})
    longer = constant.model_copy(update={"epochs": 5})
    whole = run(tmp_path / "whole", longer)
    run(tmp_path / "extended", constant)
    with caplog.at_level(logging.INFO):
        found = run(tmp_path / "extended", longer)
    assert "going on after epoch 3, step 6" in caplog.text
    assert same(found, whole)
    assert [row["epoch"] for row in history(tmp_path / "extended")] == ["1", "2", "3", "4", "5"]


def test_a_run_that_is_to_be_shorter_begins_anew(tmp_path, caplog):
    run(tmp_path / "shortened")
    shorter = SHORT.model_copy(update={"epochs": 2})
    with caplog.at_level(logging.INFO):
        found = run(tmp_path / "shortened", shorter)
    assert "went further than this run is to go: starting anew" in caplog.text
    assert same(found, run(tmp_path / "fresh", shorter))


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(tmp_path, caplog):
    whole = run(tmp_path / "whole")
    run(tmp_path / "damaged")
    newest = tmp_path / "damaged/checkpoint.pt"
    newest.write_bytes(newest.read_bytes()[:-1000])
    found = run(tmp_path / "damaged")
    assert "expected a checkpoint, found a damaged file" in caplog.text
    assert same(found, whole)


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_reading_processes_gives_the_same_weights(tmp_path, workers):
    alone = run(tmp_path / "alone", SHORT.model_copy(update={"workers": 0}))
    assert same(run(tmp_path / "more", SHORT.model_copy(update={"workers": workers})), alone)


def test_batches_that_are_added_up_give_the_gradient_of_the_whole(tmp_path):
    whole = run(tmp_path / "whole", SHORT.model_copy(update={"batch_size": 4}))
    parts = SHORT.model_copy(update={"batch_size": 2, "accumulate": 2})
    found = run(tmp_path / "parts", parts)
    for name, weights in whole.items():
        torch.testing.assert_close(found[name], weights, rtol=1e-3, atol=1e-4)
    assert [row["epoch"] for row in history(tmp_path / "parts")] == ["1", "2", "3"]


def test_a_run_ends_with_its_time_and_its_rate_with_it(tmp_path):
    settings = Train(minutes=0.05, steps_per_epoch=5, batch_size=1, amp=False)
    started = time.monotonic()
    found = trained(tmp_path, settings)
    assert 3 <= time.monotonic() - started < 30
    assert found.chosen.startswith("last weights")
    rows = history(tmp_path)
    assert float(rows[-1]["learning_rate"]) < 0.1 * max(float(r["learning_rate"]) for r in rows)
    assert len(rows) < 1000
    before = {k: v.clone() for k, v in found.network.state_dict().items()}
    assert same(run(tmp_path, settings), before)
    assert same(run(tmp_path, settings.model_copy(update={"epochs": 2000})), before)
    longer = settings.model_copy(update={"minutes": 0.1})
    assert not same(run(tmp_path, longer), before)
    epochs = [int(row["epoch"]) for row in history(tmp_path)]
    assert epochs == list(range(1, len(epochs) + 1))
    assert len(epochs) >= len(rows)


def test_a_run_that_time_ends_is_looked_at_in_the_end(tmp_path):
    settings = Train(minutes=0.02, steps_per_epoch=1000, batch_size=1, amp=False, validate_every=3)
    trained(tmp_path, settings, looked_at=[case(7)])
    assert [row["dice"] != "" for row in history(tmp_path)] == [True]


def test_validation_changes_nothing_but_the_records(tmp_path):
    plain = run(tmp_path / "plain")
    settings = SHORT.model_copy(update={"validate_every": 2})
    assert same(run(tmp_path / "seen", settings, looked_at=[case(7)]), plain)
    rows = history(tmp_path / "seen")
    assert [row["dice"] != "" for row in rows] == [False, True, True]  # every other, and the last
    assert list(rows[0])[-2:] == ["dice", "dice_organ"]
    assert [step for step, _ in scalars(tmp_path / "seen")["dice_organ"]] == [2, 3]


def test_the_best_weights_are_the_model_where_that_is_asked_for(tmp_path, monkeypatch):
    """And they are still when the run was stopped after them."""
    dice = iter([0.5, 0.9, 0.7, 0.9, 0.7])
    monkeypatch.setattr(training, "look", lambda *arguments: (np.array([[next(dice)]]), NO_PICTURE))
    best = SHORT.model_copy(update={"model_selection": "best", "validate_every": 1})
    found = trained(tmp_path / "best", best, looked_at=[case(7)])
    assert found.chosen == (
        "weights of epoch 2, the best by the mean Dice (0.9000) of 1 cases of the held-out fold"
    )
    state = torch.load(tmp_path / "best/checkpoint.pt", weights_only=True)
    assert same(found.network.state_dict(), state["state"]["best"])
    assert not same(found.network.state_dict(), state["model"])


def test_a_run_stops_early_where_nothing_gets_better(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(training, "look", lambda *arguments: (np.array([[0.5]]), NO_PICTURE))
    update = {"epochs": 50, "model_selection": "best", "validate_every": 1, "early_stopping": 2}
    settings = SHORT.model_copy(update=update)
    assert "weights of epoch 1," in trained(tmp_path, settings, looked_at=[case(7)]).chosen
    assert "no better validation for 2 epochs" in caplog.text
    assert len(history(tmp_path)) == 3
    assert "weights of epoch 1," in trained(tmp_path, settings, looked_at=[case(7)]).chosen
    assert len(history(tmp_path)) == 3


def test_patience_counts_only_where_somebody_looked(tmp_path, monkeypatch):
    """Every third of nine epochs is looked at, and each time it is better."""
    dice = iter([0.5, 0.6, 0.7])
    monkeypatch.setattr(training, "look", lambda *arguments: (np.array([[next(dice)]]), NO_PICTURE))
    update = {"epochs": 9, "model_selection": "best", "validate_every": 3, "early_stopping": 2}
    settings = SHORT.model_copy(update=update)
    assert "weights of epoch 9," in trained(tmp_path, settings, looked_at=[case(7)]).chosen


def test_the_best_model_depends_on_how_often_one_looks_and_the_last_does_not():
    best = SHORT.model_copy(update={"model_selection": "best"})
    rarer = {"validate_every": 7}
    assert best.kept() != best.model_copy(update=rarer).kept()
    assert SHORT.kept() == SHORT.model_copy(update=rarer).kept()
    assert SHORT.kept() == SHORT.model_copy(update={"model_selection": "last"}).kept()
    assert SHORT.kept() != SHORT.model_copy(update={"val_percent": 0.1}).kept()


def test_a_checkpoint_of_other_data_or_settings_is_ignored(tmp_path, caplog):
    run(tmp_path, identity="theirs")
    time.sleep(1)  # see above
    with caplog.at_level(logging.INFO):
        found = run(tmp_path, SHORT.model_copy(update={"seed": 1}))
    assert "starting anew" in caplog.text
    assert same(found, run(tmp_path / "fresh", SHORT.model_copy(update={"seed": 1})))
    assert [step for step, _ in scalars(tmp_path)["loss"]] == [1, 2, 3]


def test_records_of_every_epoch_are_kept(tmp_path):
    run(tmp_path)
    rows, shown = history(tmp_path), scalars(tmp_path)
    names = ["steps", "loss", "learning_rate", "patches_per_second", "waiting"]
    assert list(rows[0]) == ["epoch", *names]
    assert shown.keys() == set(names)
    for tag, points in shown.items():
        assert [step for step, _ in points] == [1, 2, 3]
        assert [value for _, value in points] == pytest.approx(
            [float(row[tag]) for row in rows], rel=1e-5
        )


def test_the_rate_goes_on_from_epoch_to_epoch(tmp_path):
    run(tmp_path)
    found = [float(row["learning_rate"]) for row in history(tmp_path)]
    assert found == pytest.approx([learning_rate(step / 6, SHORT) for step in (1, 3, 5)])


def test_a_loss_that_is_not_a_number_ends_the_run(tmp_path):
    broken = case()
    broken.image[0, 6, 6, 6] = np.nan
    words = r"fold 2: .*finite loss, found nan in step 1, of the cases case 0. The image of case 0 "
    with pytest.raises(DataError, match=words):
        run(tmp_path, fold=2, cases=[broken])
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_step_that_fails_is_named_with_its_cases_and_the_checkpoint_before_it_kept(
    tmp_path, monkeypatch
):
    """A loss that overflows in the fourth of six steps (one call is to try it)."""
    calls = iter(range(100))
    plain = dict(LOSSES)["dice_ce"]

    def failing(logits, labels):
        return plain(logits, labels) * (math.inf if next(calls) == 4 else 1)

    failing.needs = ()
    monkeypatch.setattr(criteria, "loss_of", lambda settings: failing)
    settings = SHORT.model_copy(update={"checkpoint_minutes": 1e-9})
    words = r"found inf in step 4, of the cases case [01]. Lower train.learning_rate"
    with pytest.raises(DataError, match=words):
        run(tmp_path, settings)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["step"] == 3


def test_a_gradient_that_is_not_finite_is_named_and_never_saved(tmp_path, monkeypatch):
    """The loss is fine, its slope is not: in the third of six steps."""
    calls = iter(range(100))
    plain = dict(LOSSES)["dice_ce"]

    def steep(logits, labels):
        wall = torch.sqrt((logits - logits.detach()).square().sum()) if next(calls) == 3 else 0
        return plain(logits, labels) + wall

    steep.needs = ()
    monkeypatch.setattr(criteria, "loss_of", lambda settings: steep)
    with pytest.raises(DataError, match=r"expected a finite gradient, found nan in step 3, of the"):
        run(tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["step"] == 2


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_first_step_that_overflows_in_float16_is_skipped(tmp_path, monkeypatch, optimizer):
    huge = partial(torch.amp.GradScaler, init_scale=2.0**60)
    monkeypatch.setattr(torch.amp, "GradScaler", huge)
    settings = SHORT.model_copy(update={"amp": "float16", "optimizer": optimizer})
    weights = run(tmp_path, settings)
    assert all(w.isfinite().all() for w in weights.values())
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["scaler"]["scale"] < 2.0**60


def test_losses_of_two_parts_show_their_weight(tmp_path):
    update = {"loss": "cldice", "composite_loss_weighting": "linear", "init_pause": 0}
    run(tmp_path, SHORT.model_copy(update=update))
    assert [float(row["alpha"]) for row in history(tmp_path)] == [1, 0.5, 0]
    assert [value for _, value in scalars(tmp_path)["alpha"]] == [1, 0.5, 0]


def test_waiting_for_data_is_measured(tmp_path):
    class Slow(list):
        def __getitem__(self, number):
            time.sleep(0.3)
            return super().__getitem__(number)

    run(tmp_path, cases=Slow([case(0), case(1)]))
    assert all(float(row["waiting"]) > 0.3 for row in history(tmp_path))


def test_averaged_weights_are_the_model_and_go_on_where_they_were(tmp_path, monkeypatch):
    settings = SHORT.model_copy(update={"ema": 0.9})
    whole = run(tmp_path / "whole", settings)
    plain = run(tmp_path / "plain", SHORT)
    assert not same(whole, plain)
    stop_in_epoch(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "again", settings)
    monkeypatch.undo()
    assert same(run(tmp_path / "again", settings), whole)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("loss", ["dice_ce", "cldice", "dice_topk"])
def test_a_label_to_be_ignored_teaches_nothing(loss, regions):
    """It has the class index after the last; what outputs say there costs nothing."""
    fields = PLAN.model_dump()
    fields["dataset_info"]["ignore_label"] = 9
    fields["evaluation"] = {"all": {"labels": (1, 4)}, "core": {"labels": (4,)}}
    plan = PLAN.model_validate(fields)
    labels = torch.from_numpy(case().labels)[None]
    labels[..., 6:] = 3
    logits = torch.zeros((1, 2 if regions else 3, *labels.shape[1:]), requires_grad=True)
    settings = Train(loss=loss, regions=regions)
    batch = Batch(torch.zeros_like(logits), labels)
    criterion(plan, settings, torch.device("cpu"))([logits], batch, 0).backward()
    assert logits.grad[..., :6].any()
    assert not logits.grad[..., 6:].any()


@pytest.mark.parametrize("name", ["bl", "volumetric_sddl"])
def test_losses_get_what_they_need(tmp_path, name):
    one = case()
    maps = np.stack([np.where(one.labels == k, -1.0, 1.0) for k in range(3)])
    known = dataclasses.replace(one, distance_maps=maps.astype(np.float32))
    run(tmp_path, SHORT.model_copy(update={"loss": name}), cases=[known])
    assert all(np.isfinite(float(row["loss"])) for row in history(tmp_path))


def test_parameters_that_make_no_sense_to_a_loss_are_refused_before_training(tmp_path):
    for name, params, words in (
        ("dice_ce", {"gamma": 1}, "expected parameters of dice_ce, found"),
        ("dice_topk", {"share": 2}, "expected a share above 0 and up to 1, found 2"),
        ("volumetric_sddl", {"tolerance_mm": 0.5}, "expected a tolerance_mm of at least"),
    ):
        settings = SHORT.model_copy(update={"loss": name, "loss_params": params})
        with pytest.raises(DataError, match=rf"train\.loss_params: {words}"):
            run(tmp_path, settings)
        assert not (tmp_path / "checkpoint.pt").exists()


def test_regions_that_do_not_tell_labels_apart_are_refused(tmp_path):
    with pytest.raises(DataError, match="tell labels 1 and 4 apart"):
        run(tmp_path, SHORT.model_copy(update={"regions": True}))


def test_weights_to_begin_with_are_those_of_the_first_step_only(tmp_path, caplog):
    save_model(tmp_path / "w.pt", for_plan(PLAN, Train()), PLAN, SHORT, 0)
    settings = SHORT.model_copy(update={"pretrained_weights": str(tmp_path / "w.pt")})
    with caplog.at_level(logging.INFO):
        run(tmp_path, settings)
        assert "tensors loaded" in caplog.text
        caplog.clear()
        run(tmp_path, settings)  # done already: it goes on from its checkpoint
        assert "tensors loaded" not in caplog.text


def test_bfloat16_trains(tmp_path):
    weights = run(tmp_path, Train(epochs=1, steps_per_epoch=1, batch_size=1, amp=True))
    assert {w.dtype for w in weights.values()} == {torch.float32}
    assert all(w.isfinite().all() for w in weights.values())


def test_float16_trains_with_a_scaled_loss_and_goes_on_exactly(tmp_path, monkeypatch):
    settings = SHORT.model_copy(update={"amp": "float16"})
    whole = run(tmp_path / "whole", settings)
    with monkeypatch.context() as context:
        stop_at_step(context, 4)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped", settings)
    assert same(run(tmp_path / "stopped", settings), whole)
    state = torch.load(tmp_path / "whole/checkpoint.pt", weights_only=True)
    assert state["scaler"]["scale"] > 1
    assert not same(whole, run(tmp_path / "float32"))


def test_a_model_file_tells_all_that_prediction_needs(tmp_path):
    model = for_plan(PLAN, Train())
    save_model(tmp_path / "fold_3.pt", model, PLAN, SHORT, 3)
    state = torch.load(tmp_path / "fold_3.pt", weights_only=True)
    assert same(state["weights"], model.state_dict())
    assert state["plan"] == PLAN.model_dump(mode="json")
    assert Train(**state["train"]) == SHORT
    assert state["fold"] == 3
    assert state["versions"].keys() == {"mist_core", "torch", "python"}
    assert [path.name for path in tmp_path.iterdir()] == ["fold_3.pt"]


@pytest.fixture
def script(tmp_path):
    """Call the script on three preprocessed cases, the last one in fold 1."""
    rows = ["id,fold"]
    for number in range(3):
        one = case(number)
        rows.append(f"{number:03d},{number // 2}")
        for kind, array in (
            ("images", one.image),
            ("labels", one.labels),
            ("foreground", one.coordinates),
        ):
            write_array(tmp_path / f"numpy/{kind}/{number:03d}.npy", array)
    (tmp_path / "paths.csv").write_text("\n".join(rows) + "\n")
    write_json(tmp_path / "plan.json", PLAN.model_dump(mode="json"))

    def call(fold, name=".", runner=subprocess.run, **settings):
        home, chosen = tmp_path / name, SHORT.model_copy(update=settings)
        command = [sys.executable, ROOT / "workflow/scripts/train.py", "--fold", str(fold)]
        command += ["--paths", tmp_path / "paths.csv", "--numpy", tmp_path / "numpy"]
        command += ["--plan", tmp_path / "plan.json", "--settings", chosen.model_dump_json()]
        command += ["--model", home / "fold.pt", "--checkpoint", home / "checkpoint.pt"]
        command += ["--logs", home / "logs"]
        return runner(command, **PIPES)

    return call


def weights_of(path):
    return torch.load(path, weights_only=True)["weights"]


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_killed_at_any_moment_a_run_ends_with_the_same_weights(script, tmp_path, kills):
    long = {"steps_per_epoch": 50, "epochs": 2 + kills, "ema": 0.9, "checkpoint_minutes": 0.2 / 60}
    assert script(1, "whole", **long).returncode == 0
    generator, stopped_at = np.random.default_rng(kills), []
    newest = tmp_path / "killed/checkpoint.pt"
    while len(stopped_at) < kills:
        old = newest.stat().st_mtime_ns if newest.exists() else 0
        process = script(1, "killed", runner=subprocess.Popen, **long)
        for line in process.stderr:
            if "validat" in line:  # the last line before the steps
                break
        while not newest.exists() or newest.stat().st_mtime_ns == old:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.5))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        stopped_at.append(checkpoint.load(newest)["state"]["step"])
    done = script(1, "killed", **long)
    assert done.returncode == 0
    assert f"step {stopped_at[-1]}" in done.stderr
    assert stopped_at == sorted(set(stopped_at))  # each life got further than the one before
    assert stopped_at[-1] < 50 * (2 + kills)
    assert not list((tmp_path / "killed").glob(".*-checkpoint.pt"))
    assert same(weights_of(tmp_path / "killed/fold.pt"), weights_of(tmp_path / "whole/fold.pt"))
    rows = [history(tmp_path / name) for name in ("killed", "whole")]
    assert [exact(row) for row in rows[0]] == [exact(row) for row in rows[1]]


def test_the_script_trains_on_the_other_folds_only(script, tmp_path):
    (tmp_path / "numpy/images/002.npy").unlink()  # held out, so it is not asked for
    done = script(fold=1)
    assert done.returncode == 0, done.stderr
    assert "fold 1: 2 cases" in done.stderr
    assert torch.load(tmp_path / "fold.pt", weights_only=True)["fold"] == 1


def test_the_script_names_a_missing_array(script, tmp_path):
    (tmp_path / "numpy/labels/001.npy").unlink()
    done = script(fold=1)
    assert done.returncode == 1
    assert done.stderr.startswith(f"ERROR: {tmp_path}/numpy/labels/001.npy: expected")
    assert not (tmp_path / "fold.pt").exists()


def test_the_script_sets_cases_aside_and_says_so(script, tmp_path):
    done = script(1, val_percent=0.5, validate_every=1)
    assert done.returncode == 0, done.stderr
    assert "fold 1: 1 cases" in done.stderr
    assert "validation of 1 case that were set aside, every epoch; the best" in done.stderr
    about = read_json(tmp_path / "logs/model.json")
    assert about["chosen"].endswith("of 1 cases that were set aside")
    assert not about["by_held_out"]


def test_the_script_lets_held_out_cases_choose_only_when_asked(script, tmp_path):
    done = script(1, model_selection="best", validate_every=1)
    assert done.returncode == 0, done.stderr
    assert "validation of 1 case of the held-out fold, every epoch; the best" in done.stderr
    assert read_json(tmp_path / "logs/model.json")["by_held_out"]


def test_held_out_cases_are_looked_at_and_change_nothing(script, tmp_path):
    assert "they choose no model" in script(1, "one", validate_every=1).stderr
    write_array(tmp_path / "numpy/labels/002.npy", np.zeros((12, 12, 12), np.uint8))
    assert script(1, "other", validate_every=1).returncode == 0
    one, other = ([row["dice"] for row in history(tmp_path / name)] for name in ("one", "other"))
    assert one != other
    assert same(weights_of(tmp_path / "one/fold.pt"), weights_of(tmp_path / "other/fold.pt"))


def test_the_cores_of_a_job_are_those_that_it_was_given(script, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "cpu of 1 threads" in script(1).stderr


def test_settings_survive_the_way_through_the_script():
    assert Train(**json.loads(SHORT.model_dump_json())) == SHORT


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_whole_batch(script, tmp_path):
    """Gradients and losses are means: parts of a batch give what the whole one gives. Then they go
    on together, and stop together when the time is over.
    """

    def rows(name, **settings):
        done = script(1, name, amp=False, ema=0.5, validate_every=1, **settings)
        assert done.returncode == 0, done.stderr
        return read_rows(tmp_path / name / "logs/history.csv")

    alone, together = rows("one", batch_size=4), rows("two", accumulate=2, gpus=2)
    for column in ("loss", "dice"):
        values = [[float(row[column]) for row in found] for found in (together, alone)]
        assert values[0] == pytest.approx(values[1], rel=1e-3, nan_ok=True)
    longer = rows("two", accumulate=2, gpus=2, epochs=1000, minutes=0.1)
    assert [row["epoch"] for row in longer][:4] == ["1", "2", "3", "4"]
    assert 4 <= len(longer) < 1000
