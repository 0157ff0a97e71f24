"""What the machine can do, and what it says when it cannot."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mist_core.device import (
    enough_memory,
    half_precision,
    mend_small_convolutions,
    passing_zeros,
)
from mist_core.errors import DataError


def test_too_little_memory_says_what_to_change():
    words = "memory of the computer, found too little[.] Lower it"
    with pytest.raises(DataError, match=words), enough_memory("Lower it."):
        torch.empty(1 << 48)


def test_the_memory_of_a_gpu_is_named():
    with pytest.raises(DataError, match="memory of the GPU"), enough_memory(""):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_another_failure_stays_what_it_is():
    with pytest.raises(RuntimeError, match="mat1 and mat2"), enough_memory("Lower it."):
        torch.ones(2, 3) @ torch.ones(2, 3)


@pytest.mark.parametrize(
    ("amp", "expected"),
    [(True, torch.bfloat16), (False, None), ("float16", torch.float16)],
)
def test_the_type_to_compute_in_is_what_was_set(amp, expected):
    assert half_precision(amp, torch.device("cpu")) == expected


def test_bfloat16_is_taken_where_the_processor_has_it():
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    has = "avx512_bf16" in flags or "amx_tile" in flags
    assert half_precision("auto", torch.device("cpu")) == (torch.bfloat16 if has else None)


def test_freed_memory_is_kept():
    """After a few rounds a large tensor made anew asks for no fresh pages."""
    code = """
import resource, torch
from mist_core.device import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(50_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
keep_freed_memory()
print(*(faults() for _ in range(20)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *_, last = map(int, done.stdout.split())
    assert first > 48_000  # pages of 4 KB
    assert last < 1000


def test_passing_zeros_are_zeros_of_that_shape_and_type():
    found = passing_zeros((2, 3, 4), torch.float16, torch.device("cpu"))
    assert torch.equal(found, torch.zeros(2, 3, 4, dtype=torch.float16))
    found += 1
    assert found.sum() == 24
    assert passing_zeros((2, 0, 4), torch.float32, torch.device("cpu")).shape == (2, 0, 4)


def test_passing_zeros_go_back_to_the_system_where_freed_memory_is_kept():
    code = """
import torch
from mist_core.device import keep_freed_memory, passing_zeros
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
keep_freed_memory()
before = resident()
zeros = passing_zeros((100_000_000,), torch.float32, torch.device("cpu"))
zeros += 1
held = resident() - before
part = zeros[:5]
del zeros
print(held, resident() - before, part.sum().item())
del part
print(resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    held, kept, values, left = map(float, done.stdout.split())
    assert held > 390e6
    assert kept > 390e6
    assert values == 5
    assert left < 50e6


@pytest.mark.parametrize(
    ("size", "kernel"),
    [
        ((2, 2, 2), 3),
        ((2, 8, 8), 3),
        ((8, 2, 1), 3),
        ((1, 1, 2), 3),
        ((4, 6, 6), 5),
        ((6, 6, 6), 3),
    ],
)
def test_weights_of_small_images_have_their_gradients_in_bfloat16(size, kernel):
    """Where the image is shorter than the kernel, those of the library are arbitrary."""
    torch.manual_seed(0)
    convolution = nn.Sequential(nn.Conv3d(32, 32, kernel, padding=kernel // 2))
    mend_small_convolutions(convolution, torch.device("cpu"))
    x = torch.randn(2, 32, *size)
    gradients = []
    for amp in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            y = convolution(x)
        y.float().square().sum().backward()
        gradients.append(convolution[0].weight.grad)
        convolution.zero_grad()
    torch.testing.assert_close(*gradients, rtol=0.05, atol=0.02 * gradients[0].abs().max().item())


def test_mended_networks_have_the_weights_that_they_had():
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Conv2d(1, 2, 3))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    mend_small_convolutions(network, torch.device("cpu"))
    copied = copy.deepcopy(network)
    assert copied.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in copied.state_dict().items())
    assert type(network[1]) is nn.Conv2d
