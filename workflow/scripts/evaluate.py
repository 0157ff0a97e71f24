"""Score predicted label maps against reference label maps."""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mist_core import cli, evaluate
from mist_core.config import Evaluate, read_evaluated_classes
from mist_core.errors import DataError
from mist_core.files import read_json, read_rows, write_json, write_rows
from mist_core.io import read_labels


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument(
        "--config",
        type=Path,
        required=True,
        help="config.json, or a JSON with labels and metrics of each class",
    )
    p.add_argument("--paths-csv", type=Path, required=True, help="CSV with id, mask, prediction")
    p.add_argument("--output-csv", type=Path, required=True, help="table of the scores to write")
    p.add_argument("--num-workers-evaluate", type=int, default=1, help="processes")
    p.add_argument(
        "--validate", action="store_true", help="refuse masks with labels that no class has"
    )
    p.add_argument("--predictions", type=Path, help="folder of <id>.nii.gz, in place of the column")
    p.add_argument("--settings", type=json.loads, default={}, help="section of the config, as JSON")
    p.add_argument("--output-paths", type=Path, help="CSV to write with id, mask, prediction")
    p.add_argument("--scores", type=Path, help="folder to keep the scores of each case in")
    p.add_argument("--tracked", type=Path, nargs="*", default=[], help="sources to depend on")
    args = p.parse_args()
    with TemporaryDirectory() as scratch, cli.alone(args.output_csv):
        score_all(args, args.scores or Path(scratch))


def score_all(args: argparse.Namespace, scores: Path) -> None:
    """Score the cases that are not scored yet, then write the table of all."""
    fields = read_json(args.config)
    ignored = ignored_by(fields)
    classes = evaluate.chosen_classes(
        read_evaluated_classes(fields, str(args.config)),
        Evaluate(**args.settings),
    )
    pairs = read_pairs(args.paths_csv, args.predictions)
    sources = [path.read_text(encoding="utf-8") for path in args.tracked]

    def key(case_id: str) -> str:
        described = {name: each.model_dump(mode="json") for name, each in classes.items()}
        return cli.digest(described, ignored, args.validate, sources, *pairs[case_id])

    def compute(case_id: str, folder: Path) -> None:
        reference, prediction = map(read_labels, pairs[case_id])
        if args.validate:
            evaluate.refuse_other_labels(reference, prediction, classes, ignored)
        row = evaluate.evaluate(reference, prediction, classes, ignored)
        write_json(folder / f"{case_id}.json", row)

    work = cli.CaseWork(lambda case_id: [f"{case_id}.json"], key, compute)
    cli.do_cases(work, list(pairs), scores, workers=args.num_workers_evaluate)
    rows = [{"id": i} | read_json(scores / f"{i}.json") for i in pairs]
    if args.output_paths:
        columns = ("id", "mask", "prediction")
        listed = [dict(zip(columns, (i, *paths), strict=True)) for i, paths in pairs.items()]
        write_rows(args.output_paths, columns, listed)
    write_rows(args.output_csv, list(rows[0]), rows + evaluate.summary_rows(rows))


def ignored_by(fields: Any) -> int | None:
    """The label that is left out, where the config is a plan that has one."""
    info = fields.get("dataset_info") if isinstance(fields, dict) else None
    return info.get("ignore_label") if isinstance(info, dict) else None


def read_pairs(table: Path, predictions: Path | None) -> dict[str, tuple[Path, Path]]:
    """Mask and prediction of every case, in the order of the table."""
    rows = read_rows(table)
    needed = {"id", "mask"} | (set() if predictions else {"prediction"})
    if not rows or not needed <= rows[0].keys():
        found = ", ".join(rows[0]) if rows else "no rows"
        raise DataError(f"{table}: expected rows with {', '.join(sorted(needed))}, found {found}.")
    pairs = {}
    for row in rows:
        if row["id"] in pairs:
            raise DataError(f"{table}: expected every id once, found {row['id']} again. Mend it.")
        prediction = predictions / f"{row['id']}.nii.gz" if predictions else row["prediction"]
        pairs[row["id"]] = (Path(row["mask"]), Path(prediction))
    return pairs


if __name__ == "__main__":
    cli.run(main)
