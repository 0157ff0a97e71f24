"""Merge the fingerprints of the training cases into the plan, the folds and the path tables."""

import argparse
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mist_core import analyze, cli
from mist_core.chunks import group_cases, read_record, write_record
from mist_core.config import BESIDE_THE_PLAN, Analyze
from mist_core.dataset import Dataset, Found, find_cases, read_dataset
from mist_core.errors import WHOLE, DataError, rows_of, table_of
from mist_core.files import read_json, write_json, write_rows
from mist_core.folds import deal_folds, read_case_table, write_recorded_folds
from mist_core.lease import gpu_memory_gb
from mist_core.plan import Analysis, Plan

log = logging.getLogger(__name__)
WAY_OUT = "Mend them, or set analyze.verify to drop, which leaves the bad cases out."


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--dataset", type=Path, required=True, help="dataset JSON")
    p.add_argument("--fingerprints", type=Path, required=True, help="folder of <case>.json")
    p.add_argument("--manifests", type=Path, nargs="*", default=[], help="what fingerprint wrote")
    p.add_argument("--folds", type=Path, required=True, help="record of the folds, kept up to date")
    p.add_argument("--chunks", type=Path, required=True, help="record of the chunks, likewise")
    p.add_argument("--cases-per-job", type=int, required=True, help="size of a chunk")
    p.add_argument("--settings", type=json.loads, default={}, help="config section, as JSON")
    p.add_argument("--gpu", type=Path, help="record of the GPU and the batch, likewise")
    p.add_argument("--batch-size", type=int, default=2, help="patches of a step on a GPU")
    p.add_argument("--model", default="nnunet", help="the architecture that the patch must suit")
    p.add_argument("--skip", action="store_true", help="images are preprocessed already")
    p.add_argument("--limit-cases", type=int, help="use only the first so many cases")
    p.add_argument("--output", type=Path, required=True, help="the results folder")
    args = p.parse_args()
    settings = Analyze(**args.settings)

    dataset = read_dataset(args.dataset)
    found = find_cases(dataset, args.limit_cases)
    prints = read_prints(args, list(found.train))
    table = Path(settings.case_table) if settings.case_table else None
    no_class = {0, dataset.ignore_label}
    labels = {p.id: frozenset(p.label_counts or ()) - no_class for p in prints}
    labels_of = (lambda cases: labels) if settings.stratify else None
    folds = deal_folds(found.train, settings.folds, args.folds, table, labels_of)
    patients, _ = read_case_table(table, found.train, settings.folds) if table else ({}, {})

    limited, skip = bool(args.limit_cases), args.skip
    problems, stops = analyze.judge(
        prints, dataset, found, settings, folds, patients, limited, skip
    )
    tell(args, problems, stops, prints, dataset, found)
    left_out = {case_id: " ".join(lines) for case_id, lines in problems.items()}
    prints = [fingerprint for fingerprint in prints if fingerprint.id not in left_out]

    budget = patch_budget(args, settings)
    plan = analyze.make_plan(prints, dataset, settings, args.skip, budget, args.model)
    told = Analysis(
        dataset=str(dataset.path.absolute()),
        limit_cases=args.limit_cases,
        analyze=settings.model_dump(mode="json", exclude=set(BESIDE_THE_PLAN)),
    )
    plan = plan.model_copy(update={"left_out": left_out, "analysis": told})
    write_recorded_folds(args.folds, settings.folds, folds)
    _, groups = read_record(args.chunks, dataset.task)
    groups = group_cases(groups, folds, found.test)
    write_record(args.chunks, dataset.task, args.cases_per_job, groups)
    write_all(args.output, dataset, found, folds, prints, plan)


def read_prints(args: argparse.Namespace, cases: Sequence[str]) -> list[analyze.Fingerprint]:
    """The fingerprints of the cases; a case without one has the failure of its job as a problem."""
    failed: dict[str, str] = {}
    for path in args.manifests:
        if path.exists() and (errors := cli.failures(read_json(path))):
            failed |= errors
            path.unlink(missing_ok=True)  # to be tried again next time
    prints = []
    for case_id in cases:
        path = args.fingerprints / f"{case_id}.json"
        if path.exists():
            prints.append(analyze.fingerprint_from_json(read_json(path)))
        else:
            nothing = f"{path}: expected a fingerprint, found none. Run it again."
            prints.append(analyze.Fingerprint(case_id, (failed.get(case_id, nothing),)))
    return prints


def tell(
    args: argparse.Namespace,
    problems: Mapping[str, Sequence[str]],
    stops: bool,
    prints: Sequence[analyze.Fingerprint],
    dataset: Dataset,
    found: Found,
) -> None:
    """Write the table of all problems. Raises it as a DataError where they stop the run."""
    path = args.output / "problems.csv"
    path.unlink(missing_ok=True)
    if not problems:
        return
    rows = rows_of(problems)
    write_rows(path, list(rows[0]), rows)
    shown = table_of(problems, dataset.path, found.number())
    if not stops:
        log.warning("left out: %s", shown)
        return
    bad = {fingerprint.id for fingerprint in prints if fingerprint.problems}
    for case_id in bad:  # to be read again next time, whatever was wrong
        cli.record_of(args.fingerprints, case_id).unlink(missing_ok=True)
    for manifest in args.manifests:
        if manifest.exists() and bad & read_json(manifest)["cases"].keys():
            manifest.unlink(missing_ok=True)
    only_bad_cases = problems.keys() - {WHOLE}
    raise DataError(f"{shown}\n{WAY_OUT}" if only_bad_cases else shown)


def patch_budget(args: argparse.Namespace, settings: Analyze) -> int:
    """Voxels that a patch may have, by the GPU and the batch that there were at first.

    A case that is added from another machine, or another batch, must not change the patch.
    """
    at_first = read_json(args.gpu) if args.gpu and args.gpu.exists() else None
    if at_first is None:
        memory = gpu_memory_gb(os.environ)
        at_first = {"gpu_memory_gb": memory, "batch_size": args.batch_size}
        if args.gpu:
            write_json(args.gpu, at_first)
    memory = at_first["gpu_memory_gb"]
    if settings.gpu_memory_gb != "auto":
        memory = settings.gpu_memory_gb
    budget = analyze.patch_budget(settings, at_first["batch_size"], memory, args.model)
    seen = "no GPU" if memory is None else f"a GPU of {memory:.1f} GiB"
    log.info("%d voxels for a patch: %s, a batch of %d", budget, seen, at_first["batch_size"])
    return budget


def write_all(
    output: Path,
    dataset: Dataset,
    found: Found,
    folds: Mapping[str, int],
    prints: Sequence[analyze.Fingerprint],
    plan: Plan,
) -> None:
    """The plan, and tables of the cases that are kept: their files and folds, their boxes."""
    cases = [found.train[fingerprint.id] for fingerprint in prints]
    rows = [
        {"id": c.id, "fold": folds[c.id], "mask": c.mask}
        | dict(zip(dataset.channels, c.images, strict=True))
        for c in cases
    ]
    boxes = [analyze.box_row(fingerprint) for fingerprint in prints]
    write_rows(output / "train_paths.csv", list(rows[0]), rows)
    write_rows(output / "fg_bboxes.csv", list(boxes[0]), boxes)
    write_json(output / "config.json", plan.model_dump(mode="json"))


if __name__ == "__main__":
    cli.run(main)
