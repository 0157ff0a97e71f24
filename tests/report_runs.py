"""A run that never was, with all files that a report is made of."""

import importlib.util
import json
import sys

import numpy as np
from conftest import ROOT, grid

from mist_core import evaluate, rank
from mist_core.config import Config, Evaluate, EvaluatedClass
from mist_core.files import write_json, write_rows
from mist_core.io import Volume, write_volume
from mist_core.results import read_results

CLASSES = {"organ": (1, 2), "core <b>": (2,)}
RANKED = Config().rank
SHAPE, SPACING = (14, 26, 24), (3.0, 1.0, 1.0)
ODD_ID = "c&lt;<script>'\"ä"  # of a case; no slash, since it names a file
PLAN = {
    "mist_version": "0",
    "dataset_info": {"task": "liver <1>", "modality": "mr", "images": ["t1"], "labels": [0, 1, 2]},
    "spatial_config": {
        "patch_size": [8, 16, 32],
        "target_spacing": [1, 1, 2.5],
        "median_resampled_image_size": [12, 12, 12],
    },
    "preprocessing": {
        "crop_to_foreground": False,
        "normalize_with_nonzero_mask": [False],
        "ct_normalization": [None],
    },
    "model": {"in_channels": 1, "out_channels": 3},
    "evaluation": {name: {"labels": list(members)} for name, members in CLASSES.items()},
}
SECRET = "</script><script>alert(1)</script>"  # in what the user wrote; must stay words


def script(name):
    """A script of the workflow as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"workflow/scripts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def label_map(centre, radius, inner):
    z, y, x = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    offsets = (z - centre[0]) * SPACING[0], (y - centre[1]), (x - centre[2])
    distance = np.sqrt(sum(o**2 for o in offsets))
    return (distance < radius).astype(np.uint8) + (distance < inner)


def made_up_run(
    folder, n_cases=12, names=("plain/raw", "plain/largest"), choices=True, ranked=RANKED
):
    """Write a run below ``folder`` and return the arguments of the script that reports it."""
    generator = np.random.default_rng(3)
    geometry = grid(SHAPE, SPACING)
    ids = [ODD_ID, *(f"case_{n:03d}" for n in range(1, n_cases))]
    paths, references, patients = [], {}, {}
    for number, case in enumerate(ids):
        centre = np.array([6, 12, 12]) + generator.uniform(-2, 2, 3)
        radius, inner = generator.uniform(5, 9), 0 if number == 3 else generator.uniform(2, 4.5)
        references[case] = label_map(centre, radius, inner)
        image = 100.0 * references[case] + generator.normal(0, 20, SHAPE)
        write_volume(folder / f"data/{case}_t1.nii.gz", Volume(image.astype(np.float32), geometry))
        write_volume(folder / f"data/{case}_mask.nii.gz", Volume(references[case], geometry))
        files = {"mask": "mask", "t1": "t1"}
        patients[case] = f"p{number // 2}"
        row = {"id": case, "fold": str(number % 2)}
        paths.append(row | {k: f"{folder}/data/{case}_{v}.nii.gz" for k, v in files.items()})
    results = folder / "results"
    write_json(results / "config.json", PLAN)
    write_rows(results / "train_paths.csv", list(paths[0]), paths)
    known = [{"id": case, "patient": patient} for case, patient in patients.items()]
    write_rows(folder / "patients.csv", ["id", "patient"], known)
    tables, places = {}, {}
    for number, name in enumerate(names):
        predictions = results / name / "predictions"
        moved = {}
        for case, reference in references.items():
            shift = generator.integers(-2 - number, 3 + number, 2)
            moved[case] = np.roll(reference, shift, (1, 2))
            if case == ids[1]:
                moved[case][moved[case] == 2] = 1  # its core is missed
            write_volume(predictions / f"{case}.nii.gz", Volume(moved[case], geometry))
        places[name] = predictions, results / name / "results.csv"
        tables[name] = scored(places[name][1], references, moved, patients)
    ranking = rank.rank(read_results(tables), ranked, patients)
    write_json(results / "rank/ranking.json", rank.described(ranking))
    experiments = sorted({name.split("/")[0] for name in names})
    for name in experiments:
        for fold in range(2):
            written_training(results / name / f"logs/fold_{fold}", fold)
        tests = {"test_1": {"files": ["test_1.nii.gz"]}, "test_2": {"error": "its disk <broke>"}}
        write_json(results / f"done/predicted/{name}.json", {"cases": tests})
    write_json(folder / "dataset.json", {"task": "liver <1>"})
    config = {"dataset": str(folder / "dataset.json"), "results": str(results)}
    config["experiments"] = {name: {"train": {"loss": "dice"}} for name in experiments}
    arguments = {
        "--plan": [results / "config.json"],
        "--paths": [results / "train_paths.csv"],
        "--case-table": [folder / "patients.csv"],
        "--names": names,
        "--results": [table for _, table in places.values()],
        "--predictions": [predictions for predictions, _ in places.values()],
        "--ranking": [results / "rank/ranking.json"],
        "--logs": [results / name / f"logs/fold_{fold}" for name in experiments for fold in (0, 1)],
        "--plans": [results / "config.json" for _ in experiments],
        "--tests": [results / f"done/predicted/{name}.json" for name in experiments],
        "--fingerprints": [results / "fingerprints"],
        "--config": [json.dumps(config)],
        "--dataset": [folder / "dataset.json"],
        "--command": [f"snakemake --cores 2 --config note={SECRET}"],
        "--output": [results / "report.html"],
        "--summary": [results / "summary.txt"],
    }
    if choices:
        place = results / experiments[0] / "postprocess/auto/choice.json"
        write_json(place, CHOICE)
        arguments["--choices"] = [place]
    return arguments


def scored(table, references, predictions, patients):
    """The tables of an evaluation, as the script of the stage writes them; the first one's rows."""
    asked = evaluate.chosen_classes(
        {name: EvaluatedClass(labels=list(members)) for name, members in CLASSES.items()},
        Evaluate(),
    )
    classes = evaluate.with_companions(asked)
    found = {
        case: script("evaluate").found_of(
            *evaluate.evaluate_arrays(reference, predictions[case], SPACING, classes)
        )
        for case, reference in references.items()
    }
    script("evaluate").write_tables(table, found, asked, patients, Evaluate())
    return [
        {"id": case}
        | {
            f"{r['class_name']}_{r['metric']}": str(r["value"])
            for r in each["records"]
            if r["metric"] in asked[r["class_name"]].metrics
        }
        for case, each in found.items()
    ]


def written_training(logs, fold):
    epochs = [
        {"epoch": e, "steps": 10, "loss": 1.0 / e + fold / 10, "patches_per_second": 4.0}
        for e in range(1, 9)
    ]
    write_rows(logs / "history.csv", list(epochs[0]), epochs)
    write_json(logs / "model.json", {"chosen": "last weights", "by_held_out": False})


def words(arguments):
    """The command line of the script."""
    given = [str(each) for flag, values in arguments.items() for each in (flag, *values)]
    return [sys.executable, ROOT / "workflow/scripts/report.py", *given]


MEANS = {"organ_dice": 0.9, "core <b>_dice": 0.8}
CHOICE = {
    "chosen": "largest-group",
    "sentence": "largest-group is better than none with p = 0.01 (Holm).",
    "strategy": [],
    "candidates": [
        {"name": "largest-group", "average_rank": 1.25, "p_holm": 0.01, "better_in": 0.97}
        | {"steps": [], "means": MEANS},
        {"name": "none", "average_rank": 1.75, "p_holm": None, "better_in": None}
        | {"steps": [], "means": MEANS},
    ],
    "held_out": {
        "columns": {
            "organ_dice": {"none": 0.9, "chosen": 0.91, "difference": 0.0125}
            | {"ci_low": 0.004, "ci_high": 0.021}
        },
        "chosen_by_group": {"0": "largest-group", "1": "none"},
    },
}
