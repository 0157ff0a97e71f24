"""The trainers of MIST and nnU-Net on a CPU, for ``training.py`` and ``prediction.py``.

Runs with the Python of the peer, in an environment of its own, and writes what it measured as JSON.
``steps``: timed steps of the peer's training with its own loader, in epochs that nothing follows.
``train``: its whole training, with its validations and checkpoints. ``predict``: its own prediction
of the held-out fold, from preprocessed arrays, with what that training left. ``take``: a model of
nnU-Net with the weights of our plain U-Net.
"""

import argparse
import json
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()
FOLD = 0


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("peer", choices=("mist", "nnunet"))
    p.add_argument("work", choices=("steps", "train", "predict", "take"))
    p.add_argument("--output", type=Path, required=True, help="JSON to write")
    p.add_argument("--threads", type=int, required=True, help="of the process that trains")
    p.add_argument("--epochs", type=int, default=1)
    p.add_argument("--steps", type=int, default=1, help="of an epoch, for MIST at least one pass")
    p.add_argument("--validations", type=int, default=1, help="steps of nnU-Net after an epoch")
    p.add_argument("--weights", type=Path, help="nnU-Net: those of ours, to take")
    p.add_argument("--results", type=Path, help="MIST: results folder")
    p.add_argument("--numpy", type=Path, help="MIST: folder of the arrays")
    args, args.more = p.parse_known_args()  # more: flags of mist_train
    import torch  # noqa: PLC0415

    torch.set_num_threads(args.threads)
    found = {"mist": of_mist, "nnunet": of_nnunet}[args.peer](args)
    args.output.write_text(json.dumps(found))


def of_nnunet(args: argparse.Namespace) -> Any:
    import torch  # noqa: PLC0415
    from nnunetv2.run.run_training import get_trainer_from_args  # noqa: PLC0415

    trainer = get_trainer_from_args("1", "3d_fullres", FOLD, device=torch.device("cpu"))
    if args.work == "take":
        return take_weights(trainer, torch.load(args.weights))
    if args.work == "predict":
        trainer.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
        return trainer.perform_actual_validation()
    batch_size = trainer.configuration_manager.batch_size
    if args.work == "train":
        trainer.num_epochs = args.epochs
        trainer.num_iterations_per_epoch = args.steps
        trainer.num_val_iterations_per_epoch = args.validations
        return whole_training(trainer, "train_step", trainer.run_training, args.steps, batch_size)
    trainer.on_train_start()
    trainer.network.train()
    loader = trainer.dataloader_train
    found = timed_epochs(args, lambda: next(loader), trainer.train_step, batch_size)
    for each in (trainer.dataloader_train, trainer.dataloader_val):
        each._finish()
    return found


def take_weights(trainer: Any, weights: dict[str, Any]) -> int:
    """Write a model of nnU-Net; how many tensors it took."""
    trainer.initialize()
    renamed = {name_in_nnunet(name, weights): tensor for name, tensor in weights.items()}
    wanted = {name for name, _ in trainer.network.named_parameters()}
    if set(renamed) != wanted:
        raise ValueError(f"expected {sorted(wanted)}, found {sorted(renamed)}")
    trainer.network.load_state_dict(renamed, strict=False)  # some stand there under two names
    base = Path(trainer.output_folder_base)
    Path(trainer.output_folder).mkdir(parents=True, exist_ok=True)
    (base / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
    (base / "dataset.json").write_text(json.dumps(trainer.dataset_json))
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    return len(renamed)


def name_in_nnunet(name: str, names: Container[str]) -> str:
    """What a tensor of our plain U-Net is called in nnU-Net's."""
    part, number, *rest, kind = name.split(".")
    layers = {"0": "conv", "1": "norm"}
    if part == "encoder":
        _, which, layer = rest
        return f"encoder.stages.{number}.0.convs.{which}.{layers[layer]}.{kind}"
    if part == "decoder" and rest == ["up"]:
        return f"decoder.transpconvs.{number}.{kind}"
    if part == "decoder":
        _, which, layer = rest
        return f"decoder.stages.{number}.convs.{which}.{layers[layer]}.{kind}"
    coarsest = max(n for n in range(9) if f"heads.{n}.weight" in names)
    return f"decoder.seg_layers.{coarsest - int(number)}.{kind}"


def of_mist(args: argparse.Namespace) -> Any:
    from mist.cli import train_entrypoint as entry  # noqa: PLC0415

    places = ["--results", str(args.results), "--numpy", str(args.numpy), "--folds", str(FOLD)]
    places += args.more
    if args.work == "predict":
        return entry.test_on_fold(entry._parse_train_args(places), FOLD)
    if args.work == "train":
        # At most a tenth of the run, as ours: the default of 20 needs more epochs than that.
        warmup = min(20, args.epochs // 10)
        places += ["--epochs", str(args.epochs), "--warmup-epochs", str(warmup)]
        config = json.loads((args.results / "config.json").read_text())
        config["training"]["min_steps_per_epoch"] = args.steps
        (args.results / "config.json").write_text(json.dumps(config))
    ns = entry._parse_train_args(places)
    entry._create_train_dirs(args.results, has_test_paths=False)
    trainer = entry.Patch3DTrainer(ns)
    if args.work == "train":
        steps = trainer.folds[FOLD]["steps_per_epoch"]
        return whole_training(trainer, "training_step", trainer.fit, steps, trainer.batch_size)
    state = trainer.build_components(rank=0, world_size=1)
    state["model"].train()
    loader, _ = trainer.build_dataloaders(trainer.folds[FOLD], rank=0, world_size=1)

    def step(batch: Any) -> None:
        trainer.training_step(state=state, data=batch).item()

    return timed_epochs(args, lambda: loader.next()[0], step, trainer.batch_size)


def timed_epochs(
    args: argparse.Namespace,
    load: Callable[[], Any],
    step: Callable[[Any], Any],
    batch_size: int,
) -> list[dict[str, float]]:
    """Patches per second of every epoch, and the share of it that went by before a batch came."""
    found = []
    for _ in range(args.epochs):
        waited, started = 0.0, time.perf_counter()
        for _ in range(args.steps):
            asked = time.perf_counter()
            batch = load()
            waited += time.perf_counter() - asked
            step(batch)
        seconds = time.perf_counter() - started
        rate = args.steps * batch_size / seconds
        found.append({"patches_per_second": rate, "waiting": waited / seconds})
    return found


def whole_training(
    trainer: Any, step: str, fit: Callable[[], None], steps: int, batch_size: int
) -> dict[str, float]:
    """What a training of the peer took: to start, for a step, for an epoch with all of it."""
    ends: list[float] = []
    original = getattr(trainer, step)

    def with_clock(*values: Any, **named: Any) -> Any:
        result = original(*values, **named)
        ends.append(time.perf_counter())
        return result

    setattr(trainer, step, with_clock)
    fit()
    finished = time.perf_counter()
    # Between the last step of an epoch and the first of the next lies the validation.
    within = [ends[n] - ends[n - 1] for n in range(1, len(ends)) if n % steps]
    each = sum(within) / len(within)
    begun = ends[0] - each
    return {
        "steps": len(ends),
        "patches_per_second": batch_size / each,
        "steps_of_epoch": steps,
        "start_seconds": begun - STARTED,
        "step_seconds": each,
        "epoch_seconds": (finished - begun) / (len(ends) / steps),
    }


if __name__ == "__main__":
    main()
