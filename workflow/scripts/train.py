"""Train one fold. Run again, it goes on from its checkpoint."""

import argparse
import json
import sys
from pathlib import Path

from mist_core import cli, parallel, train
from mist_core.config import Train
from mist_core.criterion import needs_distances
from mist_core.errors import DataError
from mist_core.files import read_json, read_rows
from mist_core.lease import held_files, take_gpus
from mist_core.patches import open_case
from mist_core.plan import parse_plan, part_read_by


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--paths", type=Path, required=True, help="train_paths.csv: ids and folds")
    p.add_argument("--numpy", type=Path, required=True, help="folder of the preprocessed arrays")
    p.add_argument("--plan", type=Path, required=True, help="config.json written by analyze")
    p.add_argument("--settings", type=json.loads, default={}, help="config section, as JSON")
    p.add_argument("--fold", type=int, required=True, help="the fold that is held out")
    p.add_argument("--model", type=Path, required=True, help="the model file to write")
    p.add_argument("--checkpoint", type=Path, required=True, help="written after every epoch")
    p.add_argument(
        "--foreign", default="", help="key of what comes from elsewhere: own code, weights"
    )
    p.add_argument("--jobs-per-gpu", type=int, default=1, help="that may share a GPU")
    p.add_argument("--logs", type=Path, required=True, help="folder for TensorBoard")
    p.add_argument("--tracked", type=Path, nargs="*", default=[], help="sources to depend on")
    args = p.parse_args()
    settings = Train(**args.settings)
    if parallel.is_one_of_several():
        fit(args, settings)
        return
    take_gpus(settings.gpus, args.jobs_per_gpu)
    with cli.alone(args.checkpoint) as lock:
        if settings.gpus > 1:
            sys.exit(parallel.start(settings.gpus, sys.argv, [lock, *held_files()]))
        fit(args, settings)


def fit(args: argparse.Namespace, settings: Train) -> None:
    """Train, and write the model."""
    plan_fields = read_json(args.plan)
    plan = parse_plan(plan_fields, str(args.plan))
    ids = [row["id"] for row in read_rows(args.paths) if int(row["fold"]) != args.fold]
    kinds = ("images", "labels", "foreground")
    arrays = {i: cli.content_of(args.numpy, i, [f"{k}/{i}.npy" for k in kinds]) for i in ids}
    sources = [path.read_text(encoding="utf-8") for path in args.tracked]
    obeyed = part_read_by("train", plan_fields, settings.regions)
    weights = Path(settings.weights_for(args.fold))
    begun_with = cli.content([weights]) if settings.pretrained_weights and weights.exists() else ""
    foreign = [args.foreign, begun_with]
    identity = cli.digest(args.settings, obeyed, arrays, sources, foreign, cli.again())
    with_distances = needs_distances(settings)
    if with_distances and not (args.numpy / "dtms").is_dir():
        raise DataError(
            f"config: train.loss: expected distance maps for {settings.loss}, found no "
            f"{args.numpy / 'dtms'}. Set preprocess.compute_dtms to true."
        )
    cases = [open_case(args.numpy, case_id, with_distances) for case_id in ids]
    paths = train.Paths(args.checkpoint, args.logs)
    model = train.train(cases, plan, settings, args.fold, paths, identity)
    if parallel.is_first():
        train.save_model(args.model, model, plan, settings, args.fold)


if __name__ == "__main__":
    cli.run(main)
