"""What the workflow costs beside its work: against a plain loop, against MIST, and in dry runs.

    python tests/benchmarks/workflow.py --dataset /data/Task04_Hippocampus --mist /envs/mist/bin

The variants take turns in every round, on the same files. ``--mist`` names the folder of MIST's
commands, in an environment of its own, and may be left out. Nothing is kept.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from mist_core.dataset import read_dataset
from mist_core.files import write_json

ROOT = Path(__file__).resolve().parents[2]
STRATEGY = ROOT / "config/strategies/keep-largest-per-label.json"
LOOP = """
import runpy, sys
scripts, dataset, *cases = sys.argv[1:]
def script(name, *arguments):
    sys.argv = [name, "--dataset", dataset, *arguments]
    runpy.run_path(f"{scripts}/{name}.py", run_name="__main__")
script("fingerprint", "--case", *cases, "--output", "results/fingerprints")
script("analyze", "--fingerprints", "results/fingerprints", "--folds", "results/folds.json",
       "--chunks", "results/chunks.json", "--cases-per-job", "64", "--output", "results")
script("preprocess", "--plan", "results/config.json", "--case", *cases, "--output", "numpy")
"""


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--dataset", type=Path, help="folder or JSON; 200 hippocampus MRIs, say")
    p.add_argument("--mist", type=Path, help="bin folder of an environment with MIST")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--dry-runs", type=int, nargs="*", default=[1000, 10_000], help="cases")
    args = p.parse_args()
    if args.dataset:
        compare(args.dataset.resolve(), args.mist, args.rounds)
    for n_cases in args.dry_runs:
        dry_run(n_cases)


def compare(dataset: Path, mist: Path | None, rounds: int) -> None:
    """Analyze and preprocess a dataset, in every way in turn; then evaluate it."""
    cases = read_dataset(dataset).train_ids()
    scripts = str(ROOT / "workflow/scripts")

    def loop() -> None:
        call([sys.executable, "-c", LOOP, scripts, str(read_dataset(dataset).path), *cases])

    def workflow(cores: int) -> Callable[[], None]:
        chosen = f"dataset={dataset}"
        return lambda: call([*snakemake(), "preprocessed", "--cores", cores, "--config", chosen])

    ways = {
        "loop in one process": loop,
        "workflow, 1 core": workflow(1),
        "workflow, 2 cores": workflow(2),
    }
    if mist:
        described = Path(tempfile.mkdtemp()) / "dataset.json"
        msd_for_mist(dataset, described, mist)
        places = ["--numpy", "numpy", "--results", "results"]
        ways["MIST, 2 workers"] = lambda: (
            call([mist / "mist_analyze", "--data", described, "--results", "results"]),
            call([mist / "mist_preprocess", *places]),
        )
    print(f"analyze and preprocess {len(cases)} cases, seconds (all rounds)")
    taken = interleaved(ways, rounds)
    fastest = statistics.median(taken["loop in one process"])
    for name, seconds in taken.items():
        middle = statistics.median(seconds)
        print(
            f"  {name:22} {middle:7.1f}   {(middle - fastest) / len(cases):+7.3f} s a case over "
            f"the loop   ({', '.join(f'{s:.1f}' for s in seconds)})"
        )


def msd_for_mist(dataset: Path, path: Path, mist: Path) -> None:
    """The same dataset in MIST's layout, made by MIST's own converter."""
    output = path.parent / "converted"
    call([mist / "mist_convert_msd", "--source", dataset, "--output", output])
    shutil.copy(output / "dataset.json", path)


def interleaved(ways: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round; every one starts in an empty folder."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                shutil.copytree(ROOT / "config", "config")
                started = time.perf_counter()
                way()
                taken[name].append(time.perf_counter() - started)
    return taken


def dry_run(n_cases: int) -> None:
    """Time and memory of ``snakemake -n`` for a dataset of links to one small file."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        image = Path("image.nii.gz")
        image.write_bytes(bytes(4_000_000))  # a sparse stand-in: a dry run reads no voxel
        for number in range(n_cases):
            case = Path(f"train/case_{number:05d}")
            case.mkdir(parents=True)
            os.link(image, case / "image.nii.gz")
            os.link(image, case / "mask.nii.gz")
        write_json(
            Path("dataset.json"),
            {
                "task": "many",
                "modality": "mr",
                "train-data": "train",
                "mask": ["mask"],
                "images": {"mr": ["image"]},
                "labels": [0, 1],
            },
        )
        settings = {"dataset": "dataset.json", "postprocess": {"strategies": [str(STRATEGY)]}}
        Path("config.yaml").write_text(yaml.safe_dump(settings))
        command = [
            *snakemake(),
            "-n",
            "--quiet",
            "rules",
            "--configfile",
            "config.yaml",
            "--cores",
            "16",
        ]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            sys.exit(output.decode())
        jobs = output.decode().split("total")[1].split()[0]
        print(
            f"dry run of {n_cases} cases, {jobs} jobs: {seconds:.1f} s, "
            f"{used.ru_maxrss / 1e6:.2f} GB"
        )


def snakemake() -> list[str]:
    """The workflow of this repository, from any folder."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow/Snakefile")]
    return [*command, "--workflow-profile", str(ROOT / "profiles/default")]


def call(command: list[object]) -> None:
    done = subprocess.run(
        list(map(str, command)), check=False, capture_output=True, text=True, env=one_thread()
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))[:300]}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def one_thread() -> dict[str, str]:
    """Libraries with one thread each, so that the processes are what is compared."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    main()
