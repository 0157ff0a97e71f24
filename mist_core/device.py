"""What the machine can do, and how tensors lie on it best."""

import ctypes
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from math import prod
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mist_core.errors import DataError

# bfloat16 convolutions on the CPU ran 1.3 times faster channels-last than channels-first.
MEMORY_FORMAT = torch.channels_last_3d
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def best_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Say what to change when the device has not enough memory for the block, or the function."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # On a CPU torch raises no class of its own.
        on_cpu = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
        if not on_cpu and not isinstance(error, torch.OutOfMemoryError):
            raise
        device = "computer" if on_cpu else "GPU"
        raise DataError(
            f"expected enough memory of the {device}, found too little. {remedy}"
        ) from error


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is computed in hardware; emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def tune(device: torch.device) -> None:
    """Settings of the process by which networks run faster on the device."""
    if device.type == "cpu":
        keep_freed_memory()
    else:
        torch.backends.cudnn.benchmark = True  # patches all have one size
        torch.set_float32_matmul_precision("high")


@contextmanager
def full_precision() -> Iterator[None]:
    """Let products of float32 matrices be exact to float32, on GPUs too."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def is_idle(device: torch.device) -> bool:
    """Whether the device has done all that it was told: else it is not waiting for anything."""
    return device.type != "cuda" or torch.cuda.current_stream(device).query()


def to_device(values: NDArray[Any], device: torch.device, dtype: torch.dtype) -> Tensor:
    """NumPy values as a tensor, which a GPU does not stop its work for."""
    return torch.from_numpy(values).to(device, dtype, non_blocking=True)


def keep_freed_memory() -> None:
    """Let memory that is freed stay with the process, for tensors to come (glibc only).

    Without, every tensor above 32 MB gets fresh pages, and clearing these took a quarter to a third
    of a training step on a CPU, and as much of a prediction. The price is memory that lies idle:
    3.9 GB in place of 2.6 for training with 2 x 96 x 96 x 96 voxels.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def give_back_freed_memory(device: torch.device) -> None:
    """Let the system have the memory that is kept, after tensors so large that few others fit in
    between: the kept memory would grow by one of them every few rounds.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if device.type == "cpu" and trim:
        trim(0)


def passing_zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros whose memory goes back to the system when they are let go, freed memory kept or not.

    For what lives long and comes in many sizes: it would leave gaps in the memory that is kept,
    into which little fits.
    """
    if device.type != "cpu" or prod(shape) == 0:
        return torch.zeros(*shape, dtype=dtype, device=device)
    try:
        size = prod(shape) * dtype.itemsize
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(str(error)) from error
    with suppress(AttributeError, OSError):  # fewer faults, where the system knows large pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(*shape)


def half_precision(amp: bool | str, device: torch.device) -> torch.dtype | None:
    """The type to compute in where it is exact enough, as the setting says; None: float32."""
    if amp == "float16":
        return torch.float16
    wanted = has_bfloat16(device) if amp == "auto" else amp
    return torch.bfloat16 if wanted else None


class _Convolution(nn.Conv3d):
    """A convolution that is computed in float32 where bfloat16 has wrong gradients."""

    def forward(self, input: Tensor) -> Tensor:
        if all(n >= k for n, k in zip(input.shape[2:], self.kernel_size, strict=True)):
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def mend_small_convolutions(network: nn.Module, device: torch.device) -> None:
    """Let a network be trained in bfloat16 on a CPU: change its convolutions in place.

    The gradient of the weights is wrong there (torch 2.13 with oneDNN: memory that nobody wrote)
    where the image is shorter than the kernel along an axis, as at the bottom of a U-Net.
    """
    if device.type != "cpu":
        return
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = _Convolution
