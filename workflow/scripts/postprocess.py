"""Apply a postprocessing strategy to predicted label maps, and score the result if asked to."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from mist_core import cli
from mist_core.errors import DataError
from mist_core.files import write_text


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--base-predictions", type=Path, required=True, help="folder of <id>.nii.gz")
    p.add_argument("--postprocess-strategy", type=Path, required=True, help="strategy JSON")
    p.add_argument(
        "--output", type=Path, required=True, help="folder for predictions/, strategy and scores"
    )
    p.add_argument("--num-workers-postprocess", type=int, default=1, help="processes")
    p.add_argument("--num-workers-evaluate", type=int, default=1, help="processes for scoring")
    p.add_argument("--paths-csv", type=Path, help="CSV with id and mask, to score the result")
    p.add_argument("--eval-config", type=Path, help="config.json or evaluation JSON, to score")
    p.add_argument(
        "--probabilities",
        type=Path,
        help="folder of <id>.nii.gz by mist_predict --output-probs, for a strategy that looks at "
        "them; none: probabilities/ beside the predictions",
    )
    p.add_argument("--config", type=Path, help="config.json with the labels, for probabilities")
    p.add_argument("--case", nargs="+", help="ids; only these, straight into the output folder")
    cli.add_case_options(p)
    args = p.parse_args()
    target = args.output if args.case else args.output / "predictions"
    if target.resolve() == args.base_predictions.resolve():
        raise DataError(
            f"--output: expected another folder than --base-predictions, found {target}, whose "
            "label maps would be replaced. Name another."
        )
    if args.case:
        process(work_of(args), args, args.case, target)
        return
    if bool(args.paths_csv) != bool(args.eval_config):
        raise DataError("--paths-csv: expected --eval-config beside it, found one of the two.")
    names = sorted(path.name for path in args.base_predictions.glob("[!.]*.nii.gz"))
    if not names:
        raise DataError(f"{args.base_predictions}: expected *.nii.gz, found none. Mend the path.")
    cases = [name.removesuffix(".nii.gz") for name in names]
    work = work_of(args)
    for table in args.output.glob("postprocess_results*.csv"):  # of what was there before
        table.unlink()
    write_text(args.output / "strategy.json", args.postprocess_strategy.read_text(encoding="utf-8"))
    cli.forget_cases(target, cli.recorded_cases(target) - set(cases))
    failed = None
    try:
        process(work, args, cases, target)
    except DataError as error:  # the others are scored all the same
        failed = error
    scored = not args.paths_csv or score(args)
    if failed:
        raise failed
    if not scored:
        sys.exit(1)


def process(work: cli.CaseWork, args: argparse.Namespace, cases: list[str], output: Path) -> None:
    """Apply the strategy to some cases."""
    asked = argparse.Namespace(**vars(args) | {"case": cases, "output": output})
    cli.do_asked(work, asked, args.num_workers_postprocess)


def work_of(args: argparse.Namespace) -> cli.CaseWork:
    """How a case is done. Raises DataError for a strategy that cannot be applied to any."""
    from mist_core import io, postprocess

    strategy = postprocess.read_strategy(args.postprocess_strategy)
    labels = labels_of_probabilities(args, postprocess.needs_probabilities(strategy))
    told = [args.postprocess_strategy.read_text(encoding="utf-8"), labels]
    told += postprocess.own_sources(strategy)

    def source(case_id: str) -> Path:
        path: Path = args.base_predictions / f"{case_id}.nii.gz"
        return path

    def probabilities(case_id: str) -> Path:
        folder: Path = args.probabilities or args.base_predictions / "probabilities"
        return folder / f"{case_id}.nii.gz"

    def key(case_id: str) -> str:
        return cli.digest(told, source(case_id), *([probabilities(case_id)] if labels else []))

    def prepare(case_id: str) -> Any:
        before, likely = io.read_labels(source(case_id)), None
        if labels:
            likely = read_probabilities(probabilities(case_id), labels, before)
        return before, likely

    def compute(case_id: str, folder: Path, prepared: Any) -> Any:
        before, likely = prepared
        grid = before.geometry
        try:
            after = postprocess.postprocess(before.array, strategy, grid.spacing, likely)
        except DataError as error:
            raise DataError(f"{args.postprocess_strategy}: {error}") from error
        return io.Volume(after, grid)

    def finish(case_id: str, folder: Path, after: Any) -> None:
        io.write_volume(folder / f"{case_id}.nii.gz", after)

    return cli.CaseWork(
        lambda case_id: [f"{case_id}.nii.gz"], key, compute, prepare=prepare, finish=finish
    )


def read_probabilities(path: Path, labels: list[int], before: Any) -> dict[int, Any]:
    """The probabilities of every label, on the grid of the label map."""
    from mist_core import io

    found, grid = io.read_probabilities(path)
    if len(found) != len(labels):
        raise DataError(
            f"{path}: expected the {len(labels)} classes of --config, found {len(found)}. Name the "
            "config.json of the models."
        )
    if not grid.matches(before.geometry):
        raise DataError(
            f"{path}: expected the grid of the label map ({before.geometry}), found {grid}. Name "
            "the probabilities of these predictions."
        )
    return dict(zip(labels, found, strict=True))


def labels_of_probabilities(args: argparse.Namespace, needed: bool) -> list[int]:
    """Whose probabilities are in the files, in their order; none where none are needed."""
    if not needed:
        return []
    if not args.config:
        raise DataError(
            f"{args.postprocess_strategy}: expected --config with the config.json of the models, "
            "for a step that looks at probabilities, found none. Name it."
        )
    from mist_core.plan import read_labels_of

    return list(read_labels_of(args.config))


def score(args: argparse.Namespace) -> bool:
    """Score the result with the script of the evaluation, and say whether that went well."""
    options = {
        "--config": args.eval_config,
        "--paths-csv": args.paths_csv,
        "--predictions": args.output / "predictions",
        "--output-csv": args.output / "postprocess_results.csv",
        "--num-workers-evaluate": args.num_workers_evaluate,
    }
    script = Path(__file__).with_name("evaluate.py")
    words = [str(word) for option in options.items() for word in option]
    command = [sys.executable, script, *words]
    return subprocess.run(command, check=False).returncode == 0  # noqa: S603 (our own script)


if __name__ == "__main__":
    cli.run(main)
