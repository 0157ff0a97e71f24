"""One self-contained HTML page of a run: what was done, how well, and what it looks like."""

import base64
import io as byteio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from mist_core import __version__
from mist_core.dataset import RESERVED_IDS
from mist_core.files import read_rows
from mist_core.io import read_image, read_labels
from mist_core.metrics import lowest_best, metric_of, split_column
from mist_core.pictures import COLOURS
from mist_core.plan import Plan
from mist_core.resample import canonical

Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Candidate:
    """An experiment with a strategy: its scores and where its label maps are."""

    name: str
    results: Rows  # cases only
    predictions: Path


@dataclass(frozen=True)
class Picture:
    """A PNG to embed, with its caption and the words for those who cannot see it."""

    png: str  # base64
    caption: str
    alt: str


def read_candidate(name: str, results: Path, predictions: Path) -> Candidate:
    """Read a results table without its summary rows."""
    rows = [row for row in read_rows(results) if row["id"] not in RESERVED_IDS]
    return Candidate(name, rows, predictions)


def render(
    plan: Plan,
    paths: Rows,
    candidates: Sequence[Candidate],
    ranking: Rows,
    histories: Mapping[str, Rows],
    models: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The page. Candidates are shown in the order of the ranking, pictures are of the first.

    ``models`` says for every experiment and fold which weights were ``chosen``, and whether
    ``by_held_out`` cases.
    """
    by_name = {c.name: c for c in candidates}
    ordered = [by_name[row["strategy"]] for row in ranking]
    environment = Environment(
        loader=PackageLoader("mist_core", "templates"), autoescape=True, trim_blocks=True
    )
    return environment.get_template("report.html").render(
        version=__version__,
        plan=plan,
        n_cases=len(paths),
        folds=len({row["fold"] for row in paths}),
        channels=plan.dataset_info.images,
        table=score_table(ordered),
        columns=columns(ordered),
        ranks={row["strategy"]: row["average_rank"] for row in ranking},
        best=ordered[0].name,
        cases=[row for _, row in worst_first(ordered[0].results, columns(ordered))],
        headline=headline(columns(ordered)),
        boxes=score_picture(ordered),
        models=models or {},
        optimistic=any(model["by_held_out"] for model in (models or {}).values()),
        curves=loss_picture(histories) if histories else None,
        pictures=case_pictures(ordered[0], paths, plan),
    )


def columns(candidates: Sequence[Candidate]) -> list[str]:
    """The metric columns, ``<class>_<metric>``."""
    return [c for c in candidates[0].results[0] if c != "id"]


def score_table(candidates: Sequence[Candidate]) -> dict[str, dict[str, tuple[float, float]]]:
    """Mean and standard deviation over cases, by candidate and column."""
    return {
        c.name: {
            column: (float(np.mean(values)), float(np.std(values)))
            for column in columns(candidates)
            for values in [[float(row[column]) for row in c.results]]
        }
        for c in candidates
    }


def summary_text(candidates: Sequence[Candidate], ranking: Rows) -> str:
    """The table for the terminal: mean of every metric, a block for each candidate, best first."""
    table = score_table(candidates)
    names = columns(candidates)
    metrics = list(dict.fromkeys(_metric_of(n) for n in names))
    classes = list(dict.fromkeys(n.removesuffix(f"_{_metric_of(n)}") for n in names))
    width = max(len(c) for c in [*classes, *table]) + 2
    lines = []
    for row in ranking:
        name = row["strategy"]
        lines.append(f"{name}  (mean rank {row['average_rank']})")
        lines.append(" " * width + "".join(f"{m:>12}" for m in metrics))
        for label in classes:
            values = [table[name].get(f"{label}_{m}", (np.nan, 0))[0] for m in metrics]
            lines.append(f"  {label:<{width - 2}}" + "".join(f"{v:>12.4f}" for v in values))
    return "\n".join(lines) + "\n"


def _metric_of(column: str) -> str:
    parts = split_column(column)
    assert parts is not None, column
    return parts[1]


def headline(names: Sequence[str]) -> str:
    """The metric by which cases are compared: Dice, or the first there is."""
    metrics = [_metric_of(name) for name in names]
    return "dice" if "dice" in metrics else metrics[0]


def worst_first(rows: Rows, names: Sequence[str]) -> list[tuple[float, dict[str, str]]]:
    """Cases with their headline metric, a mean over classes, from worst to best."""
    metric = headline(names)
    used = [name for name in names if _metric_of(name) == metric]
    scored = [(float(np.mean([float(row[name]) for name in used])), row) for row in rows]
    badness = lowest_best(np.array([score for score, _ in scored]), metric_of(metric).better)
    return [scored[i] for i in np.argsort(-badness, kind="stable")]


def score_picture(candidates: Sequence[Candidate]) -> Picture:
    """Box plots with a point for every case: the headline metric by class, side by side."""
    metric = headline(columns(candidates))
    names = [c for c in columns(candidates) if _metric_of(c) == metric]
    figure = Figure(
        figsize=(1.2 + 1.3 * len(names) * len(candidates) ** 0.6, 3.6), layout="constrained"
    )
    axes = figure.subplots()
    generator = np.random.default_rng(0)
    for index, candidate in enumerate(candidates):
        colour = COLOURS[index % len(COLOURS)]
        for position, column in enumerate(names):
            values = [float(row[column]) for row in candidate.results]
            at = position * (len(candidates) + 1) + index
            axes.boxplot(values, positions=[at], widths=0.7, showfliers=False)
            jitter = at + generator.uniform(-0.2, 0.2, len(values))
            label = candidate.name if position == 0 else None
            axes.scatter(jitter, values, s=12, color=colour, label=label, alpha=0.8)
    middle = (len(candidates) - 1) / 2
    axes.set_xticks([p * (len(candidates) + 1) + middle for p in range(len(names))], names)
    axes.set_ylabel(metric)
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    return Picture(_png(figure), "Every case, by class.", "Box plots of the scores of all cases")


def loss_picture(histories: Mapping[str, Rows]) -> Picture:
    """Training loss by epoch, a line for each fold."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for index, (name, rows) in enumerate(histories.items()):
        epochs = [int(row["epoch"]) for row in rows]
        losses = [float(row["loss"]) for row in rows]
        axes.plot(epochs, losses, label=name, color=COLOURS[index % len(COLOURS)], marker=".")
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss")
    axes.legend(fontsize=8)
    return Picture(_png(figure), "Training loss of every fold.", "Curves of training loss by epoch")


def case_pictures(candidate: Candidate, paths: Rows, plan: Plan) -> list[Picture]:
    """The worst, the median and the best case by the headline metric: a rule, not an eye."""
    files = {row["id"]: row for row in paths}
    names = columns([candidate])
    ordered = worst_first(candidate.results, names)
    chosen = {"worst": 0, "median": len(ordered) // 2, "best": len(ordered) - 1}
    pictures = []
    for name, index in chosen.items():
        value, row = ordered[index]
        case = files[row["id"]]
        channels = plan.dataset_info.images
        missing = [channel for channel in channels if not case[channel]]
        first = next(case[channel] for channel in channels if case[channel])
        image = canonical(read_image(Path(first)))
        reference = canonical(read_labels(Path(case["mask"])))
        prediction = canonical(read_labels(candidate.predictions / f"{row['id']}.nii.gz"))
        png = contour_png(
            image.array.astype(np.float32),
            reference.array,
            prediction.array,
            plan.dataset_info.labels[1:],
            image.geometry.spacing,
        )
        caption = f"{name}: {row['id']}, mean {headline(names)} {value:.3f}"
        caption += f", without {', '.join(missing)}" if missing else ""
        pictures.append(Picture(png, caption, f"Contours on three slices of case {row['id']}"))
    return pictures


def contour_png(
    image: NDArray[np.float32],
    reference: NDArray[Any],
    prediction: NDArray[Any],
    labels: Sequence[int],
    spacing: tuple[float, float, float],
) -> str:
    """Axial, coronal and sagittal slice where the two label maps differ most.

    Reference contours are solid, prediction contours dashed, a colour for each label.
    """
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    error = reference != prediction
    low, high = np.percentile(image, [1, 99])
    for axis, (axes, title) in enumerate(
        zip(figure.subplots(1, 3), ("axial", "coronal", "sagittal"), strict=True)
    ):
        others = tuple(a for a in range(3) if a != axis)
        index = int((error if error.any() else reference > 0).sum(axis=others).argmax())
        rows, cols = (spacing[a] for a in others)
        # Arrays run towards superior and posterior; pictures have superior and anterior on top.
        origin = "upper" if axis == 0 else "lower"
        axes.imshow(
            image.take(index, axis), cmap="gray", vmin=low, vmax=high,
            origin=origin, aspect=rows / cols,
        )  # fmt: skip
        for number, label in enumerate(labels):
            colour = COLOURS[number % len(COLOURS)]
            for volume, style in ((reference, "solid"), (prediction, "dashed")):
                mask = volume.take(index, axis) == label
                if mask.any() and not mask.all():
                    axes.contour(mask, [0.5], colors=colour, linestyles=style, linewidths=1.2)
        axes.set_title(f"{title} {index}", fontsize=9)
        axes.set_axis_off()
    handles = [
        Line2D([], [], color=COLOURS[number % len(COLOURS)], label=f"label {label}")
        for number, label in enumerate(labels)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    return _png(figure)


def _png(figure: Figure) -> str:
    stream = byteio.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return base64.b64encode(stream.getvalue()).decode()
