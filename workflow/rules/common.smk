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
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from zipfile import is_zipfile

import yaml
from snakemake.exceptions import IncompleteCheckpointException
from snakemake.logging import logger
from snakemake.settings.enums import Quietness

import mist_core
from mist_core.chunks import chunk_cases, group_cases, read_record
from mist_core.cli import LEFT_OUT, content, digest, forget_lost_files
from mist_core.commands import home
from mist_core.config import (
    BESIDE_THE_PLAN,
    DEFAULT_METRICS,
    LOSSES_OF_DISTANCES,
    OF_NO_CONSEQUENCE,
    Config,
    in_full,
    merged,
    read_config,
)
from mist_core.dataset import find_cases, read_dataset, two_sided
from mist_core.demo import FACTS as DEMO_FACTS, demo_cases
from mist_core.errors import DataError, table_of
from mist_core.files import parts_of, read_json, read_rows
from mist_core.folds import deal_folds, read_patients, write_recorded_folds
from mist_core.lease import gpu_pool
from mist_core.own import check, is_own, source_of
from mist_core.plan import left_out_of, part_read_by
from mist_core.progress import Work, follow
from mist_core.regions import membership, mirrored_regions
from mist_core.search import strategies
from mist_core.sources import sources_of
from mist_core.topology import planned_as

# Jobs find this environment's python also when snakemake was called by its path; those in conda
# environments find this library.
if not workflow.deployment_settings.deployment_method:
    shell.prefix(f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")
else:
    shell.prefix(
        f"export PYTHONPATH={shlex.quote(str(Path(mist_core.__file__).parents[1]))}; "
    )
SCRIPTS = os.path.relpath(home() / "workflow/scripts")
DEMO = Path("data/demo")  # made by rule make_demo_data when the config names no dataset
# Stages whose jobs look at what they made before: cases that are done, a checkpoint.
STAGES_WITH_MEMORY = (
    "fingerprint",
    "describe",
    "preprocess",
    "train",
    "predict",
    "ensemble",
    "postprocess",
    "evaluate",
)
AUTO = "auto"  # the strategy that is chosen
# None on a cluster, where a machine's cores are not known here; its profile sets the threads.
CORES = workflow.resource_settings.cores
CLUSTER_THREADS = 8
CHUNK_MB = 64  # files that one job reads at most when cases_per_job is auto
LARGEST_CHUNK = 64


def checked():
    """The config, the dataset and its cases; a list of all problems ends the run."""
    problems = []
    values = config | {"postprocess": in_full(config.get("postprocess"))}
    if not config.get("dataset"):
        values = demo_config(values)
    try:
        chosen = read_config(values)
    except DataError as error:
        problems.append(str(error))
        chosen = Config(
            dataset=str(config.get("dataset", ""))
        )  # to look at the files all the same
    folders = {name: str(near(getattr(chosen, name))) for name in ("results", "numpy")}
    chosen = chosen.model_copy(update=folders)
    dataset = near(chosen.dataset or DEMO / "dataset.json")
    description, found, folds = None, demo_cases(DEMO), {}
    try:
        if chosen.dataset or (DEMO / "dataset.json").exists():
            description = read_dataset(dataset)
            dataset = description.path
            found = find_cases(description, chosen.limit_cases)
            problems += problems_of_classes(chosen.evaluate.classes, description.labels)
    except DataError as error:
        problems.append(str(error))
    facts = description.facts() if description else DEMO_FACTS
    known = description or not chosen.dataset  # the labels and classes
    problems += problems_of_training(chosen, facts if known else None)
    if known:
        problems += problems_of_strategies(chosen, facts["labels"])
        problems += problems_of_rank(chosen, facts)
    try:
        folds = folds_of(chosen, found.train)
        problems += problems_of_folds(chosen)
        problems += problems_of_folds_to_train(chosen)
    except DataError as error:
        problems.append(str(error))
    problems += tell_of_cases(chosen, dataset, found, again=bool(problems))
    if problems:
        sys.exit("ERROR: " + "\n".join(problems))
    tell_of_sides(chosen, facts)
    return chosen, dataset, facts, found, folds


def tell_of_cases(chosen, dataset, found, again):
    """What is already known of bad cases; a reason to stop only where the others are not read.

    The analysis reads them all, and tells everything that is wrong in one table.
    """
    if not found.problems or not workflow.is_main_process:
        return []
    known = table_of(found.problems, dataset, found.number())
    stops = (
        chosen.analyze.verify == "strict" and found.problems.keys() - found.bad_tests
    )
    if again or (stops and workflow.output_settings.dryrun) or not found.train:
        return [known]
    print(
        f"{known}\nThe other cases are read to see what else there is.", file=sys.stderr
    )
    return []


def problems_of_folds_to_train(chosen):
    asked = chosen.folds_to_train
    if asked == "auto" or max(asked) < chosen.analyze.folds:
        return []
    return [
        f"config: folds_to_train: expected folds 0 to {chosen.analyze.folds - 1}, found {asked}. "
        "Mend it, or change analyze.folds."
    ]


def tell_of_sides(chosen, facts):
    """Classes that look like left and right of each other, where a mirror would confuse them."""
    trainings = [
        chosen.for_experiment(name).train for name in chosen.experiment_names()
    ]
    mirrored = [t for t in trainings if "x" in t.mirrored_axes]
    pairs = two_sided(facts["final_classes"])
    if workflow.is_main_process and mirrored and pairs and not facts["mirrored_labels"]:
        shown = ", ".join(f"{one} and {other}" for one, other in pairs)
        print(
            f"Warning: {shown} look like left and right, which patches mirrored along x exchange. "
            'Name such labels in the dataset\'s description, such as "mirrored_labels": '
            "[[1, 2]], or leave x out of train.mirror_axes.",
            file=sys.stderr,
        )


def problems_of_training(chosen, facts):
    """Own code and weights that are not there, regions that do not tell labels apart."""
    problems = {}
    for name in chosen.experiment_names():
        settings = chosen.for_experiment(name).train
        for problem in problems_of_weights(chosen, name, settings):
            problems[problem] = None
        needed = ("monai", "einops") if settings.model.startswith("swinunetr") else ()
        for package in (each for each in needed if not find_spec(each)):
            problems[
                f"config: train.model: expected the package {package} for {settings.model}, "
                'found none. Run: pip install "mist_core[swin]"'
            ] = None
        try:
            for own in filter(is_own, (settings.model, settings.loss)):
                check(own)
            if settings.regions and facts:
                membership(facts["labels"], facts["final_classes"])
                if "x" in settings.mirrored_axes:
                    mirrored_regions(facts["final_classes"], facts["mirrored_labels"])
        except DataError as error:
            problems[str(error)] = None
    return list(problems)


def problems_of_weights(chosen, experiment, settings):
    """Weights that are not there, or that know the cases which a fold holds out."""
    place = "config: train.pretrained_weights: expected"
    name, config_file = settings.pretrained_weights, settings.pretrained_config
    if config_file and not Path(config_file).is_file():
        yield f"config: train.pretrained_config: expected a file, found no {config_file}."
    if not name:
        return
    maker = maker_of(near(name), chosen)
    if maker == experiment:
        yield f"{place} weights of another model, found its own, {name}. Name another experiment."
    elif near(name).is_relative_to(chosen.results) and "{fold}" not in name:
        yield (
            f"{place} fold_{{fold}}.pt for weights in {chosen.results}, found {name}: other folds "
            "would begin with what it learnt from the cases that they hold out."
        )
    elif not maker:
        for fold in range(chosen.analyze.folds):
            path = Path(settings.weights_for(fold))
            if not is_zipfile(path):
                found = "another kind of file" if path.is_file() else "none"
                yield f"{place} a model file, found {found} at {path}. Mend the path."
            if "{fold}" not in name:
                return


def folds_of(chosen, train):
    table = chosen.analyze.case_table
    record = Path(chosen.results) / "folds.json"

    def labels_of(cases):
        from mist_core.verify import labels_present  # a fifth of a second

        print("Looking at the labels of all cases to deal the folds.", file=sys.stderr)
        fingerprints = Path(chosen.results) / "fingerprints"
        return labels_present([train[case] for case in cases], fingerprints)

    return deal_folds(
        train,
        chosen.analyze.folds,
        record,
        Path(table) if table else None,
        labels_of if chosen.analyze.stratify else None,
    )


def demo_config(values):
    """What the demo does differently, laid over all but what the command line says."""
    path = home() / "config/examples/demo.yaml"
    print(
        "No dataset in the config: this is the demo, with config/examples/demo.yaml.",
        file=sys.stderr,
    )
    said = dict(workflow.config_settings.overwrite_config)
    if "postprocess" in said:
        said["postprocess"] = in_full(said["postprocess"])
    return merged(merged(values, yaml.safe_load(path.read_text())), said)


def problems_of_strategies(chosen, labels):
    """Unreadable strategy files, unusable names, labels that the dataset does not have, and
    probabilities that are not there.
    """
    paths = chosen.postprocess.strategies
    if (
        not workflow.is_main_process or not paths
    ):  # checked by the process that submitted it
        return []
    from mist_core.postprocess import read_strategy, unknown_labels  # half a second

    problems = []
    stems = [Path(path).stem for path in paths]
    search = chosen.postprocess.search if chosen.postprocess.auto else None
    taken = ["raw", AUTO, *(strategies(search, labels) if search else ())]
    for path, stem in zip(paths, stems):
        if stem in taken or stems.count(stem) > 1:
            problems.append(
                f"{path}: expected a file name that no other strategy has and that is neither raw "
                f"nor auto, found {stem}. Rename the file."
            )
        try:
            if unknown := unknown_labels(read_strategy(Path(path)), labels):
                problems.append(
                    f"{path}: expected labels among {list(labels)}, found {unknown}. Mend the file."
                )
            problems += problems_of_probabilities(chosen, path)
        except DataError as error:
            problems.append(str(error))
    return problems


def problems_of_rank(chosen, facts):
    """Names in rank.weights that no class, metric or column has."""
    if not workflow.is_main_process or not chosen.rank.weights:
        return []
    from mist_core.results import better, column_weights  # numpy and all metrics

    asked = chosen.evaluate
    classes = facts["final_classes"] if asked.classes == "auto" else asked.classes
    metrics = DEFAULT_METRICS if asked.metrics == "auto" else asked.metrics
    columns = [f"{name}_{metric}" for name in classes for metric in metrics]
    try:
        column_weights(
            [column for column in columns if better(column) != "neither"],
            chosen.rank.weights,
        )
    except DataError as error:
        return [f"config: rank.{error}"]
    return []


def problems_of_probabilities(chosen, path):
    """What has no probabilities for a strategy that looks at them."""
    if not looks_at_probabilities(path):
        return []
    of_labels = [
        name
        for name in chosen.experiment_names()
        if chosen.for_experiment(name).predict.restore == "labels"
    ]
    problems = [
        f"config: ensemble.{name}: expected no ensemble beside {path}, which looks at "
        "probabilities, found one of label maps. Leave out one of them."
        for name, own in chosen.ensemble.items()
        if own.backend != "mean"
    ]
    problems += [
        f"config: predict.restore of {name}: expected probabilities, at which {path} looks, found "
        "labels. Change it, or leave out the strategy."
        for name in of_labels
    ]
    return problems


@cache
def looks_at_probabilities(path):
    """Whether a step of a strategy file needs the probabilities of predictions."""
    from mist_core.postprocess import needs_probabilities, read_strategy

    return needs_probabilities(read_strategy(Path(path)))


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
    recorded = read_json(record)["folds"]
    return [
        f"{table}: expected fold {recorded[row['id']]} for {row['id']}, as in {record}, "
        f"found {row['fold']}. Change folds in {record}; this table is made from it."
        for row in read_rows(table)
        if str(recorded.get(row["id"], row["fold"])) != row["fold"]
    ]


def near(path):
    """A path as it is spelt from here, so that files are the same however they are named."""
    whole = Path(os.path.abspath(path))
    return whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else whole


def maker_of(path, chosen):
    """The experiment of this run that makes a model file, if any does."""
    homes = {
        Path(chosen.results) / name / "models": name
        for name in chosen.experiment_names()
    }
    return homes.get(path.parent)


CONFIG, DATASET, FACTS, FOUND, FOLDS = checked()
TRAIN, TEST = FOUND.train, FOUND.test
CASES = TRAIN | TEST
EXPERIMENTS = {name: CONFIG.for_experiment(name) for name in CONFIG.experiment_names()}
ENSEMBLES = CONFIG.ensemble
PREDICTED = [*EXPERIMENTS, *ENSEMBLES]  # all that later stages work on
STRATEGIES = {Path(path).stem: path for path in CONFIG.postprocess.strategies}
N_FOLDS = CONFIG.analyze.folds
TABLE = CONFIG.analyze.case_table
PATIENTS = read_patients(near(TABLE)) if TABLE else {}
# Where the plan and the arrays of an experiment lie: its own folder, or "" for the shared ones.
PLAN_OF = {
    name: f"{name}/" if CONFIG.has_own_plan(name) else "" for name in EXPERIMENTS
}
GRID_OF = {
    name: f"{name}/" if CONFIG.has_own_arrays(name) else "" for name in EXPERIMENTS
}
GRIDS_OF_ARRAYS = sorted(set(GRID_OF.values()))
GRIDS = {"", *PLAN_OF.values(), *GRID_OF.values()}


def chunks():
    """The cases of every job, by name of the chunk, and how many there may be in one."""
    record = Path(CONFIG.results) / "done/chunks.json"
    size, groups = read_record(record, FACTS["task"])
    if CONFIG.cases_per_job != "auto":
        size = CONFIG.cases_per_job
    elif not workflow.is_main_process:  # on another machine the cores are others
        size = int(os.environ["MIST_CASES_PER_JOB"])
    size = size or small_enough(len(TRAIN))
    return chunk_cases(group_cases(groups, FOLDS, TEST), set(CASES), size), size


def small_enough(n_cases):
    """As many cases as add up to a few megabytes without leaving a core idle."""
    files = [
        path
        for case in CASES.values()
        for path in case.images
        if path and path.exists()
    ]
    sizes = [part.stat().st_size for path in files for part in parts_of(path)]
    mean_mb = sum(sizes) / 1e6 / max(len(CASES), 1)
    by_size = CHUNK_MB / max(mean_mb, CHUNK_MB / LARGEST_CHUNK)
    workers = CORES or workflow.resource_settings.nodes or 1
    return max(1, min(int(by_size), math.ceil(n_cases / workers)))


try:
    CHUNKS, CASES_PER_JOB = chunks()
except DataError as error:
    sys.exit(f"ERROR: {error}")
if CONFIG.analyze.stratify and workflow.is_main_process:
    if not workflow.output_settings.dryrun:
        # Else jobs on other machines would look at all labels again.
        write_recorded_folds(Path(CONFIG.results) / "folds.json", N_FOLDS, FOLDS)
TEST_CHUNKS = [name for name in CHUNKS if name.startswith("test-")]
TRAIN_CHUNKS = [name for name in CHUNKS if name not in TEST_CHUNKS]
asked = CONFIG.folds_to_train
TO_TRAIN = range(N_FOLDS) if asked == "auto" else sorted(set(asked))
WHOLE = len(TO_TRAIN) == N_FOLDS
# What is tried for the training cases, to choose from; of some folds alone nothing is chosen.
CHOOSES = CONFIG.postprocess.auto and WHOLE
STEPS = strategies(CONFIG.postprocess.search, FACTS["labels"]) if CHOOSES else {}
TRIED = {name: f"{CONFIG.results}/strategies/{name}.json" for name in STEPS}
RANKED = [*STRATEGIES, *([AUTO] if CHOOSES else [])]  # beside raw
TO_PREDICT = [
    name for name in CHUNKS if WHOLE or FOLDS.get(CHUNKS[name][0]) in TO_TRAIN
]

# Jobs that need a GPU do not start before one is free, unless the user counts them otherwise. Those
# of a cluster do not run here.
GPUS = [] if workflow.resource_settings.nodes else gpu_pool(os.environ)
if GPUS:
    workflow.global_resources.setdefault("gpu", len(GPUS) * CONFIG.jobs_per_gpu)


def work_of(job):
    """What a job is counted for: its log lies in a folder that has the name of its stage."""
    if not job.log:
        return None
    wildcards = job.wildcards
    stage = os.path.relpath(job.log[0], f"{CONFIG.results}/logs").split(os.sep)[0]
    if stage == "train" and wildcards.get("experiment") in EXPERIMENTS:
        return Work(stage, EXPERIMENTS[wildcards.get("experiment")].train.epochs)
    if stage == "evaluate":
        return Work(stage, len(TRAIN))
    if wildcards.get("chunk") in CHUNKS:
        return Work(stage.removesuffix("_test"), len(CHUNKS[wildcards.get("chunk")]))
    return None


def waiting():
    """What is not finished of the work of this run."""
    return filter(None, map(work_of, workflow.dag.needrun_jobs()))


if workflow.is_main_process:
    forget_lost_files(Path(CONFIG.results) / "done")
    os.environ["MIST_CASES_PER_JOB"] = str(CASES_PER_JOB)
    os.environ["MIST_AGAIN"] = ""  # see script()
    os.environ["MIST_COMMAND"] = shlex.join(["snakemake", *sys.argv[1:]])
    said = workflow.output_settings
    quiet = {Quietness.ALL, Quietness.PROGRESS} & set(said.quiet or ())
    if not (said.dryrun or said.verbose or said.printshellcmds or quiet):
        follow(logger, work_of, waiting)
STARTED = time.time()


# What jobs on other machines must know of this process.
envvars:
    "MIST_AGAIN",
    "MIST_CASES_PER_JOB",
    "MIST_COMMAND",


pathvars:
    results=CONFIG.results,
    numpy=CONFIG.numpy,


def any_of(names):
    """A pattern for just these names, of which one may be empty."""
    return f"(?:{'|'.join(map(re.escape, names))})" if names else "(?!)"


wildcard_constraints:
    chunk=any_of(CHUNKS),
    grid=any_of(GRIDS),
    fold=r"\d+",
    experiment=any_of(EXPERIMENTS),
    strategy=any_of([*STRATEGIES, *TRIED]),


def chosen_for(wildcards):
    """The config with the overrides of the experiment that a job belongs to, if it has one."""
    names = [wildcards.get("experiment"), wildcards.get("grid", "").rstrip("/")]
    return next((EXPERIMENTS[name] for name in names if name in EXPERIMENTS), CONFIG)


def members(wildcards):
    """The experiments that an ensemble combines; of an experiment, itself."""
    name = wildcards.experiment
    return ENSEMBLES[name].experiments if name in ENSEMBLES else [name]


def way_to_combine(wildcards):
    """What an ensemble combines, and how, as arguments."""
    own = ENSEMBLES[wildcards.experiment]
    words = ["--ensemble-backend", own.backend]
    if own.backend == "mean":
        plan_ = f"{CONFIG.results}/config.json"
        words = ["--input-type", "probabilities", "--config", plan_]
        if own.weights:
            words += ["--probability-ensemble-backend", "weighted"]
        if strategies_look_at_probabilities():
            words.append("--output-probs")
    if own.weights:
        words += ["--weights", *map(str, own.weights)]
    return shlex.join(words)


def folders_to_combine(wildcards):
    """Where the predictions lie that an ensemble combines."""
    own = ENSEMBLES[wildcards.experiment]
    inside = "probabilities" if own.backend == "mean" else ""
    part = f"predictions/{raw_part_of(wildcards)}"
    return [
        str(Path(CONFIG.results) / name / part / inside) for name in own.experiments
    ]


def settings(section, without=()):
    """A section of the config as JSON."""

    def value(wildcards):
        chosen = getattr(chosen_for(wildcards), section)
        return chosen.model_dump_json(exclude=set(without))

    return value


def aside(wildcards, input):
    """The settings of a training that no result depends on, as JSON."""
    return chosen_for(wildcards).train.model_dump_json(include=set(OF_NO_CONSEQUENCE))


@cache
def read_once(path, changed):
    return read_json(Path(path))


def after(checkpoint, grid, path, pick):
    """Params that are known after a checkpoint: ``pick`` of what it wrote.

    Together with ``ancient(path)`` as an input, this lets one invocation find exactly what new
    contents make necessary: the checkpoint brings the new ones in, the fallback keeps a job
    comparable in the first pass, before the checkpoint has run.
    """

    def value(wildcards):
        file = path(wildcards)
        try:
            getattr(checkpoints, checkpoint).get(grid=grid(wildcards))
        except IncompleteCheckpointException:
            if not os.path.exists(file):
                raise
        return pick(read_once(file, os.stat(file).st_mtime_ns), wildcards)

    return value


def grid_of_plan(wildcards):
    """Where the plan of a grid, or of an experiment, lies."""
    own = wildcards.get("grid")
    return PLAN_OF[wildcards.experiment] if own is None else own


def plan_path(wildcards):
    return f"{CONFIG.results}/{grid_of_plan(wildcards)}config.json"


def shared_plan_path(wildcards):
    return f"{CONFIG.results}/config.json"


def plan(stage):
    """The part of the plan that a stage obeys; a change elsewhere leaves its outputs alone."""

    def pick(fields, wildcards):
        regions = stage == "train" and chosen_for(wildcards).train.regions
        return part_read_by(stage, fields, regions)

    if stage in ("evaluate", "data_dump"):  # the same for all experiments
        return after("analyze", lambda wildcards: "", shared_plan_path, pick)
    return after("analyze", grid_of_plan, plan_path, pick)


def left_out(wildcards):
    """The cases of a chunk that the plan leaves out, and why."""
    home = wildcards.get("grid", "")

    def pick(fields, wildcards):
        return json.dumps(left_out_of(fields, in_chunk(wildcards)))

    place = f"{CONFIG.results}/{home}config.json"
    return after("analyze", lambda _: home, lambda _: place, pick)(wildcards)


def grid_of_arrays(wildcards):
    """Where the arrays of an experiment lie."""
    return GRID_OF[wildcards.experiment]


def companions(wildcards, input):
    """What the report shows beside the chosen metrics is scored but for strategies that are tried."""
    return "" if wildcards.get("strategy") in TRIED else "--companions"


def whole_config(wildcards, input):
    """All settings as JSON, for the report, which says what was done and does not depend on it."""
    return CONFIG.model_dump_json()


def command(wildcards, input):
    """How the user called Snakemake, for the same."""
    return os.environ["MIST_COMMAND"]


def arrays_in(home, wildcards):
    """What the preprocessed arrays below a folder hold, in short, by case."""
    test = "test/" if wildcards.get("chunk") in TEST_CHUNKS else ""
    return f"{CONFIG.numpy}/{home}{test}arrays.json"


def arrays_path(wildcards):
    """The same of an experiment."""
    return arrays_in(grid_of_arrays(wildcards), wildcards)


def arrays(cases, checkpoint="gather_arrays"):
    """What the arrays of some cases hold: what training and prediction depend on.

    Not the files themselves: one that was lost and made again is no reason to train again.
    """

    def pick(made, wildcards):
        made = made["cases"]
        return json.dumps(
            {case: made.get(case, {}).get("content") for case in cases(wildcards)}
        )

    return after(checkpoint, grid_of_arrays, arrays_path, pick)


def settled(wildcards):
    """What checkpoints write for an experiment, or for all of an ensemble, as inputs of every job
    behind them.

    Not to be read, but waited for: else a job whose output is missing would run before it is known
    that its inputs are to be made again.
    """
    names = members(wildcards)
    plans = [f"{CONFIG.results}/{PLAN_OF[name]}config.json" for name in names]
    held = [arrays_in(GRID_OF[name], wildcards) for name in names]
    return [ancient(path) for path in dict.fromkeys(plans + held)]


def all_settled(wildcards):
    """What checkpoints write for all experiments, for the jobs that compare them."""
    plans = [f"{CONFIG.results}/{home}config.json" for home in PLAN_OF.values()]
    return [ancient(path) for path in dict.fromkeys(plans + gathered("arrays.json"))]


def all_settled_with_tests(wildcards):
    """The same, for jobs that look at the test cases too."""
    tests = gathered("test/arrays.json") if TEST_CHUNKS else []
    return all_settled(wildcards) + [ancient(path) for path in tests]


def gathered(name):
    """What the arrays of all cases hold, on every grid."""
    return [f"{CONFIG.numpy}/{grid}{name}" for grid in GRIDS_OF_ARRAYS]


def script(name):
    """Params with a script's place, which is not what a result depends on."""

    def value(wildcards, input):
        # Snakemake knows only now what the user asked to make again; jobs, never.
        if workflow.is_main_process:
            os.environ["MIST_AGAIN"] = stages_again(workflow.dag_settings)
        return f"{SCRIPTS}/{name}.py"

    return value


def stages_again(settings):
    """The stages that the user asked to make again, after a word for this run; else nothing."""
    # Rules such as predict_test share the script of predict; another workflow may add a prefix.
    asked = {word for rule in settings.forcerun for word in str(rule).split("_")}
    # Which stage makes a file is not known here. Of all stages only the jobs that run are told.
    files = any("/" in str(target) for target in settings.forcerun)
    everything = settings.forceall or settings.forcetargets or files
    stages = (
        STAGES_WITH_MEMORY if everything else asked.intersection(STAGES_WITH_MEMORY)
    )
    return " ".join([str(STARTED), *sorted(stages)]) if stages else ""


def code(stage):
    """The sources of a stage as inputs, where the config says that they are to be tracked."""
    tracked = CONFIG.track_code
    if tracked is True or (tracked and stage in tracked):
        return sources_of(Path(SCRIPTS) / f"{stage}.py")
    return []


def foreign(wildcards):
    """A key of what a training takes from elsewhere: own code, weights, distance maps."""
    chosen = chosen_for(wildcards)
    model, loss = chosen.train.model, chosen.train.loss
    takes_maps = loss in LOSSES_OF_DISTANCES or "distance_maps" in source_of(loss)
    maps = chosen.preprocess.compute_dtms and takes_maps
    normalized = [chosen.preprocess.normalize_dtms] if maps else []
    key = ""
    if not weights_of_this_run(wildcards):
        key = [
            content_once(path, os.stat(path).st_mtime_ns) for path in weights(chosen)
        ]
    return digest(source_of(model), source_of(loss), key, normalized)


def weights(chosen):
    """The files whose weights the folds of an experiment begin with."""
    return sorted({chosen.train.weights_for(fold) for fold in TO_TRAIN} - {""})


def weights_of_this_run(wildcards):
    """Weights to begin with that another experiment of this run makes."""
    name = chosen_for(wildcards).train.weights_for(wildcards.fold)
    return [str(near(name))] if name and maker_of(near(name), CONFIG) else []


@cache
def content_once(path, changed):
    return content([Path(path)])


def jobs_per_gpu(wildcards, input):
    """Params that no result depends on."""
    return CONFIG.jobs_per_gpu


def gpus_of_training(wildcards):
    return EXPERIMENTS[wildcards.experiment].train.gpus


def threads_of_training(wildcards):
    """All cores, shared by as many trainings as there are GPUs for.

    On a CPU folds side by side are no faster than one after the other, and take more memory.
    """
    at_once = len(GPUS) * CONFIG.jobs_per_gpu // gpus_of_training(wildcards)
    return max(1, (CORES or CLUSTER_THREADS) // max(at_once, 1))


def tracked(wildcards, input):
    """Params with the sources that a job is to depend on, as arguments."""
    paths = input.get("code") or []
    return shlex.join(["--tracked", *paths]) if paths else ""


def in_chunk(wildcards):
    return CHUNKS[wildcards.chunk]


def files(wildcards):
    """The files of every case in the order of the channels, which inputs would not keep; null for
    a channel that it lacks.
    """

    def of_case(case):
        return [path and str(path) for path in CASES[case].places]

    return json.dumps({case: of_case(case) for case in in_chunk(wildcards)})


def files_in_chunk(wildcards):
    """The files of a chunk, of a DICOM series every slice: the date of a folder is not theirs."""
    images = [path for case in in_chunk(wildcards) for path in CASES[case].files]
    return [part for path in images for part in parts_of(path)]


def trained_on(wildcards):
    """The cases that a fold's model depends on: those that it does not hold out, and all where the
    held-out ones choose the model.
    """
    if chosen_for(wildcards).train.chooses_by_held_out:
        return list(TRAIN)
    return [case for case in TRAIN if FOLDS[case] != int(wildcards.fold)]


def patients(wildcards):
    """Who is whose, where cases are set aside for validation."""
    if not chosen_for(wildcards).train.val_percent or not TABLE:
        return ""
    return json.dumps({case: PATIENTS.get(case) for case in trained_on(wildcards)})


def all_patients(wildcards):
    """Who is whose, for the confidence intervals of scores."""
    return json.dumps({case: PATIENTS.get(case) for case in TRAIN}) if PATIENTS else ""


def case_table(wildcards, input):
    """The table of patients, as an argument."""
    return f"--case-table {shlex.quote(str(near(TABLE)))}" if TABLE else ""


def patient_table(wildcards, input):
    """The same where it names patients."""
    return case_table(wildcards, input) if PATIENTS else ""


def output_probabilities(wildcards):
    """An argument that lets predictions keep them, where a strategy or an ensemble needs them."""
    combined = any(
        own.backend == "mean" and wildcards.experiment in own.experiments
        for own in ENSEMBLES.values()
    )
    wanted = combined or strategies_look_at_probabilities()
    return "--output-probs" if wanted else ""


@cache
def strategies_look_at_probabilities():
    """Whether a step of any strategy does."""
    return any(map(looks_at_probabilities, STRATEGIES.values()))


def strategy_file(wildcards):
    """The file of the strategy that a job belongs to."""
    return (STRATEGIES | TRIED)[wildcards.strategy]


def own_of_strategy(wildcards):
    """A key of the user's own transforms in a strategy."""
    if wildcards.strategy in TRIED:
        return ""
    from mist_core.postprocess import own_sources, read_strategy

    return digest(own_sources(read_strategy(Path(STRATEGIES[wildcards.strategy]))))


def labels_of_probabilities(wildcards):
    """The plan, as an argument, for a strategy that looks at probabilities."""
    path = STRATEGIES.get(wildcards.strategy)
    if path is None or not looks_at_probabilities(path):
        return ""
    return f"--config {shlex.quote(f'{CONFIG.results}/config.json')}"


def postprocessed(wildcards):
    """Where the label maps of a strategy lie."""
    strategy = wildcards.get("strategy", AUTO)
    place = f"{CONFIG.results}/{wildcards.experiment}/postprocess/{strategy}"
    return f"{place}/predictions/{part_of(wildcards)}"


def part_of(wildcards):
    """``test`` or ``train``: the folder in which the cases of a chunk lie."""
    return "test" if wildcards.chunk in TEST_CHUNKS else "train"


def raw_part_of(wildcards):
    """The same for predictions that no strategy has changed."""
    return "test" if part_of(wildcards) == "test" else "train/raw"


def enough_for(n_cases):
    """Workers for a job that does all cases: one for every eight, of those that there are."""
    return max(1, min(CORES or CLUSTER_THREADS, n_cases // 8))


def cases(wildcards, input):
    """Params with the ids of a chunk, not compared: ``files`` and manifests stand for them."""
    return in_chunk(wildcards)


def candidates():
    """Experiments and ensembles with their raw predictions and with each strategy, by name."""
    for experiment in PREDICTED:
        home = f"{CONFIG.results}/{experiment}"
        yield f"{experiment}/raw", f"{home}/results.csv", f"{home}/predictions/train/raw"
        for strategy in RANKED:
            place = f"{home}/postprocess/{strategy}"
            yield (
                f"{experiment}/{strategy}",
                f"{place}/postprocess_results.csv",
                f"{place}/predictions/train",
            )


def folder_to_score(wildcards):
    """The predictions of the training cases, raw or of the strategy that a job belongs to."""
    home, strategy = f"{CONFIG.results}/{wildcards.experiment}", wildcards.get(
        "strategy"
    )
    place = (
        f"postprocess/{strategy}/predictions/train"
        if strategy
        else "predictions/train/raw"
    )
    return f"{home}/{place}"


def manifests(folder, chunks, **names):
    """What became of the cases of a stage, one file for each job."""
    path = f"<results>/done/{folder}{{chunk}}.json"
    return expand(path, chunk=chunks, allow_missing=True, **names)


def of_every_case():
    """The manifests of the stages whose files users want."""
    by_experiment = manifests("predict/{experiment}/", TO_PREDICT, experiment=PREDICTED)
    by_strategy = manifests(
        "postprocess/{experiment}/{strategy}/",
        TO_PREDICT,
        experiment=PREDICTED,
        strategy=RANKED,
    )
    return by_experiment + by_strategy


def told_of_tests():
    """What became of the test cases, a file for each experiment and ensemble."""
    path = f"{CONFIG.results}/done/predicted/{{}}.json"
    # Test cases with bad files have no job, and must be told of all the same.
    known = TEST_CHUNKS or FOUND.bad_tests
    return [path.format(name) for name in PREDICTED] if known and WHOLE else []


def analysis():
    """What mist_analyze is for."""
    of_all = ["config.json", "train_paths.csv", "fg_bboxes.csv"]
    of_all += ["test_paths.csv"] if TEST else []
    of_all += ["data_dump.json", "data_dump.md"] if CONFIG.analyze.data_dump else []
    return [f"{CONFIG.results}/{file}" for file in of_all]


def grids():
    """What mist_preprocess is for."""
    tests = gathered("test/arrays.json") if TEST_CHUNKS else []
    made = manifests("preprocess/{grid}", CHUNKS, grid=GRIDS_OF_ARRAYS)
    return gathered("arrays.json") + tests + made


def bad_tests():
    """What became of test cases that have no job, since their files are missing or unclear."""
    state = LEFT_OUT if CONFIG.analyze.verify == "drop" else "error"
    bad = {case: {state: " ".join(FOUND.problems[case])} for case in FOUND.bad_tests}
    return json.dumps(bad, sort_keys=True)


def tests_on_grids():
    """What became of the test cases in preprocessing, which is left to later stages to tell."""
    return manifests("preprocess/{grid}", TEST_CHUNKS, grid=GRIDS_OF_ARRAYS)


def results():
    """All that a run is for: made again if it is missing."""
    models = [f"models/fold_{fold}.pt" for fold in TO_TRAIN]
    kept = [f"postprocess/{strategy}/strategy.json" for strategy in RANKED]
    made = [f"{CONFIG.results}/{e}/{file}" for e in EXPERIMENTS for file in models]
    made += [f"{CONFIG.results}/{e}/{file}" for e in PREDICTED for file in kept]
    made += (
        analysis() + grids() + of_every_case() + [f"{CONFIG.results}/done/cases.json"]
    )
    if not WHOLE:
        return made
    of_all = ["rank/ranking.csv", "summary.txt", "report.html", "evaluation.json"]
    tables = [table for _, table, _ in candidates()]
    return made + tables + [f"{CONFIG.results}/{file}" for file in of_all]
