"""Predict label maps of new images with trained models, on the grids of the images."""

import logging
import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from mist_core import cli
from mist_core.errors import DataError, raise_all
from mist_core.files import read_rows
from mist_core.lease import gpu_pool, take_gpus
from mist_core.plan import Plan, read_plan, trained_alike

log = logging.getLogger(__name__)


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument(
        "--models-dir",
        type=Path,
        required=True,
        help="folder with fold_<k>.pt or fold_<k>.onnx, a package, or one file of a model",
    )
    p.add_argument("--config", type=Path, help="config.json of the models; none: what they hold")
    p.add_argument(
        "--paths-csv", type=Path, required=True, help="CSV with id and a column for every channel"
    )
    p.add_argument("--output", type=Path, required=True, help="folder for the predictions")
    p.add_argument(
        "--device", default="cuda", help="cpu, cuda, or the number of a GPU, of those to be seen"
    )
    p.add_argument("--postprocess-strategy", type=Path, help="strategy JSON to apply")
    p.add_argument("--output-probs", action="store_true", help="not in this version yet")
    args = p.parse_args()
    if args.output_probs:
        raise DataError("--output-probs: this version writes label maps only. Leave it out.")

    paths = model_files(args.models_dir)
    choose_device(args.device)

    @cache
    def loaded() -> Any:
        take_gpus()
        from mist_core import predict

        models = predict.load_models(paths)
        for model in models:
            if args.config and not trained_alike(plan, model.plan, model.train.regions):
                raise DataError(
                    f"{args.config}: expected the plan that {args.models_dir} was trained with, "
                    "found another. Name the config.json of these models, or none."
                )
        return models

    plan = read_plan(args.config) if args.config else loaded()[0].plan
    images = read_images(args.paths_csv, plan)

    def key(case: str) -> str:
        strategy = args.postprocess_strategy
        return cli.digest(
            [*paths, *images[case]], strategy.read_text(encoding="utf-8") if strategy else None
        )

    def compute(case: str, folder: Path) -> None:
        from mist_core import io, postprocess, predict, preprocess
        from mist_core.config import Predict

        volumes = [io.read_image(path) for path in images[case]]
        done = preprocess.preprocess(volumes, None, plan)
        volume = predict.predict_array(loaded(), done.image, done.origin, Predict())
        if args.postprocess_strategy:
            strategy = postprocess.read_strategy(args.postprocess_strategy)
            volume = io.Volume(postprocess.postprocess(volume.array, strategy), volume.geometry)
        io.write_volume(folder / f"{case}.nii.gz", volume)

    work = cli.CaseWork(lambda case: [f"{case}.nii.gz"], key, compute)
    cli.do_cases(work, list(images), args.output)


def model_files(path: Path) -> list[Path]:
    """The file, or the models of a folder."""
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("fold_*.pt")) or sorted(path.glob("fold_*.onnx"))
    if not found:
        raise DataError(f"{path}: expected models fold_<k>.pt, found none. Train first.")
    return found


def read_images(table: Path, plan: Plan) -> dict[str, list[Path]]:
    """The files of every case in the order of the plan's channels, found by the column's name."""
    rows = read_rows(table)
    channels = plan.dataset_info.images
    missing = [name for name in ("id", *channels) if not rows or name not in rows[0]]
    if missing:
        found = ", ".join(rows[0]) if rows else "no rows"
        raise DataError(
            f"{table}: expected columns id, {', '.join(channels)}, found {found}. "
            f"Add {', '.join(missing)}."
        )
    problems = [
        f"{table}: expected every id once, found {case} {count} times. Rename it."
        for case, count in Counter(row["id"] for row in rows).items()
        if count > 1
    ]
    raise_all(problems, str(table))
    return {row["id"]: [Path(row[channel]) for channel in channels] for row in rows}


def choose_device(name: str) -> None:
    """Let only the device that was asked for be seen."""
    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    pool = gpu_pool(os.environ)
    if name.isdigit() and int(name) < len(pool):
        os.environ["CUDA_VISIBLE_DEVICES"] = pool[int(name)]
    elif name != "cuda":
        numbers = f", or a number below {len(pool)}" if pool else ""
        raise DataError(f"--device: expected cpu or cuda{numbers}, found {name!r}.")
    elif not pool:
        log.info("no GPU here: predicting on the CPU")


if __name__ == "__main__":
    cli.run(main)
