"""Metrics beside other libraries: seconds, memory, agreement; and the whole of mist_evaluate.

    python tests/benchmarks/metric_data.py /scratch/metrics
    python tests/benchmarks/metrics.py arrays --data /scratch/metrics \\
        --peer mist=/envs/mist/bin/python --peer exacta=/envs/exacta/bin/python
    python tests/benchmarks/metrics.py command --data /scratch/metrics --mist /envs/mist/bin

``arrays``: label maps in memory. Each library has a process of its own with its own Python, in
which it scores once before it is timed; they take turns. ``command``: four cases of BraTS's size,
three regions, eight metrics, two workers, from files to table. Linux only.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from metric_tools import BRATS, LESIONS, METRICS
from preprocessing import SCRIPTS, environment_of, measured

from mist_core.files import write_json, write_rows
from mist_core.geometry import Geometry
from mist_core.io import Volume, write_volume

TOOL = Path(__file__).with_name("metric_tools.py")
REGIONS = {"whole_tumor": [1, 2, 3], "tumor_core": [1, 3], "enhancing_tumor": [3]}
TASKS = (  # data, what is asked, classes
    ("brats", "all", REGIONS),
    ("liver", "all", {"liver": [1]}),
    ("multi20", "all", {f"label_{n}": [n] for n in range(1, 21)}),
    ("brats", "lesions", REGIONS),
    ("metastases", "lesions", {"lesion": [1]}),
)
OF_LESIONS = ("ours", "without_numba", "mist", "exacta")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    tasks = p.add_subparsers(dest="what", required=True)
    arrays = tasks.add_parser("arrays")
    arrays.add_argument("--peer", action="append", default=[], help="library=python of it")
    arrays.add_argument("--rounds", type=int, default=5)
    command = tasks.add_parser("command")
    command.add_argument("--mist", type=Path, required=True, help="bin folder")
    command.add_argument("--rounds", type=int, default=3)
    for each in (arrays, command):
        each.add_argument("--data", type=Path, required=True, help="made by metric_data.py")
    args = p.parse_args()
    if args.what == "arrays":
        of_arrays(args)
    else:
        of_commands(args)


def of_arrays(args: argparse.Namespace) -> None:
    peers = dict(peer.split("=") for peer in args.peer)
    pythons = {"ours": sys.executable, "without_numba": sys.executable} | peers
    print("| data | asked | library | seconds | ratio | memory, MB | largest difference |")
    print("|---|---|---|---|---|---|---|")
    for data, asked, classes in TASKS:
        tools = [t for t in pythons if asked == "all" or t in OF_LESIONS]
        running = {
            tool: started(pythons[tool], tool, args.data / f"{data}.npz", asked, classes)
            for tool in tools
        }
        for each in running.values():
            once(each)
        rounds = [{tool: once(each) for tool, each in running.items()} for _ in range(args.rounds)]
        for each in running.values():
            each.communicate()
        ours = statistics.median(found["ours"]["seconds"] for found in rounds)
        for tool in tools:
            seconds = statistics.median(found[tool]["seconds"] for found in rounds)
            memory = max(found[tool]["memory_mb"] for found in rounds)
            gap = difference(rounds[0]["ours"]["values"], rounds[0][tool]["values"])
            row = (
                data,
                asked,
                tool,
                f"{seconds:.3f}",
                f"{seconds / ours:.1f}",
                f"{memory:.0f}",
                gap,
            )
            print("|", " | ".join(row), "|", flush=True)


def started(python, tool, path, asked, classes):
    """The process of a library, when it has loaded the data."""
    command = [python, TOOL, tool, path, asked, json.dumps(classes)]
    process = subprocess.Popen(
        list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while (line := process.stdout.readline()) != "ready\n":
        assert line, f"{tool} ended"
    return process


def once(process):
    """One scoring: seconds, memory, values."""
    process.stdin.write("\n")
    process.stdin.flush()
    while not (line := process.stdout.readline()).startswith("{"):
        assert line, "a library ended"
    return json.loads(line)


def difference(ours, others):
    """The largest, and of which value."""
    gaps = {name: abs(ours[name] - others[name]) for name in ours if name in others}
    if not gaps:
        return "-"
    name = max(gaps, key=gaps.get)
    return f"{gaps[name]:.1e} ({name})" if gaps[name] > 1e-9 else f"{gaps[name]:.0e}"


def of_commands(args: argparse.Namespace) -> None:
    with TemporaryDirectory() as folder:
        home = Path(folder)
        write_cases(args.data, home)
        ours = [sys.executable, SCRIPTS / "evaluate.py"]
        commands = {"ours": (ours, Path(sys.executable).parent)}
        commands["mist"] = ([args.mist / "mist_evaluate"], args.mist)
        seconds = {name: [] for name in commands}
        for _ in range(args.rounds + 1):  # the first one fills caches
            for name, (command, bin_) in commands.items():
                more = [
                    *("--config", home / "config.json", "--paths-csv", home / "paths.csv"),
                    *("--output-csv", home / f"{name}.csv", "--num-workers-evaluate", 2),
                ]
                used = measured(list(map(str, [*command, *more])), environment_of(bin_), 2)
                seconds[name].append(used.seconds)
        medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
        for name, value in medians.items():
            print(f"| {name} | {value:.2f} | {value / medians['ours']:.1f} |")


def write_cases(data: Path, home: Path) -> None:
    """Four cases: the pair, also shifted and mirrored."""
    with np.load(data / "brats.npz") as stored:
        maps = [np.ascontiguousarray(stored[key].transpose(2, 1, 0)) for key in ("gt", "pred")]
    changes = (
        lambda m: m,
        lambda m: np.roll(m, 2, 1),
        lambda m: m[:, ::-1],
        lambda m: m[:, :, ::-1],
    )
    rows = []
    for number, change in enumerate(changes):
        paths = [home / f"{name}_{number}.nii.gz" for name in ("mask", "prediction")]
        for path, labels in zip(paths, maps, strict=True):
            geometry = Geometry(labels.shape, (1.0,) * 3, (0.0,) * 3, np.eye(3)[:, ::-1])
            write_volume(path, Volume(np.ascontiguousarray(change(labels)), geometry))
        rows.append(
            dict(zip(("id", "mask", "prediction"), (f"case_{number}", *paths), strict=True))
        )
    write_rows(home / "paths.csv", ("id", "mask", "prediction"), rows)
    metrics = METRICS | dict.fromkeys(LESIONS, BRATS)
    write_json(
        home / "config.json",
        {name: {"labels": labels, "metrics": metrics} for name, labels in REGIONS.items()},
    )


if __name__ == "__main__":
    main()
