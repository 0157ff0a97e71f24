"""Bring cases to the training grid: arrays that can be memory-mapped, and the way back."""

import json
import logging
from pathlib import Path

from mist_core import cli
from mist_core.config import Preprocess
from mist_core.dataset import missing_channels, read_dataset
from mist_core.files import read_json
from mist_core.plan import left_out_of, part_read_by

log = logging.getLogger(__name__)


def main() -> None:
    p = cli.case_parser(__doc__)
    p.add_argument("--dataset", type=Path, required=True, help="dataset JSON")
    p.add_argument("--plan", type=Path, required=True, help="config.json written by analyze")
    p.add_argument("--settings", type=json.loads, default={}, help="config section, as JSON")
    p.add_argument("--leave-out-bad", action="store_true", help="what fails is left out, by name")
    args = p.parse_args()
    dataset, settings = read_dataset(args.dataset), Preprocess(**args.settings)
    fields = read_json(args.plan)
    obeyed = part_read_by("preprocess", fields)
    with_mask = set(dataset.train_ids())

    def outputs(case_id: str) -> list[str]:
        names = [f"images/{case_id}.npy", f"geometry/{case_id}.json"]
        if case_id in with_mask:
            names += [f"labels/{case_id}.npy", f"foreground/{case_id}.npy"]
            names += [f"dtms/{case_id}.npy"] if settings.compute_dtms else []
        return names

    def key(case_id: str) -> str:
        case = dataset.case(case_id)
        return cli.digest(obeyed, args.settings, *case.places)

    def compute(case_id: str, folder: Path) -> None:
        from mist_core import io, preprocess
        from mist_core.plan import read_plan

        case = dataset.case(case_id)
        plan = read_plan(args.plan)
        if missing := missing_channels(dataset.channels, case.images):
            log.warning("case %s: %s missing: zeros in place", case_id, ", ".join(missing))
        images = [path and io.read_image(path) for path in case.images]
        mask = io.read_labels(case.mask) if case.mask else None
        done = preprocess.preprocess(images, mask, plan)
        preprocess.write(done, folder, case_id, len(plan.dataset_info.labels), settings)

    left_out = left_out_of(fields, args.case)
    work = cli.CaseWork(outputs, key, compute, aside="dtms/")
    cli.do_asked(work, args, left_out=left_out, leave_out=args.leave_out_bad)


if __name__ == "__main__":
    cli.run(main)
