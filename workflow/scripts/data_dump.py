"""Merge the descriptions of the training cases into data_dump.json and data_dump.md."""

from math import prod
from pathlib import Path

import numpy as np

from mist_core import cli, describe
from mist_core.dataset import read_dataset
from mist_core.errors import raise_all
from mist_core.files import read_json, read_rows, write_json, write_text
from mist_core.plan import read_plan


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--dataset", type=Path, required=True, help="dataset JSON")
    p.add_argument("--manifests", type=Path, nargs="+", required=True, help="what describe wrote")
    p.add_argument("--plan", type=Path, required=True, help="config.json of the analysis")
    p.add_argument("--boxes", type=Path, required=True, help="fg_bboxes.csv of the analysis")
    p.add_argument("--output-json", type=Path, required=True, help="JSON to write")
    p.add_argument("--output-md", type=Path, required=True, help="Markdown to write")
    args = p.parse_args()

    plan = read_plan(args.plan)
    dump = describe.data_dump(
        described(args.manifests),
        plan,
        read_dataset(args.dataset),
        {row["id"]: voxels_in(row) for row in read_rows(args.boxes)},
        args.plan,
        sorted(plan.left_out),
    )
    write_json(args.output_json, dump)
    write_text(args.output_md, describe.to_markdown(dump))


def described(manifests: list[Path]) -> list[describe.Description]:
    """The descriptions of all cases of some jobs but those that the plan leaves out.

    Raises one DataError with every case that could not be described.
    """
    found, problems = [], []
    for path in manifests:
        made = read_json(path)
        if failed := cli.failures(made):
            problems += [f"case {case_id}: {error}" for case_id, error in failed.items()]
            path.unlink()  # to be tried again next time
        for case_id in made["cases"].keys() - cli.without_files(made).keys():
            folder = Path(made["folder"])
            samples = np.load(folder / f"{case_id}.npy", allow_pickle=False)
            fields = read_json(folder / f"{case_id}.json")
            found.append(describe.description_from_json(fields, samples))
    raise_all(problems, "cases that could not be described")
    return found


def voxels_in(row: dict[str, str]) -> int:
    """How many voxels a box holds, whose bounds are both inside."""
    return prod(int(row[f"{axis}_end"]) - int(row[f"{axis}_start"]) + 1 for axis in "xyz")


if __name__ == "__main__":
    cli.run(main)
