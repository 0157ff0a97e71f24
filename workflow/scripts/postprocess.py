"""Apply a postprocessing strategy to predicted label maps."""

from pathlib import Path

from mist_core import cli


def main() -> None:
    p = cli.case_parser(__doc__)
    p.add_argument("--base-predictions", type=Path, required=True, help="folder of <case>.nii.gz")
    p.add_argument("--postprocess-strategy", type=Path, required=True, help="strategy JSON")
    args = p.parse_args()

    def source(case_id: str) -> Path:
        return args.base_predictions / f"{case_id}.nii.gz"

    def key(case_id: str) -> str:
        return cli.digest(args.postprocess_strategy.read_text(encoding="utf-8"), source(case_id))

    def compute(case_id: str, folder: Path) -> None:
        from mist_core import io, postprocess

        strategy = postprocess.read_strategy(args.postprocess_strategy)
        before = io.read_labels(source(case_id))
        after = io.Volume(postprocess.postprocess(before.array, strategy), before.geometry)
        io.write_volume(folder / f"{case_id}.nii.gz", after)

    cli.do_asked(cli.CaseWork(lambda case_id: [f"{case_id}.nii.gz"], key, compute), args)


if __name__ == "__main__":
    cli.run(main)
