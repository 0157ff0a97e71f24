"""What the machine can do, and what it says when it cannot."""

import pytest
import torch

from mist_core.device import enough_memory
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
