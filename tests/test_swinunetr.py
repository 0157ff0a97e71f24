"""SwinUNETR: MONAI's network behind our interface, and what is said where MONAI is missing."""

import sys
from functools import partial

import pytest
import torch

from mist_core.errors import DataError
from mist_core.models import build

nets = pytest.importorskip("monai.networks.nets")
pytest.importorskip("einops")

PATCH = (32, 32, 64)


def network(name="swinunetr-small", patch_size=PATCH, in_channels=2, out_channels=3, **params):
    torch.manual_seed(0)
    return build(
        name,
        in_channels=in_channels,
        out_channels=out_channels,
        patch_size=patch_size,
        spacing=(3.0, 1.0, 1.0),
        **params,
    )


def image(seed=0):
    return torch.randn((1, 2, *PATCH), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("swinunetr-small", 18_346_844),
        ("swinunetr-base", 72_762_068),
        ("swinunetr-large", 290_390_852),
    ],
)
def test_the_number_of_parameters_is_that_of_the_published_network(name, expected, monkeypatch):
    # MONAI reads numbers out of this while it builds; all else can be without memory.
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        model = network(name, in_channels=1, out_channels=2)
    assert sum(p.numel() for p in model.parameters()) == expected


def test_weights_and_the_one_output_are_those_of_monai():
    here = network().eval()
    torch.manual_seed(0)
    there = nets.SwinUNETR(in_channels=2, out_channels=3, feature_size=24, use_v2=True).eval()
    weights = there.state_dict()
    for name, weight in here.network.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    with torch.no_grad():
        for parameter in there.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    here.network.load_state_dict(there.state_dict())
    with torch.inference_mode():
        (single,) = here(image())
        (training,) = here.train()(image())
        torch.testing.assert_close(single, there(image()), rtol=0, atol=0)
    torch.testing.assert_close(training, single)


def gradients(model):
    (logits,) = model.train()(image())
    assert logits.shape == (1, 3, *PATCH)
    logits.square().mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_every_parameter_learns_and_less_memory_changes_nothing():
    plain = gradients(network())
    frugal = gradients(network(gradient_checkpointing=True))
    for name, gradient in plain.items():
        assert torch.isfinite(gradient).all(), name
        assert gradient.any(), name
    torch.testing.assert_close(frugal, plain)


def test_names_tell_the_encoder():
    model = network()
    encoder = [n for n, _ in model.named_parameters() if n.startswith(model.encoder_names)]
    assert len(encoder) == len(list(model.network.swinViT.parameters()))


@pytest.mark.parametrize("package", ["monai.networks.nets", "einops"])
def test_a_missing_package_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError) as caught:
        network()
    message = str(caught.value)
    assert message.startswith("model swinunetr: expected the packages monai and einops, found no")
    assert f"no {package}." in message
    assert message.endswith('Run: pip install "mist_core[swin]".')
    assert "\n" not in message
