"""Batches: in the order of the steps, the same whoever reads them."""

import os
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from test_train import PLAN, case

from mist_core import loading
from mist_core.config import Train
from mist_core.errors import DataError
from mist_core.io import write_array
from mist_core.loading import Draws, memory_bytes, pieces_of, workers
from mist_core.parallel import Part
from mist_core.patches import StoredCases

CPU = torch.device("cpu")
ALONE = Part()
CASES = [case(0), case(1), case(2)]


def draws(cases=CASES, part=ALONE, fold=0, **settings):
    return Draws(cases, PLAN, Train(**{"batch_size": 2} | settings), fold, part)


def images(some, first=0, last=3):
    """Those of each batch, augmented."""
    found = enumerate(pieces_of(some, first, last, CPU), some.settings.accumulate * first)
    return [some.batch(pieces, number, CPU).images for number, pieces in found]


def stored(folder, ids=("a", "b")):
    for number, name in enumerate(ids):
        one = case(number)
        write_array(folder / f"images/{name}.npy", one.image)
        write_array(folder / f"labels/{name}.npy", one.labels)
        write_array(folder / f"foreground/{name}.npy", one.coordinates)
    return StoredCases(folder, ids)


@pytest.mark.parametrize("number", [1, 2])
def test_any_number_of_processes_reads_the_same(number):
    alone, together = images(draws(workers=0)), images(draws(workers=number))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_run_that_goes_on_reads_what_it_would_have_read():
    whole, rest = images(draws(), 0, 4), images(draws(), 2, 4)
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_the_parts_of_a_batch_are_the_whole():
    whole = images(draws(batch_size=4), 0, 1)[0]
    turns = torch.cat(images(draws(batch_size=2, accumulate=2), 0, 1))
    ranks = torch.cat([images(draws(part=Part(rank, 2)), 0, 1)[0] for rank in range(2)])
    assert torch.equal(turns, whole)
    assert torch.equal(ranks, whole)


def with_optional_channel():
    """Cases of two channels, of which the third lacks the second, and a plan that says so."""
    info = PLAN.dataset_info.model_copy(
        update={"images": ("t1", "t1c"), "optional_images": ("t1c",)}
    )
    model = PLAN.model.model_copy(update={"in_channels": 2})
    plan = PLAN.model_copy(update={"dataset_info": info, "model": model})
    doubled = [replace(one, image=np.concatenate([one.image, one.image + 5])) for one in CASES]
    doubled[2].image[1] = 0
    return partial(Draws, doubled, plan, fold=0, part=ALONE)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_channels_are_left_out_alike_whoever_reads_and_wherever_a_run_goes_on(number):
    make = with_optional_channel()
    whole = images(make(settings=Train(batch_size=2, workers=0)), 0, 8)
    rest = images(make(settings=Train(batch_size=2, workers=number)), 3, 8)
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], rest, strict=True))
    there = torch.cat(whole).flatten(2).any(-1)
    names = [name for step in range(8) for name in make(settings=Train(batch_size=2)).names(step)]
    assert there[:, 0].all()
    assert not any(has for has, name in zip(there[:, 1], names, strict=True) if name == "case 2")
    dropped = [bool(~has) for has, name in zip(there[:, 1], names, strict=True) if name != "case 2"]
    assert 0 < sum(dropped) < len(dropped)


@pytest.mark.parametrize("other", [{"seed": 1}, {"fold": 1}])
def test_another_seed_or_fold_reads_other_patches(other):
    assert not torch.equal(images(draws())[0], images(draws(**other))[0])


def test_the_cases_of_a_step_are_those_that_were_drawn():
    some = draws(batch_size=3, accumulate=2, augmentation="none")
    for step in range(5):
        found = torch.cat(images(some, step, step + 1)).numpy()
        for name, patch in zip(some.names(step), found, strict=True):
            whole = next(c.image for c in CASES if c.id == name)
            assert np.isin(patch, whole).all()


def test_cases_on_disk_are_opened_when_they_are_needed(tmp_path):
    some = stored(tmp_path)
    assert len(some) == 2
    assert [one.id for one in some] == ["a", "b"]
    assert isinstance(some[1].image, np.memmap)
    lists = [case(0), case(1)]
    for found, wanted in zip(images(draws(some)), images(draws(lists)), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("number", [0, 2])
def test_a_case_that_cannot_be_read_is_named(tmp_path, number):
    some = stored(tmp_path, ("c", "d"))
    for name in some.ids:
        (tmp_path / f"images/{name}.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"images/[cd]\.npy: expected an array, found a damaged"):
        images(draws(some, workers=number))


def test_a_reading_process_that_is_killed_ends_the_run_and_says_so():
    class Deadly(list):
        def __getitem__(self, number):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(DataError, match=r"found one killed, .* Lower train\.workers"):
        images(draws(Deadly(CASES), workers=1))


def test_arrays_that_fit_in_memory_need_no_process(monkeypatch):
    assert workers(draws()) == 0
    monkeypatch.setattr(loading, "memory_bytes", lambda: 1000)
    for threads, expected in ((1, 1), (6, 5), (64, 8)):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        assert workers(draws()) == expected
    assert workers(draws(workers=0)) == 0


def test_the_memory_is_that_of_the_machine_or_less():
    assert 0 < memory_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
