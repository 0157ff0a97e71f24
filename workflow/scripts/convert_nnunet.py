"""Bring a raw dataset of nnU-Net, version 1 or 2, into folders of patients."""

from pathlib import Path

from mist_core import cli, convert


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument(
        "--source", type=Path, required=True, help="folder with dataset.json, imagesTr and labelsTr"
    )
    p.add_argument("--output", type=Path, required=True, help="folder for the dataset")
    p.add_argument("--link", action="store_true", help="link to the files instead of copying them")
    p.add_argument("--num-workers-conversion", type=int, default=1, help="threads")
    args = p.parse_args()
    copies, description = convert.from_nnunet(args.source, args.output)
    convert.place(copies, description, args.output, args.link, args.num_workers_conversion)


if __name__ == "__main__":
    cli.run(main)
