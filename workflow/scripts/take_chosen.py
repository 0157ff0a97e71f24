"""Take each training case's label map from the strategy that was chosen without its patient."""

import shutil
from pathlib import Path

from mist_core import cli
from mist_core.files import read_json
from mist_core.search import NONE


def main() -> None:
    p = cli.case_parser(__doc__)
    p.add_argument("--choice", type=Path, required=True, help="choice.json")
    p.add_argument("--experiment", type=Path, required=True, help="its folder in the results")
    args = p.parse_args()
    chosen = read_json(args.choice)["held_out"]["chosen_by_case"]

    def source(case_id: str) -> Path:
        name, home = chosen.get(case_id, NONE), args.experiment
        raw: Path = home / "predictions/train/raw"
        folder = raw if name == NONE else home / f"postprocess/{name}/predictions/train"
        return folder / f"{case_id}.nii.gz"

    def key(case_id: str) -> str:
        return cli.digest(source(case_id))

    def compute(case_id: str, folder: Path) -> None:
        shutil.copyfile(source(case_id), folder / f"{case_id}.nii.gz")

    work = cli.CaseWork(lambda case_id: [f"{case_id}.nii.gz"], key, compute)
    cli.do_asked(work, args)


if __name__ == "__main__":
    cli.run(main)
