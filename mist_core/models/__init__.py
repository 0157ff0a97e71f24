"""Networks by name. A builder takes channels, patch and spacing in array order; add one here.

Every network maps (B, C, Z, Y, X) to a tuple of logits, (B, K, ...) each: full resolution first,
then the coarser deep-supervision heads, of which there may be none.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from mist_core.geometry import Shape, Triple
from mist_core.models.mednext import mednext_base, mednext_large, mednext_medium, mednext_small
from mist_core.models.swinunetr import swinunetr_base, swinunetr_large, swinunetr_small
from mist_core.models.unet import nnunet

Builder = Callable[..., nn.Module]  # (in_channels, out_channels, patch_size, spacing, **params)

MODELS: Mapping[str, Builder] = {
    "nnunet": nnunet,
    "mednext-small": mednext_small,
    "mednext-base": mednext_base,
    "mednext-medium": mednext_medium,
    "mednext-large": mednext_large,
    "swinunetr-small": swinunetr_small,
    "swinunetr-base": swinunetr_base,
    "swinunetr-large": swinunetr_large,
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
