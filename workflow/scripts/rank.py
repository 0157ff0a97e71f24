"""Rank experiments and strategies by their results tables."""

from pathlib import Path

from mist_core import cli, rank
from mist_core.errors import DataError
from mist_core.files import read_json, read_rows, write_rows


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--results", type=Path, nargs="+", required=True, help="two tables or more")
    p.add_argument("--output-csv", type=Path, required=True, help="strategy, average_rank")
    p.add_argument("--names", nargs="+", help="a name for each table; default: their file names")
    p.add_argument("--output-detailed-csv", type=Path, help="mean rank for each metric")
    p.add_argument(
        "--metric-direction-overrides", type=Path, help="JSON: column to higher or lower"
    )
    p.add_argument("--id-column", default="id", help="the column that names the case")
    p.add_argument("--significance-csv", type=Path, help="not in this version yet")
    args = p.parse_args()
    if args.significance_csv:
        raise DataError("--significance-csv: this version has no test yet. Leave it out.")

    names = args.names or [path.stem for path in args.results]
    if len(names) != len(args.results) or len(set(names)) < len(names):
        raise DataError(
            f"--names: expected a different name for each of {len(args.results)} tables, "
            f"found {', '.join(names)}."
        )
    tables = {name: read_rows(path) for name, path in zip(names, args.results, strict=True)}
    directions = {}
    if args.metric_direction_overrides:
        directions = read_json(args.metric_direction_overrides)
    summary, detailed = rank.rank(tables, directions, args.id_column)
    write_rows(args.output_csv, list(summary[0]), summary)
    if args.output_detailed_csv:
        write_rows(args.output_detailed_csv, list(detailed[0]), detailed)


if __name__ == "__main__":
    cli.run(main)
