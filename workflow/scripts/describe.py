"""Describe training cases for the data dump: a small JSON each, and samples of the intensities."""

from pathlib import Path

from mist_core import cli
from mist_core.dataset import read_dataset
from mist_core.files import read_json, write_json
from mist_core.plan import left_out_of


def main() -> None:
    p = cli.case_parser(__doc__)
    p.add_argument("--dataset", type=Path, required=True, help="dataset JSON")
    p.add_argument("--plan", type=Path, required=True, help="config.json written by analyze")
    args = p.parse_args()
    dataset = read_dataset(args.dataset)

    def outputs(case_id: str) -> list[str]:
        return [f"{case_id}.json", f"{case_id}.npy"]

    def key(case_id: str) -> str:
        case = dataset.case(case_id)
        return cli.digest(*case.images, case.mask, case.ignore_label)

    def compute(case_id: str, folder: Path) -> None:
        from mist_core import describe
        from mist_core.io import write_array

        description = describe.describe(dataset.case(case_id))
        fields, samples = outputs(case_id)
        write_json(folder / fields, describe.description_to_json(description))
        write_array(folder / samples, description.samples)

    left_out = left_out_of(read_json(args.plan), args.case)
    cli.do_asked(cli.CaseWork(outputs, key, compute), args, left_out=left_out)


if __name__ == "__main__":
    cli.run(main)
