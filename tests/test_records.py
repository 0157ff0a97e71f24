"""What is told of a training: a line an epoch, and what holds it up."""

import pytest

from mist_core.config import Train
from mist_core.files import read_rows
from mist_core.records import Records

RECORD = {
    "epoch": 3,
    "steps": 250,
    "loss": 0.25,
    "learning_rate": 1e-3,
    "patches_per_second": 12.5,
    "waiting": 0.01,
}


@pytest.fixture
def records(tmp_path):
    with Records(tmp_path, [], Train(epochs=1000)) as made:
        yield made


def test_an_epoch_is_one_line(records):
    assert records.line(RECORD | {"dice": 0.9, "dice_organ": 0.9}, 0.1, 3661) == (
        "epoch 3/1000  loss 0.2500  Dice 0.9000  lr 1.00e-03  12.50 patches/s  waiting 1.0%  "
        "01:01:01 left"
    )
    assert records.line(RECORD, 0.1, 90_000).endswith("1 d 01:00:00 left")


def test_where_time_ends_a_run_the_line_says_how_far_it_is(tmp_path):
    with Records(tmp_path, [], Train(epochs=1000, minutes=20)) as made:
        line = made.line(RECORD, 0.257, 0)
    assert line.startswith("epoch 3/1000 (26 % of the time)  loss")


def test_columns_that_come_later_are_empty_before(records, tmp_path):
    records.add(RECORD, 0.1, 1)
    records.add(RECORD | {"epoch": 4, "dice": 0.5}, 0.1, 1)
    rows = read_rows(tmp_path / "history.csv")
    assert [row["dice"] for row in rows] == ["", "0.5"]


def test_waiting_for_data_is_told_once_with_what_to_do(records, caplog):
    for epoch in (1, 2):
        records.add(RECORD | {"epoch": epoch, "waiting": 0.3}, 0.1, 1)
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(said) == 1
    assert "waits 30 % of the time for patches" in said[0]
    assert "train.workers (auto now)" in said[0]


def test_little_waiting_is_no_matter(records, caplog):
    records.add(RECORD, 0.1, 1)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
