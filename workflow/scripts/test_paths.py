"""List the files of the test cases."""

from pathlib import Path

from mist_core import cli
from mist_core.dataset import find_cases, read_dataset
from mist_core.files import write_rows


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--dataset", type=Path, required=True, help="dataset JSON")
    p.add_argument("--output", type=Path, required=True, help="the CSV to write")
    args = p.parse_args()

    dataset = read_dataset(args.dataset)
    cases = find_cases(dataset).test.values()
    rows = [{"id": c.id} | dict(zip(dataset.channels, c.images, strict=True)) for c in cases]
    write_rows(args.output, ["id", *dataset.channels], rows)


if __name__ == "__main__":
    cli.run(main)
