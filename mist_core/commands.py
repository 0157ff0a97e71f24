"""The commands that are installed: ``mist_run_all``, its stages, and tools for files of any kind.

The first four write the config that their flags describe to ``<results>/run-<key>.yaml`` and hand
over to Snakemake, with all arguments that they do not know. What a flag does not say has its
default again the next time: nothing is remembered but what the analysis found and was told. The
others are the scripts of the workflow.
"""

import argparse
import json
import os
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from mist_core import cli
from mist_core.config import LOSSES, Config, merged
from mist_core.errors import DataError
from mist_core.files import read_json, write_text
from mist_core.plan import read_plan
from mist_core.topology import ARCHITECTURES

# Arguments of Snakemake that say how many jobs run at once, or where.
CORES = re.compile(r"-[cj]\d*|--(cores|jobs|executor|profile|workflow-profile)(=.*)?|-e")
PROFILE = "--workflow-profile"
OF_THE_ANALYSIS = ("fingerprint", "analyze", "describe")  # rules


def home() -> Path:
    """Where the workflow lies: inside the installed package, or in the repository beside it."""
    package = Path(__file__).parent
    installed = package / "shipped"
    return installed if (installed / "workflow/Snakefile").exists() else package.parent


class Flags:
    """A parser whose flags set places of the config."""

    def __init__(self, description: str | None) -> None:
        self.parser = argparse.ArgumentParser(
            description=description,
            epilog="All other arguments go to Snakemake: -n shows what would be done, --cores, "
            "--unlock, --workflow-profile and the rest work as there.",
            allow_abbrev=False,
        )
        # Snakemake keeps the last of these only, so that they have to be put together.
        files = self.parser.add_argument_group("of Snakemake")
        files.add_argument(
            "--configfile", "--configfiles", nargs="+", default=[], help="more config, below flags"
        )
        files.add_argument("--forcerun", "-R", nargs="*", default=[], help="rules to run again")
        self.cores: list[str] = []

    def add(self, name: str, place: str, text: str, **options: Any) -> None:
        """A flag for one place of the config, which keeps its default unless the flag is given."""
        default = _at(Config().model_dump(), place)
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        self.parser.add_argument(
            name,
            dest=place,
            default=argparse.SUPPRESS,
            help=f"{text} (default: {shown})" if shown not in ("", None) else text,
            **options,
        )

    def add_workers(self, name: str) -> None:
        """A flag that says how many cores the command may use; the largest counts."""
        self.parser.add_argument(
            name,
            type=_count,
            metavar="N",
            help="cores of the whole command, of such flags the largest; --cores is stronger "
            "(default: all)",
        )
        self.cores.append(name.strip("-").replace("-", "_"))

    def add_switch(self, name: str, text: str, place: str = "") -> None:
        """A flag that is given or not; true and false are understood too.

        With a place of the config it is said there, if it is given.
        """
        of_config = {"dest": place, "default": argparse.SUPPRESS} if place else {"default": False}
        self.parser.add_argument(
            name, type=_truth, nargs="?", const=True, help=text, metavar="yes|no", **of_config
        )


def _at(values: dict[str, Any], place: str) -> Any:
    for key in place.split("."):
        values = values[key]
    return values


def _nested(place: str, value: Any) -> dict[str, Any]:
    for key in reversed(place.split(".")):
        value = {key: value}
    return dict(value)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def _truth(text: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"expected yes or no, found {text!r}")
    return words[text.lower()]


def _folders(flags: Flags, *names: str) -> None:
    texts = {"results": "folder of the results", "numpy": "folder of the preprocessed arrays"}
    for name in names:
        flags.add(f"--{name}", name, texts[name])
    flags.add_switch("--overwrite", "make this again even if nothing has changed")


def _analysis(flags: Flags) -> None:
    flags.parser.add_argument("--data", help="dataset JSON, or a folder with a dataset.json")
    flags.add("--nfolds", "analyze.folds", "cross-validation folds", type=_count)
    flags.add_workers("--num-workers-analyze")
    flags.add_switch("--verify", "check all files first: always done")
    flags.add_switch(
        "--data-dump",
        "write data_dump.json and data_dump.md, which describe the dataset",
        place="analyze.data_dump",
    )


def _preprocessing(flags: Flags) -> None:
    flags.add_workers("--num-workers-preprocess")
    flags.add_switch(
        "--compute-dtms",
        "write distance maps, which some losses need",
        place="preprocess.compute_dtms",
    )
    flags.add_switch(
        "--no-preprocess",
        "only convert images that are preprocessed already",
        place="preprocess.skip",
    )


def _training(flags: Flags) -> None:
    add = flags.add
    add("--model", "train.model", f"network: {', '.join(ARCHITECTURES)}, or module:function")
    add("--patch-size", "analyze.patch_size", "patch in voxels", nargs=3, type=_count, metavar="N")
    add("--loss", "train.loss", f"loss: {', '.join(LOSSES)}, or module:function")
    add(
        "--composite-loss-weighting",
        "train.composite_loss_weighting",
        "weight of the region part of a loss of two parts over the epochs",
        choices=("constant", "linear", "cosine"),
    )
    add("--epochs", "train.epochs", "epochs of each fold", type=int)
    add("--batch-size-per-gpu", "train.batch_size", "patches of a step on each GPU", type=int)
    add("--learning-rate", "train.learning_rate", "highest learning rate", type=float)
    add("--warmup-epochs", "train.warmup_epochs", "epochs of rising learning rate", type=int)
    add(
        "--lr-scheduler",
        "train.lr_scheduler",
        "learning rate after that",
        choices=("constant", "polynomial", "cosine"),
    )
    add("--optimizer", "train.optimizer", "optimiser", choices=("adam", "adamw", "sgd"))
    add("--l2-penalty", "train.weight_decay", "weight decay", type=float)
    add("--pretrained-weights", "train.pretrained_weights", "model file to begin with")
    add(
        "--pretrained-part",
        "train.pretrained_part",
        "which of its weights: of the encoder, or all that fit",
        choices=("encoder", "all"),
    )
    add("--pretrained-config", "train.pretrained_config", "config.json of those weights")
    add(
        "--input-channel-strategy",
        "train.input_channel_strategy",
        "how those weights are fitted to other channels",
        choices=("average", "first", "skip"),
    )
    add(
        "--val-percent",
        "train.val_percent",
        "share of the training cases set aside, of which the best weights are taken; 0: none",
        type=float,
    )
    add("--folds", "folds_to_train", "folds to train", nargs="+", type=int)
    flags.parser.add_argument(
        "--num-workers-evaluate",
        type=_count,
        metavar="N",
        help="processes of an evaluation (default: one for eight cases)",
    )
    flags.add_switch("--resume", "go on from the checkpoints: always done")


def analyze() -> None:
    """Analyze a dataset: target spacing, normalisation, patch size, folds."""
    flags = Flags(analyze.__doc__)
    _folders(flags, "results")
    _analysis(flags)
    _hand_over(flags, "analyzed", OF_THE_ANALYSIS)


def preprocess() -> None:
    """Preprocess an analyzed dataset: reorient, crop, resample, normalise."""
    flags = Flags(preprocess.__doc__)
    _folders(flags, "results", "numpy")
    _preprocessing(flags)
    _hand_over(flags, "preprocessed", ["preprocess"])


def train() -> None:
    """Train the folds of a preprocessed dataset, predict what each holds out, and evaluate."""
    flags = Flags(train.__doc__)
    _folders(flags, "results", "numpy")
    _training(flags)
    _hand_over(flags, "all", ["train"])


def run_all() -> None:
    """Analyze, preprocess, train, predict and evaluate a dataset."""
    flags = Flags(run_all.__doc__)
    _folders(flags, "results", "numpy")
    _analysis(flags)
    _preprocessing(flags)
    _training(flags)
    _hand_over(flags, "all", [*OF_THE_ANALYSIS, "preprocess", "train"])


def _hand_over(flags: Flags, target: str, rules: Sequence[str]) -> None:
    """Read the command line, write the config, and become Snakemake."""
    args, others = flags.parser.parse_known_args()
    cli.run(lambda: _become(_snakemake(flags, args, others, target, rules)))


def _become(command: list[str]) -> None:
    os.execv(command[0], command)  # noqa: S606 (the arguments are the user's own)


def _snakemake(
    flags: Flags,
    args: argparse.Namespace,
    others: Sequence[str],
    target: str,
    rules: Sequence[str],
) -> list[str]:
    """The command that does what the flags say; its config is written."""
    given = vars(args)
    if given.get("resume") and given["overwrite"]:
        raise DataError("--resume: expected no --overwrite beside it, found both. Choose one.")
    chosen: dict[str, Any] = {}
    fields = Config().model_dump()
    for place, value in given.items():
        if place.split(".")[0] in fields:
            chosen = merged(chosen, _nested(place, value))
    results = Path(chosen.setdefault("results", Config().results))
    told = _analyzed(results, args)
    if "preprocess" not in rules:
        told = merged(told, _preprocessed(Path(chosen.get("numpy", Config().numpy))))
    config = merged(told, chosen)
    # A name for each content: jobs of a run that is at work read theirs again.
    path = results / f"run-{cli.digest(config)}.yaml"
    write_text(path, yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False))

    command = [sys.executable, "-m", "snakemake", target]
    command += ["--snakefile", str(home() / "workflow/Snakefile")]
    command += ["--configfile", *args.configfile, str(path)]
    if not any(word.split("=")[0] == PROFILE for word in others):
        command += [PROFILE, str(home() / "profiles/default")]
    if again := [*args.forcerun, *(rules if given["overwrite"] else [])]:
        command += ["--forcerun", *again]
    if workers := given.get("num_workers_evaluate"):
        scoring = ("evaluate", "evaluate_strategy", "evaluate_tried")
        command += ["--set-threads", *(f"{rule}={workers}" for rule in scoring)]
    if not any(CORES.fullmatch(word) for word in others):
        workers = [given[name] for name in flags.cores if given[name]]
        command += ["--cores", str(max(workers)) if workers else "all"]
    return [*command, *others]


def _analyzed(results: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What the analysis was told: by this command, or by the one that made ``config.json``."""
    if getattr(args, "data", None):
        return {"dataset": str(Path(args.data).absolute())}
    plan = results / "config.json"
    if "data" in args and not plan.exists():
        raise DataError("--data: expected a dataset JSON, found none. Name it.")
    if not plan.exists():
        raise DataError(
            f"{plan}: expected the plan of an analysis, found none. Give mist_analyze first; if it "
            "failed, mend what it says."
        )
    analysis = read_plan(plan).analysis
    if "data" in args:
        return {"dataset": analysis.dataset}
    return analysis.model_dump(mode="json")


def _preprocessed(numpy: Path) -> dict[str, Any]:
    """What the preprocessing was told by the command that made the arrays."""
    arrays = numpy / "arrays.json"
    return {"preprocess": read_json(arrays).get("settings", {})} if arrays.exists() else {}


def _script(name: str) -> Callable[[], None]:
    def command() -> None:
        cli.program = Path(sys.argv[0]).name  # for its help: the script has a name of its own
        runpy.run_path(str(home() / f"workflow/scripts/{name}.py"), run_name="__main__")

    return command


predict = _script("predict_files")
postprocess = _script("postprocess")
evaluate = _script("evaluate")
rank = _script("rank")
ensemble = _script("ensemble")
average_weights = _script("average_weights")
package = _script("package")
convert_msd = _script("convert_msd")
convert_csv = _script("convert_csv")
convert_nnunet = _script("convert_nnunet")
