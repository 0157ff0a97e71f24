"""What several networks share: blocks of convolutions, and memory for time.

Shapes: B batch, F features, (Z, Y, X) voxels.
"""

from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mist_core.geometry import Shape

SLOPE = 0.01  # of the leaky ReLU, and of the Kaiming initialisation that goes with it


def run(block: nn.Module, *inputs: Tensor, checkpointing: bool) -> Any:
    """The block's output; with ``checkpointing`` its inside is not kept, but computed again for the
    gradient.

    Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174.
    """
    if checkpointing and block.training:
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)


class Convolution(nn.Sequential):
    """Convolution that keeps the size at stride 1, then instance normalisation."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel: Shape | int,
        stride: Shape = (1, 1, 1),
        *,
        bias: bool = False,
    ) -> None:
        z, y, x = (kernel,) * 3 if isinstance(kernel, int) else kernel
        super().__init__(
            nn.Conv3d(
                in_features, out_features, (z, y, x), stride, (z // 2, y // 2, x // 2), bias=bias
            ),
            nn.InstanceNorm3d(out_features, affine=True),
        )


def initialise(module: nn.Module) -> None:
    """Kaiming-normal weights for leaky ReLU, biases zero: for ``network.apply``."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
