"""Rank experiments and strategies by their results tables, and say how sure that is."""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from mist_core import cli, rank
from mist_core.config import NAN_POLICIES, SCHEMES, Rank, read_rank
from mist_core.errors import DataError
from mist_core.files import read_json, read_rows, write_json, write_rows
from mist_core.folds import patients_of
from mist_core.results import read_results

log = logging.getLogger(__name__)
# Flags that say what the section of the config does.
OF_THE_SECTION = ("scheme", "nan", "bootstraps", "seed")


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--results", type=Path, nargs="+", required=True, help="tables of scores")
    p.add_argument("--output-csv", type=Path, required=True, help="strategy, average_rank")
    p.add_argument("--names", nargs="+", help="a name for each table; default: their file names")
    p.add_argument("--output-detailed-csv", type=Path, help="mean rank for each metric")
    p.add_argument(
        "--metric-direction-overrides", type=Path, help="JSON: column to higher or lower"
    )
    p.add_argument("--id-column", default="id", help="the column that names the case")
    p.add_argument("--significance-csv", type=Path, help="p that a row is better than a column")
    p.add_argument("--output-json", type=Path, help="everything, with a verdict in words")
    default = Rank()  # of the section, which --settings may change
    p.add_argument("--scheme", choices=SCHEMES, help=f"how ranks are made; else {default.scheme}")
    p.add_argument(
        "--nan", choices=NAN_POLICIES, help=f"what a missing score is worth; else {default.nan}"
    )
    p.add_argument(
        "--weights", type=Path, help="JSON: class, metric or column to weight; others have 1"
    )
    p.add_argument(
        "--bootstraps",
        type=int,
        help=f"times that patients are drawn again; else {default.bootstraps}",
    )
    p.add_argument("--seed", type=int, help=f"of the bootstraps; else {default.seed}")
    p.add_argument("--case-table", type=Path, help="CSV with columns id and patient")
    p.add_argument("--settings", type=json.loads, default={}, help="section of the config, as JSON")
    args = p.parse_args()

    tables, places = read_tables(args)
    settings = read_rank(section(args), f"rank with {args.weights}" if args.weights else "rank")
    directions = read_mapping(args.metric_direction_overrides)
    results = read_results(tables, directions, args.id_column, places)
    patients = patients_of(args.case_table, results.ids) if args.case_table else {}
    ranking = rank.rank(results, settings, patients)
    for line in (ranking.missing, rank.verdict(ranking)):
        log.info(line)

    tables_to_write = {
        args.output_csv: rank.summary_rows(ranking),
        args.output_detailed_csv: rank.detailed_rows(ranking),
        args.significance_csv: rank.significance_rows(ranking),
    }
    for path, rows in tables_to_write.items():
        if path:
            write_rows(path, list(rows[0]), rows)
    if args.output_json:
        write_json(args.output_json, rank.described(ranking))


def read_tables(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Path]]:
    """Rows and path of each table, by the name of its candidate."""
    names = args.names or [path.stem for path in args.results]
    if len(names) != len(args.results) or len(set(names)) < len(names):
        raise DataError(
            f"--names: expected a different name for each of {len(args.results)} tables, "
            f"found {', '.join(names)}."
        )
    refuse_replacing(args)
    places = dict(zip(names, args.results, strict=True))
    return {name: read_rows(path) for name, path in places.items()}, places


def refuse_replacing(args: argparse.Namespace) -> None:
    """Raise DataError where a file is to be written that is read, or written already."""
    given = (*args.results, args.metric_direction_overrides, args.weights, args.case_table)
    taken = {path.resolve(): "one to read" for path in given if path}
    outputs = (args.output_csv, args.output_detailed_csv, args.significance_csv, args.output_json)
    for path in filter(None, outputs):
        if path.resolve() in taken:
            raise DataError(
                f"{path}: expected a file of its own to write, found {taken[path.resolve()]}. "
                "Name another."
            )
        taken[path.resolve()] = "another output"


def section(args: argparse.Namespace) -> dict[str, Any]:
    """The section of the config, with what flags say instead."""
    flags = {name: getattr(args, name) for name in OF_THE_SECTION}
    given = {name: value for name, value in flags.items() if value is not None}
    if args.weights:
        given["weights"] = read_mapping(args.weights)
    return args.settings | given


def read_mapping(path: Path | None) -> dict[str, Any]:
    """A JSON of names to values; nothing without a file."""
    found = read_json(path) if path else {}
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected names and values in braces, found {found!r}. Mend it.")
    return found


if __name__ == "__main__":
    cli.run(main)
