"""Describe training cases: one read, one small JSON each, with all that is wrong in it."""

from pathlib import Path

from mist_core import cli
from mist_core.dataset import read_dataset
from mist_core.files import write_json


def main() -> None:
    p = cli.case_parser(__doc__)
    p.add_argument("--dataset", type=Path, required=True, help="dataset JSON")
    args = p.parse_args()
    dataset = read_dataset(args.dataset)

    def key(case_id: str) -> str:
        case = dataset.case(case_id)
        return cli.digest(*case.images, case.mask, case.ignore_label, *case.optional)

    def compute(case_id: str, folder: Path) -> None:
        from mist_core import analyze

        fingerprint = analyze.fingerprint(dataset.case(case_id))
        write_json(folder / f"{case_id}.json", analyze.fingerprint_to_json(fingerprint))

    cli.do_asked(cli.CaseWork(lambda case_id: [f"{case_id}.json"], key, compute), args)


if __name__ == "__main__":
    cli.run(main)
