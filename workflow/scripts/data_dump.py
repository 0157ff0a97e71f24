"""Merge the descriptions of the training cases into data_dump.json and data_dump.md."""

import logging
from math import prod
from pathlib import Path

import numpy as np

from mist_core import cli, describe
from mist_core.dataset import read_dataset
from mist_core.files import read_json, read_rows, write_json, write_text
from mist_core.plan import read_plan

log = logging.getLogger(__name__)


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--dataset", type=Path, required=True, help="dataset JSON")
    p.add_argument("--manifests", type=Path, nargs="+", required=True, help="what describe wrote")
    p.add_argument("--plan", type=Path, required=True, help="config.json of the analysis")
    p.add_argument("--boxes", type=Path, required=True, help="fg_bboxes.csv of the analysis")
    p.add_argument("--output-json", type=Path, required=True, help="JSON to write")
    p.add_argument("--output-md", type=Path, required=True, help="Markdown to write")
    args = p.parse_args()

    descriptions, left_out = described(args.manifests)
    dump = describe.data_dump(
        descriptions,
        read_plan(args.plan),
        read_dataset(args.dataset),
        {row["id"]: voxels_in(row) for row in read_rows(args.boxes)},
        args.plan,
        left_out,
    )
    write_json(args.output_json, dump)
    write_text(args.output_md, describe.to_markdown(dump))


def described(manifests: list[Path]) -> tuple[list[describe.Description], list[str]]:
    """The descriptions of all cases of some jobs, and the ids of those that have none."""
    found, left_out = [], []
    for path in manifests:
        made = read_json(path)
        without = cli.without_files(made)
        for case_id, state in without.items():
            log.info("left out: case %s: %s", case_id, *state.values())
        left_out += without
        for case_id in made["cases"].keys() - without.keys():
            folder = Path(made["folder"])
            samples = np.load(folder / f"{case_id}.npy", allow_pickle=False)
            fields = read_json(folder / f"{case_id}.json")
            found.append(describe.description_from_json(fields, samples))
        if cli.failures(made):
            path.unlink()  # to be tried again next time
    return found, left_out


def voxels_in(row: dict[str, str]) -> int:
    """How many voxels a box holds, whose bounds are both inside."""
    return prod(int(row[f"{axis}_end"]) - int(row[f"{axis}_start"]) + 1 for axis in "xyz")


if __name__ == "__main__":
    cli.run(main)
