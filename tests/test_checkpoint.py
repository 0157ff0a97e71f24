"""Checkpoints: two of them, and what happens when one is damaged."""

import pytest
import torch

from mist_core.checkpoint import before, load, save


def saved(path, *steps):
    for step in steps:
        save(path, {"step": step, "weights": torch.full((1000,), float(step))})


def test_nothing_is_loaded_where_nothing_is(tmp_path):
    assert load(tmp_path / "c.pt") is None


def test_the_newest_and_the_one_before_are_kept(tmp_path):
    path = tmp_path / "c.pt"
    saved(path, 1, 2, 3)
    assert load(path)["step"] == 3
    assert load(before(path))["step"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.pt", "c_before.pt"]


@pytest.mark.parametrize("length", [0, 1, 100, 3000, -1])
def test_a_cut_off_checkpoint_falls_back_to_the_one_before(tmp_path, length, caplog):
    path = tmp_path / "c.pt"
    saved(path, 1, 2)
    path.write_bytes(path.read_bytes()[:length])
    assert load(path)["step"] == 1
    assert f"{path}: expected a checkpoint, found a damaged file" in caplog.text
    assert "Taking the one before." in caplog.text


def test_one_flipped_bit_is_found(tmp_path, caplog):
    path = tmp_path / "c.pt"
    saved(path, 1, 2)
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((4,), 2.0).numpy().tobytes()) + 200] ^= 1
    path.write_bytes(content)
    assert load(path)["step"] == 1


def test_a_run_killed_between_the_two_renames_has_the_one_before(tmp_path):
    path = tmp_path / "c.pt"
    saved(path, 1)
    path.rename(before(path))
    assert load(path)["step"] == 1


def test_nothing_is_loaded_where_both_are_damaged(tmp_path, caplog):
    path = tmp_path / "c.pt"
    saved(path, 1, 2)
    for each in (path, before(path)):
        each.write_bytes(b"PK")
    assert load(path) is None
    assert "Starting anew." in caplog.text


def test_a_damaged_checkpoint_never_becomes_the_one_before(tmp_path):
    path = tmp_path / "c.pt"
    saved(path, 1, 2)
    path.write_bytes(b"PK")
    load(path)
    saved(path, 3)
    assert load(path)["step"] == 3
    assert load(before(path))["step"] == 1
