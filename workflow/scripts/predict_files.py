"""Predict label maps of new images with trained models, on the grids of the images."""

import argparse
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mist_core import cli
from mist_core.config import Predict
from mist_core.dataset import missing_channels
from mist_core.errors import DataError, raise_all
from mist_core.inputs import TABLE, NewCase, case_of_files, cases_in_folder, cases_of_table
from mist_core.lease import gpu_pool, take_gpus
from mist_core.plan import Plan, read_plan, trained_alike

log = logging.getLogger(__name__)
DEFAULTS = Predict()


def main() -> None:
    args = arguments()
    choose_device("cpu" if run_on_cpu(args.models_dir) else args.device)
    models = cache(lambda: load(args.models_dir, args.folds, args.own_code))
    plan = read_plan(args.config) if args.config else models()[0].plan
    try:
        cases = find_cases(args, plan)
    except DataError:
        refuse_other_plan(args, plan, models())  # whose channels these files may not be
        raise
    refuse_to_overwrite(cases, args.output, args.overwrite)
    on_gpu = uses_gpu()
    settings = Predict(
        overlap=args.overlap,
        flips=on_gpu if args.tta is None else args.tta == "flips",
        window_batch=args.window_batch,
    )
    work = work_of(args, plan, cases, models, settings)
    with cli.alone(args.output / TABLE):
        try:
            cli.do_cases(work, list(cases), args.output)
        finally:
            write_table(args.output, list(cases), plan)


def arguments() -> argparse.Namespace:
    """The command line, of which those flags that exclude each other were looked at."""
    p = cli.parser(__doc__)
    p.add_argument(
        "--models-dir",
        type=Path,
        required=True,
        help="folder with fold_<k>.pt or fold_<k>.onnx, a package, or one file of a model",
    )
    p.add_argument("--config", type=Path, help="config.json of the models; none: what they hold")
    p.add_argument(
        "--own-code", action="store_true", help="run the code of a network that is not ours"
    )
    inputs = p.add_mutually_exclusive_group(required=True)
    inputs.add_argument("--paths-csv", type=Path, help="CSV with id and a column for every channel")
    inputs.add_argument(
        "--input", type=Path, help="folder of patients' folders, or of files <case>_0000.nii.gz"
    )
    inputs.add_argument(
        "--image", nargs="+", metavar="CHANNEL=FILE", help="the files of one case, with --id"
    )
    p.add_argument("--id", help="what the case of --image is called")
    p.add_argument("--output", type=Path, required=True, help="folder for the predictions")
    p.add_argument(
        "--device", default="cuda", help="cpu, cuda, or the number of a GPU, of those to be seen"
    )
    p.add_argument("--folds", nargs="+", type=_count_from(0), metavar="K", help="only these models")
    p.add_argument(
        "--tta",
        choices=("none", "flips"),
        help="average over mirrored copies where training mirrored; if not said, on a GPU only",
    )
    p.add_argument(
        "--overlap", type=_share, default=DEFAULTS.overlap, help="of windows, 0 to below 1"
    )
    p.add_argument(
        "--window-batch",
        type=_count_from(1),
        default=DEFAULTS.window_batch,
        help="windows that go through a network at once",
    )
    p.add_argument("--postprocess-strategy", type=Path, help="strategy JSON to apply")
    p.add_argument("--resume", action="store_true", help="keep what is done: always so")
    p.add_argument("--overwrite", action="store_true", help="make again what is done")
    p.add_argument(
        "--output-probs", action="store_true", help="write probabilities/ID.nii.gz, too: much space"
    )
    args = p.parse_args()
    if args.resume and args.overwrite:
        raise DataError("--resume: expected no --overwrite beside it, found both. Choose one.")
    if bool(args.image) != bool(args.id):
        raise DataError("--id: expected together with --image, found one of the two. Give both.")
    return args


def _count_from(lowest: int) -> Any:
    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {lowest}, found {text!r}"
            )
        return int(text)

    return count


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to below 1, found {text!r}")
    return value


def find_cases(args: argparse.Namespace, plan: Plan) -> dict[str, NewCase]:
    """The cases to predict, by id."""
    if args.paths_csv:
        return cases_of_table(args.paths_csv, plan)
    if args.image:
        return case_of_files(args.id, args.image, plan)
    if args.input.resolve() == args.output.resolve():
        raise DataError(
            f"--output: expected a folder of its own, found {args.output}, that of the images. "
            "Choose another."
        )
    cases = cases_in_folder(args.input, plan, args.config or args.models_dir, args.output)
    for case_id, case in cases.items():
        files = zip(plan.dataset_info.images, case.images, strict=False)
        if case.images:
            words = (f"{name} {file or 'missing'}" for name, file in files)
            log.info("case %s: %s", case_id, ", ".join(words))
    return cases


def refuse_to_overwrite(cases: Mapping[str, NewCase], output: Path, overwrite: bool) -> None:
    """Raise DataError where a prediction would take the place of an image, or of a file in a folder
    in which nothing was predicted yet.
    """
    images = {path.resolve() for case in cases.values() for path in case.images if path}
    of_others = not overwrite and not cli.record_of(output, "").parent.exists()
    problems = []
    for case_id in cases:
        made = output / f"{case_id}.nii.gz"
        words = f"{made}: expected a place for the prediction of case {case_id}, found"
        if made.resolve() in images:
            problems.append(f"{words} an image. Choose another folder, or id.")
        elif of_others and made.exists():
            problems.append(f"{words} a file. Choose another folder, or say --overwrite.")
    raise_all(problems, "--output")


def uses_gpu() -> bool:
    """Whether models are to run on a GPU."""
    if not gpu_pool(os.environ):
        return False
    import torch

    return bool(torch.backends.cuda.is_built())  # without taking one


def run_on_cpu(models: Path) -> bool:
    """Whether models leave a GPU that is here to others, since they are ONNX files."""
    if not gpu_pool(os.environ):
        return False
    from mist_core.onnxfile import onnx_files  # which loads torch

    found = bool(onnx_files(models))
    if found:
        log.info("%s: ONNX files run on the CPU", models)
    return found


def choose_device(name: str) -> None:
    """Let only the device that was asked for be seen."""
    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    pool = gpu_pool(os.environ)
    if name.isdigit() and int(name) < len(pool):
        os.environ["CUDA_VISIBLE_DEVICES"] = pool[int(name)]
    elif name != "cuda":
        numbers = f", or a number below {len(pool)}" if pool else ""
        raise DataError(f"--device: expected cpu or cuda{numbers}, found {name!r}.")
    elif not pool:
        log.info("no GPU here: predicting on the CPU")


def work_of(
    args: argparse.Namespace,
    plan: Plan,
    cases: Mapping[str, NewCase],
    models: Callable[[], Any],
    settings: Predict,
) -> cli.CaseWork:
    """How a case is read, predicted and written."""
    from mist_core import postprocess

    strategy = args.postprocess_strategy and postprocess.read_strategy(args.postprocess_strategy)
    obeyed = plan.model_dump(mode="json", exclude={"analysis", "left_out"})
    # Of the settings those that change a label map.
    told = [settings.overlap, settings.flips, [step.model_dump() for step in strategy or ()]]
    told += postprocess.own_sources(strategy or [])
    likely = args.output_probs or postprocess.needs_probabilities(strategy or [])

    @cache
    def loaded() -> Any:
        refuse_other_plan(args, plan, models())
        tell_of_flips(models(), args.tta, settings)
        return models()

    def outputs(case: str) -> list[str]:
        more = [f"probabilities/{case}.nii.gz"] if args.output_probs else []
        return [f"{case}.nii.gz", f"qc/{case}.png", f"qc/{case}.json", *more]

    def key(case: str) -> str:
        files = [path and path.resolve() for path in cases[case].files()]  # from wherever it runs
        return cli.digest(told, obeyed, args.folds, args.models_dir.resolve(), *files)

    def prepare(case: str) -> Any:
        from mist_core import io, preprocess

        volumes = [path and io.read_image(path) for path in cases[case].files()]
        return preprocess.preprocess(volumes, None, plan), next(filter(None, volumes))

    def compute(case: str, folder: Path, prepared: Any) -> Any:
        from mist_core import predict

        done, first = prepared
        found = predict.predict_preprocessed(loaded(), done.image, done.origin, settings, likely)
        return found, first

    def finish(case: str, folder: Path, computed: Any) -> None:
        from mist_core import io, quality

        found, first = computed
        volume = found.labels
        if args.output_probs:
            path = folder / f"probabilities/{case}.nii.gz"
            io.write_probabilities(path, found.probabilities, volume.geometry)
        if strategy:
            volume = changed(found)
        io.write_volume(folder / f"{case}.nii.gz", volume)
        missing = missing_channels(plan.dataset_info.images, cases[case].images)
        quality.write_quality(folder / "qc", case, first, volume, plan, missing)

    def changed(found: Any) -> Any:
        from mist_core import io

        volume, by_label = found.labels, None
        if found.probabilities is not None:
            by_label = dict(zip(plan.dataset_info.labels, found.probabilities, strict=True))
        spacing_mm = volume.geometry.spacing
        try:
            after = postprocess.postprocess(volume.array, strategy, spacing_mm, by_label)
        except DataError as error:
            raise DataError(f"{args.postprocess_strategy}: {error}") from error
        return io.Volume(after, volume.geometry)

    work = cli.CaseWork(outputs, key, compute, None, prepare, finish, args.overwrite)
    if cli.unfinished(work, list(cases), args.output):
        loaded()  # what is wrong with the models is wrong for all cases
    return work


def load(path: Path, folds: Sequence[int] | None, own_code: bool) -> Any:
    """The models, on the device that was chosen."""
    take_gpus()
    from mist_core import device, predict

    device.tune(device.best_device())
    return predict.load_model(path, folds, own_code=own_code)


def refuse_other_plan(args: argparse.Namespace, plan: Plan, models: Sequence[Any]) -> None:
    """Raise DataError where the models were not trained with the plan that was named."""
    if args.config and not all(trained_alike(plan, m.plan, m.train.regions) for m in models):
        raise DataError(
            f"{args.config}: expected the plan that {args.models_dir} was trained with, found "
            "another. Name the config.json of these models, or none."
        )


def tell_of_flips(models: Sequence[Any], asked: str | None, settings: Predict) -> None:
    """Say what mirrored copies cost where they are left out by default, or do nothing."""
    times = max(2 ** len(model.train.mirrored_axes) for model in models)
    if times > 1 and asked is None and not settings.flips:
        log.info("without mirrored copies on a CPU: --tta flips would take %d times as long", times)
    if times == 1 and asked == "flips":
        log.info("--tta flips changes nothing: these models were trained without mirroring")


def write_table(output: Path, cases: Sequence[str], plan: Plan) -> None:
    """Write predictions.csv, and tell of each case that should be looked at."""
    from mist_core import quality

    odd = quality.write_table(output / TABLE, output / "qc", cases, plan)
    for case, words in odd.items():
        picture = output / f"qc/{case}.png"
        if picture.exists():
            log.warning("look at case %s: %s (%s)", case, ", ".join(words), picture)


if __name__ == "__main__":
    cli.run(main)
