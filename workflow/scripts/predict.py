"""Predict label maps of preprocessed cases on their original grids, with one model or several."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from mist_core import cli
from mist_core.lease import take_gpus


def main() -> None:
    p = cli.case_parser(__doc__)
    p.add_argument("--numpy", type=Path, required=True, help="folder of the preprocessed arrays")
    p.add_argument("--models", type=Path, nargs="+", required=True, help="averaged")
    p.add_argument("--settings", type=json.loads, default={}, help="config section, as JSON")
    p.add_argument("--jobs-per-gpu", type=int, default=1, help="that may share a GPU")
    p.add_argument(
        "--output-probs", action="store_true", help="write probabilities/ID.nii.gz, too: much space"
    )
    args = p.parse_args()

    def outputs(case_id: str) -> list[str]:
        more = [f"probabilities/{case_id}.nii.gz"] if args.output_probs else []
        return [f"{case_id}.nii.gz", *more]

    def arrays(case_id: str) -> tuple[Path, Path]:
        return args.numpy / f"images/{case_id}.npy", args.numpy / f"geometry/{case_id}.json"

    def key(case_id: str) -> str:
        return cli.digest(args.settings, *args.models, *arrays(case_id))

    @cache
    def loaded() -> Any:
        take_gpus(1, args.jobs_per_gpu)
        from mist_core import device, predict

        device.tune(device.best_device())
        return predict.load_model(args.models, own_code=True)

    def compute(case_id: str, folder: Path) -> Any:
        from mist_core import predict
        from mist_core.config import Predict

        image, geometry = arrays(case_id)
        settings = Predict(**args.settings)
        return predict.predict_case(loaded(), image, geometry, settings, args.output_probs)

    def finish(case_id: str, folder: Path, found: Any) -> None:
        from mist_core import io

        volume = found.labels
        io.write_volume(folder / f"{case_id}.nii.gz", volume)
        if found.probabilities is not None:
            path = folder / f"probabilities/{case_id}.nii.gz"
            io.write_probabilities(path, found.probabilities, volume.geometry)

    work = cli.CaseWork(outputs, key, compute, finish=finish)
    cli.do_asked(work, args)


if __name__ == "__main__":
    cli.run(main)
