"""Losses by hand, by formula, by laws, and against MONAI."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mist_core.distance import signed_distance_map
from mist_core.losses import (
    LOSSES,
    composite_weight,
    deep_supervision,
    dice_ce,
    dice_loss,
    needs_of,
)
from mist_core.losses.surfaces import radii

SIZE = (4, 5, 6)
SPACING = (2.0, 1.5, 1.0)
COMPOSITE = ("bl", "hdos", "gsl", "cldice", "volumetric_sddl", "vessel_sddl")
every_loss = pytest.mark.parametrize("name", LOSSES)


def random_pair(seed, classes=4, batch=2, size=SIZE):
    """Logits (B, K, Z, Y, X) and class indices (B, Z, Y, X), as the patches have them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn((batch, classes, *size), generator=generator)
    labels = torch.randint(classes, (batch, *size), generator=generator)
    return logits, labels.to(torch.uint8)


def random_regions(seed, regions=3, batch=2, size=SIZE):
    """Logits and memberships (B, K, Z, Y, X) of regions that overlap."""
    logits, _ = random_pair(seed, regions, batch, size)
    generator = torch.Generator().manual_seed(seed + 1)
    return logits, torch.randint(2, logits.shape, generator=generator, dtype=torch.uint8)


def certain(labels, classes, logit=50.0):
    """Logits of a network that is sure of these labels."""
    onehot = torch.nn.functional.one_hot(labels.long(), classes)
    return onehot.movedim(-1, 1).float() * logit


def masks_of(labels, classes):
    """Targets (B, K, Z, Y, X), boolean, of labels of either kind."""
    if labels.ndim == 5:
        return (labels > 0).numpy()
    return labels.numpy()[:, None] == np.arange(classes).reshape(-1, 1, 1, 1)


def maps_of(labels, classes):
    """Distance maps (B, K, Z, Y, X) as they are stored, not normalised."""
    maps = [
        [signed_distance_map(np.ascontiguousarray(mask), False) for mask in item]
        for item in masks_of(labels, classes)
    ]
    return torch.from_numpy(np.array(maps))


def cost(name, logits, labels, **keywords):
    """A loss with all that it needs, unless given; few iterations, as the arrays are tiny."""
    loss = LOSSES[name]
    if name in ("cldice", "vessel_sddl"):
        keywords = {"iterations": 2} | keywords
    every = {"alpha": 0.5, "spacing": SPACING}
    if "distance_maps" in needs_of(loss) and "distance_maps" not in keywords:
        every["distance_maps"] = maps_of(labels, logits.shape[1])
    needed = {key: value for key, value in every.items() if key in needs_of(loss)}
    return loss(logits, labels, **(needed | keywords))


def test_a_sure_and_right_network_costs_nothing():
    _, labels = random_pair(0)
    for name in LOSSES.keys() - {"bl"}:  # inside, distances are negative
        assert cost(name, certain(labels, 4), labels).item() == pytest.approx(0, abs=1e-6), name


def test_a_sure_and_wrong_network_costs_a_whole_dice():
    _, labels = random_pair(0)
    assert dice_loss(certain((labels + 1) % 4, 4), labels).item() == pytest.approx(1, abs=1e-5)


def test_an_undecided_network_by_hand():
    labels = torch.zeros((1, 2, 2, 2), dtype=torch.uint8)
    labels[0, 0] = 1
    logits = torch.zeros((1, 2, 2, 2, 2))
    # Either class fills half of the voxels and has p = 0.5: 0.25 / (0.5 + 0.25).
    assert dice_loss(logits, labels).item() == pytest.approx(1 / 3, abs=1e-6)
    assert dice_ce(logits, labels).item() == pytest.approx((np.log(2) + 1 / 3) / 2, abs=1e-6)


def test_an_absent_class_that_is_not_predicted_costs_nothing():
    labels = torch.zeros((1, *SIZE), dtype=torch.uint8)
    labels[0, :2] = 1
    assert dice_loss(certain(labels, 3), labels).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_dice_ce_follows_its_formula(seed):
    logits, labels = random_pair(seed)
    x = logits.double().numpy()
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    y = np.moveaxis(np.eye(4)[labels.numpy()], -1, 1)
    voxels = (2, 3, 4)
    dice = ((y - p) ** 2).sum(voxels) / ((y**2).sum(voxels) + (p**2).sum(voxels) + 1e-6)
    cross_entropy = -(y * np.log(p)).sum(axis=1).mean()
    expected = (dice.mean() + cross_entropy) / 2
    assert dice_ce(logits, labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_dice_ce_is_half_of_that_of_monai(seed):
    monai = pytest.importorskip("monai.losses")
    there = monai.DiceCELoss(
        to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=0, smooth_dr=1e-6
    )
    logits, labels = random_pair(seed)
    expected = there(logits, labels[:, None].long()).item() / 2
    assert dice_ce(logits, labels).item() == pytest.approx(expected, rel=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.permutations(range(4)))
def test_the_numbering_of_classes_is_of_no_account(seed, order):
    logits, labels = random_pair(seed, size=(2, 3, 4))
    place = torch.argsort(torch.tensor(order))
    moved = dice_ce(logits[:, order], place[labels.long()])
    assert moved.item() == pytest.approx(dice_ce(logits, labels).item(), rel=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.1, 20))
def test_dice_lies_between_0_and_1(seed, sharpness):
    logits, labels = random_pair(seed, size=(2, 3, 4))
    assert 0 <= dice_loss(logits * sharpness, labels).item() <= 1


def test_items_of_a_batch_are_averaged():
    logits, labels = random_pair(5)
    each = [dice_ce(logits[i : i + 1], labels[i : i + 1]).item() for i in range(2)]
    assert dice_ce(logits, labels).item() == pytest.approx(np.mean(each), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_full(dtype):
    logits, labels = random_pair(1, classes=2, batch=1, size=(48, 48, 48))
    half = logits.to(dtype)
    found = dice_ce(half, labels)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(dice_ce(half.float(), labels).item(), rel=1e-6)


def test_a_step_down_the_gradient_lowers_the_loss():
    logits, labels = random_pair(2)
    logits.requires_grad_()
    before = dice_ce(logits, labels)
    before.backward()
    assert torch.isfinite(logits.grad).all()
    assert dice_ce(logits.detach() - logits.grad, labels) < before


# Values by hand.


def test_tversky_by_hand():
    labels = torch.zeros((1, 2, 2, 2), dtype=torch.uint8)
    labels[0, 0] = 1
    logits = torch.zeros((1, 2, 2, 2, 2))
    # p = 0.5 everywhere: 2 voxels found, 2 missed, 2 false alarms.
    expected = 1 - 2 / (2 + 0.3 * 2 + 0.7 * 2)
    assert cost("tversky", logits, labels).item() == pytest.approx(expected, abs=1e-6)
    weights = {"false_positives": 1.0, "false_negatives": 0.0}
    assert cost("tversky", logits, labels, **weights).item() == pytest.approx(0.5, abs=1e-6)


def test_focal_loss_by_hand():
    logits, labels = torch.zeros((1, 2, 2, 2, 2)), torch.ones((1, 2, 2, 2), dtype=torch.uint8)
    # p = 0.5 everywhere: 0.5^2 log 2, and a Dice of (2 / (8 + 2) + 1) / 2.
    expected = 0.5 * (0.25 * math.log(2) + 0.6)
    assert cost("focal_dice", logits, labels).item() == pytest.approx(expected, abs=1e-6)


def test_focal_loss_without_gamma_is_cross_entropy():
    logits, labels = random_pair(0)
    found = cost("focal_dice", logits, labels, gamma=0.0)
    assert found.item() == pytest.approx(dice_ce(logits, labels).item(), rel=1e-6)


def test_the_worst_voxels_by_hand():
    labels = torch.zeros((1, 1, 1, 20), dtype=torch.uint8)
    logits = torch.zeros((1, 2, 1, 1, 20))
    logits[0, 1, 0, 0, :3] = torch.tensor([1.0, 2.0, 3.0])
    worst = np.log(1 + np.exp([3.0, 2.0])).mean()  # 10 % of 20 voxels
    found = 2 * cost("dice_topk", logits, labels) - dice_loss(logits, labels)
    assert found.item() == pytest.approx(worst, rel=1e-6)


def test_all_voxels_as_the_worst_are_cross_entropy():
    logits, labels = random_pair(0)
    found = cost("dice_topk", logits, labels, share=1.0)
    assert found.item() == pytest.approx(dice_ce(logits, labels).item(), rel=1e-6)


def test_distance_losses_by_hand():
    # A line of 4 voxels with the class in the first two, and p = 0.5 everywhere.
    labels = torch.tensor([1, 1, 0, 0], dtype=torch.uint8).view(1, 1, 1, 4)
    logits = torch.zeros((1, 2, 1, 1, 4))
    here = {"alpha": 0.0, "distance_maps": torch.tensor([-1.0, 0, 1, 2]).view(1, 1, 1, 1, 4)}
    here["distance_maps"] = torch.cat([9 * torch.ones((1, 1, 1, 1, 4)), here["distance_maps"]], 1)
    assert cost("bl", logits, labels, **here).item() == pytest.approx(0.5 * 2 / 4)
    assert cost("hdos", logits, labels, **here).item() == pytest.approx(0.25 * 6 / 4)
    # 1 - (y + p) is -0.5 inside and 0.5 outside.
    assert cost("gsl", logits, labels, **here).item() == pytest.approx(1 - 0.25 * 6 / 6, abs=1e-6)


def test_cldice_of_a_line_half_found_by_hand():
    labels = torch.zeros((1, 5, 5, 8), dtype=torch.uint8)
    labels[0, 2, 2] = 1
    found = torch.zeros_like(labels)
    found[0, 2, 2, :4] = 1
    # A line is its own centreline: precision 1, sensitivity (4 + 1) / (8 + 1).
    sensitivity = 5 / 9
    expected = 1 - 2 * sensitivity / (1 + sensitivity)
    assert cost("cldice", certain(found, 2), labels, alpha=0.0).item() == pytest.approx(expected)


def test_surface_dice_of_two_slabs_by_hand():
    # Slabs along z that end after 4 and after 7 of 16 voxels: each surface is one plane, dilated
    # to 2 * 2 + 1 planes, of which planes 4 and 5 are common. Ends of the image are no surface.
    labels = torch.zeros((1, 16, 3, 3), dtype=torch.uint8)
    labels[0, :4] = 1
    found = torch.zeros_like(labels)
    found[0, :7] = 1
    same = {"alpha": 0.0, "spacing": (1.0, 1.0, 1.0)}
    value = cost("volumetric_sddl", certain(found, 2), labels, **same)
    assert value.item() == pytest.approx(1 - 2 * 2 / (5 + 5), abs=1e-6)
    value = cost("volumetric_sddl", certain(found, 2), labels, tolerance_mm=3.0, **same)
    assert value.item() == pytest.approx(1 - 2 * 4 / (7 + 7), abs=1e-6)


@pytest.mark.parametrize("name", COMPOSITE[:-1])
def test_alpha_weighs_the_plain_part(name):
    logits, labels = random_pair(1)
    other = cost(name, logits, labels, alpha=0.0).item()
    plain = dice_ce(logits, labels).item()
    assert cost(name, logits, labels, alpha=1.0).item() == pytest.approx(plain, rel=1e-5)
    found = cost(name, logits, labels, alpha=0.3).item()
    assert found == pytest.approx(0.3 * plain + 0.7 * other, rel=1e-5)


def test_alpha_is_used_twice_for_vessels():
    logits, labels = random_pair(1)
    surfaces = cost("volumetric_sddl", logits, labels, alpha=0.0)
    lines = cost("cldice", logits, labels, alpha=0.3)
    found = cost("vessel_sddl", logits, labels, alpha=0.3)
    assert found.item() == pytest.approx((0.3 * lines + 0.7 * surfaces).item(), rel=1e-5)


# What a loss needs and what it refuses.


def test_each_loss_tells_what_it_needs():
    needed = {name: needs_of(loss) for name, loss in LOSSES.items()}
    assert needed == {
        "dice": (),
        "dice_ce": (),
        "bl": ("distance_maps", "alpha"),
        "hdos": ("distance_maps", "alpha"),
        "gsl": ("distance_maps", "alpha"),
        "cldice": ("alpha",),
        "volumetric_sddl": ("spacing", "alpha"),
        "vessel_sddl": ("spacing", "alpha"),
        "dice_topk": (),
        "tversky": (),
        "focal_dice": (),
    }
    assert needs_of(lambda logits, labels: logits.sum()) == ()


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("dice_topk", {"share": 0.0}),
        ("dice_topk", {"share": 1.5}),
        ("focal_dice", {"gamma": -1.0}),
        ("tversky", {"false_positives": 0.0, "false_negatives": 0.0}),
        ("tversky", {"false_positives": -0.1}),
        ("cldice", {"iterations": -1}),
        ("cldice", {"smoothing": 0.0}),
        ("volumetric_sddl", {"tolerance_mm": 1.9}),
        ("vessel_sddl", {"tolerance_mm": 1.9}),
    ],
)
def test_keywords_without_sense_are_refused(name, keywords):
    with pytest.raises(ValueError, match=r"expected .*, found "):
        cost(name, *random_pair(0), **keywords)


@pytest.mark.parametrize(
    ("spacing", "tolerance", "expected"),
    [
        ((0.5, 1.0, 3.0), "auto", (8, 4, 2)),
        ((3.0, 1.0, 0.5), "auto", (2, 4, 8)),
        ((0.5, 1.0, 3.0), 3.0, (6, 3, 1)),
        ((1.0, 1.0, 1.0), "auto", (2, 2, 2)),
        ((0.1, 0.1, 0.3), 0.1 * 3, (3, 3, 1)),
    ],
)
def test_a_tolerance_in_mm_takes_more_voxels_where_they_are_short(spacing, tolerance, expected):
    assert radii(spacing, tolerance) == expected


@pytest.mark.parametrize("axis", range(3))
def test_surfaces_within_the_tolerance_along_their_own_axis_overlap(axis):
    """Slabs whose ends lie 6 mm apart, in voxels of 0.5, 1 and 3 mm, along z, y and x."""
    spacing = (0.5, 1.0, 3.0)
    size = [3, 3, 3]
    size[axis] = round(36 / spacing[axis])
    labels = torch.zeros((1, *size), dtype=torch.uint8)
    found = torch.zeros_like(labels)
    labels.narrow(axis + 1, 0, round(12 / spacing[axis])).fill_(1)
    found.narrow(axis + 1, 0, round(18 / spacing[axis])).fill_(1)
    apart = round(6 / spacing[axis])
    radius = (8, 4, 2)[axis]
    expected = 1 - (2 * radius + 1 - apart) / (2 * radius + 1)
    keywords = {"spacing": spacing, "alpha": 0.0}
    value = cost("volumetric_sddl", certain(found, 2), labels, **keywords)
    assert value.item() == pytest.approx(expected, abs=1e-6)


# The formulas once more, in float64 and without torch.


def by_formula(name, logits, labels, alpha=0.5):
    """A loss by NumPy and SciPy; ``labels`` of either kind, none ignored."""
    x = logits.double().numpy()
    regions = labels.ndim == 5
    y = masks_of(labels, x.shape[1]).astype(float)
    p = 1 / (1 + np.exp(-x)) if regions else np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    log_p = y * np.log(p) + ((1 - y) * np.log(1 - p) if regions else 0)
    costs = -log_p if regions else -log_p.sum(axis=1)
    voxels = (2, 3, 4)
    dice = (((y - p) ** 2).sum(voxels) / ((y**2).sum(voxels) + (p**2).sum(voxels))).mean()
    plain = (costs.mean() + dice) / 2
    if not regions:
        p_front, y_front = p[:, 1:], y[:, 1:]
    else:
        p_front, y_front = p, y
    d = maps_of(labels, x.shape[1]).double().numpy()[:, -p_front.shape[1] :]

    def tversky():
        hits = (p_front * y_front).sum(voxels)
        alarms = (p_front * (1 - y_front)).sum(voxels)
        missed = ((1 - p_front) * y_front).sum(voxels)
        return (1 - hits / (hits + 0.3 * alarms + 0.7 * missed)).mean()

    def boundary():
        return (d * p_front).mean()

    def hausdorff():
        return ((y_front - p_front) ** 2 * d**2).mean()

    def generalized():
        top = ((d * (1 - (y_front + p_front))) ** 2).sum(voxels)
        return (1 - top / (d**2).sum(voxels)).mean()

    def lines():
        each = [cl_dice(p_front[b, c], y_front[b, c]) for b, c in np.ndindex(p_front.shape[:2])]
        return 1 - np.mean(each)

    def surfaces():
        each = [
            surface_dice(p_front[b, c], y_front[b, c]) for b, c in np.ndindex(p_front.shape[:2])
        ]
        return 1 - np.mean(each)

    worst = np.sort(costs, axis=None)[::-1][: costs.size // 10]
    parts = {"bl": boundary, "hdos": hausdorff, "gsl": generalized, "cldice": lines}
    parts["volumetric_sddl"] = surfaces
    if name in parts:
        return alpha * plain + (1 - alpha) * parts[name]()
    return {
        "dice": lambda: dice,
        "dice_ce": lambda: plain,
        "dice_topk": lambda: (worst.mean() + dice) / 2,
        "focal_dice": lambda: (((1 - np.exp(-costs)) ** 2 * costs).mean() + dice) / 2,
        "tversky": tversky,
        "vessel_sddl": lambda: (
            alpha * (alpha * plain + (1 - alpha) * lines()) + (1 - alpha) * surfaces()
        ),
    }[name]()


def eroded(image, footprint):
    return ndimage.minimum_filter(image, footprint=footprint, mode="constant", cval=np.inf)


def dilated(image, size):
    return ndimage.maximum_filter(image, size=size, mode="constant", cval=-np.inf)


def cl_dice(p, y, iterations=2):
    def skeleton(image):
        cross = ndimage.generate_binary_structure(3, 1)
        result = np.zeros_like(image)
        for _ in range(iterations + 1):
            rest = np.maximum(image - dilated(eroded(image, cross), 3), 0)
            result += np.maximum(rest - result * rest, 0)
            image = eroded(image, cross)
        return result

    of_p, of_y = skeleton(p), skeleton(y)
    precision = ((of_p * y).sum() + 1) / (of_p.sum() + 1)
    sensitivity = ((of_y * p).sum() + 1) / (of_y.sum() + 1)
    return 2 * precision * sensitivity / (precision + sensitivity)


def surface_dice(p, y):
    near = [
        dilated(
            image - eroded(image, np.ones((3, 3, 3))),
            [2 * math.ceil(1.25 * max(SPACING) / edge) + 1 for edge in SPACING],
        )
        for image in (p, y)
    ]
    return 2 * (near[0] * near[1]).sum() / (near[0].sum() + near[1].sum())


@every_loss
@pytest.mark.parametrize("random", [random_pair, random_regions])
def test_every_loss_follows_its_formula(name, random):
    logits, labels = random(0, size=(5, 6, 7))
    expected = by_formula(name, logits, labels)
    assert cost(name, logits, labels).item() == pytest.approx(expected, rel=2e-5)


@every_loss
@pytest.mark.parametrize("random", [random_pair, random_regions])
def test_gradients_are_those_of_the_values(name, random):
    logits, labels = random(3, 2, 1, (3, 2, 3))
    logits = logits.double().requires_grad_()
    maps = maps_of(labels, 2)
    keywords = {"distance_maps": maps} if "distance_maps" in needs_of(LOSSES[name]) else {}
    loss = partial(cost, name, labels=labels, **keywords)
    assert torch.autograd.gradcheck(lambda x: loss(logits=x), [logits], eps=1e-6, atol=1e-5)


# MONAI.


@pytest.mark.parametrize("seed", range(2))
def test_dice_of_regions_is_that_of_monai(seed):
    monai = pytest.importorskip("monai.losses")
    there = monai.DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=0, smooth_dr=1e-6)
    logits, labels = random_regions(seed)
    expected = there(logits, labels.float()).item()
    assert dice_loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_cldice_of_one_class_is_that_of_monai():
    """With several classes MONAI sums over them before it divides; here each has its own clDice."""
    monai = pytest.importorskip("monai.losses")
    logits, labels = random_pair(0, 2, size=(6, 7, 8))
    p, y = logits.softmax(1)[:, 1:], labels[:, None].float()
    there = monai.SoftclDiceLoss(iter_=10, smooth_nr=1.0, smooth_dr=1.0, smooth=1e-9)
    found = LOSSES["cldice"](logits, labels, alpha=0.0)
    assert found.item() == pytest.approx(there(p, y).item(), rel=1e-5)


def test_tversky_is_that_of_monai():
    monai = pytest.importorskip("monai.losses")
    there = monai.TverskyLoss(
        include_background=False,
        to_onehot_y=True,
        softmax=True,
        alpha=0.3,
        beta=0.7,
        smooth_nr=0,
        smooth_dr=1e-6,
    )
    logits, labels = random_pair(0)
    expected = there(logits, labels[:, None].long()).item()
    assert cost("tversky", logits, labels).item() == pytest.approx(expected, rel=1e-5)


# Laws.


def tube(shift, size=(12, 12, 12)):
    """A tube of 3 x 3 voxels along z, in class 1 of 3, so many voxels off; class 2 is beside it."""
    labels = torch.zeros((1, *size), dtype=torch.uint8)
    labels[:, :, 2:4, 9:] = 2
    labels[:, :, 5:8, 2 + shift : 5 + shift] = 1
    return labels


@every_loss
def test_a_better_prediction_costs_less(name):
    costs = [cost(name, certain(tube(shift), 3, 5.0), tube(0)).item() for shift in (0, 1, 2, 4)]
    assert costs == sorted(costs)
    assert len(set(costs)) == 4


@every_loss
@settings(max_examples=10)
@given(st.integers(0, 1000), st.floats(0.1, 20), st.booleans())
def test_losses_are_finite_and_only_the_boundary_loss_can_be_negative(name, seed, sharp, regions):
    logits, labels = (random_regions if regions else random_pair)(seed, 3, 1, (2, 3, 4))
    logits = (logits * sharp).requires_grad_()
    value = cost(name, logits, labels)
    value.backward()
    assert math.isfinite(value.item())
    assert name == "bl" or value.item() >= 0
    assert torch.isfinite(logits.grad).all()


@every_loss
@settings(max_examples=5)
@given(
    st.integers(0, 1000),
    st.permutations(range(3)),
    st.lists(st.sampled_from([-3, -2, -1]), unique=True),
)
def test_flips_and_the_order_of_axes_are_of_no_account(name, seed, order, flips):
    """Axes move together with the spacing."""
    logits, labels = random_pair(seed, 3, 1, (3, 4, 5))
    here = {"spacing": (3.0, 1.0, 0.5)} if "spacing" in needs_of(LOSSES[name]) else {}
    there = {key: tuple(spacing[i] for i in order) for key, spacing in here.items()}
    turned = logits.permute(0, 1, *(2 + i for i in order)).flip(flips)
    turned_labels = labels.permute(0, *(1 + i for i in order)).flip(flips)
    found = cost(name, turned, turned_labels, **there).item()
    assert found == pytest.approx(cost(name, logits, labels, **here).item(), rel=1e-4, abs=1e-6)


EDGE_CASES = {
    "no foreground": torch.zeros((1, *SIZE), dtype=torch.uint8),
    "nothing else": torch.full((1, *SIZE), 2, dtype=torch.uint8),
    "one voxel": torch.zeros(1, 4, 5, 6, dtype=torch.uint8).index_fill_(1, torch.tensor(2), 1),
    "all ignored": torch.full((1, *SIZE), -1),
    "a slice ignored": torch.zeros((1, *SIZE), dtype=torch.int64).index_fill_(
        1, torch.tensor(0), -1
    ),
}


@every_loss
@pytest.mark.parametrize("case", EDGE_CASES)
@pytest.mark.parametrize("logit", [0.0, 50.0, -50.0])
@pytest.mark.parametrize("regions", [False, True])
def test_empty_classes_and_sure_networks_have_finite_costs_and_gradients(
    name, case, logit, regions
):
    labels = EDGE_CASES[case]
    if regions:
        labels = torch.stack([labels, labels.clamp(max=0), labels.clamp(max=1)], dim=1)
    logits = torch.zeros((1, 3, *SIZE))
    logits[:, 1, :2] = logit
    logits.requires_grad_()
    value = cost(name, logits, labels)
    value.backward()
    assert math.isfinite(value.item())
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_a_sure_network_has_a_finite_gradient_for_every_gamma(gamma):
    _, labels = random_pair(0)
    logits = certain(labels, 4).requires_grad_()
    cost("focal_dice", logits, labels, gamma=gamma).backward()
    assert torch.isfinite(logits.grad).all()


# Ignored voxels.


@every_loss
@pytest.mark.parametrize("random", [random_pair, random_regions])
def test_what_is_ignored_has_no_influence(name, random):
    logits, labels = random(4)
    labels = labels.to(torch.int16)
    hidden = torch.rand(labels.shape[-3:], generator=torch.Generator().manual_seed(0)) < 0.3
    labels[..., hidden] = -1
    maps = {}
    if "distance_maps" in needs_of(LOSSES[name]):
        maps["distance_maps"] = maps_of(labels, logits.shape[1])
    junk = logits.clone()
    junk[..., hidden] = 40 * torch.randn(logits[..., hidden].shape)
    junk.requires_grad_()
    value = cost(name, junk, labels, **maps)
    assert value.item() == pytest.approx(cost(name, logits, labels, **maps).item(), rel=1e-6)
    value.backward()
    assert (junk.grad[..., hidden] == 0).all()
    assert (junk.grad[..., ~hidden] != 0).any()


@every_loss
@pytest.mark.parametrize("random", [random_pair, random_regions])
def test_a_patch_that_is_ignored_from_a_plane_on_is_as_good_as_cut_there(name, random):
    logits, labels = random(5, size=(4, 5, 8))
    maps = {}
    if "distance_maps" in needs_of(LOSSES[name]):
        maps["distance_maps"] = maps_of(labels, logits.shape[1])
    cut = {key: values[..., :6] for key, values in maps.items()}
    expected = cost(name, logits[..., :6], labels[..., :6], **cut).item()
    labels = labels.to(torch.int32)
    labels[..., 6:] = -7
    assert cost(name, logits, labels, **maps).item() == pytest.approx(expected, rel=1e-5)


@every_loss
def test_an_item_without_any_voxel_is_as_good_as_absent(name):
    logits, labels = random_pair(6)
    expected = cost(name, logits[:1], labels[:1]).item()
    labels = labels.long()
    labels[1] = -1
    assert cost(name, logits, labels).item() == pytest.approx(expected, rel=1e-5)


@every_loss
@pytest.mark.parametrize("random", [random_pair, random_regions])
def test_a_batch_without_any_voxel_costs_nothing(name, random):
    logits, labels = random(7)
    logits.requires_grad_()
    value = cost(name, logits, torch.full_like(labels, -1, dtype=torch.int64))
    assert value.item() == 0
    value.backward()
    assert (logits.grad == 0).all()


# Kinds of labels and of numbers.


@every_loss
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_labels_are_of_any_integer_type(name, dtype):
    for logits, labels in (random_pair(8), random_regions(8)):
        same = cost(name, logits, labels.to(dtype))
        assert same.item() == pytest.approx(cost(name, logits, labels).item(), rel=1e-6)


@pytest.mark.parametrize("name", [*COMPOSITE, "tversky"])
def test_one_region_is_one_class_against_background(name):
    """The softmax over 0 and x is the sigmoid of x; Dice and cross-entropy count background."""
    alpha = {"alpha": 0.0} if name in COMPOSITE else {}
    logits, labels = random_pair(9, 2)
    single = logits[:, 1:] - logits[:, :1]
    found = cost(name, single, labels[:, None], **alpha).item()
    assert found == pytest.approx(cost(name, logits, labels, **alpha).item(), rel=1e-5)


@pytest.mark.parametrize("name", ["dice_ce", "dice_topk", "focal_dice"])
def test_cross_entropy_of_one_region_is_that_of_one_class_against_background(name):
    def without_dice(logits, labels):
        return (2 * cost(name, logits, labels) - dice_loss(logits, labels)).item()

    logits, labels = random_pair(9, 2)
    found = without_dice(logits[:, 1:] - logits[:, :1], labels[:, None])
    assert found == pytest.approx(without_dice(logits, labels), rel=1e-5)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_in_half_precision_give_a_loss_in_full(name, dtype):
    logits, labels = random_pair(1)
    half = logits.to(dtype).requires_grad_()
    expected = cost(name, half.float(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = cost(name, half, labels)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    found.backward()
    assert half.grad.dtype == dtype
    assert torch.isfinite(half.grad).all()


@every_loss
def test_each_region_can_be_ignored_alone(name):
    logits, labels = random_regions(10)
    labels = labels.to(torch.int8)
    labels[:, 1] = -1
    others = [0, 2]
    expected = cost(name, logits[:, others], labels[:, others]).item()
    assert cost(name, logits, labels).item() == pytest.approx(expected, rel=1e-5)


# Alpha.


@pytest.mark.parametrize("epochs", [1, 2, 5, 6, 7, 100])
def test_alpha_goes_from_1_to_0(epochs):
    for schedule in ("linear", "cosine"):
        weights = [composite_weight(epoch, epochs, schedule) for epoch in range(epochs)]
        assert weights[:6] == [1.0] * min(epochs, 6)
        assert weights == sorted(weights, reverse=True)
        if epochs > 6:
            assert weights[-1] == pytest.approx(0, abs=1e-12)
            assert weights[6] < 1


def test_alpha_by_hand():
    assert composite_weight(3, 10, "constant") == 0.5
    assert composite_weight(7, 14, "linear") == pytest.approx(1 - 2 / 8)
    assert composite_weight(7, 14, "cosine") == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))
    assert composite_weight(1, 3, "linear", init_pause=0) == pytest.approx(0.5)
    assert composite_weight(99, 10, "linear") == 0.0


# Heads.


def mean_logit(logits, labels):
    """A loss whose value shows which head it was given."""
    assert labels.shape == logits.shape[:1] + logits.shape[2:]
    return logits.mean()


def test_each_coarser_head_counts_half_as_much():
    heads = [torch.full((1, 2, n, n, n), float(value)) for n, value in ((8, 7), (4, 70), (2, 700))]
    labels = torch.zeros((1, 8, 8, 8), dtype=torch.uint8)
    expected = (4 * 7 + 2 * 70 + 1 * 700) / 7
    assert deep_supervision(mean_logit, heads, labels).item() == pytest.approx(expected)


def test_a_single_head_is_the_loss_itself():
    logits, labels = random_pair(3)
    assert deep_supervision(dice_ce, [logits], labels) == dice_ce(logits, labels)


@pytest.mark.parametrize("size", [(4, 4, 4), (2, 4, 8), (3, 3, 3)])
def test_coarse_heads_see_labels_that_exist_where_they_are(size):
    labels = torch.zeros((1, 8, 8, 8), dtype=torch.uint8)
    labels[:, 4:] = 3  # between 0 and 3 lie 1 and 2, which must not be made up
    seen = []

    def keep(logits, there):
        seen.append(there)
        return logits.sum()

    deep_supervision(keep, [torch.zeros((1, 4, *size))], labels)
    assert set(seen[0].unique().tolist()) == {0, 3}
    assert (seen[0][:, : size[0] // 2] == 0).all()
    assert (seen[0][:, -(size[0] // 2) :] == 3).all()


def test_heads_of_the_finest_size_see_what_was_given():
    logits, labels = random_pair(3)
    keywords = {"spacing": (3.0, 1.0, 1.0), "alpha": 0.2, "tolerance_mm": 3.0}
    found = deep_supervision(LOSSES["volumetric_sddl"], [logits], labels, **keywords)
    assert found == LOSSES["volumetric_sddl"](logits, labels, **keywords)


def test_coarse_heads_have_larger_voxels_and_the_same_distances():
    seen = []

    def keep(logits, labels, **keywords):
        seen.append((labels, keywords))
        return logits.sum()

    labels = torch.zeros((1, 8, 8, 8), dtype=torch.uint8)
    labels[:, 2:5, 3:, 1:6] = 1
    keywords = {
        "distance_maps": maps_of(labels, 2),
        "spacing": (3.0, 1.0, 0.5),
        "alpha": 0.4,
        "tolerance_mm": 3.0,
    }
    heads = [torch.zeros((1, 2, 8, 8, 8)), torch.zeros((1, 2, 8, 4, 2)), torch.zeros(1, 2, 2, 2, 2)]
    deep_supervision(keep, heads, labels, **keywords)
    assert seen[0][1] == keywords
    assert [there["spacing"] for _, there in seen[1:]] == [(3.0, 2.0, 2.0), (12.0, 4.0, 2.0)]
    assert [there["tolerance_mm"] for _, there in seen[1:]] == [3.0, 12.0]
    for found, there in seen:
        assert found.dtype == torch.uint8
        assert there["alpha"] == 0.4
        inside = there["distance_maps"][:, 1] <= 0
        assert (inside == (found == 1)).all()


@every_loss
@pytest.mark.parametrize("random", [random_pair, random_regions])
def test_every_loss_takes_coarse_heads(name, random):
    logits, labels = random(11, size=(8, 8, 4))
    labels = labels.to(torch.int64)
    labels[..., :2] = -1
    heads = [logits, logits[..., ::2, ::2, :], logits[..., ::4, ::4, ::2]]
    every = {
        "alpha": 0.5,
        "spacing": SPACING,
        "distance_maps": maps_of(labels, logits.shape[1]),
    }
    keywords = {key: every[key] for key in needs_of(LOSSES[name])}
    if "spacing" in keywords:
        keywords["tolerance_mm"] = 2.5
    value = deep_supervision(LOSSES[name], heads, labels, **keywords)
    assert value.dtype == torch.float32
    assert math.isfinite(value.item())
