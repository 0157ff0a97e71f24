"""Networks: what follows from patch and spacing, and what every network promises."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mist_core.models import MODELS, build
from mist_core.topology import divisor, topology

CUBE = (1.0, 1.0, 1.0)
PATCH = (16, 16, 16)
# Networks that need other patches; they have files of tests for themselves.
ELSEWHERE = [name for name in MODELS if name.startswith(("mednext", "swinunetr"))]
shapes = st.tuples(*[st.integers(1, 200)] * 3)
spacings = st.tuples(*[st.floats(0.3, 6)] * 3)


def small(patch_size=PATCH, spacing=CUBE, in_channels=2, out_channels=3, name="nnunet", seed=0):
    torch.manual_seed(seed)
    return build(
        name,
        in_channels=in_channels,
        out_channels=out_channels,
        patch_size=patch_size,
        spacing=spacing,
    )


def image(size=PATCH, channels=2, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, channels, *size), generator=generator)


def bottom(patch_size, levels):
    size = list(patch_size)
    for level in levels:
        size = [n // s for n, s in zip(size, level.stride, strict=True)]
    return size


@pytest.mark.parametrize(
    ("patch_size", "spacing", "strides", "size"),
    [
        # Strides of each axis in turn, without the first level; array order (z, y, x).
        ((128, 128, 128), CUBE, (5 * [2],) * 3, [4, 4, 4]),
        ((8, 512, 512), (5, 0.78, 0.78), ([1, 1, 2, 1, 1], 5 * [2], 5 * [2]), [4, 16, 16]),
        ((96, 128, 128), (1.37, 1.25, 1.25), ([2, 2, 2, 2, 1], 5 * [2], 5 * [2]), [6, 4, 4]),
        ((160, 160, 96), (0.78, 0.78, 3), (5 * [2], 5 * [2], [1, 2, 2, 2, 2]), [5, 5, 6]),
        ((16, 32, 32), (2, 1, 1), ([2, 2, 1], 3 * [2], 3 * [2]), [4, 4, 4]),
        ((32, 32, 32), CUBE, (3 * [2],) * 3, [4, 4, 4]),
        ((16, 16, 16), CUBE, (2 * [2],) * 3, [4, 4, 4]),
    ],
)
def test_strides_follow_from_patch_and_spacing(patch_size, spacing, strides, size):
    levels = topology(patch_size, spacing)
    assert levels[0].stride == (1, 1, 1)
    assert tuple(zip(*[level.stride for level in levels[1:]], strict=True)) == tuple(
        tuple(axis) for axis in strides
    )
    assert bottom(patch_size, levels) == size


def test_kernels_do_not_reach_across_thick_slices():
    kernels = [level.kernel for level in topology((8, 512, 512), (5, 0.78, 0.78))]
    assert kernels == [(1, 3, 3), (1, 3, 3), *[(3, 3, 3)] * 4]


@given(shapes, spacings, st.permutations([0, 1, 2]))
def test_topology_does_not_know_one_axis_from_another(patch_size, spacing, order):
    def moved(values):
        return tuple(values[axis] for axis in order)

    expected = [(moved(v.kernel), moved(v.stride)) for v in topology(patch_size, spacing)]
    found = topology(moved(patch_size), moved(spacing))
    assert [(v.kernel, v.stride) for v in found] == expected


@given(shapes, spacings)
def test_levels_end_where_nothing_is_left_to_halve(patch_size, spacing):
    levels = topology(patch_size, spacing)
    assert len(levels) <= 6
    assert levels[-1].kernel == (3, 3, 3)
    for before, after in zip(patch_size, bottom(patch_size, levels), strict=True):
        assert after >= min(before, 4)


def test_a_patch_must_be_a_multiple_of_what_it_is_divided_by():
    assert divisor((128, 128, 128), CUBE) == (32, 32, 32)
    assert divisor((8, 512, 512), (5, 0.78, 0.78)) == (2, 32, 32)
    assert divisor((20, 28, 12), CUBE) == (4, 4, 2)


def test_the_number_of_parameters_is_that_of_the_published_network():
    model = small((128, 128, 128), in_channels=1, out_channels=2)
    assert sum(p.numel() for p in model.parameters()) == 31_420_198


def test_outputs_are_those_of_monai_with_the_same_weights():
    nets = pytest.importorskip("monai.networks.nets")
    patch_size, spacing = (8, 32, 32), (2.5, 1.0, 1.0)
    levels = topology(patch_size, spacing)
    strides = [level.stride for level in levels]
    there = nets.DynUNet(
        spatial_dims=3,
        in_channels=2,
        out_channels=3,
        kernel_size=[level.kernel for level in levels],
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=[32, 64, 128, 256][: len(levels)],
        norm_name=("INSTANCE", {"affine": True}),
        act_name=("leakyrelu", {"negative_slope": 0.01, "inplace": True}),
        deep_supervision=True,
        deep_supr_num=2,
        res_block=True,
        trans_bias=True,
    ).eval()
    here = small(patch_size, spacing).eval()
    for kinds in ((nn.Conv3d, nn.ConvTranspose3d), (nn.InstanceNorm3d,)):
        ours = [m for m in here.modules() if isinstance(m, kinds)]
        theirs = [m for m in dict.fromkeys(there.modules()) if isinstance(m, kinds)]
        for one, other in zip(ours, theirs, strict=True):
            nn.init.uniform_(one.weight, -0.5, 0.5)
            other.load_state_dict(one.state_dict())
    x = image(patch_size)
    with torch.inference_mode():
        torch.testing.assert_close(here(x)[0], there(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ELSEWHERE])
def test_heads_are_finest_first_in_training_and_one_otherwise(name):
    model = small((32, 32, 32), in_channels=1, name=name)
    x = image((32, 32, 32), channels=1)
    heads = model.train()(x)
    assert len(heads) == {"nnunet": 3}.get(name, len(heads))
    assert [tuple(h.shape) for h in heads] == [(1, 3, n, n, n) for n in (32, 16, 8)][: len(heads)]
    single = model.eval()(x)
    assert isinstance(single, tuple)
    assert len(single) == 1
    torch.testing.assert_close(single[0], heads[0])


@pytest.mark.parametrize(
    ("patch_size", "spacing"),
    [
        ((16, 16, 16), CUBE),
        ((8, 8, 8), CUBE),
        ((4, 4, 4), CUBE),
        ((3, 16, 16), (6.0, 1.0, 1.0)),
        ((16, 24, 5), (0.37, 1.11, 4.9)),
        ((20, 28, 12), CUBE),
    ],
)
def test_any_patch_gives_logits_of_its_own_size(patch_size, spacing):
    model = small(patch_size, spacing)
    assert model.eval()(image(patch_size))[0].shape == (1, 3, *patch_size)
    for head in model.train()(image(patch_size)):
        assert head.shape[:2] == (1, 3)


def test_every_parameter_learns():
    model = small()
    sum(head.square().mean() for head in model(image())).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    heads = [m for m in model.modules() if isinstance(m, nn.Conv3d) and m.out_channels == 3]
    assert all(head.weight.grad.abs().sum() > 0 for head in heads)


def test_weights_follow_from_the_seed():
    first, same, other = (list(small(seed=s).parameters()) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_weights_are_kaiming_normal_and_biases_zero():
    for module in small().modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            assert module.bias is None or not module.bias.any()
            fan_in = module.weight[0].numel()
            if module.weight.numel() > 10_000:
                expected = (2 / (1 + 0.01**2) / fan_in) ** 0.5
                assert module.weight.std().item() == pytest.approx(expected, rel=0.05)


def test_items_of_a_batch_do_not_meet():
    model = small().train()
    both = image(batch=2)
    one, other = model(both[:1])[0], model(both[1:])[0]
    torch.testing.assert_close(model(both)[0], torch.cat([one, other]), rtol=1e-4, atol=1e-5)
