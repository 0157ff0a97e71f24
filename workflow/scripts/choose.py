"""Choose a postprocessing strategy by the scores of the training cases, or none."""

import json
import logging
from pathlib import Path

from mist_core import choose, cli
from mist_core.config import read_rank
from mist_core.files import read_json, read_rows, write_json
from mist_core.folds import patients_of
from mist_core.results import read_results
from mist_core.search import NONE

log = logging.getLogger(__name__)


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--raw", type=Path, required=True, help="scores without a strategy")
    p.add_argument("--strategies", type=Path, nargs="+", required=True, help="JSON files")
    p.add_argument("--results", type=Path, nargs="+", required=True, help="scores with each")
    p.add_argument("--output", type=Path, required=True, help="JSON: the choice, and all of why")
    p.add_argument("--output-strategy", type=Path, required=True, help="JSON: the chosen steps")
    p.add_argument("--case-table", type=Path, help="CSV with the id of cases and their patient")
    p.add_argument("--settings", type=json.loads, default={}, help="config section rank, as JSON")
    args = p.parse_args()

    names = [path.stem for path in args.strategies]
    places = {NONE: args.raw} | dict(zip(names, args.results, strict=True))
    results = read_results({n: read_rows(path) for n, path in places.items()}, places=places)
    settings = read_rank(args.settings, "rank")
    patients = patients_of(args.case_table, results.ids) if args.case_table else {}
    steps = {path.stem: read_json(path) for path in args.strategies}
    choice = choose.described(choose.choose(results, settings, patients), steps, settings.seed)
    log.info(choice["sentence"])
    write_json(args.output, choice)
    write_json(args.output_strategy, choice["strategy"])


if __name__ == "__main__":
    cli.run(main)
