"""Score the predictions of all training cases, each made by the model that did not see it."""

import json
from pathlib import Path

from mist_core import cli, evaluate
from mist_core.config import Evaluate
from mist_core.errors import raise_all
from mist_core.files import read_rows, write_rows
from mist_core.plan import read_plan


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--paths", type=Path, required=True, help="CSV with id and mask")
    p.add_argument("--predictions", type=Path, required=True, help="folder of <case>.nii.gz")
    p.add_argument("--plan", type=Path, required=True, help="config.json, for the classes")
    p.add_argument("--settings", type=json.loads, default={}, help="config section, as JSON")
    p.add_argument("--output", type=Path, required=True, help="results.csv to write")
    p.add_argument("--output-paths", type=Path, required=True, help="evaluation_paths.csv")
    args = p.parse_args()
    settings = Evaluate(**args.settings)
    classes = (
        {name: c.labels for name, c in read_plan(args.plan).evaluation.items()}
        if settings.classes == "auto"
        else settings.classes
    )
    pairs = [
        evaluate.Pair(row["id"], Path(row["mask"]), args.predictions / f"{row['id']}.nii.gz")
        for row in read_rows(args.paths)
    ]
    rows, problems = evaluate.evaluate(pairs, classes, evaluate.metric_parameters(settings))
    raise_all(problems, "evaluate")
    write_rows(args.output_paths, ["id", "mask", "prediction"], [vars(pair) for pair in pairs])
    write_rows(args.output, list(rows[0]), rows + evaluate.summary_rows(rows))


if __name__ == "__main__":
    cli.run(main)
