"""Merge the fingerprints of the training cases into the plan, the folds and the path tables."""

import json
import logging
import os
from pathlib import Path

from mist_core import analyze, cli
from mist_core.chunks import group_cases, read_record, write_record
from mist_core.config import BESIDE_THE_PLAN, Analyze
from mist_core.dataset import find_cases, read_dataset
from mist_core.errors import DataError, rows_of, table_of
from mist_core.files import read_json, write_json, write_rows
from mist_core.folds import deal_folds, patients_of, write_recorded_folds
from mist_core.lease import gpu_memory_gb
from mist_core.plan import Analysis

log = logging.getLogger(__name__)
WAY_OUT = "Mend them, or set analyze.verify to drop, which leaves the bad cases out."


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--dataset", type=Path, required=True, help="dataset JSON")
    p.add_argument("--fingerprints", type=Path, required=True, help="folder of <case>.json")
    p.add_argument("--folds", type=Path, required=True, help="record of the folds, kept up to date")
    p.add_argument("--chunks", type=Path, required=True, help="record of the chunks, likewise")
    p.add_argument("--cases-per-job", type=int, required=True, help="size of a chunk")
    p.add_argument("--settings", type=json.loads, default={}, help="config section, as JSON")
    p.add_argument("--gpu", type=Path, required=True, help="record of the GPU's memory, likewise")
    p.add_argument("--batch-size", type=int, default=2, help="patches of a step on a GPU")
    p.add_argument("--skip", action="store_true", help="images are preprocessed already")
    p.add_argument("--limit-cases", type=int, help="use only the first so many cases")
    p.add_argument("--output", type=Path, required=True, help="the results folder")
    args = p.parse_args()
    settings = Analyze(**args.settings)

    dataset = read_dataset(args.dataset)
    found = find_cases(dataset, args.limit_cases)
    prints = [
        analyze.fingerprint_from_json(read_json(args.fingerprints / f"{case_id}.json"))
        for case_id in found.train
    ]
    table = Path(settings.case_table) if settings.case_table else None
    labels = {p.id: frozenset(p.label_counts or ()) - {0} for p in prints}
    labels_of = (lambda cases: labels) if settings.stratify else None
    folds = deal_folds(found.train, settings.folds, args.folds, table, labels_of)
    patients = patients_of(table, found.train, settings.folds) if table else {}

    problems, stops = analyze.judge(prints, dataset, found, settings, folds, patients)
    drop = settings.verify == "drop"
    (args.output / "problems.csv").unlink(missing_ok=True)
    if problems:
        lines = rows_of(problems)
        write_rows(args.output / "problems.csv", list(lines[0]), lines)
        shown = table_of(problems, dataset.path, found.number())
        if stops:
            for fingerprint in prints:
                if fingerprint.problems:  # to be read again next time, whatever was wrong
                    (args.fingerprints / f"{fingerprint.id}.json").unlink()
            raise DataError(shown if drop else f"{shown}\n{WAY_OUT}")
        log.warning("%s: %s", "left out" if drop else "these fail alone", shown)
    left_out = {case_id: " ".join(lines) for case_id, lines in problems.items() if drop}

    prints = [fingerprint for fingerprint in prints if fingerprint.id not in left_out]
    memory = remembered_gpu(settings, args.gpu)
    budget = analyze.patch_budget(settings, args.batch_size, memory)
    plan = analyze.make_plan(prints, dataset, settings, args.skip, budget)
    told = Analysis(
        dataset=str(dataset.path.absolute()),
        limit_cases=args.limit_cases,
        analyze=settings.model_dump(mode="json", exclude=set(BESIDE_THE_PLAN)),
    )

    rows = [
        {"id": c.id, "fold": folds[c.id], "mask": c.mask}
        | dict(zip(dataset.channels, c.images, strict=True))
        for c in found.train.values()
        if c.id not in left_out
    ]
    boxes = [analyze.box_row(fingerprint) for fingerprint in prints]
    write_recorded_folds(args.folds, settings.folds, folds)
    write_rows(args.output / "train_paths.csv", list(rows[0]), rows)
    write_rows(args.output / "fg_bboxes.csv", list(boxes[0]), boxes)
    _, groups = read_record(args.chunks, dataset.task)
    groups = group_cases(groups, folds, found.test)
    write_record(args.chunks, dataset.task, args.cases_per_job, groups)
    write_json(
        args.output / "config.json",
        plan.model_copy(update={"left_out": left_out, "analysis": told}).model_dump(mode="json"),
    )


def remembered_gpu(settings: Analyze, record: Path) -> float | None:
    """GiB of the GPU that will train: as chosen, as recorded, or as seen here and now.

    What was seen first holds: a case that is added from another machine must not change the patch.
    """
    if settings.gpu_memory_gb != "auto":
        return settings.gpu_memory_gb
    if not record.exists():
        write_json(record, {"gpu_memory_gb": gpu_memory_gb(os.environ)})
    memory: float | None = read_json(record)["gpu_memory_gb"]
    return memory


if __name__ == "__main__":
    cli.run(main)
