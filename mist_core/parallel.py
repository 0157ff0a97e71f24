"""Several processes that train one network together, each on a GPU and on its part of the batch.

torchrun starts them; one process alone is the usual case and needs none of it. Gradients are
averaged, and most losses are means over the items of a batch: the result is then that of one
process with the whole batch. Not quite where items differ in how many voxels are to be ignored, and
where the worst voxels of a batch are taken (``dice_topk``): each process looks at its own part.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from mist_core.device import best_device


@dataclass(frozen=True)
class Part:
    """Which of how many processes this one is."""

    rank: int = 0
    size: int = 1

    def wrapped(self, network: nn.Module) -> nn.Module:
        """The network, with gradients averaged over all processes."""
        return network if self.size == 1 else DistributedDataParallel(network)

    def sharing(self, model: Any, gradients: bool) -> AbstractContextManager[None]:
        """In which a backward pass averages gradients over all processes, or does not yet."""
        return nullcontext() if gradients or self.size == 1 else model.no_sync()

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a value over all processes."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a value over all processes."""
        return self.sum(value) / self.size

    def agreed(self, value: float, device: torch.device) -> float:
        """The value that the first process has."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, device=device, dtype=torch.float32)
        distributed.broadcast(shared, 0)
        return float(shared)


def start(processes: int, script: Sequence[str], keep: Sequence[int] = ()) -> int:
    """Run a script in several processes at once, on a port that is free; return its exit code.

    They share the cores of this one, and hold the files in ``keep`` open.
    """
    threads = int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads()))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(  # noqa: S603 (our own script)
        [*command, f"--nproc-per-node={processes}", "--", *script],
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": str(max(threads // processes, 1))},
        pass_fds=keep,
    ).returncode


def is_one_of_several() -> bool:
    """Whether this process was started by ``start``."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first() -> bool:
    """Whether this process writes what all have made together."""
    return os.environ.get("RANK", "0") == "0" or not is_one_of_several()


def join() -> tuple[torch.device, Part]:
    """The device of this process and its part of the work; waits for the other processes."""
    if not is_one_of_several():
        return best_device(), Part()
    device = best_device()
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device, Part(distributed.get_rank(), distributed.get_world_size())


def leave() -> None:
    """Wait for the others and end the common work, if there is any."""
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
