"""Analyze and preprocess beside MIST and nnU-Net: seconds, memory, and the grids that came out.

    python tests/benchmarks/preprocessing.py --work /scratch/benchmark --dataset /data/brats2015 \\
        --mist /envs/mist/bin --nnunet /envs/nnunet/bin

The products take turns in every round, on the same files, each in an empty folder and on as many
cores as it has workers; files and libraries have been read before. The cases: a dataset in MIST's
layout, and made-up CTs, which ``--work`` keeps for the next time. Either may be left out, as may
the peers. Linux only.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from mist_core.dataset import Case, Dataset, read_dataset
from mist_core.files import read_json, write_json
from mist_core.geometry import Geometry, Shape
from mist_core.io import Volume, write_volume

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "workflow/scripts"
FOLDS = 2
CT_SHAPE = (300, 512, 512)
CT_SPACING = (2.0, 0.8, 0.8)
AIR_HU, BODY_HU, NOISE_HU = -1000.0, 40.0, 25.0
# Intensity, and radius as a share of the field of view, of each organ: lungs to bone, and a lesion.
ORGANS = (
    *((-750, 0.12), (-700, 0.11), (60, 0.13), (110, 0.09), (30, 0.07)),
    *((180, 0.06), (400, 0.05), (700, 0.04), (-90, 0.03), (250, 0.015)),
)
SAMPLED_EVERY = 0.05  # seconds
THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    *("BLOSC_NTHREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"),
)
PAGE = os.sysconf("SC_PAGE_SIZE")
OUR_LIBRARIES = (sys.executable, "-c", "import snakemake.cli, mist_core.analyze")
SHAPES_OF_BLOSC2 = """
import blosc2, json, sys
print(json.dumps([blosc2.open(path, mode="r").shape for path in sys.argv[1:]]))
"""

Command = Sequence[object]
Step = Command | Callable[[], None]  # a function is not timed


@dataclass(frozen=True)
class Task:
    """Cases that all products preprocess."""

    name: str
    dataset: Dataset
    cases: Sequence[Case]


@dataclass(frozen=True)
class Options:
    """What is asked of every product alike."""

    workers: int
    verify: bool  # of MIST and nnU-Net: ours always does
    spacing: tuple[float, ...] | None  # (x, y, z) in mm, in place of what each product chooses


@dataclass(frozen=True)
class Used:
    """What some commands took, one after the other."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0

    def then(self, other: "Used") -> "Used":
        return Used(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            max(self.peak_bytes, other.peak_bytes),
        )


@dataclass(frozen=True)
class Made:
    """The arrays of a product; per-axis values (x, y, z)."""

    spacing: tuple[float, ...]
    sizes: Sequence[tuple[int, ...]]  # one per case
    bytes_on_disk: int


@dataclass(frozen=True)
class Product:
    """How a product analyzes and preprocesses a task into the folder that it is started in."""

    name: str
    environment: Mapping[str, str]
    load: Command  # imports its libraries and does nothing
    analyze: Callable[[Task, Options], Sequence[Step]]
    preprocess: Callable[[Task, Options], Sequence[Step]]
    made: Callable[[], Made]  # looks into the current folder


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--work", type=Path, required=True, help="folder on a fast disk")
    p.add_argument("--dataset", type=Path, help="in MIST's layout; labels from 0 without a gap")
    p.add_argument("--cts", type=int, default=2, help="number of made-up CTs")
    p.add_argument("--ct-size", type=int, nargs=3, default=CT_SHAPE[::-1], help="x y z")
    p.add_argument("--mist", type=Path, help="bin folder of an environment with MIST")
    p.add_argument("--nnunet", type=Path, help="bin folder of an environment with nnU-Net")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--workers", type=int, nargs="+", default=[1], help="and cores, of each product")
    p.add_argument("--spacing", type=float, nargs=3, help="x y z in mm, forced on every product")
    p.add_argument("--unverified", action="store_true", help="MIST and nnU-Net do not check files")
    args = p.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    work = args.work.resolve()
    tasks = [described("dataset", args.dataset)] if args.dataset else []
    if args.cts:
        tasks.append(described("ct", made_up_cts(work, args.cts, tuple(args.ct_size[::-1]))))
    spacing = tuple(args.spacing) if args.spacing else None
    for task in tasks:
        for workers in args.workers:
            options = Options(workers, not args.unverified, spacing)
            products = products_for(task, args.mist, args.nnunet, options)
            show(task, options, *interleaved(task, products, options, args.rounds, work))


def described(name: str, path: Path) -> Task:
    dataset = read_dataset(path.resolve())
    if dataset.train_data is None or dataset.labels != tuple(range(len(dataset.labels))):
        sys.exit(f"{path}: expected MIST's layout and labels from 0 without a gap")
    return Task(name, dataset, [dataset.case(case) for case in dataset.train_ids()])


def files_of(case: Case) -> list[Path]:
    assert case.mask
    return [*case.images, case.mask]


# Made-up CTs


def made_up_cts(work: Path, count: int, shape: Shape) -> Path:
    """A dataset of CTs with ten organs, made once: the same for the same size."""
    folder = work / f"ct-{'x'.join(map(str, shape[::-1]))}-{count}"
    if not (folder / "dataset.json").exists():
        for number in range(count):
            image, mask = made_up_ct(shape, seed=number)
            write_volume(folder / f"train/ct_{number:02d}/image.nii.gz", image)
            write_volume(folder / f"train/ct_{number:02d}/mask.nii.gz", mask)
        labels = list(range(len(ORGANS) + 1))
        description = {
            "task": "ct",
            "modality": "ct",
            "train-data": "train",
            "images": {"ct": ["image.nii.gz"]},
            "mask": ["mask.nii.gz"],
            "labels": labels,
            "final_classes": {f"organ_{n}": [n] for n in labels[1:]},
        }
        write_json(folder / "dataset.json", description)
    return folder / "dataset.json"


def made_up_ct(shape: Shape, seed: int) -> tuple[Volume, Volume]:
    """A body, an ellipsoid that the field of view cuts off above and below, and what is in it."""
    generator = np.random.default_rng(seed)
    middle = np.asarray(shape) / 2
    labels = np.zeros(shape, np.uint8)
    image = np.full(shape, AIR_HU, np.float32)
    fill(image, middle, np.asarray(shape) * [0.75, 0.35, 0.44], BODY_HU)
    for label, (intensity, radius) in enumerate(ORGANS, start=1):
        away = generator.uniform(-1, 1, 3) * [0.3, 0.2, 0.25] * shape
        radii = radius * generator.uniform(0.8, 1.2, 3) * shape
        fill(image, middle + away, radii, intensity)
        fill(labels, middle + away, radii, label)
    stored = np.empty(shape, np.int16)
    for plane, values in zip(stored, image, strict=True):
        plane[:] = (values + generator.normal(0, NOISE_HU, values.shape)).clip(-1024, 3071).round()
    geometry = Geometry(shape, CT_SPACING, (0.0, 0.0, 0.0), np.eye(3)[:, ::-1])
    return Volume(stored, geometry), Volume(labels, geometry)


def fill(
    array: NDArray[np.float32] | NDArray[np.uint8],
    centre: NDArray[np.float64],
    radii: NDArray[np.float64],
    value: float,
) -> None:
    """Set the voxels of an ellipsoid; centre and radii in voxels."""
    low = np.maximum(np.floor(centre - radii), 0).astype(int)
    high = np.minimum(np.ceil(centre + radii) + 1, array.shape).astype(int)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    z, y, x = (
        ((np.arange(a, b) - c) / r) ** 2
        for a, b, c, r in zip(low, high, centre, radii, strict=True)
    )
    array[box][z[:, None, None] + y[:, None] + x < 1] = value


# The products


def products_for(
    task: Task, mist: Path | None, nnunet: Path | None, options: Options
) -> list[Product]:
    products = [ours()]
    if options.workers == 1:
        products.append(our_scripts())
    if mist:
        products.append(mist_of(mist))
    if nnunet:
        products.append(nnunet_of(nnunet))
    return products


def ours() -> Product:
    """The installed commands, which start Snakemake."""
    bin_ = Path(sys.executable).parent

    def analyze(task: Task, options: Options) -> list[Step]:
        spacing = list(options.spacing) if options.spacing else "auto"
        Path("chosen.yaml").write_text(yaml.safe_dump({"analyze": {"target_spacing": spacing}}))
        data = ["--data", task.dataset.path, "--nfolds", FOLDS, "--configfile", "chosen.yaml"]
        return [[bin_ / "mist_analyze", *data, "--num-workers-analyze", options.workers]]

    def preprocess(task: Task, options: Options) -> list[Step]:
        return [[bin_ / "mist_preprocess", "--num-workers-preprocess", options.workers]]

    return Product("ours", environment_of(bin_), OUR_LIBRARIES, analyze, preprocess, our_arrays)


def our_scripts() -> Product:
    """The scripts that the workflow starts, one process for all cases."""

    def script(name: str, task: Task, *arguments: object) -> Command:
        return [sys.executable, SCRIPTS / name, "--dataset", task.dataset.path, *arguments]

    def analyze(task: Task, options: Options) -> list[Step]:
        ids = [case.id for case in task.cases]
        prints = ["--fingerprints", "results/fingerprints", "--output", "results"]
        records = ["--folds", "results/folds.json", "--chunks", "results/chunks.json"]
        settings = {"folds": FOLDS, "target_spacing": options.spacing or "auto"}
        told = ["--cases-per-job", len(ids), "--settings", json.dumps(settings)]
        return [
            script("fingerprint.py", task, "--case", *ids, "--output", "results/fingerprints"),
            script("analyze.py", task, *prints, *records, *told),
        ]

    def preprocess(task: Task, options: Options) -> list[Step]:
        places = ["--plan", "results/config.json", "--output", "numpy"]
        return [script("preprocess.py", task, *places, "--case", *(c.id for c in task.cases))]

    environment = environment_of(Path(sys.executable).parent)
    name = "ours, scripts alone"
    return Product(name, environment, OUR_LIBRARIES, analyze, preprocess, our_arrays)


def our_arrays() -> Made:
    return made_of_npy(lambda shape: shape[:0:-1])  # (C, Z, Y, X)


def mist_of(bin_: Path) -> Product:
    def analyze(task: Task, options: Options) -> list[Step]:
        command = [bin_ / "mist_analyze", "--data", task.dataset.path, "--results", "results"]
        check = ["--verify"] if options.verify else []
        workers = ["--num-workers-analyze", options.workers]
        return [[*command, "--nfolds", FOLDS, *workers, *check]]

    def preprocess(task: Task, options: Options) -> list[Step]:
        command = [bin_ / "mist_preprocess", "--results", "results", "--numpy", "numpy"]
        return [
            lambda: set_spacing_of_mist(options.spacing),
            [*command, "--num-workers-preprocess", options.workers],
        ]

    def arrays() -> Made:
        return made_of_npy(lambda shape: shape[:3])  # (X, Y, Z, C)

    load = [bin_ / "mist_analyze", "--help"]
    return Product("MIST", environment_of(bin_), load, analyze, preprocess, arrays)


def set_spacing_of_mist(spacing: tuple[float, ...] | None) -> None:
    """MIST has no option for it; its preprocessing takes it from here."""
    if spacing:
        plan = read_json(Path("results/config.json"))
        plan["spatial_config"]["target_spacing"] = spacing
        write_json(Path("results/config.json"), plan)


def made_of_npy(size_of: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Made:
    plan = read_json(Path("results/config.json"))
    shapes = [np.load(p, mmap_mode="r").shape for p in sorted(Path("numpy/images").glob("*.npy"))]
    spacing = plan["spatial_config"]["target_spacing"]
    return Made(tuple(spacing), [size_of(shape) for shape in shapes], bytes_in(Path("numpy")))


def nnunet_of(bin_: Path) -> Product:
    folders = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "numpy", "nnUNet_results": "results"}

    def analyze(task: Task, options: Options) -> list[Step]:
        check = ["--verify_dataset_integrity"] if options.verify else []
        forced = ["-overwrite_target_spacing", *options.spacing[::-1]] if options.spacing else []
        extract = [bin_ / "nnUNetv2_extract_fingerprint", "-d", 1, "-np", options.workers, *check]
        plan = [bin_ / "nnUNetv2_plan_experiment", "-d", 1, *forced]
        return [lambda: convert_for_nnunet(task), extract, plan]

    def preprocess(task: Task, options: Options) -> list[Step]:
        command = [bin_ / "nnUNetv2_preprocess", "-d", 1, "-c", "3d_fullres"]
        return [[*command, "-np", options.workers]]

    environment = {**environment_of(bin_), **folders}
    load = [bin_ / "nnUNetv2_plan_experiment", "--help"]
    return Product("nnU-Net", environment, load, analyze, preprocess, lambda: nnunet_arrays(bin_))


def convert_for_nnunet(task: Task) -> None:
    """The same files under the names that nnU-Net expects."""
    folder = Path("raw/Dataset001_benchmark").absolute()
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for case in task.cases:
        *images, mask = files_of(case)
        for number, path in enumerate(images):
            (folder / f"imagesTr/{case.id}_{number:04d}.nii.gz").symlink_to(path)
        (folder / f"labelsTr/{case.id}.nii.gz").symlink_to(mask)
    names = zip(task.dataset.channels, task.dataset.modalities(), strict=True)
    channels = {str(n): "CT" if kind == "ct" else name for n, (name, kind) in enumerate(names)}
    labels = {f"label_{n}" if n else "background": n for n in task.dataset.labels}
    description = {"channel_names": channels, "labels": labels, "file_ending": ".nii.gz"}
    write_json(folder / "dataset.json", description | {"numTraining": len(task.cases)})


def nnunet_arrays(bin_: Path) -> Made:
    folder = Path("numpy/Dataset001_benchmark")
    plans = read_json(folder / "nnUNetPlans.json")
    files = sorted(folder.glob("*_3d_fullres/*.b2nd"))
    images = [file for file in files if not file.stem.endswith("_seg")]
    command = [bin_ / "python", "-c", SHAPES_OF_BLOSC2, *images]
    shapes = json.loads(subprocess.check_output(list(map(str, command))))
    back = plans["transpose_backward"][::-1]  # its axes to (x, y, z)
    spacing = plans["configurations"]["3d_fullres"]["spacing"]
    sizes = [tuple(shape[1:][axis] for axis in back) for shape in shapes]
    return Made(tuple(spacing[axis] for axis in back), sizes, bytes_in(folder))


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def environment_of(bin_: Path) -> dict[str, str]:
    """One thread in every library, and nothing of this environment for another."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    own = {"PYTHONPATH": str(ROOT)} if bin_ == Path(sys.executable).parent else {}
    path = {"PATH": f"{bin_}:{os.environ['PATH']}"}
    return {**inherited, **own, **path, **dict.fromkeys(THREADS, "1")}


# Measuring


def interleaved(
    task: Task, products: Sequence[Product], options: Options, rounds: int, work: Path
) -> tuple[dict[str, list[tuple[Used, Used]]], dict[str, Made]]:
    """What analyze and preprocess took of each product in each round, and what it made."""
    used: dict[str, list[tuple[Used, Used]]] = {product.name: [] for product in products}
    made = {}
    for number in range(rounds):
        for product in products:
            with empty_folder(work):
                warm_up(task, product)
                both = analyzed, preprocessed = (
                    run(product.analyze(task, options), product.environment, options.workers),
                    run(product.preprocess(task, options), product.environment, options.workers),
                )
                made[product.name] = product.made()
            if len(made[product.name].sizes) < len(task.cases):
                sys.exit(f"{product.name}: made {len(made[product.name].sizes)} cases only")
            used[product.name].append(both)
            print(
                f"{task.name}, round {number + 1}, {product.name}: "
                f"{analyzed.seconds:.1f} + {preprocessed.seconds:.1f} s, "
                f"{analyzed.peak_bytes / 1e9:.2f} and {preprocessed.peak_bytes / 1e9:.2f} GB",
                flush=True,
            )
    return used, made


def warm_up(task: Task, product: Product) -> None:
    """Bring files and libraries into the page cache, so that no product pays for the disk."""
    for case in task.cases:
        for path in files_of(case):
            path.read_bytes()
    run([product.load], product.environment, cores=1)


@contextmanager
def empty_folder(work: Path) -> Iterator[None]:
    """Work in a new folder, which is removed; nothing written before is left to be flushed."""
    os.sync()
    before = Path.cwd()
    with tempfile.TemporaryDirectory(dir=work) as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def run(steps: Sequence[Step], environment: Mapping[str, str], cores: int) -> Used:
    total = Used()
    for step in steps:
        if callable(step):
            step()
        else:
            total = total.then(measured(list(map(str, step)), environment, cores))
    return total


def measured(
    command: list[str],
    environment: Mapping[str, str],
    cores: int,
    sampled_every: float = SAMPLED_EVERY,
) -> Used:
    """Run a command on some cores, whatever threads it starts, and sample it from the others."""
    all_cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryFile() as log:
        os.sched_setaffinity(0, all_cores[:cores])  # which a child inherits
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        os.sched_setaffinity(0, all_cores[cores:] or all_cores)
        memory = MemoryOfTree(process.pid, sampled_every)
        _, status, resources = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        memory.stop()
        os.sched_setaffinity(0, all_cores)
        if status:
            log.seek(0)
            sys.exit(f"{' '.join(command)[:300]}\n{log.read().decode()[-4000:]}")
    return Used(seconds, resources.ru_utime + resources.ru_stime, memory.peak)


class MemoryOfTree:
    """The highest sum of the proportional set sizes of a process and its descendants.

    PSS counts a page that several processes share once. It is slow to read and never above the
    resident set size, so it is read only where that is above the peak so far.
    """

    def __init__(self, pid: int, every: float) -> None:
        self.peak = 0
        self._pid = pid
        self._every = every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(self._every):
            tree = descendants(self._pid)
            if sum(map(resident, tree)) > self.peak:
                self.peak = max(self.peak, sum(map(proportional, tree)))


def descendants(pid: int) -> list[int]:
    """A process and all that came from it."""
    children: dict[int, list[int]] = {}
    for other in filter(str.isdigit, (entry.name for entry in os.scandir("/proc"))):
        # The name, in parentheses, may have spaces; state and parent follow it.
        if stat := text_of(other, "stat"):
            parent = int(stat.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(other))
    tree = [pid]
    for member in tree:  # which grows meanwhile
        tree += children.get(member, [])
    return tree


def resident(pid: int) -> int:
    statm = text_of(pid, "statm")
    return int(statm.split()[1]) * PAGE if statm else 0


def proportional(pid: int) -> int:
    lines = text_of(pid, "smaps_rollup").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def text_of(pid: int | str, name: str) -> str:
    """What the kernel tells of a process; nothing once it has ended."""
    with suppress(OSError), open(f"/proc/{pid}/{name}") as stream:  # noqa: PTH123 (twice as fast)
        return stream.read()
    return ""


# What is shown


def show(
    task: Task,
    options: Options,
    used: Mapping[str, list[tuple[Used, Used]]],
    made: Mapping[str, Made],
) -> None:
    """Medians of the rounds; ratios to the first product."""
    print(f"\n{len(task.cases)} cases of {task.name}, workers: {options.workers}\n")
    print(
        "| | analyze, s/case | preprocess, s/case | together | ratio | CPU, s/case | ratio "
        "| peak of analyze, GB | of preprocess | ratio of the higher |\n" + 10 * "|---" + "|"
    )
    first = None
    for name, rounds in used.items():
        times = [median_seconds(rounds, part) / len(task.cases) for part in (0, 1)]
        together = statistics.median(sum(u.seconds for u in both) for both in rounds)
        cpu = statistics.median(sum(u.cpu_seconds for u in both) for both in rounds)
        peaks = [statistics.median(both[part].peak_bytes for both in rounds) for part in (0, 1)]
        first = first or (together, cpu, max(peaks))
        print(
            f"| {name} | {times[0]:.2f} | {times[1]:.2f} | {together / len(task.cases):.2f} "
            f"| {together / first[0]:.1f} | {cpu / len(task.cases):.2f} | {cpu / first[1]:.1f} "
            f"| {peaks[0] / 1e9:.2f} | {peaks[1] / 1e9:.2f} | {max(peaks) / first[2]:.1f} |"
        )
    show_grids(task, used, made)


def show_grids(
    task: Task, used: Mapping[str, list[tuple[Used, Used]]], made: Mapping[str, Made]
) -> None:
    """What the products made, which need not be the same."""
    print(
        "\n| | target spacing, mm | sizes | million voxels/s in preprocess | on disk, MB/case |\n"
        + 5 * "|---"
        + "|"
    )
    for name, result in made.items():
        spacing = " x ".join(f"{edge:g}" for edge in result.spacing)
        sizes = ", ".join("x".join(map(str, size)) for size in sorted(set(result.sizes)))
        voxels = sum(map(prod, result.sizes)) * len(task.dataset.channels)
        rate = voxels / 1e6 / median_seconds(used[name], 1)
        megabytes = result.bytes_on_disk / 1e6 / len(task.cases)
        print(f"| {name} | {spacing} | {sizes} | {rate:.2f} | {megabytes:.0f} |")
    print(flush=True)


def median_seconds(rounds: Sequence[tuple[Used, Used]], part: int) -> float:
    return statistics.median(both[part].seconds for both in rounds)


if __name__ == "__main__":
    main()
