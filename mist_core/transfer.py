"""Begin with the weights of another model: of other channels, classes, patches or kernels."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from mist_core.config import Train
from mist_core.errors import DataError
from mist_core.modelfile import read_model_file
from mist_core.models.mednext import resized_kernel
from mist_core.plan import Plan, read_plan

log = logging.getLogger(__name__)
OTHER_PART = "not of the encoder"
SHOWN = 6  # tensors that are named in the log; the others are counted

# Weights (F, C, z, y, x) for n channels, from those for others. The response to channels that are
# alike is that to all the old ones, or to the first of them.
CHANNEL_STRATEGIES: Mapping[str, Callable[[Tensor, int], Tensor | None]] = {
    "average": lambda weight, n: weight.sum(1, keepdim=True).repeat(1, n, 1, 1, 1) / n,
    "first": lambda weight, n: weight[:, :1].repeat(1, n, 1, 1, 1) / n,
    "skip": lambda weight, n: None,
}


@dataclass
class Transferred:
    """What became of each tensor of a network, by name."""

    loaded: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)  # and how
    left: dict[str, str] = field(default_factory=dict)  # and why


def begin_with(network: nn.Module, plan: Plan, settings: Train, fold: int = 0) -> Transferred:
    """Load ``settings.pretrained_weights`` into a fresh network, as far as they fit; log what was.

    Raises DataError for a file that is no model, or one of another architecture, and where nothing
    fits.
    """
    path = Path(settings.weights_for(fold))
    state = read_model_file(path)
    if state.train.model != settings.model:
        raise DataError(
            f"{path}: expected weights of {settings.model}, found those of {state.train.model}. "
            "Choose that model, or other weights."
        )
    if settings.pretrained_config:
        _refuse_another(Path(settings.pretrained_config), path, state.plan)
    channels = state.plan.model.in_channels, plan.model.in_channels
    done = transfer(network, state.weights, channels, settings)
    if not done.loaded and not done.adapted:
        raise DataError(
            f"{path}: expected weights that fit, found none: "
            f"{_first(done.left)}. Choose other weights, or train without."
        )
    log.info("%s: %d tensors loaded", path, len(done.loaded))
    of_part = {name: why for name, why in done.left.items() if why != OTHER_PART}
    for what, named in (("adapted", done.adapted), ("left as they were", of_part)):
        if named:
            log.info("%d %s: %s", len(named), what, _first(named))
    if len(of_part) < len(done.left):
        log.info("%d left as they were: %s", len(done.left) - len(of_part), OTHER_PART)
    return done


def _first(named: Mapping[str, str]) -> str:
    shown = [f"{name} ({why})" for name, why in list(named.items())[:SHOWN]]
    more = len(named) - len(shown)
    return ", ".join(shown + ([f"and {more} more"] if more else [])) or "none"


def _refuse_another(config: Path, weights: Path, plan: Plan) -> None:
    """The weights hold their plan: another file of it can only be of other weights."""
    given = read_plan(config)
    for key in ("model", "spatial_config", "dataset_info"):
        if getattr(given, key) != getattr(plan, key):
            raise DataError(
                f"{config}: expected the config.json of {weights}, found another {key}. Name the "
                "right one, or leave it out: the weights hold theirs."
            )


@torch.no_grad()
def transfer(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    channels: tuple[int, int],
    settings: Train,
) -> Transferred:
    """Copy what fits of ``weights`` into a network, by name; ``channels`` are theirs and its own.

    A tensor of the same shape is copied. The first convolutions are adapted to other channels by
    ``settings.input_channel_strategy``, small kernels to larger ones by interpolation (UpKern).
    With ``pretrained_part: encoder`` the rest is left.
    """
    done = Transferred()
    prefixes = getattr(network, "encoder_names", ("encoder.",))
    for name, target in network.state_dict().items():
        if settings.pretrained_part == "encoder" and not name.startswith(prefixes):
            done.left[name] = OTHER_PART
        elif name not in weights:
            done.left[name] = "not in the file"
        elif weights[name].shape == target.shape:
            target.copy_(weights[name])
            done.loaded.append(name)
        else:
            _adapt(name, weights[name], target, channels, settings, done)
    return done


def _adapt(
    name: str,
    source: Tensor,
    target: Tensor,
    channels: tuple[int, int],
    settings: Train,
    done: Transferred,
) -> None:
    """Make ``target`` of a tensor of another shape, or note why not."""
    change = f"{_size(source)} to {_size(target)}"
    value = None
    if is_other_channels(source.shape, target.shape, channels):
        value = CHANNEL_STRATEGIES[settings.input_channel_strategy](source, channels[1])
    elif is_larger_kernel(source.shape, target.shape):
        z, y, x = target.shape[2:]
        value = resized_kernel(source, (z, y, x))
    if value is None:
        done.left[name] = change
    else:
        target.copy_(value)
        done.adapted[name] = change


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one value"


def is_other_channels(source: torch.Size, target: torch.Size, channels: tuple[int, int]) -> bool:
    """Whether two shapes (F, C, z, y, x) differ in the image channels only."""
    return len(source) == len(target) == 5 and (
        (source[0], *channels, *source[2:]) == (target[0], source[1], target[1], *target[2:])
    )


def is_larger_kernel(source: torch.Size, target: torch.Size) -> bool:
    """Whether two shapes (F, 1, z, y, x) differ in the size of a depthwise kernel, which grows."""
    return (
        len(source) == len(target) == 5
        and source[:2] == target[:2]
        and source[1] == 1
        and all(1 < s < t for s, t in zip(source[2:], target[2:], strict=True))
    )
