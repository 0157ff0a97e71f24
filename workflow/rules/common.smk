"""
The checked config, the cases, the folds, and the few helpers that rules share.

All that is wrong with the config and the files of the dataset is said here, at once, before any
job.
"""

import json
import math
import os
import shlex
import sys
from pathlib import Path

import yaml
from snakemake.exceptions import IncompleteCheckpointException

import mist_core
from mist_core.cli import digest
from mist_core.config import Config, merged, read_config
from mist_core.dataset import find_cases, read_dataset
from mist_core.demo import FACTS as DEMO_FACTS, demo_cases
from mist_core.errors import DataError
from mist_core.files import read_rows
from mist_core.folds import assign_folds, read_recorded_folds
from mist_core.plan import part_read_by
from mist_core.postprocess import read_strategy

# Jobs find this environment's python also when snakemake was called by its path; those in conda
# environments find this library.
if not workflow.deployment_settings.deployment_method:
    shell.prefix(f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")
else:
    shell.prefix(
        f"export PYTHONPATH={shlex.quote(str(Path(mist_core.__file__).parents[1]))}; "
    )
SCRIPTS = os.path.relpath(Path(workflow.current_basedir) / "../scripts")
DEMO = Path("data/demo")  # made by rule make_demo_data when the config names no dataset
SMALL_CASE_MB = 16  # what one job reads at most when it works ahead, in auto
MOST_AHEAD = 32


def checked():
    """The config, the dataset and its cases; a list of all problems ends the run."""
    problems = []
    values = config if config.get("dataset") else merged(config, demo_config())
    try:
        chosen = read_config(values)
    except DataError as error:
        problems.append(str(error))
        chosen = Config(
            dataset=str(config.get("dataset", ""))
        )  # to look at the files all the same
    dataset = Path(chosen.dataset or DEMO)
    description, train, test = None, *demo_cases(DEMO)
    try:
        if chosen.dataset or (DEMO / "dataset.json").exists():
            description = read_dataset(dataset)
            folds = 1 if problems else chosen.analyze.folds
            train, test = find_cases(description, chosen.limit_cases, folds)
            problems += problems_of_classes(chosen.evaluate.classes, description.labels)
    except DataError as error:
        problems.append(str(error))
    problems += problems_of_strategies(chosen.postprocess.strategies)
    problems += problems_of_folds(chosen)
    if problems:
        sys.exit("ERROR: " + "\n".join(problems))
    return (
        chosen,
        dataset,
        description.facts() if description else DEMO_FACTS,
        train,
        test,
    )


def demo_config():
    """What the demo does differently; said aloud, since it is laid over the user's config."""
    path = Path(workflow.current_basedir) / "../../config/examples/demo.yaml"
    print(
        "No dataset in the config: this is the demo, with config/examples/demo.yaml.",
        file=sys.stderr,
    )
    return yaml.safe_load(path.read_text())


def problems_of_strategies(paths):
    """Unreadable strategy files, and names that two of them share or that stand for no strategy."""
    problems = []
    stems = [Path(path).stem for path in paths]
    for path, stem in zip(paths, stems):
        if stem == "raw" or stems.count(stem) > 1:
            problems.append(
                f"{path}: expected a file name that no other strategy has and that is not raw, "
                f"found {stem}. Rename the file."
            )
        try:
            read_strategy(Path(path))
        except DataError as error:
            problems.append(str(error))
    return problems


def problems_of_classes(classes, labels):
    """Classes of the config made of labels that the dataset does not have."""
    return [
        f"config: evaluate.classes.{name}: expected labels among {list(labels[1:])}, "
        f"found {members}."
        for name, members in (classes.items() if classes != "auto" else ())
        if not set(members) <= set(labels)
    ]


def problems_of_folds(chosen):
    """A hand edit of the folds where they are only listed: it would be lost."""
    table, record = (
        Path(chosen.results) / name for name in ("train_paths.csv", "folds.json")
    )
    if not (table.exists() and record.exists()):
        return []
    if table.stat().st_mtime < record.stat().st_mtime:
        return []
    try:
        folds = read_recorded_folds(record, chosen.analyze.folds)
        return [
            f"{table}: expected fold {folds[row['id']]} for {row['id']}, as in {record}, "
            f"found {row['fold']}. Change folds in {record}; this table is made from it."
            for row in read_rows(table)
            if str(folds.get(row["id"], row["fold"])) != row["fold"]
        ]
    except DataError as error:
        return [str(error)]


CONFIG, DATASET, FACTS, TRAIN, TEST = checked()
CASES = TRAIN | TEST
EXPERIMENTS = {name: CONFIG.for_experiment(name) for name in CONFIG.experiment_names()}
STRATEGIES = {Path(path).stem: path for path in CONFIG.postprocess.strategies}
N_FOLDS = CONFIG.analyze.folds
FOLDS = assign_folds(
    TRAIN, N_FOLDS, read_recorded_folds(Path(CONFIG.results) / "folds.json", N_FOLDS)
)
PLAN = f"{CONFIG.results}/config.json"


pathvars:
    results=CONFIG.results,
    numpy=CONFIG.numpy,


wildcard_constraints:
    case="|".join(map(re.escape, CASES)),
    fold=r"\d+",
    experiment="|".join(map(re.escape, EXPERIMENTS)),
    strategy="|".join(map(re.escape, STRATEGIES)) or "(?!)",


def settings(section):
    """A section of the config as JSON, with the overrides of the experiment if there is one."""

    def value(wildcards):
        chosen = (
            EXPERIMENTS[wildcards.experiment]
            if "experiment" in wildcards.keys()
            else CONFIG
        )
        return getattr(chosen, section).model_dump_json()

    return value


def plan(stage):
    """The part of the plan that a stage obeys; a change elsewhere leaves its outputs alone.

    Together with ``ancient(PLAN)`` as an input, this lets one invocation find exactly what a new
    plan makes necessary: the checkpoint brings the new plan in, the fallback keeps a job comparable
    in the first pass, before analyze has run.
    """

    def value(wildcards):
        try:
            path = checkpoints.analyze.get().output.plan
        except IncompleteCheckpointException:
            path = PLAN
            if not os.path.exists(path):
                raise
        with open(path) as stream:
            return part_read_by(stage, json.load(stream))

    return value


def script(name):
    """Params with a script's place, which is not what a result depends on."""
    return lambda wildcards, input: f"{SCRIPTS}/{name}.py"


def files(wildcards):
    """The files of a case in the order of the channels, which a list of inputs would not keep."""
    case = CASES[wildcards.case]
    return json.dumps([str(path) for path in (*case.images, case.mask) if path])


def images(wildcards):
    return CASES[wildcards.case].images


def mask(wildcards):
    return CASES[wildcards.case].mask


def cases_per_job():
    """As set, or as many as add up to a few megabytes without leaving a core idle."""
    if CONFIG.cases_per_job != "auto":
        return CONFIG.cases_per_job
    files = [path for case in CASES.values() for path in case.images if path.exists()]
    mean_mb = sum(path.stat().st_size for path in files) / 1e6 / max(len(CASES), 1)
    by_size = SMALL_CASE_MB / max(mean_mb, SMALL_CASE_MB / MOST_AHEAD)
    by_core = math.ceil(len(TRAIN) / max(workflow.cores or 1, 1))
    return max(1, min(int(by_size), by_core))


def mates(cases):
    """For each case, the others that its job may do ahead: its neighbours in chunks of the list."""
    cases, size = list(cases), cases_per_job()
    chunks = [cases[i : i + size] for i in range(0, len(cases), size)]
    return {
        c: chunk[k + 1 :] + chunk[:k] for chunk in chunks for k, c in enumerate(chunk)
    }


def ahead(mates):
    """Params that name the mates. Taking ``input`` keeps them out of what triggers a rerun."""
    return lambda wildcards, input: mates[wildcards.case]


def held_out(fold):
    """Cases of a fold: scored, not trained on."""
    return [case for case in TRAIN if FOLDS[case] == int(fold)]


def trained_on(fold):
    return [case for case in TRAIN if FOLDS[case] != int(fold)]


MATES = mates(TRAIN) | mates(TEST)
FOLD_MATES = {
    c: m for k in range(N_FOLDS) for c, m in mates(held_out(k)).items()
} | mates(TEST)


def candidates():
    """Every experiment with its raw predictions and with each strategy, by name."""
    for experiment in EXPERIMENTS:
        home = f"{CONFIG.results}/{experiment}"
        yield f"{experiment}/raw", f"{home}/results.csv", f"{home}/predictions/train/raw"
        for strategy in STRATEGIES:
            place = f"{home}/postprocess/{strategy}"
            yield (
                f"{experiment}/{strategy}",
                f"{place}/postprocess_results.csv",
                f"{place}/predictions/train",
            )


def folder_of_predictions(wildcards, input):
    return os.path.dirname(input.predictions[0])


def kept():
    """What a run is for, beside the report: made again if it is missing. Arrays are not."""
    strategies = [f"postprocess/{strategy}/predictions" for strategy in STRATEGIES]
    files = [f"models/fold_{fold}.pt" for fold in range(N_FOLDS)]
    files += [f"postprocess/{strategy}/strategy.json" for strategy in STRATEGIES]
    for folder in ["predictions/train/raw"] + [f"{s}/train" for s in strategies]:
        files += [f"{folder}/{case}.nii.gz" for case in TRAIN]
    for folder in ["predictions/test"] + [f"{s}/test" for s in strategies]:
        files += [f"{folder}/{case}.nii.gz" for case in TEST]
    of_experiments = [
        f"{CONFIG.results}/{e}/{file}" for e in EXPERIMENTS for file in files
    ]
    tables = [table for _, table, _ in candidates()]
    of_all = ["rank/ranking.csv"] + (["test_paths.csv"] if TEST else [])
    return of_experiments + tables + [f"{CONFIG.results}/{file}" for file in of_all]
