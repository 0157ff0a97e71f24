"""Training on a CPU beside MIST and nnU-Net: speed, accuracy after equal time, memory.

    python tests/benchmarks/training.py steps --work /scratch/benchmark \\
        --dataset /data/Task04_Hippocampus --mist /envs/mist/bin --nnunet /envs/nnunet/bin
    python tests/benchmarks/training.py accuracy --minutes 20 ...  (with the same options)
    python tests/benchmarks/training.py memory --work /scratch/benchmark \\
        --dataset /data/brats2015 --mist /envs/mist/bin

``steps``: patches per second with loading and augmentation, each peer beside our training of the
same network, patch and batch; they take turns. ``accuracy``: every product as it comes, trained for
the same time on the same cases, then its own prediction of the held-out ones, and one scorer.
``memory``: some steps with large patches. Each training has a process of its own. ``--work`` keeps
what analysis and preprocessing made; ``prepare`` makes just that. Peers may be left out.
Linux only.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from preprocessing import (
    SCRIPTS,
    THREADS,
    Task,
    Used,
    convert_for_nnunet,
    environment_of,
    measured,
)

from mist_core.dataset import Dataset, read_dataset
from mist_core.files import read_json, read_rows, write_json, write_rows
from mist_core.io import read_labels
from mist_core.metrics import score
from workflow import snakemake

PEERS = Path(__file__).with_name("peers.py")
FOLD, FOLDS = 0, 5
SELDOM, OFTEN = 2.0, 0.1  # seconds between samples of the memory: they cost time of the cores
SPARE = 0.03  # of the time of a peer is not planned, so that it ends within it
PER_VALIDATION = 5  # training steps of nnU-Net for one of validation: 250 to 50
LONG_EPOCH = 250  # steps of an epoch by default, of all three

Rows = list[dict[str, float]]  # of epochs: patches_per_second, where it is known waiting
Peer = Callable[..., tuple[Any, Used]]  # of a folder, and what is asked


@dataclass(frozen=True)
class Bench:
    """Where everything is, and what all have alike."""

    home: Path  # of the dataset, in the folder to work in
    dataset: Dataset
    mist: Path | None  # bin folders
    nnunet: Path | None
    threads: int
    chosen: Mapping[str, Any]  # settings of our training, above those of the benchmark
    sampled_every: float  # seconds, of the memory

    def environment(self, bin_: Path) -> dict[str, str]:
        """All threads for every library, and no GPU."""
        threads = dict.fromkeys((*THREADS, "nnUNet_def_n_proc"), str(self.threads))
        return {**environment_of(bin_), **threads, "CUDA_VISIBLE_DEVICES": ""}

    def run(self, command: Sequence[object], environment: Mapping[str, str]) -> Used:
        return measured(list(map(str, command)), environment, self.threads, self.sampled_every)


@dataclass(frozen=True)
class Variant:
    """One way to train, in a folder of its own; the first with the same batch is the peer."""

    name: str
    batch: str
    train: Callable[[Path], tuple[Rows, Used]]


@dataclass(frozen=True)
class Trained:
    """What a product did in its time, the folder of its predictions and how long they took."""

    steps: int
    patches_per_second: float
    used: Used
    predictions: Path
    seconds: float


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parsers = p.add_subparsers(dest="task", required=True)
    tasks = {"prepare": prepared, "steps": steps, "accuracy": accuracy, "memory": memory}
    for name, function in tasks.items():
        t = parsers.add_parser(name)
        t.set_defaults(function=function)
        t.add_argument("--work", type=Path, required=True, help="folder on a fast disk")
        t.add_argument("--dataset", type=Path, required=True, help="in a layout that ours reads")
        t.add_argument("--mist", type=Path, help="bin folder of an environment with MIST")
        t.add_argument("--nnunet", type=Path, help="bin folder of an environment with nnU-Net")
        t.add_argument("--threads", type=int, default=os.cpu_count(), help="and cores, of all")
        t.add_argument("--ours", type=json.loads, default={}, help="settings of ours, as JSON")
        if name in ("steps", "memory"):
            small = name == "memory"
            t.add_argument("--steps", type=int, default=2 if small else 20, help="of an epoch")
            t.add_argument("--epochs", type=int, default=2 if small else 3)
            t.add_argument("--warmup", type=int, default=1, help="epochs that are not counted")
            t.add_argument("--rounds", type=int, default=1 if small else 3)
        if name == "memory":
            t.add_argument("--patch", type=int, nargs=3, default=[128] * 3, help="x y z")
            t.add_argument("--batch", type=int, default=2)
        if name == "steps":
            t.add_argument("--only", choices=("mist", "nnunet"), help="ours beside this peer")
        if name == "accuracy":
            t.add_argument("--only", choices=("ours", "mist", "nnunet"))
            t.add_argument("--minutes", type=float, default=20.0)
            t.add_argument("--epoch-steps", type=int, default=10, help="of nnU-Net")
    args = p.parse_args()
    dataset = read_dataset(args.dataset.resolve())
    home = args.work.resolve() / dataset.path.parent.name
    home.mkdir(parents=True, exist_ok=True)
    often = OFTEN if args.task == "memory" else SELDOM
    bench = Bench(home, dataset, args.mist, args.nnunet, args.threads, args.ours, often)
    if args.task != "prepare":
        prepared(bench, args)
    args.function(bench, args)


# Analysis and preprocessing, which are not measured here


def prepared(bench: Bench, args: argparse.Namespace) -> None:
    """Arrays and plans of all products in ``bench.home``, and the folds of ours for all."""
    prepare_ours(bench)
    if bench.mist and not (bench.home / "mist/prepared").exists():
        prepare_mist(bench, bench.mist)
    if bench.nnunet and not (bench.home / "nnunet/prepared").exists():
        prepare_nnunet(bench, bench.nnunet)


def prepare_ours(bench: Bench) -> None:
    """By the workflow, which does what is out of date."""
    folder = bench.home / "ours"
    folder.mkdir(exist_ok=True)
    folds = min(FOLDS, len(bench.dataset.train_ids()))
    settings = {"dataset": str(bench.dataset.path), "analyze": {"folds": folds}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    with chdir(folder):
        command = [*snakemake(), "preprocessed", "--cores", bench.threads]
        environment = bench.environment(Path(sys.executable).parent)
        bench.run([*command, "--configfile", "config.yaml"], environment)


def prepare_mist(bench: Bench, bin_: Path) -> None:
    folder, environment = new(bench.home / "mist"), bench.environment(bin_)
    data = bench.dataset.path
    with chdir(folder):
        if bench.dataset.train_data is None:
            convert = [bin_ / "mist_convert_msd", "--source", data.parent, "--output", "converted"]
            bench.run(convert, environment)
            data = folder / "converted/dataset.json"
        folds = min(FOLDS, len(bench.dataset.train_ids()))
        analyze = [bin_ / "mist_analyze", "--data", data, "--nfolds", folds]
        bench.run([*analyze, "--results", "results"], environment)
        preprocess = [bin_ / "mist_preprocess", "--results", "results", "--numpy", "numpy"]
        bench.run([*preprocess, "--num-workers-preprocess", bench.threads], environment)
    ours = folds_of(bench)
    paths = folder / "results/train_paths.csv"
    rows = [{**row, "fold": ours[row["id"]]} for row in read_rows(paths)]
    assert len(rows) == len(ours)
    write_rows(paths, list(rows[0]), rows)
    (folder / "prepared").touch()


def prepare_nnunet(bench: Bench, bin_: Path) -> None:
    folder, ids = new(bench.home / "nnunet"), bench.dataset.train_ids()
    with chdir(folder):
        convert_for_nnunet(Task("", bench.dataset, [bench.dataset.case(i) for i in ids]))
        environment = nnunet_environment(bench, bin_, folder)
        for command in ("extract_fingerprint", "plan_experiment", "preprocess"):
            only = ["-c", "3d_fullres", "-np", bench.threads] if command == "preprocess" else []
            bench.run([bin_ / f"nnUNetv2_{command}", "-d", 1, *only], environment)
    ours = folds_of(bench)
    splits = [
        {"train": [i for i in ids if ours[i] != fold], "val": [i for i in ids if ours[i] == fold]}
        for fold in range(FOLDS)
    ]
    write_json(preprocessed_by_nnunet(bench) / "splits_final.json", splits)
    (folder / "prepared").touch()


def folds_of(bench: Bench) -> dict[str, int]:
    rows = read_rows(bench.home / "ours/results/train_paths.csv")
    return {row["id"]: int(row["fold"]) for row in rows}


def nnunet_environment(bench: Bench, bin_: Path, results: Path) -> dict[str, str]:
    folders = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed"}
    places = {name: str(bench.home / "nnunet" / folder) for name, folder in folders.items()}
    return {**bench.environment(bin_), **places, "nnUNet_results": str(results)}


def preprocessed_by_nnunet(bench: Bench) -> Path:
    return bench.home / "nnunet/preprocessed/Dataset001_benchmark"


def new(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# Training, by each product


def train_ours(
    bench: Bench, settings: Mapping[str, Any], patch: Sequence[int] | None, run: Path
) -> tuple[Rows, Used]:
    """The script of the workflow; the history that it wrote."""
    ours = bench.home / "ours"
    plan = read_json(ours / "results/config.json")
    if patch:
        plan["spatial_config"]["patch_size"] = list(patch)
    write_json(run / "config.json", plan)
    chosen = json.dumps({**settings, **bench.chosen})
    data = ["--paths", ours / "results/train_paths.csv", "--numpy", ours / "numpy"]
    made = ["--checkpoint", run / "checkpoint.pt", "--logs", run, "--model", run / "fold_0.pt"]
    asked = ["--plan", run / "config.json", "--settings", chosen, "--fold", FOLD]
    command = [sys.executable, SCRIPTS / "train.py", *data, *asked, *made]
    used = bench.run(command, bench.environment(Path(sys.executable).parent))
    history = read_rows(run / "history.csv")
    return [{key: float(value) for key, value in row.items()} for row in history], used


def of_mist(bench: Bench, bin_: Path, run: Path, *asked: object) -> tuple[Any, Used]:
    """Let MIST do ``asked`` in a folder that has its plan and knows our folds."""
    for name in ("config.json", "train_paths.csv", "fg_bboxes.csv"):
        if not (run / name).exists():
            shutil.copy(bench.home / "mist/results" / name, run)
    places = ["--results", run, "--numpy", bench.home / "mist/numpy"]
    return of_peer(bench, bin_, "mist", run, bench.environment(bin_), *asked, *places)


def of_nnunet(bench: Bench, bin_: Path, run: Path, *asked: object) -> tuple[Any, Used]:
    environment = nnunet_environment(bench, bin_, run)
    return of_peer(bench, bin_, "nnunet", run, environment, *asked)


def of_peer(
    bench: Bench, bin_: Path, peer: str, run: Path, environment: Mapping[str, str], *asked: object
) -> tuple[Any, Used]:
    found = run / "found.json"
    command = [bin_ / "python", PEERS, peer, *asked, "--threads", bench.threads]
    used = bench.run([*command, "--output", found], environment)
    return read_json(found), used


# Steps and memory


def steps(bench: Bench, args: argparse.Namespace) -> None:
    """Each peer as it planned it, and ours with the network, patch and batch of that peer."""
    epochs = ["--epochs", args.epochs, "--steps", args.steps]
    ours = {"epochs": args.epochs, "steps_per_epoch": args.steps}
    variants = []

    def pair(name: str, peer: Peer, model: str, patch: Sequence[int], size: int) -> None:
        batch, settings = as_text(size, patch), {**ours, "model": model, "batch_size": size}
        variants.append(Variant(name, batch, lambda run: peer(run, "steps", *epochs)))
        variants.append(Variant("ours", batch, partial(train_ours, bench, settings, patch)))

    if bench.nnunet and args.only != "mist":
        plan = read_json(preprocessed_by_nnunet(bench) / "nnUNetPlans.json")
        planned = plan["configurations"]["3d_fullres"]
        zyx = [planned["patch_size"][axis] for axis in plan["transpose_backward"]]
        peer = partial(of_nnunet, bench, bench.nnunet)
        pair("nnU-Net", peer, "nnunet-plain", zyx[::-1], planned["batch_size"])
    if bench.mist and args.only != "nnunet":
        plan = read_json(bench.home / "mist/results/config.json")
        model, patch = plan["model"]["architecture"], plan["spatial_config"]["patch_size"]
        peer = partial(of_mist, bench, bench.mist)
        pair("MIST", peer, model, patch, plan["training"]["batch_size_per_gpu"])
    show_rates(interleaved(variants, args), args)


def memory(bench: Bench, args: argparse.Namespace) -> None:
    """Ours, and MIST, with a batch of large patches."""
    batch = as_text(args.batch, args.patch)
    settings = {"epochs": args.epochs, "steps_per_epoch": args.steps, "batch_size": args.batch}
    variants = [Variant("ours", batch, partial(train_ours, bench, settings, args.patch))]
    if bench.mist:
        asked = ["steps", "--epochs", args.epochs, "--steps", args.steps]
        asked += ["--patch-size", *args.patch, "--batch-size-per-gpu", args.batch]
        peer = partial(of_mist, bench, bench.mist)
        variants.append(Variant("MIST", batch, lambda run: peer(run, *asked)))
    show_rates(interleaved(variants, args), args)


def as_text(batch_size: int, patch: Sequence[int]) -> str:
    return f"{batch_size} x {' x '.join(map(str, patch))}"


def interleaved(
    variants: Sequence[Variant], args: argparse.Namespace
) -> dict[Variant, list[tuple[Rows, Used]]]:
    """What every variant measured in each round."""
    found: dict[Variant, list[tuple[Rows, Used]]] = {variant: [] for variant in variants}
    for number in range(args.rounds):
        for variant in variants:
            with tempfile.TemporaryDirectory(dir=args.work) as folder:
                rows, used = variant.train(Path(folder))
            found[variant].append((rows[args.warmup :], used))
            rates = ", ".join(f"{row['patches_per_second']:.2f}" for row in rows)
            print(
                f"{variant.batch}, round {number + 1}, {variant.name}: {rates} patches/s in epochs "
                f"of {args.steps} steps, {used.peak_bytes / 1e9:.2f} GB",
                flush=True,
            )
    return found


def show_rates(found: Mapping[Variant, list[tuple[Rows, Used]]], args: argparse.Namespace) -> None:
    """Medians of all epochs that count, and of the rounds; ratios to the first of a batch."""
    print(
        f"\n{args.rounds} x {args.epochs - args.warmup} epochs of {args.steps} steps\n\n"
        "| batch | | patches/s | ratio | waiting for data | peak, GB |\n" + 6 * "|---" + "|"
    )
    first: dict[str, float] = {}
    for variant, rounds in found.items():
        rows = [row for rows, _ in rounds for row in rows]
        rate = statistics.median(row["patches_per_second"] for row in rows)
        waiting = [row["waiting"] for row in rows if "waiting" in row]
        share = f"{100 * statistics.median(waiting):.1f} %" if waiting else ""
        peak = statistics.median(used.peak_bytes for _, used in rounds)
        ratio = rate / first.setdefault(variant.batch, rate)
        print(
            f"| {variant.batch} | {variant.name} | {rate:.2f} | {ratio:.2f} | {share} "
            f"| {peak / 1e9:.2f} |"
        )
    print(flush=True)


# Accuracy after equal time


def accuracy(bench: Bench, args: argparse.Namespace) -> None:
    """Every product as it comes, for the same time, and how well it finds the held-out cases."""
    products: dict[str, Callable[[Path], Trained]] = {}
    held_out = [case for case, fold in folds_of(bench).items() if fold == FOLD]
    if args.only in (None, "ours"):
        products["ours"] = partial(ours_in_time, bench, args.minutes, held_out)
    if bench.nnunet and args.only in (None, "nnunet"):
        products["nnU-Net"] = partial(nnunet_in_time, bench, bench.nnunet, args)
    if bench.mist and args.only in (None, "mist"):
        products["MIST"] = partial(mist_in_time, bench, bench.mist, args.minutes)
    classes = bench.dataset.final_classes
    names = {labels[0]: name for name, labels in classes.items() if len(labels) == 1}
    columns = ["steps", "patches/s", *(f"Dice of {name}" for name in names.values())]
    columns += ["training, min", "prediction, s/case", "peak, GB"]
    print(f"\n| | {' | '.join(columns)} |\n{(len(columns) + 1) * '|---'}|", flush=True)
    for product, train in products.items():
        done = train(new(bench.home / "accuracy" / product))
        scores = scored(bench, held_out, done.predictions, list(names))
        print(
            f"| {product} | {done.steps} | {done.patches_per_second:.2f} | "
            + " | ".join(f"{score:.4f}" for score in scores)
            + f" | {done.used.seconds / 60:.1f} | {done.seconds / len(held_out):.2f} "
            f"| {done.used.peak_bytes / 1e9:.2f} |",
            flush=True,
        )


def ours_in_time(bench: Bench, minutes: float, held_out: Sequence[str], run: Path) -> Trained:
    rows, used = train_ours(bench, {"minutes": minutes}, None, run)
    each = bench.chosen.get("steps_per_epoch", LONG_EPOCH)
    done = round(sum(row.get("steps", each) for row in rows))
    rate = statistics.median(row["patches_per_second"] for row in rows)
    folder = run / "predictions"
    asked = ["--models", run / "fold_0.pt", "--settings", "{}", "--case", *held_out]
    arrays = ["--numpy", bench.home / "ours/numpy", "--output", folder]
    command = [sys.executable, SCRIPTS / "predict.py", *arrays, *asked]
    took = bench.run(command, bench.environment(Path(sys.executable).parent))
    return Trained(done, rate, used, folder, took.seconds)


def nnunet_in_time(bench: Bench, bin_: Path, args: argparse.Namespace, run: Path) -> Trained:
    """In short epochs: its rate of learning falls with each of them."""
    peer = partial(of_nnunet, bench, bin_)
    train = ["train", "--validations", max(1, args.epoch_steps // PER_VALIDATION)]
    trial, _ = peer(new(run / "trial"), *train, "--epochs", 2, "--steps", args.epoch_steps)
    found, used = peer(run, *train, *fitted(args.minutes, trial))
    _, took = peer(run, "predict")
    (folder,) = run.glob("Dataset001_benchmark/*/fold_0/validation")
    return Trained(found["steps"], found["patches_per_second"], used, folder, took.seconds)


def mist_in_time(bench: Bench, bin_: Path, minutes: float, run: Path) -> Trained:
    peer = partial(of_mist, bench, bin_)
    trial, _ = peer(new(run / "trial"), "train", "--epochs", 1, "--steps", LONG_EPOCH)
    found, used = peer(run, "train", *fitted(minutes, trial))
    _, took = peer(run, "predict")
    folder = run / "predictions/train/raw"
    return Trained(found["steps"], found["patches_per_second"], used, folder, took.seconds)


def fitted(minutes: float, trial: Mapping[str, float]) -> list[object]:
    """Epochs as long as those of the trial, or up to twice, that fill the time best."""
    steps, step = int(trial["steps_of_epoch"]), trial["step_seconds"]
    rest = trial["epoch_seconds"] - steps * step  # validation, checkpoint
    left = 60 * minutes * (1 - SPARE) - trial["start_seconds"]

    def epochs(each: int) -> int:
        return int(left / (each * step + rest))

    each = max(range(steps, 2 * steps), key=lambda n: epochs(n) * (n * step + rest))
    return ["--epochs", max(1, epochs(each)), "--steps", each]


def scored(bench: Bench, cases: Sequence[str], folder: Path, labels: Sequence[int]) -> list[float]:
    """Mean Dice of every label."""
    table = []
    for case in cases:
        mask = bench.dataset.case(case).mask
        assert mask
        reference, found = (read_labels(p).array for p in (mask, folder / f"{case}.nii.gz"))
        table.append(
            [
                score(reference == label, found == label, (1.0,) * 3, ["dice"])["dice"]
                for label in labels
            ]
        )
    return [float(mean) for mean in np.mean(table, axis=0)]


if __name__ == "__main__":
    main()
