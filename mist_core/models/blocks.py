"""What several networks share: blocks of convolutions, and memory for time.

Shapes: B batch, F features, (Z, Y, X) voxels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mist_core.device import passing_zeros
from mist_core.geometry import Shape

aten: Any = torch.ops.aten
ROWS = 16384  # voxels whose features torch may sum up in float32, one after the other
LARGE = 1 << 26  # bytes
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
    """Convolution that keeps the size at stride 1, instance normalisation and, where it is to be
    leaky, a leaky ReLU.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel: Shape | int,
        stride: Shape = (1, 1, 1),
        *,
        bias: bool = False,
        leaky: bool = False,
    ) -> None:
        z, y, x = (kernel,) * 3 if isinstance(kernel, int) else kernel
        super().__init__(
            nn.Conv3d(
                in_features, out_features, (z, y, x), stride, (z // 2, y // 2, x // 2), bias=bias
            ),
            InstanceNorm(out_features, leaky=leaky),
        )

    def forward(self, input: Tensor) -> Tensor:
        """(B, F in, Z, Y, X) to (B, F out, Z / stride, ...)."""
        convolution, norm = self
        # Nobody else has what the convolution gave, and no gradient needs it.
        y: Tensor = norm(convolution(input), overwrite=not torch.is_grad_enabled())
        return y


class InstanceNorm(nn.InstanceNorm3d):
    """Instance normalisation with weights, then a leaky ReLU where it is to be leaky.

    Ulyanov et al., "Instance Normalization", arXiv 1607.08022.
    """

    def __init__(self, features: int, *, leaky: bool = False) -> None:
        super().__init__(features, affine=True)
        self.leaky = leaky

    def forward(self, input: Tensor, overwrite: bool = False) -> Tensor:
        """(B, F, Z, Y, X) to the same shape, with ``overwrite`` in the memory of ``input``."""
        # To export a network, as ONNX for one, is to compile it.
        if input.device.type == "cpu" and not torch.compiler.is_compiling():
            slope = SLOPE if self.leaky else None
            y: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
                input, self.weight, self.bias, self.eps, slope, overwrite
            )
            return y
        y = super().forward(input)
        return F.leaky_relu(y, SLOPE, inplace=True) if self.leaky else y


class _Normalise(torch.autograd.Function):
    """Each item of a batch, channels last, by the kernels of batch normalisation.

    torch normalises instances channels first: on a CPU the copies there and back took longer than
    the arithmetic, and one step of a U-Net a third longer.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        slope: float | None,
        overwrite: bool,
    ) -> Tensor:
        """(B, F, Z, Y, X) to the same shape; ``slope`` of the leaky ReLU, None for none."""
        x = x.contiguous(memory_format=torch.channels_last_3d)
        overwrite &= x[0, 0].numel() > ROWS
        y = x if overwrite else torch.empty_like(x)
        means, scales = weight.new_empty(2, *x.shape[:2])  # of each item and feature
        for source, result, mean, scale in zip(x.split(1), y.split(1), means, scales, strict=True):
            if x[0, 0].numel() <= ROWS:
                torch.native_batch_norm(
                    *(source, weight, bias, None, None, True, 0.0, eps), out=(result, mean, scale)
                )
            else:
                mean_, variance = _statistics(source, weight)
                mean.copy_(mean_)
                scale.copy_((variance + eps).rsqrt())
                unused = mean.new_empty(0)
                torch.native_batch_norm(
                    *(source, weight, bias, mean, variance.to(mean), False, 0.0, eps),
                    out=(result, unused, unused),
                )
            if slope is not None:
                F.leaky_relu_(result, slope)
        ctx.save_for_backward(x, None if slope is None else y, weight, means, scales)
        ctx.eps, ctx.slope = eps, slope
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of what ``forward`` takes."""
        x, y, weight, means, scales = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        of_x = torch.empty_like(x)
        of_weight, of_bias = torch.empty_like(means), torch.empty_like(means)
        for item in range(len(x)):
            one = slice(item, item + 1)
            change = gradient[one]
            if ctx.slope is not None:
                change = aten.leaky_relu_backward(change, y[one], ctx.slope, True)
            aten.native_batch_norm_backward.out(
                *(change, x[one], weight, None, None, means[item], scales[item]),
                *(True, ctx.eps, [True, True, True]),
                **{"out0": of_x[one], "out1": of_weight[item], "out2": of_bias[item]},
            )
        return of_x, of_weight.sum(0), of_bias.sum(0), None, None, None


def _statistics(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (F,) of one item (1, F, Z, Y, X), channels last; float64.

    torch adds up the voxels in float32, one after the other: of two million it loses three digits.
    So it gets groups of neighbours as one voxel with the features of all, in one call, since each
    has threads wait for each other. The groups are put together by Chan et al., "Updating Formulae
    and a Pairwise Algorithm for Computing Sample Variances", 1979.
    """
    features = x.shape[1]
    voxels = x.movedim(1, -1).reshape(-1, features)
    group = -(-len(voxels) // ROWS)
    rows = len(voxels) // group
    parts = [voxels[: rows * group].view(rows, group * features), voxels[rows * group :]]
    means, variances, counts = [], [], []
    for part in (part for part in parts if len(part)):
        start = weight.new_zeros(2, part.shape[1])  # the statistics of bfloat16 are float32, too
        found = aten.batch_norm_update_stats(part.T[None, ..., None, None], *start, 0.0)
        mean, variance = (values.double().view(-1, features) for values in found)
        means.append(mean)
        variances.append(variance)
        counts += [len(part)] * len(mean)
    of_groups = torch.cat(means)
    shares = torch.tensor(counts)[:, None] / len(voxels)
    mean = (shares * of_groups).sum(0)
    return mean, (shares * (torch.cat(variances) + (of_groups - mean) ** 2)).sum(0)


class Upsampling(nn.ConvTranspose3d):
    """Transposed convolution whose kernel is its stride: each voxel becomes a block of them."""

    def __init__(self, in_features: int, out_features: int, stride: Shape) -> None:
        super().__init__(in_features, out_features, stride, stride)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, F in, Z, Y, X) to (B, F out, Z * stride, ...)."""
        if input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input, output_size)
        # One matrix product: the gradient takes half the time of that of oneDNN's convolution.
        b, _, z, y, x = input.shape
        dz, dy, dx = self.stride
        voxels = input.movedim(1, -1).reshape(-1, self.in_channels)
        weights = self.weight.movedim(1, -1).reshape(self.in_channels, -1)
        bias = None if self.bias is None else self.bias.repeat(dz * dy * dx)
        blocks = F.linear(voxels, weights.T, bias).view(b, z, y, x, dz, dy, dx, self.out_channels)
        fine = blocks.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, z * dz, y * dy, x * dx, -1)
        return fine.movedim(-1, 1)


def join(*parts: Tensor) -> Tensor:
    """Tensors (B, F, Z, Y, X) as one with all their features, in order, for a convolution.

    The largest tensor of a U-Net. Without a gradient, on a CPU, its memory does not stay with the
    process: where freed memory is kept, nothing else would fit so well into what it leaves.
    """
    first = parts[0]
    n = sum(part.numel() for part in parts) * first.element_size()
    plain = first.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling()
    if plain or n < LARGE or len({part.dtype for part in parts}) > 1:
        return torch.cat(parts, dim=1)
    features = [part.shape[1] for part in parts]
    shape = (len(first), *first.shape[2:], sum(features))
    joined = passing_zeros(shape, first.dtype, first.device).movedim(-1, 1)
    for own, part in zip(joined.split(features, dim=1), parts, strict=True):
        own.copy_(part)
    return joined


def initialise(module: nn.Module) -> None:
    """Kaiming-normal weights for leaky ReLU, biases zero: for ``network.apply``."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
