"""Networks: what follows from patch and spacing, and what every network promises."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mist_core.errors import DataError
from mist_core.models import MODELS, build
from mist_core.topology import ARCHITECTURES, divisor, topology

CUBE = (1.0, 1.0, 1.0)
PATCH = (16, 16, 16)
NARROW = (4, 8, 24)  # few voxels, yet halved twice
shapes = st.tuples(*[st.integers(1, 200)] * 3)
spacings = st.tuples(*[st.floats(0.3, 6)] * 3)
# The larger ones of a kind are made of the same parts; SwinUNETR has tests of its own.
SOME = [name for name in MODELS if not name.endswith(("medium", "large", "r-base", "r-small"))]
BY_RULE = [name for name in MODELS if callable(ARCHITECTURES[name].levels)]


def small(
    patch_size=PATCH, spacing=CUBE, in_channels=2, out_channels=3, name="nnunet", seed=0, **params
):
    torch.manual_seed(seed)
    return build(
        name,
        in_channels=in_channels,
        out_channels=out_channels,
        patch_size=patch_size,
        spacing=spacing,
        **params,
    )


def fitting(patch_size, spacing, name):
    """The patch, rounded up to what the network can halve, with more than one voxel at the end."""
    multiples = divisor(patch_size, spacing, name)
    z, y, x = (-(-n // m) * m for n, m in zip(patch_size, multiples, strict=True))
    fixed = isinstance(ARCHITECTURES[name].levels, int)
    return z, y, 2 * x if fixed and (z, y, x) == multiples else x


def sizes_of_levels(patch_size, spacing, name):
    """The patch at each resolution of the network, finest first."""
    levels = ARCHITECTURES[name].levels
    halved = [(1, 1, 1), *[(2, 2, 2)] * 4]
    strides = [level.stride for level in levels(patch_size, spacing)] if name in BY_RULE else halved
    sizes, size = [], patch_size
    for stride in strides:
        size = tuple(n // s for n, s in zip(size, stride, strict=True))
        sizes.append(size)
    return sizes


def awake(model):
    """The model with normalisations that let everything through: some start at zero."""
    for module in model.modules():
        if isinstance(module, nn.InstanceNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


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


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("nnunet", 31_420_198),
        ("nnunet-pocket", 767_974),
        ("nnunet-plain", 31_195_594),
        ("resenc-m", 102_349_770),
        ("resenc-l", 102_349_770),
        ("fmgnet", 3_170_694),
        ("wnet", 5_856_134),
    ],
)
def test_the_number_of_parameters_is_that_of_the_published_network(name, number):
    with torch.device("meta"):
        model = small((128, 128, 128), in_channels=1, out_channels=2, name=name)
    assert sum(p.numel() for p in model.parameters()) == number


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


@pytest.mark.parametrize("name", SOME)
def test_heads_are_finest_first_in_training_and_one_otherwise(name):
    patch_size = fitting((48, 8, 8), CUBE, name)
    model = awake(small(patch_size, name=name))
    x = image(patch_size)
    with torch.no_grad():
        heads, single = model.train()(x), model.eval()(x)
    assert len(heads) == (3 if name in BY_RULE else len(heads))
    sizes = sizes_of_levels(patch_size, CUBE, name)[: len(heads)]
    assert [head.shape for head in heads] == [(1, 3, *size) for size in sizes]
    assert isinstance(single, tuple)
    assert len(single) == 1
    torch.testing.assert_close(single[0], heads[0])


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize(
    ("patch_size", "spacing"),
    [
        ((8, 8, 8), CUBE),
        ((4, 4, 4), CUBE),
        ((3, 16, 16), (6.0, 1.0, 1.0)),
        ((9, 17, 5), (0.37, 1.11, 4.9)),
        ((5, 23, 12), (3.0, 0.7, 1.0)),
    ],
)
def test_any_patch_gives_logits_of_its_own_size(patch_size, spacing, name):
    patch_size = fitting(patch_size, spacing, name)
    sizes = sizes_of_levels(patch_size, spacing, name)
    with torch.no_grad():
        heads = small(patch_size, spacing, name=name)(image(patch_size))
    for head, size in zip(heads, sizes, strict=False):
        assert head.shape == (1, 3, *size)


@pytest.mark.parametrize("name", SOME)
def test_every_parameter_learns(name):
    patch_size = fitting(NARROW, CUBE, name)
    model = awake(small(patch_size, name=name))
    sum(head.square().mean() for head in model(image(patch_size))).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        # A constant before a normalisation is lost, and so are its gradients.
        assert parameter.ndim == 1 or parameter.grad.any(), key


@pytest.mark.parametrize("name", SOME)
def test_recomputed_features_are_the_same(name):
    patch_size = fitting(NARROW, CUBE, name)
    x = image(patch_size)
    kept, recomputed = (
        awake(small(patch_size, name=name, gradient_checkpointing=again)) for again in (False, True)
    )
    outputs = [kept(x), recomputed(x)]
    for one, other in zip(*outputs, strict=True):
        assert torch.equal(one, other)
    for heads in outputs:
        sum(head.square().mean() for head in heads).backward()
    for one, other in zip(kept.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SOME)
def test_the_encoder_is_found_by_its_name(name):
    with torch.device("meta"):
        first = small((64, 64, 64), name=name)
    encoder = {key for key, _ in first.named_parameters() if key.startswith("encoder.")}
    assert 0 < len(encoder) < len(list(first.parameters()))


def test_weights_follow_from_the_seed():
    first, same, other = (list(small(seed=s).parameters()) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name", BY_RULE)
def test_weights_are_kaiming_normal_and_biases_zero(name):
    for module in small(name=name).modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            assert module.bias is None or not module.bias.any()
            fan_in = module.weight[0].numel()
            if module.weight.numel() > 10_000:
                expected = (2 / (1 + 0.01**2) / fan_in) ** 0.5
                assert module.weight.std().item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("name", SOME)
def test_items_of_a_batch_do_not_meet(name):
    patch_size = fitting(NARROW, CUBE, name)
    model = awake(small(patch_size, name=name)).train()
    both = image(patch_size, batch=2)
    one, other = model(both[:1])[0], model(both[1:])[0]
    torch.testing.assert_close(model(both)[0], torch.cat([one, other]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "patch_size", "take"),
    [
        ("mednext-base", (20, 32, 48), "[16, 32, 48]"),
        ("mednext-base", (16, 16, 16), "[32, 16, 16]"),
        ("swinunetr-small", (8, 64, 64), "[32, 64, 64]"),
        ("nnunet", (33, 32, 32), "[32, 32, 32]"),
        ("resenc-m", (30, 32, 32), "[32, 32, 32]"),
    ],
)
def test_a_patch_that_does_not_fit_is_refused_before_the_first_image(name, patch_size, take):
    """And not in the first step, where sizes of tensors would not match."""
    with pytest.raises(ValueError, match=r"^patch_size: expected one that") as caught:
        small(patch_size, name=name)
    assert str(caught.value).endswith(f"found {list(patch_size)} (z, y, x). Take {take}.")


def test_a_name_that_is_none_is_refused_with_those_that_there_are():
    with pytest.raises(DataError, match=r"expected one of nnunet, nnunet-pocket.*found 'unet'"):
        small(name="unet")
