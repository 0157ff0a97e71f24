"""Bring the files that CSVs list into folders of patients."""

import logging
from pathlib import Path

from mist_core import cli, convert

log = logging.getLogger(__name__)


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--train-csv", type=Path, required=True, help="CSV with id, mask, images...")
    p.add_argument("--output", type=Path, required=True, help="folder for the dataset")
    p.add_argument("--test-csv", type=Path, help="CSV with id, images...")
    p.add_argument(
        "--optional-images", nargs="+", default=[], help="columns whose cells may be empty"
    )
    p.add_argument("--link", action="store_true", help="link to the files instead of copying them")
    p.add_argument("--num-workers-conversion", type=int, default=1, help="threads")
    args = p.parse_args()
    copies, description = convert.from_tables(
        args.train_csv, args.test_csv, args.output, args.optional_images
    )
    convert.place(copies, description, args.output, args.link, args.num_workers_conversion)
    if missing := [key for key, value in description.items() if value is None]:
        log.info("fill in %s in %s", ", ".join(missing), args.output / "dataset.json")


if __name__ == "__main__":
    cli.run(main)
