"""Networks by name. A builder takes channels, patch and spacing in array order; add one here.

Every network maps (B, C, Z, Y, X) to a tuple of logits, (B, K, ...) each: full resolution first,
then the coarser deep-supervision heads, of which there may be none.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from mist_core import own
from mist_core.config import Train
from mist_core.errors import DataError
from mist_core.geometry import Shape, Triple
from mist_core.models.mednext import mednext_base, mednext_large, mednext_medium, mednext_small
from mist_core.models.mgnet import fmgnet, wnet
from mist_core.models.plain_unet import nnunet_plain
from mist_core.models.resenc import resenc
from mist_core.models.swinunetr import swinunetr_base, swinunetr_large, swinunetr_small
from mist_core.models.unet import nnunet, nnunet_pocket
from mist_core.plan import Plan
from mist_core.topology import nearest_patch

Builder = Callable[..., nn.Module]  # (in_channels, out_channels, patch_size, spacing, **params)

MODELS: Mapping[str, Builder] = {
    "nnunet": nnunet,
    "nnunet-pocket": nnunet_pocket,
    "nnunet-plain": nnunet_plain,
    "resenc-m": resenc,
    "resenc-l": resenc,
    "fmgnet": fmgnet,
    "wnet": wnet,
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
    """A network with fresh weights: of this library, or ``module:function`` of one's own.

    ``params`` are those of its builder; patch and spacing (mm) are (z, y, x). Raises DataError for
    another name or other params, ValueError for values and patches that do not suit the network.
    """
    if name not in MODELS and not own.is_own(name):
        raise DataError(f"expected one of {', '.join(MODELS)}, or module:function, found {name!r}.")
    if name in MODELS:
        _refuse_unfitting(name, patch_size, spacing)
    builder = MODELS[name] if name in MODELS else own.load(name)
    arguments = (in_channels, out_channels, patch_size, spacing)
    try:
        inspect.signature(builder).bind(*arguments, **params)
    except TypeError as error:
        raise DataError(
            f"config: train.model_params: expected parameters of {name}, found {params} ({error}). "
            "Mend them."
        ) from None
    network: nn.Module = builder(*arguments, **params)
    return network


def _refuse_unfitting(name: str, patch_size: Shape, spacing: Triple) -> None:
    """Raise ValueError for a patch whose skip connections would not fit."""
    if len(patch_size) != len(spacing) or min(patch_size) < 1:
        raise ValueError(f"patch_size: expected three sizes above 0, found {list(patch_size)}.")
    z, y, x = patch_size
    near = nearest_patch((z, y, x), spacing, name)
    if near != (z, y, x):
        raise ValueError(
            f"patch_size: expected one that {name} can halve to two voxels or more, found "
            f"{list(patch_size)} (z, y, x). Take {list(near)}."
        )


def check_outputs(outputs: Any, images: Tensor, n_classes: int, name: str) -> None:
    """Raise DataError where a network of the user's does not keep to what this module says."""
    shape = (len(images), n_classes, *images.shape[2:])
    found: Any = type(outputs).__name__
    if isinstance(outputs, tuple) and all(isinstance(each, Tensor) for each in outputs):
        found = [tuple(each.shape) for each in outputs]
        if found and found[0] == shape and all(each[:2] == shape[:2] for each in found):
            return
    raise DataError(
        f"{name}: expected a tuple of logits, the first of shape {shape}, found {found}. Mend the "
        "function."
    )


def outputs_for(plan: Plan, settings: Train) -> int:
    """How many classes a network tells apart: labels, or regions."""
    return len(plan.regions) if settings.regions else plan.model.out_channels


def for_plan(plan: Plan, settings: Train) -> nn.Module:
    """The network that the settings name, for the channels, classes, patch and spacing of a plan.

    Raises DataError where its parameters or the patch do not suit it.
    """
    params = dict(settings.model_params)
    if taken := params.keys() & inspect.signature(build).parameters.keys():
        raise DataError(
            f"config: train.model_params: expected parameters of {settings.model} only, found "
            f"{', '.join(sorted(taken))}. Take it out."
        )
    if settings.gradient_checkpointing:
        params["gradient_checkpointing"] = True
    try:
        return build(
            settings.model,
            in_channels=plan.model.in_channels,
            out_channels=outputs_for(plan, settings),
            patch_size=plan.patch_size,
            spacing=plan.target_spacing_mm,
            **params,
        )
    except ValueError as error:
        raise DataError(f"config: train.model {settings.model}: {error}") from error
