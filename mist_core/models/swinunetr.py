"""SwinUNETR-V2, by MONAI, in three sizes: an optional part, installed as mist_core[swin].

He et al., "SwinUNETR-V2: Stronger Swin Transformers with Stagewise Convolutions for 3D Medical
Image Segmentation", MICCAI 2023. One output, no deep supervision; MONAI chooses the first weights.

Shapes: B batch, C channels in, K classes, (Z, Y, X) voxels.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module

from torch import Tensor, nn

from mist_core.errors import DataError
from mist_core.geometry import Shape, Triple


def swinunetr(
    features: int,
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    spacing: Triple,
    *,
    gradient_checkpointing: bool = False,
) -> nn.Module:
    """The network with this many features at full resolution; any spacing has the same.

    Axes of the patch are multiples of 32: tokens of 2 voxels, halved four times. Raises DataError
    where MONAI is missing.
    """
    network = monai_network()(
        in_channels=in_channels,
        out_channels=out_channels,
        feature_size=features,
        use_checkpoint=gradient_checkpointing,
        use_v2=True,
    )
    return SwinUNETR(network)


swinunetr_small = partial(swinunetr, 24)
swinunetr_base = partial(swinunetr, 48)
swinunetr_large = partial(swinunetr, 96)


class SwinUNETR(nn.Module):
    """A network of MONAI that gives a tuple, as all networks do."""

    encoder_names = ("network.swinViT.",)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, C, Z, Y, X) to logits (B, K, Z, Y, X), the only ones."""
        return (self.network(x),)


def monai_network() -> Callable[..., nn.Module]:
    """MONAI's class, imported only here: it takes seconds, and few runs need it."""
    try:
        import_module("einops")  # which MONAI would miss only in the first forward
        network: Callable[..., nn.Module] = import_module("monai.networks.nets").SwinUNETR
    except ModuleNotFoundError as error:
        raise DataError(
            f"model swinunetr: expected the packages monai and einops, found no {error.name}. "
            'Run: pip install "mist_core[swin]".'
        ) from error
    return network
