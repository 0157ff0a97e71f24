"""MedNeXt: its sizes, its outputs against those of another implementation, larger kernels."""

import pytest
import torch

from mist_core.config import Train
from mist_core.models import build
from mist_core.models.mednext import resized_kernel
from mist_core.transfer import transfer

PATCH = (16, 32, 48)


def network(name="mednext-small", patch_size=PATCH, in_channels=2, out_channels=3, **params):
    torch.manual_seed(0)
    return build(
        name,
        in_channels=in_channels,
        out_channels=out_channels,
        patch_size=patch_size,
        spacing=(3.0, 1.0, 1.0),
        **params,
    )


def waves(shape, start=0):
    """Numbers that are the same everywhere: the sine of 0, 1, 2, ... from the start on."""
    n = torch.Size(shape).numel()
    return torch.arange(start, start + n, dtype=torch.float64).sin().reshape(shape).float()


def fill(model):
    """One long wave through all parameters, lower for those that sum over more inputs."""
    start = 0
    with torch.no_grad():
        for parameter in model.parameters():
            height = 0.5 / parameter[0].numel() ** 0.5
            parameter.copy_(waves(parameter.shape, start) * height)
            start += parameter.numel()
    return model


@pytest.mark.parametrize(
    ("name", "kernel_size", "expected"),
    [
        ("mednext-small", 3, 5_552_842),
        ("mednext-base", 3, 10_512_778),
        ("mednext-base", 5, 10_942_410),
        ("mednext-base", 7, 11_898_122),
        ("mednext-medium", 3, 17_535_434),
        ("mednext-large", 3, 61_728_682),
    ],
)
def test_the_number_of_parameters_is_that_of_the_published_network(name, kernel_size, expected):
    with torch.device("meta"):
        model = network(name, in_channels=1, out_channels=2, kernel_size=kernel_size)
    assert sum(p.numel() for p in model.parameters()) == expected


# By MIST 2.3.0 with the same weights. For each head, finest first: the logits of the middle voxel,
# and the root of the mean square of all.
GOLDEN = {
    ("mednext-small", 3): [
        [-0.7726, 2.7951, 5.3085, 3.1882],
        [14.2794, 9.9428, -6.4536, 3.1622],
        [-24.0764, 17.3974, 0.3975, 6.0430],
        [5.2596, -1.7960, -5.6942, 50.8971],
        [-2.6045, 1.5235, -1.9081, 2.0612],
    ],
    ("mednext-base", 5): [
        [-5.9127, -6.6206, -4.8650, 2.8570],
        [0.8749, -12.3769, -10.6938, 6.5296],
        [52.5796, -55.7261, 25.0625, 16.3808],
        [-3.2550, -8.9895, 4.4471, 64.4191],
        [7.9868, -7.4807, 7.7748, 7.7502],
    ],
}


@pytest.mark.parametrize(("name", "kernel_size"), GOLDEN)
def test_outputs_are_those_of_mist_with_the_same_weights(name, kernel_size):
    model = fill(network(name, kernel_size=kernel_size)).train()
    with torch.inference_mode():
        heads = model(waves((1, 2, *PATCH)))
    for head, expected in zip(heads, GOLDEN[name, kernel_size], strict=True):
        z, y, x = (n // 2 for n in head.shape[2:])
        found = [*head[0, :, z, y, x], head.square().mean().sqrt()]
        torch.testing.assert_close(torch.stack(found), torch.tensor(expected), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("patch_size", [(16, 48, 32), (32, 16, 16)])
def test_heads_are_halved_in_training_and_one_otherwise(patch_size):
    model = network(patch_size=patch_size)
    x = waves((1, 2, *patch_size))
    with torch.inference_mode():
        heads = model.train()(x)
        (single,) = model.eval()(x)
    expected = [(1, 3, *(n // 2**level for n in patch_size)) for level in range(5)]
    assert [tuple(head.shape) for head in heads] == expected
    torch.testing.assert_close(single, heads[0])


def gradients(model):
    sum(head.square().mean() for head in model.train()(waves((1, 2, 16, 16, 48)))).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_every_parameter_learns_and_less_memory_changes_nothing():
    plain = gradients(network())
    frugal_network = network(gradient_checkpointing=True)
    calls = []
    frugal_network.encoder[1][1].register_forward_pre_hook(lambda *_: calls.append("forward"))
    frugal = gradients(frugal_network)
    assert len(calls) == 2  # and again for the gradient
    for name, gradient in plain.items():
        assert torch.isfinite(gradient).all(), name
        if gradient.ndim == 5:  # the normalisation takes away the bias before it
            assert gradient.any(), name
    torch.testing.assert_close(frugal, plain)


def test_names_tell_the_encoder():
    rest = {name.split(".")[0] for name, _ in network().named_parameters()}
    assert rest == {"encoder", "up", "decoder", "heads"}


@pytest.mark.parametrize("kernel_size", [1, 4, 9, "3", [3, 3, 3]])
def test_a_kernel_that_does_not_exist_is_named(kernel_size):
    with pytest.raises(ValueError, match=r"^kernel_size: expected 3, 5 or 7, found "):
        network(kernel_size=kernel_size)


def test_a_larger_kernel_is_drawn_between_the_values_of_the_smaller():
    along_x = torch.tensor([0.0, 5.0, 10.0]).expand(1, 1, 3, 3, 3)
    found = resized_kernel(along_x, (5, 5, 5))
    # A cell of 5 is 0.6 of a cell of 3: centres at -0.2 (outside), 0.4, 1, 1.6 and 2.2 (outside).
    expected = torch.tensor([0.0, 2.0, 5.0, 8.0, 10.0]).expand(1, 1, 5, 5, 5)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("small", "large"), [(3, 5), (3, 7), (5, 7)])
def test_a_larger_kernel_keeps_constants_corners_and_the_middle(small, large):
    def marks(kernel):
        n = kernel.shape[-1]
        ends = torch.tensor([0, n // 2, n - 1])
        return kernel[..., ends[:, None, None], ends[:, None], ends]

    size = (large, large, large)
    weight = waves((4, 1, small, small, small))
    torch.testing.assert_close(marks(resized_kernel(weight, size)), marks(weight))
    ones = torch.ones_like(weight)
    torch.testing.assert_close(resized_kernel(ones, size), torch.ones(4, 1, *size))


def test_a_network_of_large_kernels_starts_from_one_of_small_kernels():
    before, after = network(), network(kernel_size=5)
    weights = before.state_dict()
    done = transfer(after, weights, (2, 2), Train(pretrained_part="all"))
    grown = after.state_dict()
    assert len(done.adapted) == 26
    assert not done.left
    for name, weight in weights.items():
        larger = resized_kernel(weight, (5, 5, 5)) if name in done.adapted else weight
        assert torch.equal(grown[name], larger)
    with torch.inference_mode():
        assert after.eval()(waves((1, 2, *PATCH)))[0].isfinite().all()
