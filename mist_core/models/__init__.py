"""Networks by name. A builder takes channels, patch and spacing in array order; add one here.

Every network maps (B, C, Z, Y, X) to a tuple of logits, (B, K, ...) each: full resolution first,
then the coarser deep-supervision heads, of which there may be none.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from mist_core.geometry import Shape, Triple
from mist_core.models.mgnet import fmgnet, wnet
from mist_core.models.plain_unet import nnunet_plain
from mist_core.models.resenc import resenc_l, resenc_m
from mist_core.models.unet import nnunet, nnunet_pocket

Builder = Callable[..., nn.Module]  # (in_channels, out_channels, patch_size, spacing, **params)

MODELS: Mapping[str, Builder] = {
    "nnunet": nnunet,
    "nnunet-pocket": nnunet_pocket,
    "nnunet-plain": nnunet_plain,
    "resenc-m": resenc_m,
    "resenc-l": resenc_l,
    "fmgnet": fmgnet,
    "wnet": wnet,
}


def build(
    name: str,
    *,
    in_channels: int,
    out_channels: int,
    patch_size: Shape,
    spacing: Triple,
    **params: Any,
) -> nn.Module:
    """A network of the given name with fresh weights; ``params`` are those of its builder."""
    return MODELS[name](in_channels, out_channels, patch_size, spacing, **params)
