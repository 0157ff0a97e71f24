"""Score predicted label maps against reference label maps.

Beside the table of scores, NAME.csv, are written NAME_long.csv, with one score a row and how it is
defined, and NAME_summary.csv, with means and confidence intervals.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mist_core import cli, evaluate
from mist_core.config import PRESETS, Evaluate, read_evaluated_classes
from mist_core.dataset import RESERVED_IDS
from mist_core.errors import DataError
from mist_core.evaluate import Record
from mist_core.files import read_json, read_rows, write_json, write_rows
from mist_core.folds import patients_of, read_patients
from mist_core.io import read_labels

WORST = "It counts with the worst values in the tables."
NOT_SCORED = "The case is not scored: its values are NaN in the tables."


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
    p.add_argument("--preset", choices=PRESETS, help="whose definitions of metrics to use")
    p.add_argument(
        "--lesions", action="store_true", help="write NAME_lesions.csv, one lesion a row, as well"
    )
    p.add_argument(
        "--companions",
        action="store_true",
        help="add what a report shows to NAME_long.csv and NAME_summary.csv: IoU, volumes and more",
    )
    p.add_argument(
        "--case-table", type=Path, help="CSV with id and patient, if --paths-csv has no patient"
    )
    p.add_argument("--predictions", type=Path, help="folder of <id>.nii.gz, in place of the column")
    p.add_argument("--settings", type=json.loads, default={}, help="section of the config, as JSON")
    p.add_argument("--output-paths", type=Path, help="CSV to write with id, mask, prediction")
    p.add_argument("--scores", type=Path, help="folder to keep the scores of each case in")
    p.add_argument("--tracked", type=Path, nargs="*", default=[], help="sources to depend on")
    args = p.parse_args()
    asked = {"preset": args.preset, "lesions": args.lesions}
    settings = Evaluate(**args.settings | {name: value for name, value in asked.items() if value})
    if args.output_csv in (args.config, args.paths_csv, args.case_table):
        raise DataError(f"--output-csv: expected a table of its own, found {args.output_csv}.")
    scores = args.scores or args.output_csv.with_name(f".{args.output_csv.stem}_scores")
    with cli.alone(args.output_csv):
        problems = score_all(args, settings, scores)
        if not args.scores:  # kept until then, so that a run that was stopped goes on
            shutil.rmtree(scores)
    if problems:
        raise DataError("\n".join(problems))


def score_all(args: argparse.Namespace, settings: Evaluate, scores: Path) -> list[str]:
    """Score the cases that are not scored yet, write the tables of all, say what went wrong."""
    fields = read_json(args.config)
    ignored = ignored_by(fields)
    asked = evaluate.chosen_classes(read_evaluated_classes(fields, str(args.config)), settings)
    classes = evaluate.with_companions(asked) if args.companions else asked
    pairs = read_pairs(args.paths_csv, args.predictions)
    patients = read_patients(args.paths_csv)
    if args.case_table:
        patients = patients_of(args.case_table, pairs)
    sources = [path.read_text(encoding="utf-8") for path in args.tracked]

    def key(case_id: str) -> str:
        described = {name: each.model_dump(mode="json") for name, each in classes.items()}
        options = (ignored, args.validate, settings.preset, settings.lesions)
        paths = [path if path.exists() else str(path) for path in pairs[case_id]]
        return cli.digest(described, options, sources, *paths)

    def compute(case_id: str, folder: Path) -> None:
        found = score_case(*pairs[case_id], classes, ignored, args.validate, settings)
        write_json(folder / f"{case_id}.json", found)

    work = cli.CaseWork(lambda case_id: [f"{case_id}.json"], key, compute)
    cli.do_cases(work, list(pairs), scores, workers=args.num_workers_evaluate)
    found = {case_id: read_json(scores / f"{case_id}.json") for case_id in pairs}
    if args.output_paths:
        columns = ("id", "mask", "prediction")
        listed = [dict(zip(columns, (i, *paths), strict=True)) for i, paths in pairs.items()]
        write_rows(args.output_paths, columns, listed)
    write_tables(args.output_csv, found, asked, patients, settings)
    return [f"case {i}: {case['problem']}" for i, case in found.items() if case["problem"]]


def score_case(
    mask: Path,
    prediction: Path,
    classes: evaluate.Classes,
    ignored: int | None,
    validate: bool,
    settings: Evaluate,
) -> dict[str, Any]:
    """The records of a case, rows of its lesions, and what is wrong with its files.

    Without a prediction to score a case has the worst values; without a reference it has none.
    """
    try:
        reference = read_labels(mask)
        if validate:
            with naming(mask):
                evaluate.refuse_other_labels(reference, classes, ignored)
    except DataError as error:
        records = evaluate.failed(classes, None, settings.preset)
        return found_of(records, problem=f"{error} {NOT_SCORED}")
    try:
        predicted = read_labels(prediction)
        with naming(prediction):
            if validate:
                evaluate.refuse_other_labels(predicted, classes)
            options = (classes, ignored, settings.preset, settings.lesions)
            return found_of(*evaluate.evaluate(reference, predicted, *options))
    except DataError as error:
        records = evaluate.failed(classes, reference.geometry, settings.preset)
        return found_of(records, problem=f"{error} {WORST}")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the name of a file before what is said of it."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def found_of(
    records: Sequence[Record], lesions: evaluate.Rows | None = None, problem: str = ""
) -> dict[str, Any]:
    """What is kept of a case, as JSON."""
    return {"records": [vars(r) for r in records], "lesions": lesions or [], "problem": problem}


def write_tables(
    output: Path,
    found: Mapping[str, Mapping[str, Any]],
    asked: evaluate.Classes,
    patients: Mapping[str, str],
    settings: Evaluate,
) -> None:
    """The table of the scores that were asked for with its summary rows, and those beside it."""
    cases = {i: [Record(**fields) for fields in case["records"]] for i, case in found.items()}
    rows = [
        {"id": i} | evaluate.wide_row(r for r in records if r.metric in asked[r.class_name].metrics)
        for i, records in cases.items()
    ]
    write_rows(output, list(rows[0]), rows + evaluate.summary_rows(rows))
    long = [
        {"id": i} | record.row() | {"problem": found[i]["problem"]}
        for i, records in cases.items()
        for record in records
    ]
    write_rows(beside(output, "long"), list(long[0]), long)
    summaries = evaluate.summaries(cases, patients)
    write_rows(beside(output, "summary"), evaluate.SUMMARY_COLUMNS, summaries)
    if settings.lesions:
        lesions = [{"id": i} | row for i, case in found.items() for row in case["lesions"]]
        write_rows(beside(output, "lesions"), evaluate.LESION_COLUMNS, lesions)


def beside(path: Path, name: str) -> Path:
    """The file of another table of the same scores."""
    return path.with_name(f"{path.stem}_{name}{path.suffix}")


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
        if row["id"] in pairs or row["id"] in RESERVED_IDS:
            again = "again" if row["id"] in pairs else "which is that of a summary row"
            raise DataError(
                f"{table}: expected every id once, found {row['id']}, {again}. Mend it."
            )
        if missing := [name for name in needed if not row[name]]:
            raise DataError(f"{table}: expected {missing[0]} of {row['id']}, found none. Mend it.")
        prediction = predictions / f"{row['id']}.nii.gz" if predictions else row["prediction"]
        pairs[row["id"]] = (Path(row["mask"]), Path(prediction))
    return pairs


if __name__ == "__main__":
    cli.run(main)
