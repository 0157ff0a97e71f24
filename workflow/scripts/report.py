"""Write the report of a run, and the short table that the terminal shows."""

from pathlib import Path

from mist_core import cli, report
from mist_core.files import read_json, read_rows, write_text
from mist_core.plan import read_plan


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--plan", type=Path, required=True, help="config.json written by analyze")
    p.add_argument("--paths", type=Path, required=True, help="train_paths.csv")
    p.add_argument("--names", nargs="+", required=True, help="experiment/strategy of each table")
    p.add_argument("--results", type=Path, nargs="+", required=True, help="results tables")
    p.add_argument("--predictions", type=Path, nargs="+", required=True, help="their folders")
    p.add_argument("--ranking", type=Path, required=True, help="CSV of rank")
    p.add_argument("--logs", type=Path, nargs="+", required=True, help="logs of the folds")
    p.add_argument("--output", type=Path, required=True, help="the HTML to write")
    p.add_argument("--summary", type=Path, required=True, help="the text table to write")
    args = p.parse_args()

    ranking = read_rows(args.ranking)
    tables = zip(args.names, args.results, args.predictions, strict=True)
    candidates = [report.read_candidate(*each) for each in tables]
    folders = {f"{folder.parent.parent.name} {folder.name}": folder for folder in args.logs}
    histories = {
        name: read_rows(folder / "history.csv")
        for name, folder in folders.items()
        if (folder / "history.csv").exists()
    }
    models = {
        name: read_json(folder / "model.json")
        for name, folder in folders.items()
        if (folder / "model.json").exists()
    }
    page = report.render(
        read_plan(args.plan), read_rows(args.paths), candidates, ranking, histories, models
    )
    write_text(args.output, page)
    write_text(args.summary, report.summary_text(candidates, ranking))


if __name__ == "__main__":
    cli.run(main)
