"""Merge the fingerprints of the training cases into the plan, the folds and the path tables."""

import json
from pathlib import Path

from mist_core import analyze, cli
from mist_core.chunks import group_cases, read_record, write_record
from mist_core.config import BESIDE_THE_PLAN, Analyze
from mist_core.dataset import find_cases, read_dataset
from mist_core.files import read_json, write_json, write_rows
from mist_core.folds import deal_folds, write_recorded_folds
from mist_core.plan import Analysis


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--dataset", type=Path, required=True, help="dataset JSON")
    p.add_argument("--fingerprints", type=Path, required=True, help="folder of <case>.json")
    p.add_argument("--folds", type=Path, required=True, help="record of the folds, kept up to date")
    p.add_argument("--chunks", type=Path, required=True, help="record of the chunks, likewise")
    p.add_argument("--cases-per-job", type=int, required=True, help="size of a chunk")
    p.add_argument("--settings", type=json.loads, default={}, help="config section, as JSON")
    p.add_argument("--limit-cases", type=int, help="use only the first so many cases")
    p.add_argument("--output", type=Path, required=True, help="the results folder")
    args = p.parse_args()
    settings = Analyze(**args.settings)

    dataset = read_dataset(args.dataset)
    cases, _ = find_cases(dataset, args.limit_cases, settings.folds)
    prints = [
        analyze.fingerprint_from_json(read_json(args.fingerprints / f"{case_id}.json"))
        for case_id in cases
    ]
    for fingerprint in prints:
        if fingerprint.problems:  # to be read again next time, whatever was wrong
            (args.fingerprints / f"{fingerprint.id}.json").unlink()
    plan = analyze.make_plan(prints, dataset, settings)
    told = Analysis(
        dataset=str(dataset.path.absolute()),
        limit_cases=args.limit_cases,
        analyze=settings.model_dump(mode="json", exclude=set(BESIDE_THE_PLAN)),
    )

    table = Path(settings.case_table) if settings.case_table else None
    folds = deal_folds(cases, settings.folds, args.folds, table)
    rows = [
        {"id": c.id, "fold": folds[c.id], "mask": c.mask}
        | dict(zip(dataset.channels, c.images, strict=True))
        for c in cases.values()
    ]
    boxes = [analyze.box_row(fingerprint) for fingerprint in prints]
    write_recorded_folds(args.folds, settings.folds, folds)
    write_rows(args.output / "train_paths.csv", list(rows[0]), rows)
    write_rows(args.output / "fg_bboxes.csv", list(boxes[0]), boxes)
    _, groups = read_record(args.chunks, dataset.task)
    groups = group_cases(groups, folds, dataset.test_ids())
    write_record(args.chunks, dataset.task, args.cases_per_job, groups)
    write_json(
        args.output / "config.json",
        plan.model_copy(update={"analysis": told}).model_dump(mode="json"),
    )


if __name__ == "__main__":
    cli.run(main)
