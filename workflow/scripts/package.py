"""Pack the models of all folds into one file to hand on, or write them as ONNX.

Without --output and --onnx it says what the models are.
"""

import logging
from pathlib import Path

from mist_core import cli
from mist_core.errors import DataError
from mist_core.plan import read_plan, trained_alike

log = logging.getLogger(__name__)


def main() -> None:
    p = cli.parser(__doc__)
    p.add_argument(
        "--models-dir", type=Path, required=True, help="folder with fold_<k>.pt, or a package"
    )
    p.add_argument("--config", type=Path, help="config.json that must be that of the models")
    p.add_argument("--folds", type=int, nargs="+", help="numbers of the folds to take; none: all")
    p.add_argument("--output", type=Path, help="package to write, such as liver.pt")
    p.add_argument("--onnx", type=Path, help="folder to write fold_<k>.onnx to")
    p.add_argument(
        "--own-code", action="store_true", help="run the code of a network that is not ours"
    )
    p.add_argument("--licence", type=Path, help="text file with the licence of the weights")
    args = p.parse_args()
    if args.output and args.output.suffix == ".onnx":
        raise DataError(f"--output: expected a package, found {args.output}. Use --onnx FOLDER.")
    licence = read_text(args.licence) if args.licence else None

    from mist_core.modelfile import models_of, read_states, write_package

    states = read_states(args.models_dir, args.folds)
    if licence is not None:
        states = {name: state | {"licence": licence} for name, state in states.items()}
    models = models_of(args.models_dir, states)
    first = next(iter(models.values()))
    if args.config and not trained_alike(read_plan(args.config), first.plan, first.train.regions):
        raise DataError(
            f"{args.config}: expected the plan that {first.source} was trained with, found another."
            " Name the config.json of these models."
        )
    info = first.plan.dataset_info
    channels = [f"{c} (optional)" if c in info.optional_images else c for c in info.images]
    log.info(
        "%s: %s of %s, channels %s, labels %s, licence: %s",
        *(args.models_dir, ", ".join(models), first.train.model, ", ".join(channels)),
        *(", ".join(map(str, info.labels)), first.licence),
    )
    if args.output:
        write_package(args.output, states, first.licence)
    if args.onnx:
        from mist_core.predict import refuse_own_code

        if not args.own_code:
            refuse_own_code(models)
        from mist_core.onnxfile import write_onnx

        for name, model in models.items():
            path = args.onnx / f"{name}.onnx"
            difference = write_onnx(path, name, model)
            log.info("%s: probabilities are those of torch within %.1e", path, difference)


def read_text(path: Path) -> str:
    """The text of a file. Raises DataError where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a text file, found none ({error}). Mend it.") from None


if __name__ == "__main__":
    cli.run(main)
