"""Rank experiments and strategies by their results tables."""

from pathlib import Path

from mist_core import cli, rank
from mist_core.files import read_rows, write_rows


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--results", type=Path, nargs="+", required=True, help="results tables")
    p.add_argument("--names", nargs="+", required=True, help="a name for each")
    p.add_argument("--output-csv", type=Path, required=True, help="strategy, average_rank")
    p.add_argument("--output-detailed-csv", type=Path, required=True, help="mean rank per metric")
    args = p.parse_args()

    tables = {name: read_rows(path) for name, path in zip(args.names, args.results, strict=True)}
    summary, detailed = rank.rank(tables)
    write_rows(args.output_csv, list(summary[0]), summary)
    write_rows(args.output_detailed_csv, list(detailed[0]), detailed)


if __name__ == "__main__":
    cli.run(main)
