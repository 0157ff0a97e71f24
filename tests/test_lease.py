"""GPUs for one job at a time, whatever becomes of the job."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mist_core.lease import gpu_memory_gb, gpu_pool

PROGRAM = """
import os, sys, time
from mist_core.lease import take_gpus
chosen = take_gpus(int(sys.argv[1]), int(sys.argv[2]))
start = time.monotonic()
print("holds", ",".join(chosen), os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
time.sleep(float(sys.argv[3]))
print(start, time.monotonic(), flush=True)
"""


def job(tmp_path, *, count=1, slots=1, seconds=0.4, **environment):
    fixed = {"CUDA_VISIBLE_DEVICES": "2,5", "MIST_GPU_LOCKS": str(tmp_path)}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(count), str(slots), str(seconds)],
        env=inherited | fixed | environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def outcome(process):
    """GPUs of a job, and when it held them."""
    output, _ = process.communicate(timeout=60)
    first, second = output.splitlines()
    _, names, exported = first.split(" ")
    assert names == exported
    start, end = map(float, second.split())
    return names.split(","), start, end


def most_at_once(outcomes, name):
    spans = [(start, end) for names, start, end in outcomes if name in names]
    return max((sum(s <= start < e for s, e in spans) for start, _ in spans), default=0)


def test_no_gpu_has_two_jobs_and_none_is_idle(tmp_path):
    found = [outcome(j) for j in [job(tmp_path) for _ in range(6)]]
    assert most_at_once(found, "2") == most_at_once(found, "5") == 1
    used = [names for names, _, _ in found]
    assert used.count(["2"]) + used.count(["5"]) == 6
    assert min(used.count(["2"]), used.count(["5"])) >= 1


def test_a_gpu_may_be_shared_by_as_many_jobs_as_allowed(tmp_path):
    jobs = [job(tmp_path, slots=2, seconds=1.5) for _ in range(4)]
    found = [outcome(j) for j in jobs]
    assert sorted(names for names, _, _ in found) == [["2"], ["2"], ["5"], ["5"]]
    assert max(start for _, start, _ in found) < min(end for _, _, end in found)


def test_a_job_may_have_several_gpus_or_none(tmp_path):
    found = [outcome(j) for j in [job(tmp_path, count=2) for _ in range(2)]]
    assert [names for names, _, _ in found] == [["2", "5"]] * 2
    assert most_at_once(found, "2") == 1


def test_a_killed_job_gives_its_gpu_back(tmp_path):
    first = job(tmp_path, seconds=60, CUDA_VISIBLE_DEVICES="7")
    assert first.stdout.readline().startswith("holds 7")
    second = job(tmp_path, seconds=0, CUDA_VISIBLE_DEVICES="7")
    time.sleep(1)
    assert second.poll() is None
    first.send_signal(signal.SIGKILL)
    assert outcome(second)[0] == ["7"]
    first.communicate()


def test_a_job_of_a_cluster_takes_what_it_was_given(tmp_path):
    jobs = [
        job(tmp_path, seconds=1.5, CUDA_VISIBLE_DEVICES="0", SLURM_JOB_ID=number)
        for number in ("11", "12")
    ]
    found = [outcome(j) for j in jobs]
    assert most_at_once(found, "0") == 2


@pytest.mark.parametrize(("given", "pool"), [("", []), ("-1", []), ("0,3", ["0", "3"])])
def test_the_pool_is_what_the_user_allows(given, pool):
    assert gpu_pool({"CUDA_VISIBLE_DEVICES": given}) == pool


def test_without_gpus_nothing_is_waited_for(tmp_path):
    process = job(tmp_path, seconds=0, CUDA_VISIBLE_DEVICES="")
    assert process.stdout.readline() == "holds  \n"
    process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("pool", "memory"),
    [("0,1", 16.0), ("1", 24.0), ("GPU-b", 24.0), ("GPU-b2", 24.0), ("", None), ("7", None)],
)
def test_the_memory_of_the_smallest_gpu_is_asked_of_its_driver(tmp_path, pool, memory):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, GPU-a, 16384'\necho '1, GPU-b2c3, 24576'\n")
    program.chmod(0o755)
    environment = {"PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": pool}
    assert gpu_memory_gb(environment) == memory


def test_without_a_driver_no_memory_is_known(tmp_path):
    assert gpu_memory_gb({"PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "0"}) is None


@pytest.mark.parametrize("lines", ["exit 9", "echo No devices were found", "echo '0, a, [N/A]'"])
def test_a_driver_that_does_not_tell_is_no_fault_of_the_data(tmp_path, lines):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{lines}\n")
    program.chmod(0o755)
    assert gpu_memory_gb({"PATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": "0"}) is None
