"""Prediction on a CPU beside MIST and nnU-Net, by the commands that their users start.

    python tests/benchmarks/prediction.py products --work /scratch/benchmark \\
        --dataset /data/Task04_Hippocampus --mist /envs/mist/bin --nnunet /envs/nnunet/bin
    python tests/benchmarks/prediction.py weights --dataset /data/brats2015 ...  (the same options)

``products``: every product with its own default network, from files to label maps, with 8 mirrored
copies; ours also as it comes, with none. How long that takes does not depend on the weights, so
each was trained for a few steps.
``weights``: windows of 128 x 128 x 128 without mirrored copies. nnU-Net has the weights of our
plain U-Net, MIST its own. How alike our label maps are to those of a float32 path that holds all
logits at once is told, too. Variants take turns in every round. Linux only.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from preprocessing import SCRIPTS, Used
from training import Bench, new, nnunet_environment, of_mist, of_nnunet, prepared, train_ours
from training import preprocessed_by_nnunet as preprocessed

from mist_core import io, preprocess
from mist_core.dataset import read_dataset
from mist_core.files import read_json, write_json, write_rows
from mist_core.labels import to_values
from mist_core.metrics import score
from mist_core.modelfile import read_state, write_state
from mist_core.predict import load_model
from mist_core.resample import same_grid
from mist_core.sliding import sliding_window

PATCH = (128, 128, 128)
OFTEN = 0.1  # seconds between samples of the memory

Predict = Callable[[Path], Used]  # into a folder


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("task", choices=("products", "weights"))
    p.add_argument("--work", type=Path, required=True, help="folder on a fast disk")
    p.add_argument("--dataset", type=Path, required=True, help="in a layout that ours reads")
    p.add_argument("--mist", type=Path, help="bin folder of an environment with MIST")
    p.add_argument("--nnunet", type=Path, help="bin folder of an environment with nnU-Net")
    p.add_argument("--threads", type=int, default=os.cpu_count(), help="and cores, of all")
    p.add_argument("--cases", type=int, default=60)
    p.add_argument("--steps", type=int, default=40, help="of our training, for weights")
    p.add_argument("--rounds", type=int, default=3)
    args = p.parse_args()
    dataset = read_dataset(args.dataset.resolve())
    home = args.work.resolve() / dataset.path.parent.name
    home.mkdir(parents=True, exist_ok=True)
    bench = Bench(home, dataset, args.mist, args.nnunet, args.threads, {}, OFTEN)
    prepared(bench, args)
    ids = dataset.train_ids()[: args.cases]
    {"products": products, "weights": weights}[args.task](bench, args, ids)


def products(bench: Bench, args: argparse.Namespace, ids: Sequence[str]) -> None:
    """Each with its default network, and mirrored along all axes; ours also as it comes."""
    run = new(bench.home / "products")
    as_ever = model_of_ours(bench, new(run / "ours"), {}, None)
    mirrored = model_of_ours(bench, new(run / "mirrored"), {"mirror_axes": "xyz"}, None)
    variants = {
        "ours, 8 copies": predict_ours(bench, ids, mirrored, "flips"),
        "ours, as it comes": predict_ours(bench, ids, as_ever, "none"),
    }
    if bench.nnunet:
        of_nnunet(bench, bench.nnunet, run / "nnunet", *few_steps(run / "nnunet"))
        variants["nnU-Net"] = predict_nnunet(bench, bench.nnunet, ids, run / "nnunet")
    if bench.mist:
        of_mist(bench, bench.mist, run / "mist", *few_steps(run / "mist"))
        variants["MIST"] = predict_mist(bench, bench.mist, ids, run / "mist")
    interleaved(variants, run, args.rounds, len(ids))


def weights(bench: Bench, args: argparse.Namespace, ids: Sequence[str]) -> None:
    """The plain U-Net, not mirrored; kept once it is trained."""
    run = bench.home / "weights"
    ours = {"model": "nnunet-plain", "batch_size": 1, "steps_per_epoch": args.steps}
    if not (run / "trained/models").exists():
        model_of_ours(bench, new(run / "trained"), ours, PATCH)
    state = read_state(run / "trained/models/fold_0.pt")
    full = new(run / "float32") / "fold_0.pt"
    write_state(full, {**state, "train": {**state["train"], "amp": False}})
    onnx = [SCRIPTS / "package.py", "--models-dir", full, "--onnx", new(run / "onnx")]
    bench.run([sys.executable, *onnx], bench.environment(Path(sys.executable).parent))
    models = {"bfloat16": run / "trained/models", "float32": full, "ONNX": run / "onnx"}
    variants = {
        f"ours, {name}": predict_ours(bench, ids, path, "none") for name, path in models.items()
    }
    if bench.nnunet:
        take_weights(bench, bench.nnunet, new(run / "nnunet"), state["weights"])
        bare = ["--disable_tta"]
        variants["nnU-Net"] = predict_nnunet(bench, bench.nnunet, ids, run / "nnunet", *bare)
    if bench.mist:
        if not (run / "mist/models").exists():
            size = ["--patch-size", *PATCH, "--batch-size-per-gpu", 1]
            of_mist(bench, bench.mist, run / "mist", *few_steps(run / "mist"), *size)
        set_copies_of_mist(run / "mist/config.json", False)
        variants["MIST"] = predict_mist(bench, bench.mist, ids, run / "mist")
    interleaved(variants, new(run / "predictions"), args.rounds, len(ids))
    compare(bench, ids, full, run / "predictions", list(variants))


def few_steps(folder: Path) -> list[object]:
    folder.mkdir(parents=True, exist_ok=True)
    return ["train", "--epochs", 1, "--steps", 2]


# Models


def model_of_ours(
    bench: Bench, run: Path, settings: Mapping[str, Any], patch: Sequence[int] | None
) -> Path:
    """A folder with a model of ours."""
    few = {"epochs": 1, "steps_per_epoch": 2}
    train_ours(bench, {**few, **settings}, patch, run)
    models = new(run / "models")
    (run / "fold_0.pt").rename(models / "fold_0.pt")
    return models


def take_weights(bench: Bench, bin_: Path, run: Path, ours: Mapping[str, Any]) -> None:
    """A model of nnU-Net for the same patch, with our weights."""
    path = preprocessed(bench) / "nnUNetPlans.json"
    plan = read_json(path)
    if plan["transpose_forward"] != [0, 1, 2]:
        sys.exit("nnU-Net turned the axes: our weights do not fit")
    chosen = plan["configurations"]["3d_fullres"]
    chosen["patch_size"] = list(PATCH)
    built = chosen["architecture"]["arch_kwargs"]
    stages = len({name.split(".")[1] for name in ours if name.startswith("encoder.")})
    built |= {
        "n_stages": stages,
        "features_per_stage": [len(ours[f"encoder.{n}.0.0.0.bias"]) for n in range(stages)],
        "kernel_sizes": [[3] * 3] * stages,
        "strides": [[1] * 3] + [[2] * 3] * (stages - 1),
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    write_json(path, plan)
    torch.save(dict(ours), run / "weights.pt")
    of_nnunet(bench, bin_, run, "take", "--weights", run / "weights.pt")


def set_copies_of_mist(path: Path, mirrored: bool) -> None:
    config = read_json(path)
    config["inference"]["tta"]["enabled"] = mirrored
    write_json(path, config)


# Prediction, from files to label maps


def predict_ours(bench: Bench, ids: Sequence[str], models: Path, copies: str) -> Predict:
    def predict(folder: Path) -> Used:
        table = write_table(bench, ids, folder)
        asked = ["--models-dir", models, "--paths-csv", table, "--tta", copies, "--device", "cpu"]
        command = [sys.executable, SCRIPTS / "predict_files.py", *asked, "--output", folder]
        return bench.run(command, bench.environment(Path(sys.executable).parent))

    return predict


def predict_nnunet(
    bench: Bench, bin_: Path, ids: Sequence[str], run: Path, *more: object
) -> Predict:
    def predict(folder: Path) -> Used:
        images = new(folder / "images")
        for case in ids:
            for number, path in enumerate(bench.dataset.case(case).images):
                (images / f"{case}_{number:04d}.nii.gz").symlink_to(path)
        asked = ["-i", images, "-o", folder, "-d", 1, "-c", "3d_fullres", "-f", 0, *more]
        command = [bin_ / "nnUNetv2_predict", *asked, "-device", "cpu"]
        return bench.run(command, nnunet_environment(bench, bin_, run))

    return predict


def predict_mist(bench: Bench, bin_: Path, ids: Sequence[str], run: Path) -> Predict:
    def predict(folder: Path) -> Used:
        table = write_table(bench, ids, folder)
        trained = ["--models-dir", run / "models", "--config", run / "config.json"]
        asked = ["--paths-csv", table, "--output", folder, "--device", "cpu"]
        return bench.run([bin_ / "mist_predict", *trained, *asked], bench.environment(bin_))

    return predict


def write_table(bench: Bench, ids: Sequence[str], folder: Path) -> Path:
    """The files of the cases, as MIST and ours read them."""
    channels = bench.dataset.channels
    path = folder / "paths.csv"
    rows = [
        {"id": case, **dict(zip(channels, bench.dataset.case(case).images, strict=True))}
        for case in ids
    ]
    write_rows(path, ["id", *channels], rows)
    return path


# Rounds, and what came out


def interleaved(variants: Mapping[str, Predict], run: Path, rounds: int, cases: int) -> None:
    """Let the variants take turns; show medians, and ratios to the first."""
    found: dict[str, list[Used]] = {name: [] for name in variants}
    for number in range(rounds):
        for name, predict in variants.items():
            used = predict(new(run / name))
            missing = cases - len(list((run / name).glob("*.nii.gz")))
            if missing:
                sys.exit(f"{name}: {missing} of {cases} cases have no label map")
            found[name].append(used)
            print(f"round {number + 1}, {name}: {used}", flush=True)
    print(f"\n{rounds} rounds, {cases} cases\n")
    print("| | seconds | s/case | ratio | CPU, s/case | peak, GB | ratio |\n" + 7 * "|---" + "|")
    first: tuple[float, float] | None = None
    for name, used in found.items():
        seconds = statistics.median(u.seconds for u in used)
        cpu = statistics.median(u.cpu_seconds for u in used) / cases
        peak = statistics.median(u.peak_bytes for u in used)
        first = first or (seconds, peak)
        print(
            f"| {name} | {seconds:.1f} | {seconds / cases:.2f} | {seconds / first[0]:.2f} "
            f"| {cpu:.2f} | {peak / 1e9:.2f} | {peak / first[1]:.2f} |"
        )


def compare(bench: Bench, ids: Sequence[str], model: Path, run: Path, names: Sequence[str]) -> None:
    """Share of equal voxels, and Dice of every label, with float32 logits all at once."""
    (full,) = load_model(model, device=torch.device("cpu"))
    labels = full.plan.dataset_info.labels[1:]
    rows: dict[str, list[list[float]]] = {name: [] for name in names}
    for case in ids:
        volumes = [io.read_image(path) for path in bench.dataset.case(case).images]
        done = preprocess.preprocess(volumes, None, full.plan)
        if not same_grid(done.origin.training, done.origin.original.cropped(done.origin.box)):
            sys.exit(f"{case} was resampled: not to be compared voxel by voxel")
        with torch.inference_mode():
            logits = sliding_window(
                full.network,
                done.image,
                full.plan.patch_size,
                overlap=0.5,
                device=torch.device("cpu"),
            )
        expected = np.zeros(volumes[0].array.shape, np.uint8)
        indices = logits.argmax(0).numpy().astype(np.uint8)
        expected[done.origin.box] = to_values(indices, full.plan.dataset_info.labels)
        for name in names:
            found = io.read_labels(run / name / f"{case}.nii.gz").array
            dices = [score(expected == n, found == n, (1.0,) * 3, ["dice"])["dice"] for n in labels]
            rows[name].append([float((expected == found).mean()), *dices])
    print("\n| | equal voxels | " + " | ".join(f"Dice of {n}" for n in labels) + " |")
    print((2 + len(labels)) * "|---" + "|")
    for name, values in rows.items():
        means = np.nanmean(values, axis=0)
        print(
            f"| {name} | {100 * means[0]:.4f} % | "
            + " | ".join(f"{m:.4f}" for m in means[1:])
            + " |"
        )


if __name__ == "__main__":
    main()
