"""Write the report of a run, evaluation.json beside it, and the table that the terminal shows."""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mist_core import cli
from mist_core.config import Config
from mist_core.files import read_json, read_rows, write_json, write_text
from mist_core.folds import patients_of
from mist_core.plan import read_plan


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--plan", type=Path, required=True, help="config.json written by analyze")
    p.add_argument("--paths", type=Path, required=True, help="train_paths.csv")
    p.add_argument("--case-table", type=Path, help="CSV with the id of cases and their patient")
    p.add_argument("--names", nargs="+", required=True, help="experiment/strategy of each table")
    p.add_argument("--results", type=Path, nargs="+", required=True, help="results tables")
    p.add_argument("--predictions", type=Path, nargs="+", required=True, help="their folders")
    p.add_argument("--ranking", type=Path, required=True, help="ranking.json of rank")
    p.add_argument("--logs", type=Path, nargs="*", default=[], help="logs of the folds")
    p.add_argument("--plans", type=Path, nargs="*", default=[], help="of the experiments, in order")
    p.add_argument("--choices", type=Path, nargs="*", default=[], help="choice.json of experiments")
    p.add_argument(
        "--tests", type=Path, nargs="*", default=[], help="what became of test cases, by experiment"
    )
    p.add_argument("--fingerprints", type=Path, default=Path(), help="folder of the analysis")
    p.add_argument("--config", type=json.loads, default={}, help="config of the run, as JSON")
    p.add_argument("--dataset", type=Path, help="its description")
    p.add_argument("--command", default="", help="how the workflow was called")
    p.add_argument("--output", type=Path, required=True, help="the HTML to write")
    p.add_argument("--summary", type=Path, required=True, help="the text table to write")
    args = p.parse_args()

    from mist_core.report import page, provenance

    run = read_run(args)
    write_text(args.output, page.render(run, page.show(run)))
    write_json(args.output.with_name("evaluation.json"), provenance.evaluation(run))
    rows = [{k: str(v) for k, v in each.items()} for each in run.ranking["candidates"]]
    write_text(args.summary, page.summary_text(run.candidates, rows))


def read_run(args: argparse.Namespace) -> Any:
    """All that is told of the run, from its files."""
    from mist_core.report import provenance, scores

    plan, paths, ranking = read_plan(args.plan), read_rows(args.paths), read_json(args.ranking)
    if args.case_table:
        patients = patients_of(args.case_table, [row["id"] for row in paths])
        paths = [row | {"patient": patients[row["id"]]} for row in paths]
    tables = zip(args.names, args.results, args.predictions, strict=True)
    candidates = {each[0]: scores.read_candidate(*each) for each in tables}
    config = Config(**args.config)
    plans = zip(config.experiment_names(), map(read_plan, args.plans), strict=False)
    return provenance.Run(
        plan=plan,
        paths=paths,
        candidates=[candidates[each["strategy"]] for each in ranking["candidates"]],
        ranking=ranking,
        config=config,
        command=args.command,
        histories=by_fold(args.logs, "history.csv", read_rows),
        models=by_fold(args.logs, "model.json", read_json),
        choices={path.parents[2].name: read_json(path) for path in args.choices},
        tests={path.stem: problems_of(path) for path in args.tests},
        inputs=provenance.inputs(args.fingerprints, paths, plan.dataset_info.images),
        description=args.dataset,
        plans=dict(plans),
    )


def by_fold(logs: Sequence[Path], name: str, read: Callable[[Path], Any]) -> dict[str, Any]:
    """What is in a file of every fold that has it, by experiment and fold."""
    found: dict[str, Any] = defaultdict(dict)
    for path in (folder / name for folder in logs):
        if path.exists():
            experiment, fold = path.parents[2].name, path.parent.name.replace("_", " ")
            found[experiment][fold] = read(path)
    return dict(found)


def problems_of(path: Path) -> dict[str, str]:
    """What is wrong with each test case, nothing where it is predicted."""
    return {
        case: str(state.get("error") or state.get(cli.LEFT_OUT) or "")
        for case, state in read_json(path)["cases"].items()
    }


if __name__ == "__main__":
    cli.run(main)
