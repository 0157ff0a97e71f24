"""GPUs of this machine, each for one job at a time: Snakemake counts them, but does not say which.

A lease is a lock of the kernel on a small file for each slot of a GPU. It ends with the process,
however that ends, and holds between runs. Snakemake's own count (``resources: gpu=1``) keeps jobs
from waiting here.
"""

import fcntl
import logging
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from mist_core.errors import DataError

log = logging.getLogger(__name__)
_held: list[IO[str]] = []  # open files: closing one would give the GPU back


def take_gpus(count: int = 1, jobs_per_gpu: int = 1) -> list[str]:
    """Wait for ``count`` GPUs and hold them until the process ends; none where there are none.
    Raises DataError where there are fewer.

    CUDA_VISIBLE_DEVICES is the pool to choose from, where it is set, and is set to the choice: call
    this before anything asks CUDA for its devices. A cluster's job has a pool of its own, so what
    the scheduler gave it is taken at once. MIST_GPU_LOCKS names another folder for the locks, for
    example one that several users can write to.
    """
    pool = gpu_pool(os.environ)
    if not pool:
        return []
    if len(pool) < count:
        raise DataError(
            f"config: train.gpus: expected at most the {len(pool)} that there are, found {count}. "
            "Lower it, or set CUDA_VISIBLE_DEVICES to more."
        )
    folder = _lock_folder(os.environ)
    folder.mkdir(parents=True, exist_ok=True)
    waited = False
    while True:
        chosen = _try_to_take(pool, count, jobs_per_gpu, folder)
        if chosen:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
            log.info("took GPU %s", ", ".join(chosen))
            return chosen
        if not waited:
            log.info("waiting for %d of GPU %s: others have them", count, ", ".join(pool))
            waited = True
        time.sleep(0.2 + 0.3 * random.random())


def gpu_pool(environment: Mapping[str, str]) -> list[str]:
    """Names of the GPUs that may be used: as given by CUDA_VISIBLE_DEVICES, else all there are."""
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip() not in ("", "-1")]
    return [str(index) for index, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]


def gpu_memory_gb(environment: Mapping[str, str]) -> float | None:
    """Memory in GiB of the smallest GPU that may be used; None where there is none, or where
    NVIDIA's driver does not tell.
    """
    pool = gpu_pool(environment)
    if not pool or not (program := shutil.which("nvidia-smi", path=environment.get("PATH"))):
        return None
    fields = ("--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits")
    command = [program, *fields]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    rows = [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines()]
    sizes = [
        float(mib) / 1024
        for index, uuid, mib in (row for row in rows if len(row) == len(("index", "uuid", "mib")))
        # A name may be the beginning of a UUID.
        if mib.isdigit() and (index in pool or any(uuid.startswith(n) for n in pool if "-" in n))
    ]
    return min(sizes, default=None)


def _lock_folder(environment: Mapping[str, str]) -> Path:
    job = environment.get("SLURM_JOB_ID")
    own = Path(tempfile.gettempdir()) / f"mist-gpus-{os.getuid()}"
    folder = Path(environment.get("MIST_GPU_LOCKS", own))
    return folder / f"slurm-{job}" if job else folder


def _try_to_take(pool: list[str], count: int, jobs_per_gpu: int, folder: Path) -> list[str]:
    """``count`` GPUs of the pool with a free slot each, or none at all."""
    taken: dict[str, IO[str]] = {}
    for slot in range(jobs_per_gpu):  # first slots first: jobs spread over the GPUs
        for name in pool:
            if name in taken or len(taken) == count:
                continue
            stream: IO[str] = (folder / f"{name.replace('/', '_')}.{slot}.lock").open("a")
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                taken[name] = stream
            except BlockingIOError:
                stream.close()
    if len(taken) < count:
        for stream in taken.values():
            stream.close()
        return []
    _held.extend(taken.values())
    return [name for name in pool if name in taken]


def held_files() -> list[int]:
    """Descriptors of the leases, to pass on to processes that use the GPUs and may live longer."""
    return [stream.fileno() for stream in _held]
