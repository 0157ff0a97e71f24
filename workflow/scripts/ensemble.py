"""Combine the predictions of several models into one label map for each case."""

import argparse
from math import isfinite
from pathlib import Path

from mist_core import cli
from mist_core.errors import DataError, raise_all


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--predictions", type=Path, nargs="+", required=True, help="two folders or more")
    p.add_argument("--output", type=Path, required=True, help="folder for the results")
    p.add_argument(
        "--input-type",
        choices=("labels", "probabilities"),
        default="labels",
        help="of the files <id>.nii.gz",
    )
    p.add_argument("--config", type=Path, help="config.json with the labels, for probabilities")
    p.add_argument(
        "--ensemble-backend",
        choices=("staple", "majority_vote"),
        default="staple",
        help="how label maps are combined",
    )
    p.add_argument(
        "--probability-ensemble-backend",
        choices=("mean", "weighted"),
        default="mean",
        help="how probabilities are combined",
    )
    p.add_argument(
        "--weights", type=float, nargs="+", help="of each folder, for weighted and majority_vote"
    )
    p.add_argument(
        "--output-probs", action="store_true", help="write the mean to <output>/probabilities, too"
    )
    p.add_argument("--num-workers-ensemble", type=int, default=1, help="processes")
    p.add_argument("--case", nargs="+", help="ids; only these")
    cli.add_case_options(p)
    args = p.parse_args()
    check(args)
    args.case = args.case or common_cases(args.predictions)
    work = of_probabilities(args) if args.input_type == "probabilities" else of_labels(args)
    cli.do_asked(work, args, args.num_workers_ensemble)


def check(args: argparse.Namespace) -> None:
    """Raise DataError for arguments that do not go together."""
    problems = []
    places = [folder.resolve() for folder in args.predictions]
    if len(places) < 2:
        problems.append(f"--predictions: expected two folders or more, found {len(places)}.")
    if len(set(places)) < len(places):
        problems.append("--predictions: expected each folder once, found one again. Use --weights.")
    if args.output.resolve() in places:
        problems.append(f"--output: expected a folder of its own, found {args.output} once more.")
    problems += problems_of_weights(args)
    if args.input_type == "labels" and args.output_probs:
        problems.append("--output-probs: expected --input-type probabilities, found labels.")
    if args.input_type == "probabilities" and not args.config:
        problems.append("--config: expected the config.json of the models, found none. Name it.")
    raise_all(problems, "arguments")


def problems_of_weights(args: argparse.Namespace) -> list[str]:
    """What is wrong with the weights, in words."""
    if args.input_type == "probabilities":
        backend = args.probability_ensemble_backend
    else:
        backend = args.ensemble_backend
    weights, n_folders = args.weights, len(args.predictions)
    if backend == "weighted" and not weights:
        return ["--weights: expected one for each folder, found none. Add them, or take the mean."]
    if not weights:
        return []
    if backend not in ("weighted", "majority_vote"):
        return [f"--weights: expected the backend weighted or majority_vote, found {backend}."]
    if len(weights) != n_folders or not all(w > 0 and isfinite(w) for w in weights):
        return [
            f"--weights: expected {n_folders} numbers above 0, one for each folder, found "
            f"{' '.join(f'{w:g}' for w in weights)}. Mend them."
        ]
    return []


def common_cases(folders: list[Path]) -> list[str]:
    """The ids of the predictions, which all folders must have."""
    names = {folder: {path.name for path in folder.glob("[!.]*.nii.gz")} for folder in folders}
    every = set().union(*names.values())
    problems = [
        f"{folder}: expected the cases of the other folders, found no {name}. Predict it."
        for folder, own in names.items()
        for name in sorted(every - own)
    ]
    raise_all(problems, "--predictions")
    if not every:
        raise DataError(f"{folders[0]}: expected predictions *.nii.gz, found none. Mend the path.")
    return sorted(name.removesuffix(".nii.gz") for name in every)


def of_labels(args: argparse.Namespace) -> cli.CaseWork:
    """How the label maps of a case are combined."""

    def compute(case: str, folder: Path) -> None:
        from mist_core import ensemble, io

        volumes = {str(path): io.read_labels(path) for path in files_of(args, case)}
        combined = ensemble.ensemble(volumes, args.ensemble_backend, args.weights)
        io.write_volume(folder / f"{case}.nii.gz", combined)

    def key(case: str) -> str:
        return cli.digest(args.ensemble_backend, args.weights, files_of(args, case))

    return cli.CaseWork(lambda case: [f"{case}.nii.gz"], key, compute)


def of_probabilities(args: argparse.Namespace) -> cli.CaseWork:
    """How the probabilities of a case are combined."""
    from mist_core.plan import read_labels_of

    labels = read_labels_of(args.config)
    inside = "probabilities/" if args.output_probs else None

    def outputs(case: str) -> list[str]:
        return [f"{case}.nii.gz"] + ([f"{inside}{case}.nii.gz"] if inside else [])

    def compute(case: str, folder: Path) -> None:
        from mist_core import ensemble, io
        from mist_core.labels import strongest

        parts = ((str(path), *io.read_probabilities(path)) for path in files_of(args, case))
        mean, geometry = ensemble.mean_probabilities(parts, args.weights)
        if len(mean) != len(labels):
            raise DataError(
                f"{files_of(args, case)[0]}: expected {len(labels)} classes as in {args.config}, "
                f"found {len(mean)}. Name the config.json of the models."
            )
        combined = io.Volume(strongest(mean, labels), geometry)
        io.write_volume(folder / f"{case}.nii.gz", combined)
        if inside:
            io.write_probabilities(folder / f"{inside}{case}.nii.gz", mean, geometry)

    def key(case: str) -> str:
        return cli.digest(labels, args.weights, files_of(args, case))

    return cli.CaseWork(outputs, key, compute)


def files_of(args: argparse.Namespace, case: str) -> list[Path]:
    """What is predicted of a case, in the order of the folders."""
    return [folder / f"{case}.nii.gz" for folder in args.predictions]


if __name__ == "__main__":
    cli.run(main)
