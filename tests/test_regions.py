"""Classes that overlap: which label is in which, and the way back from them to labels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_predict import plan_of

from mist_core.config import Train
from mist_core.criterion import criterion, target
from mist_core.errors import DataError
from mist_core.predict import of_labels
from mist_core.regions import membership, mirrored_classes, mirrored_regions

LABELS = (0, 1, 2, 4)
TUMOUR = {"whole": (1, 2, 4), "core": (1, 4), "enhancing": (4,)}


def plan(regions=TUMOUR):
    fields = {name: {"labels": labels} for name, labels in regions.items()}
    found = plan_of(labels=LABELS)
    return found.model_validate(found.model_dump() | {"evaluation": fields})


def test_membership_by_hand():
    assert membership(LABELS, TUMOUR).astype(int).tolist() == [
        *([0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1])
    ]


def test_labels_that_no_region_tells_apart_are_named():
    with pytest.raises(DataError, match="tell labels 1 and 4 apart, found both in whole, core"):
        membership(LABELS, {"whole": (1, 2, 4), "core": (1, 4)})


def test_a_label_of_no_region_is_named():
    with pytest.raises(DataError, match="tell labels 0 and 2 apart, found both in none"):
        membership(LABELS, {"core": (1, 4), "enhancing": (4,)})


def test_classes_in_a_mirror_by_hand():
    assert mirrored_classes((0, 3, 5, 9), []) == (0, 1, 2, 3)
    assert mirrored_classes((0, 3, 5, 9), [(9, 3)]) == (0, 3, 2, 1)


def test_regions_in_a_mirror_by_hand():
    regions = {"lungs": (1, 2), "left": (1, 5), "heart": (3,), "right": (5, 2)}
    assert mirrored_regions(regions, [(1, 2)]) == (0, 3, 2, 1)
    assert mirrored_regions(regions, []) == (0, 1, 2, 3)
    assert mirrored_regions({"a": (1, 2), "b": (2, 1)}, [(1, 2)]) == (0, 1)


def test_a_region_without_a_mirror_image_is_named():
    with pytest.raises(DataError, match=r"found none for left \[1\]. Add a class of \[2\]"):
        mirrored_regions({"both": (1, 2), "left": (1,)}, [(1, 2)])


def test_training_for_regions_without_a_mirror_image_is_refused():
    fields = plan().model_dump()
    fields["dataset_info"]["mirrored_labels"] = [(1, 4)]
    sided = plan().model_validate(fields)
    with pytest.raises(DataError, match="mirror image"):
        criterion(sided, Train(regions=True, mirror_axes="x"), torch.device("cpu"))
    for axes in (None, "yz"):
        criterion(sided, Train(regions=True, mirror_axes=axes), torch.device("cpu"))


def test_targets_of_regions_by_hand():
    labels = torch.tensor([[[[0, 1, 2, 3, 4]]]], dtype=torch.uint8)  # 4: to be ignored
    table = torch.from_numpy(membership(LABELS, TUMOUR))
    assert target(labels, 4, table)[0, :, 0, 0].tolist() == [
        *([0, 1, 1, 1, -1], [0, 1, 0, 1, -1], [0, 0, 0, 1, -1])
    ]


def test_targets_of_labels_by_hand():
    labels = torch.tensor([[[[0, 3, 4]]]], dtype=torch.uint8)
    assert target(labels, 4, None).flatten().tolist() == [0, 3, -1]
    assert target(labels, None, None) is labels
    many = torch.tensor([0, 300], dtype=torch.uint16)
    assert target(many, None, None).tolist() == [0, 300]


@given(st.integers(0, 10_000))
def test_a_network_that_is_sure_of_its_regions_is_sure_of_the_labels(seed):
    indices = np.random.default_rng(seed).integers(0, 4, (3, 4, 5))
    table = membership(LABELS, TUMOUR)
    logits = torch.from_numpy(np.where(table[:, indices], 9.0, -9.0))
    (found,) = of_labels(logits[None], plan())
    assert np.array_equal(found.argmax(0).numpy(), indices)


def test_probabilities_of_labels_are_products_of_those_of_regions():
    probabilities = torch.tensor([0.8, 0.4, 0.7], dtype=torch.float64)
    logits = probabilities.logit()[None, :, None, None, None]
    found = of_labels(logits, plan()).softmax(1).flatten().double()
    p, q = probabilities, 1 - probabilities
    products = torch.stack(
        [q[0] * q[1] * q[2], p[0] * p[1] * q[2], p[0] * q[1] * q[2], p[0] * p[1] * p[2]]
    )
    torch.testing.assert_close(found, products / products.sum(), rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert of_labels(logits.float(), plan()).dtype == torch.float32
