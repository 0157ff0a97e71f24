"""Train one fold. Run again, it goes on from its checkpoint."""

import argparse
import json
import sys
from pathlib import Path

from mist_core import cli, parallel, train
from mist_core.config import Train
from mist_core.criterion import needs_distances
from mist_core.errors import DataError
from mist_core.files import read_json, read_rows, remove_leftovers, write_json
from mist_core.folds import in_random_order, read_patients, set_aside
from mist_core.lease import held_files, take_gpus
from mist_core.patches import StoredCases
from mist_core.plan import parse_plan, part_read_by

ARRAYS = ("images", "labels", "foreground")


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--paths", type=Path, required=True, help="train_paths.csv: ids and folds")
    p.add_argument("--numpy", type=Path, required=True, help="folder of the preprocessed arrays")
    p.add_argument("--case-table", type=Path, help="CSV with the patients of the cases")
    p.add_argument("--plan", type=Path, required=True, help="config.json written by analyze")
    p.add_argument("--settings", type=json.loads, default={}, help="config section, as JSON")
    p.add_argument("--aside", type=json.loads, default={}, help="more of it, of no consequence")
    p.add_argument("--fold", type=int, required=True, help="the fold that is held out")
    p.add_argument("--model", type=Path, required=True, help="the model file to write")
    p.add_argument("--checkpoint", type=Path, required=True, help="to go on from")
    p.add_argument(
        "--foreign", default="", help="key of what comes from elsewhere: own code, weights"
    )
    p.add_argument("--jobs-per-gpu", type=int, default=1, help="that may share a GPU")
    p.add_argument("--logs", type=Path, required=True, help="folder for TensorBoard")
    p.add_argument("--tracked", type=Path, nargs="*", default=[], help="sources to depend on")
    args = p.parse_args()
    settings = Train(**args.settings | args.aside)
    if parallel.is_one_of_several():
        fit(args, settings)
        return
    take_gpus(settings.gpus, args.jobs_per_gpu)
    with cli.alone(args.checkpoint) as lock:
        remove_leftovers(args.checkpoint)
        if settings.gpus > 1:
            sys.exit(parallel.start(settings.gpus, sys.argv, [lock, *held_files()]))
        fit(args, settings)


def fit(args: argparse.Namespace, settings: Train) -> None:
    """Train, and write the model."""
    plan_fields = read_json(args.plan)
    plan = parse_plan(plan_fields, str(args.plan))
    rows = read_rows(args.paths)
    learnt_from = [row["id"] for row in rows if int(row["fold"]) != args.fold]
    held_out = [row["id"] for row in rows if int(row["fold"]) == args.fold]
    needed = [*learnt_from, *(held_out if settings.chooses_by_held_out else [])]
    arrays = {i: cli.content_of(args.numpy, i, [f"{k}/{i}.npy" for k in ARRAYS]) for i in needed}
    if settings.val_percent:
        patients = read_patients(args.case_table) if args.case_table else {}
        share = settings.val_percent
        learnt_from, looked_at = set_aside(learnt_from, share, settings.seed, patients)
    else:
        looked_at = in_random_order(held_out, settings.seed)
    sources = [path.read_text(encoding="utf-8") for path in args.tracked]
    obeyed = part_read_by("train", plan_fields, settings.regions)
    weights = Path(settings.weights_for(args.fold))
    begun_with = cli.content([weights]) if settings.pretrained_weights and weights.exists() else ""
    foreign = [args.foreign, begun_with]
    parts = [sorted(learnt_from), settings.kept(), obeyed, arrays, sources, foreign]
    identity = cli.digest(*parts, cli.again())
    with_distances = needs_distances(settings)
    if with_distances and not (args.numpy / "dtms").is_dir():
        raise DataError(
            f"config: train.loss: expected distance maps for {settings.loss}, found no "
            f"{args.numpy / 'dtms'}. Set preprocess.compute_dtms to true."
        )
    trained = train.train(
        StoredCases(args.numpy, learnt_from, with_distances),
        StoredCases(args.numpy, [i for i in looked_at if is_there(args.numpy, i)]),
        plan,
        settings,
        args.fold,
        train.Paths(args.checkpoint, args.logs),
        identity,
    )
    if parallel.is_first():
        about = {"chosen": trained.chosen, "by_held_out": trained.by_held_out}
        write_json(args.logs / "model.json", about)
        train.save_model(args.model, trained.network, plan, settings, args.fold, trained.chosen)


def is_there(folder: Path, case_id: str) -> bool:
    """Whether a case has arrays; one of the held-out fold that failed is not looked at."""
    return all((folder / kind / f"{case_id}.npy").exists() for kind in ARRAYS)


if __name__ == "__main__":
    cli.run(main)
