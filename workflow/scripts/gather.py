"""Gather what became of all cases of some jobs; fail by name if any of them failed."""

import json
from pathlib import Path

from mist_core import cli
from mist_core.chunks import read_record
from mist_core.dataset import Dataset, read_dataset
from mist_core.errors import raise_all
from mist_core.files import read_json, write_json


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--manifests", type=Path, nargs="*", required=True, help="what jobs wrote")
    p.add_argument(
        "--pass-on", action="store_true", help="leave failures to the stages that follow"
    )
    p.add_argument("--bad", type=json.loads, default={}, help="cases without files, as JSON")
    p.add_argument("--dataset", type=Path, help="dataset JSON: files of cases it has not go")
    p.add_argument("--chunks", type=Path, help="record of the cases that there ever were")
    p.add_argument("--folder", type=Path, help="where their files are; tests in test/")
    p.add_argument("--settings", type=json.loads, help="config section to write down, as JSON")
    p.add_argument("--output", type=Path, required=True, help="JSON: what became of each case")
    args = p.parse_args()

    cases = dict(args.bad)
    problems = dict.fromkeys(  # each once: later stages pass a failure on
        f"case {case}: {error}" for case, error in cli.failures({"cases": args.bad}).items()
    )
    for path in args.manifests:
        made = read_json(path)
        cases |= made["cases"]
        failed = cli.failures(made)
        problems |= dict.fromkeys(f"case {case}: {error}" for case, error in failed.items())
        if failed and not args.pass_on:
            path.unlink()  # to be tried again next time
    if not args.pass_on:
        raise_all(list(problems), "cases that failed")
    if args.dataset:
        forget_those_that_left(args.folder, args.chunks, read_dataset(args.dataset))
    kept = ("content", "error", cli.LEFT_OUT)
    short = {c: {k: s[k] for k in kept if k in s} for c, s in cases.items()}
    told = {} if args.settings is None else {"settings": args.settings}
    write_json(args.output, told | {"cases": dict(sorted(short.items()))})


def forget_those_that_left(folder: Path, chunks: Path, dataset: Dataset) -> None:
    """Remove the arrays of cases that this run knew and that are no longer in the dataset."""
    _, groups = read_record(chunks, dataset.task)
    cli.forget_cases(folder, groups.keys() - set(dataset.train_ids()))
    cli.forget_cases(folder / "test", groups.keys() - set(dataset.test_ids()))


if __name__ == "__main__":
    cli.run(main)
