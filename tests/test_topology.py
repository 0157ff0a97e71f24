"""Levels of networks: nnU-Net's rule, and what a patch must be a multiple of."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mist_core.topology import ARCHITECTURES, divisor, nnunet_v2_topology, topology

CUBE = (1.0, 1.0, 1.0)
SHAPES = st.tuples(*[st.integers(1, 400)] * 3)
EDGES = st.one_of(st.floats(0.3, 6), st.sampled_from([0.5, 1.0, 2.0, 4.0]))
SPACINGS = st.tuples(*[EDGES] * 3)
BY_RULE = [name for name, one in ARCHITECTURES.items() if not isinstance(one.levels, int)]


def rounded_up(patch_size, multiples):
    return tuple(-(-n // m) * m for n, m in zip(patch_size, multiples, strict=True))


@pytest.mark.parametrize(
    ("patch_size", "spacing", "strides", "kernels"),
    [
        # As nnU-Net 2.8 plans them. Strides of each axis in turn, without the first level.
        ((128, 128, 128), CUBE, ("22222", "22222", "22222"), "333 333 333 333 333 333"),
        ((256, 256, 256), CUBE, ("222222",) * 3, "333 333 333 333 333 333 333"),
        (
            (20, 320, 256),
            (5, 0.6, 0.6),
            ("111221", "222222", "222222"),
            "133 133 133 333 333 333 333",
        ),
        (
            (14, 256, 256),
            (10, 1.25, 1.25),
            ("111211", "222222", "222222"),
            "133 133 133 333 333 333 333",
        ),
        ((31, 64, 64), (2, 1, 1), ("1222", "2222", "2222"), "133 333 333 333 333"),
        ((12, 16, 8), CUBE, ("2", "2", "2"), "333 333"),
        ((12, 6, 6), CUBE, ("2", "1", "1"), "333 333"),
        ((8, 6, 6), CUBE, ("", "", ""), "333"),
    ],
)
def test_levels_are_those_that_nnunet_plans(patch_size, spacing, strides, kernels):
    levels = nnunet_v2_topology(patch_size, spacing)
    assert levels[0].stride == (1, 1, 1)
    assert tuple("".join(str(v.stride[a]) for v in levels[1:]) for a in range(3)) == strides
    assert " ".join("".join(map(str, level.kernel)) for level in levels) == kernels


@given(SHAPES, SPACINGS, st.permutations([0, 1, 2]))
def test_nnunets_rule_does_not_know_one_axis_from_another(patch_size, spacing, order):
    def moved(values):
        return tuple(values[axis] for axis in order)

    expected = [(moved(v.kernel), moved(v.stride)) for v in nnunet_v2_topology(patch_size, spacing)]
    found = nnunet_v2_topology(moved(patch_size), moved(spacing))
    assert [(v.kernel, v.stride) for v in found] == expected


@pytest.mark.parametrize("name", BY_RULE)
@settings(max_examples=300)
@given(patch_size=SHAPES, spacing=SPACINGS)
def test_a_patch_rounded_up_can_be_halved_at_every_level(name, patch_size, spacing):
    multiples = divisor(patch_size, spacing, name)
    size = patch = rounded_up(patch_size, multiples)
    assert all(p - n < max(n, 2) for p, n in zip(patch, patch_size, strict=True))
    for level in ARCHITECTURES[name].levels(patch, spacing):
        assert not any(n % s for n, s in zip(size, level.stride, strict=True))
        size = tuple(n // s for n, s in zip(size, level.stride, strict=True))


@given(SHAPES, SPACINGS)
def test_a_patch_that_fits_stays_as_it_is(patch_size, spacing):
    for name in BY_RULE:
        patch = rounded_up(patch_size, divisor(patch_size, spacing, name))
        assert rounded_up(patch, divisor(patch, spacing, name)) == patch


def test_a_patch_that_gains_a_level_when_rounded_up_is_given_the_larger_multiple():
    patch_size, spacing = (69, 29, 48), (2.27, 0.5, 2.0)
    assert divisor(patch_size, spacing) == (4, 4, 4)
    once = [level.stride[0] for level in topology(patch_size, spacing)].count(2)
    assert once == 1  # a multiple of 2, but 70 voxels beside 32 are halved twice
    assert [level.stride[0] for level in topology((70, 32, 48), spacing)].count(2) == 2


@pytest.mark.parametrize(
    ("name", "multiple"), [("mednext-base", 16), ("swinunetr-small", 32), ("nnunet", 4)]
)
def test_networks_of_fixed_depth_have_a_fixed_multiple(name, multiple):
    assert divisor((20, 20, 20), CUBE, name) == (multiple,) * 3


def test_only_the_larger_residual_encoder_plans_a_larger_patch():
    budgets = {name: one.patch_budget for name, one in ARCHITECTURES.items()}
    assert budgets.pop("resenc-l") == 2
    assert set(budgets.values()) == {1}
