"""Combine the predictions of several models into one label map for each case."""

from pathlib import Path

from mist_core import cli
from mist_core.errors import DataError, raise_all


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--predictions", type=Path, nargs="+", required=True, help="two folders or more")
    p.add_argument("--output", type=Path, required=True, help="folder for the results")
    p.add_argument(
        "--input-type", choices=("labels", "probabilities"), default="labels", help="of the files"
    )
    p.add_argument("--config", type=Path, help="config.json, for probabilities")
    p.add_argument(
        "--ensemble-backend",
        choices=("staple", "majority_vote"),
        default="staple",
        help="how label maps are combined",
    )
    p.add_argument(
        "--probability-ensemble-backend",
        choices=("mean",),
        default="mean",
        help="how probabilities are combined",
    )
    p.add_argument("--num-workers-ensemble", type=int, default=1, help="processes")
    args = p.parse_args()
    if args.input_type == "probabilities":
        raise DataError("--input-type: expected labels in this version, found probabilities.")
    names = common_names(args.predictions)

    def key(name: str) -> str:
        return cli.digest(args.ensemble_backend, [folder / name for folder in args.predictions])

    def compute(name: str, folder: Path) -> None:
        from mist_core import ensemble, io

        volumes = [io.read_labels(place / name) for place in args.predictions]
        io.write_volume(folder / name, ensemble.ensemble(volumes, args.ensemble_backend))

    work = cli.CaseWork(lambda name: [name], key, compute)
    cli.do_cases(work, names, args.output, workers=args.num_workers_ensemble)


def common_names(folders: list[Path]) -> list[str]:
    """The names of the predictions, which all folders must have."""
    if len(folders) < 2:
        raise DataError(f"--predictions: expected two folders or more, found {len(folders)}.")
    names = {folder: {path.name for path in folder.glob("*.nii.gz")} for folder in folders}
    every = set().union(*names.values())
    problems = [
        f"{folder}: expected the cases of the other folders, found no {name}. Predict it."
        for folder, own in names.items()
        for name in sorted(every - own)
    ]
    raise_all(problems, "--predictions")
    if not every:
        raise DataError(f"{folders[0]}: expected predictions *.nii.gz, found none. Mend the path.")
    return sorted(every)


if __name__ == "__main__":
    cli.run(main)
