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

import numpy as np
import yaml

from mist_core.dataset import Case, Dataset, read_dataset
from mist_core.files import write_json, write_rows
from mist_core.io import Volume, read_labels, write_volume

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
    """Analyze and preprocess a dataset, then evaluate label maps, in every way in turn."""
    described = read_dataset(dataset)
    cases = described.train_ids()
    with tempfile.TemporaryDirectory() as folder:
        evaluation = evaluation_in(Path(folder), [described.case(i) for i in cases])
        ways = ways_to_preprocess(described, cases)
        scorers = ways_to_evaluate(evaluation, Path(sys.executable).parent, "ours")
        if mist:
            ways |= mist_way(dataset, Path(folder), mist)
            scorers |= ways_to_evaluate(evaluation, mist, "MIST")
        show(f"analyze and preprocess {len(cases)} cases", interleaved(ways, rounds), len(cases))
        show(f"evaluate {len(cases)} cases", interleaved(scorers, rounds), len(cases))


def ways_to_preprocess(dataset: Dataset, cases: list[str]) -> dict[str, Callable[[], None]]:
    """The same scripts in one process, and as jobs."""

    def workflow(cores: int) -> Callable[[], None]:
        chosen = f"dataset={dataset.path}"
        return lambda: call([*snakemake(), "preprocessed", "--cores", cores, "--config", chosen])

    scripts = str(ROOT / "workflow/scripts")
    return {
        "loop in one process": lambda: call(
            [sys.executable, "-c", LOOP, scripts, dataset.path, *cases]
        ),
        "workflow, 1 core": workflow(1),
        "workflow, 2 cores": workflow(2),
    }


def mist_way(dataset: Path, folder: Path, mist: Path) -> dict[str, Callable[[], None]]:
    """MIST's commands, on the dataset as its own converter leaves it."""
    output = folder / "converted"
    call([mist / "mist_convert_msd", "--source", dataset, "--output", output])

    def both() -> None:
        results = ["--results", "results"]
        data = ["--data", output / "dataset.json", "--num-workers-analyze", 2]
        call([mist / "mist_analyze", *data, *results])
        numpy = ["--numpy", "numpy", "--num-workers-preprocess", 2]
        call([mist / "mist_preprocess", *results, *numpy])

    return {"MIST, 2 workers": both}


def evaluation_in(folder: Path, cases: list[Case]) -> list[object]:
    """Predictions one voxel off, and the arguments with which both sides evaluate them."""
    labels = sorted({int(v) for case in cases[:5] for v in np.unique(read(case).array)} - {0})
    metrics: dict[str, object] = {"dice": {}, "haus95": {}, "surf_dice": {}, "avg_surf": {}}
    classes = {f"label_{v}": {"labels": [v], "metrics": metrics} for v in labels}
    write_json(folder / "evaluation.json", {"evaluation": classes})
    rows = []
    for case in cases:
        mask = read(case)
        path = folder / f"predictions/{case.id}.nii.gz"
        write_volume(path, Volume(np.roll(mask.array, 1, axis=2), mask.geometry))
        rows.append({"id": case.id, "mask": case.mask, "prediction": path})
    write_rows(folder / "paths.csv", list(rows[0]), rows)
    places = ["--config", folder / "evaluation.json", "--paths-csv", folder / "paths.csv"]
    return [*places, "--output-csv", "results.csv", "--num-workers-evaluate"]


def read(case: Case) -> Volume:
    assert case.mask
    return read_labels(case.mask)


def ways_to_evaluate(
    evaluation: list[object], bin_: Path, name: str
) -> dict[str, Callable[[], None]]:
    command = [bin_ / "mist_evaluate", *evaluation]
    return {
        f"{name}, 1 worker": lambda: call([*command, 1]),
        f"{name}, 2 workers": lambda: call([*command, 2]),
    }


def show(title: str, taken: dict[str, list[float]], n_cases: int) -> None:
    """Medians, and how far each is from the first."""
    print(f"{title}: seconds (every round), and more than the first for each case")
    first = statistics.median(next(iter(taken.values())))
    for name, seconds in taken.items():
        middle = statistics.median(seconds)
        rounds = ", ".join(f"{s:.1f}" for s in seconds)
        print(f"  {name:20} {middle:6.1f} ({rounds})  {(middle - first) / n_cases:+.3f}")


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
