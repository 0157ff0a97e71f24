"""Write the demo dataset: ten training and two test cases made up from a seed."""

from pathlib import Path

from mist_core import cli, demo, phantom
from mist_core.files import write_json
from mist_core.io import write_volume


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--output", type=Path, required=True, help="folder of the dataset")
    p.add_argument("--seed", type=int, default=7)
    args = p.parse_args()

    found = demo.demo_cases(args.output)
    for case in (found.train | found.test).values():
        images, mask = phantom.make_case(case.id, args.seed)
        for path, image in zip(case.images, images.values(), strict=True):
            write_volume(path, image)
        if case.mask:
            write_volume(case.mask, mask)
    write_json(args.output / "dataset.json", demo.DESCRIPTION)


if __name__ == "__main__":
    cli.run(main)
