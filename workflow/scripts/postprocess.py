"""Apply a postprocessing strategy to predicted label maps, and score the result if asked to."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from mist_core import cli
from mist_core.errors import DataError


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
    p.add_argument("--case", nargs="+", help="ids; only these, straight into the output folder")
    cli.add_case_options(p)
    args = p.parse_args()
    if args.case:
        process(args, args.case, args.output)
        return
    if bool(args.paths_csv) != bool(args.eval_config):
        raise DataError("--paths-csv: expected --eval-config beside it, found one of the two.")
    names = sorted(path.name for path in args.base_predictions.glob("*.nii.gz"))
    if not names:
        raise DataError(f"{args.base_predictions}: expected *.nii.gz, found none. Mend the path.")
    cases = [name.removesuffix(".nii.gz") for name in names]
    process(args, cases, args.output / "predictions")
    shutil.copyfile(args.postprocess_strategy, args.output / "strategy.json")
    if args.paths_csv:
        score(args)


def process(args: argparse.Namespace, cases: list[str], output: Path) -> None:
    """Apply the strategy to some cases."""

    def source(case_id: str) -> Path:
        path: Path = args.base_predictions / f"{case_id}.nii.gz"
        return path

    def key(case_id: str) -> str:
        return cli.digest(args.postprocess_strategy.read_text(encoding="utf-8"), source(case_id))

    def compute(case_id: str, folder: Path) -> None:
        from mist_core import io, postprocess

        strategy = postprocess.read_strategy(args.postprocess_strategy)
        before = io.read_labels(source(case_id))
        after = io.Volume(postprocess.postprocess(before.array, strategy), before.geometry)
        io.write_volume(folder / f"{case_id}.nii.gz", after)

    work = cli.CaseWork(lambda case_id: [f"{case_id}.nii.gz"], key, compute)
    asked = argparse.Namespace(**vars(args) | {"case": cases, "output": output})
    cli.do_asked(work, asked, args.num_workers_postprocess)


def score(args: argparse.Namespace) -> None:
    """Score the postprocessed predictions with the script of the evaluation."""
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
    if subprocess.run(command, check=False).returncode:  # noqa: S603 (our own script)
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
