"""Bring a dataset of the Medical Segmentation Decathlon into folders of patients."""

from pathlib import Path

from mist_core import cli, convert


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument("--source", type=Path, required=True, help="folder with the dataset.json")
    p.add_argument("--output", type=Path, required=True, help="folder for the dataset")
    p.add_argument("--link", action="store_true", help="link to the files instead of copying them")
    p.add_argument("--num-workers-conversion", type=int, default=1, help="threads")
    args = p.parse_args()
    copies, description = convert.from_decathlon(args.source, args.output)
    convert.place(copies, description, args.output, args.link, args.num_workers_conversion)


if __name__ == "__main__":
    cli.run(main)
