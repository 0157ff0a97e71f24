"""Bring the files that CSVs list into folders of patients."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mist_core import cli, convert

log = logging.getLogger(__name__)


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--train-csv", type=Path, required=True, help="CSV with id, mask, images...")
    p.add_argument("--output", type=Path, required=True, help="folder for the dataset")
    p.add_argument("--test-csv", type=Path, help="CSV with id, images...")
    p.add_argument("--num-workers-conversion", type=int, default=1, help="threads")
    args = p.parse_args()
    copies, description = convert.from_tables(args.train_csv, args.test_csv, args.output)
    with ThreadPoolExecutor(args.num_workers_conversion) as pool:
        list(pool.map(convert.bring, copies))
    convert.describe(args.output, description)
    log.info("fill in task, modality, labels and final_classes in %s", args.output / "dataset.json")


if __name__ == "__main__":
    cli.run(main)
