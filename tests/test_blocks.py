"""Blocks that networks share: normalisation against torch's own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from mist_core.models.blocks import SLOPE, Convolution, InstanceNorm, Upsampling, join

SIZE = (3, 5, 2, 4, 3)  # (B, F, Z, Y, X)


def normaliser(leaky, dtype=torch.float64):
    torch.manual_seed(0)
    norm = InstanceNorm(SIZE[1], leaky=leaky).to(dtype)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    return norm


def expected(norm, x):
    y = F.instance_norm(x, weight=norm.weight, bias=norm.bias)
    return F.leaky_relu(y, SLOPE) if norm.leaky else y


def images(seed=0, dtype=torch.float64, channels_last=True):
    x = torch.randn(SIZE, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last_3d) if channels_last else x
    return x.requires_grad_()


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("leaky", [True, False])
def test_values_and_gradients_are_those_of_torch(leaky, channels_last):
    norm, x = normaliser(leaky), images(channels_last=channels_last)
    wanted = torch.randn(SIZE, dtype=x.dtype)
    inputs = (x, norm.weight, norm.bias)
    found = torch.autograd.grad((norm(x) * wanted).sum(), inputs)
    correct = torch.autograd.grad((expected(norm, x) * wanted).sum(), inputs)
    torch.testing.assert_close(norm(x), expected(norm, x))
    torch.testing.assert_close(found, correct)


@pytest.mark.parametrize("leaky", [True, False])
def test_gradients_by_differences(leaky):
    norm = normaliser(leaky)
    assert torch.autograd.gradcheck(norm, images())


def test_half_precision_is_that_of_one_rounding():
    norm, x = normaliser(leaky=True, dtype=torch.float32), images(dtype=torch.float32)
    half = norm(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(
        half.float(), expected(norm, x.bfloat16().float()), rtol=0, atol=0.02
    )


@pytest.mark.parametrize("shape", [(2, 3, 40, 41, 43), (1, 8, 128, 128, 128)])
def test_statistics_of_a_large_image_are_as_exact_as_those_of_a_small_one(shape):
    """Sums of a million voxels in float32, one after the other, lost three digits."""
    torch.manual_seed(0)
    norm = InstanceNorm(shape[1], leaky=True)
    x = (torch.randn(shape) * 2 + 1).contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(
        norm(x).double(), expected(norm.double(), x.double()), rtol=0, atol=5e-6
    )


@pytest.mark.parametrize("size", [40, 8])  # above and below what torch sums up at once
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_gradients_the_same_comes_of_less_memory(size, dtype):
    torch.manual_seed(0)
    block = Convolution(2, 4, 3, leaky=True, bias=True).to(dtype)
    x = torch.randn(2, 2, size, size, size, dtype=dtype)
    before, expected = x.clone(), block(x)
    with torch.inference_mode():
        assert torch.equal(block(x), expected)
        assert torch.equal(x, before)
        between = block[0](x).contiguous(memory_format=torch.channels_last_3d)
        after = block[1](between, overwrite=True)
        assert (after.data_ptr() == between.data_ptr()) == (size == 40)


def test_a_normalisation_leaves_its_input_alone():
    """Others may need it, where it is not behind a convolution."""
    x = torch.randn(1, 3, 40, 40, 40)
    before = x.clone()
    with torch.no_grad():
        InstanceNorm(3, leaky=True)(x)
    assert torch.equal(x, before)


def test_gradients_of_a_large_image():
    torch.manual_seed(0)
    norm = InstanceNorm(3, leaky=True).double()
    x = torch.randn(2, 3, 40, 41, 43, dtype=torch.float64, requires_grad=True)
    wanted, inputs = torch.randn_like(x), (x, norm.weight, norm.bias)
    found = torch.autograd.grad((norm(x) * wanted).sum(), inputs)
    torch.testing.assert_close(
        found, torch.autograd.grad((expected(norm, x) * wanted).sum(), inputs)
    )


@given(st.floats(0.1, 100), st.floats(-50, 50))
def test_brightness_and_contrast_of_an_item_do_not_matter(scale, shift):
    norm, x = normaliser(leaky=True), images().detach()
    changed = x.clone()
    changed[1] = changed[1] * scale + shift
    # To the epsilon beside the variance.
    torch.testing.assert_close(norm(changed), norm(x), rtol=0, atol=1e-2)
    assert torch.equal(norm(changed)[0], norm(x)[0])


def test_an_item_does_not_depend_on_its_batch():
    norm, x = normaliser(leaky=True), images().detach()
    assert torch.equal(norm(x)[1:2], norm(x[1:2]))


def test_summed_in_place_as_residual_blocks_do():
    norm, x = normaliser(leaky=False), images()
    F.leaky_relu(norm(x).add_(x), SLOPE, inplace=True).sum().backward()
    found = x.grad.clone()
    x.grad = None
    F.leaky_relu(expected(norm, x) + x, SLOPE).sum().backward()
    torch.testing.assert_close(found, x.grad)


@pytest.mark.parametrize("stride", [(2, 2, 2), (1, 2, 2), (2, 1, 3), (1, 1, 1)])
def test_upsampling_is_the_transposed_convolution_of_torch(stride):
    torch.manual_seed(0)
    up, x = Upsampling(SIZE[1], 4, stride).double(), images()
    wanted = F.conv_transpose3d(x, up.weight, up.bias, stride)
    torch.testing.assert_close(up(x), wanted)
    assert up(x).is_contiguous(memory_format=torch.channels_last_3d)
    g = torch.randn_like(wanted)
    inputs = (x, up.weight, up.bias)
    found = torch.autograd.grad(up(x), inputs, g)
    torch.testing.assert_close(found, torch.autograd.grad(wanted, inputs, g))


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("size", [4, 102])  # the latter in memory of its own without a gradient
def test_joined_features_stand_in_order(size, gradient):
    generator = torch.Generator().manual_seed(0)
    parts = [
        torch.randn(1, features, size, size, size, generator=generator).contiguous(
            memory_format=torch.channels_last_3d
        )
        for features in (8, 6, 2)
    ]
    with torch.set_grad_enabled(gradient):
        joined = join(*parts)
    assert torch.equal(joined, torch.cat(parts, dim=1))
    assert joined.is_contiguous(memory_format=torch.channels_last_3d)
