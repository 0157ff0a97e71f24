"""Statistics as small pictures: panels that are as wide as a phone, which the page puts side by
side.

Each is an SVG without any date or random name, so that the same numbers give the same picture.
"""

import io as byteio
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import ceil, floor, log10
from typing import Any
from urllib.parse import quote

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from numpy.typing import NDArray

from mist_core.pictures import COLOURS

WIDTH = 3.6  # inches, of 100 pixels
INK, GREY, PALE = "#1f2933", "#616e7c", "#d9dee4"
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
MOST_VECTORS = 400  # points of a panel: more are one picture
UNQUOTED = " /:;=,+().-{}*"  # that may stand in the address of a picture
LETTERS = 46  # of a line of a panel
FAR = 3.0  # lengths of a box from it: what is farther must not crush the rest
MARKS = "osD^vP*"
STYLE: Any = {
    "svg.fonttype": "none",  # letters stay letters, of the reader's own font
    "svg.hashsalt": "mist_core",
    "text.parse_math": False,  # names may have dollar signs
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#eceff2",
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Panel:
    """A picture to embed, with the words for those who cannot see it."""

    src: str  # data URI
    alt: str
    title: str
    width: int  # pixels
    height: int


def _drawn(title: str, height: float, alt: str, draw: Callable[[Axes], None]) -> Panel:
    """What ``draw`` makes on axes that are ``height`` inches high."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.subplots())
        stream = byteio.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, dpi=110)
    text = quote(_slim(stream.getvalue().decode()), safe=UNQUOTED)  # shorter than base 64
    size = round(WIDTH * 100), round(height * 100)
    return Panel(f"data:image/svg+xml;charset=utf-8,{text}", alt, title, *size)


def _slim(svg: str) -> str:
    """The same picture in half the letters: hundredths of a point are enough, and points
    share their style.
    """
    svg = re.sub(r"<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    styles = dict.fromkeys(re.findall(r'<use [^>]*?style="([^"]*)"', svg))
    for number, style in enumerate(styles):
        svg = svg.replace(f' style="{style}"/>', f' class="s{number}"/>')
    rules = "".join(f".s{number}{{{style}}}" for number, style in enumerate(styles))
    svg = svg.replace("</style>", f"{rules}</style>", 1)
    coordinates = re.compile(r'( (?:d|x|y|transform|points)=")([^"]*)(")')
    return coordinates.sub(lambda m: m[1] + re.sub(r"(\.\d\d)\d+", r"\1", m[2]) + m[3], svg)


def boxes(
    title: str, rows: Mapping[str, Sequence[float]], label: str, limits: tuple[float, float] | None
) -> Panel:
    """Boxes with a point for every number, a row for each name, from top to bottom."""
    names = list(rows)
    found = [_numbers(rows[name]) for name in names]
    medians = [f"{np.median(v):.3g}" if v.size else "none" for v in found]
    said = ", ".join(f"{n} {m}" for n, m in zip(names, medians, strict=True))
    top = np.inf if limits else _end_of(found)
    beyond = [int((values > top).sum()) for values in found]
    written = [
        _wrapped(name + (f" ({n} beyond)" if n else ""))
        for name, n in zip(names, beyond, strict=True)
    ]
    many = sum(values.size for values in found) > MOST_VECTORS
    generator = np.random.default_rng(0)

    def draw(axes: Axes) -> None:
        for place, values in enumerate(found):
            jitter = place + generator.uniform(-0.16, 0.16, values.size)
            axes.scatter(
                values, jitter, s=11, color=COLOURS[place % len(COLOURS)], alpha=0.75,
                edgecolors=INK, linewidths=0.3, zorder=2, rasterized=many,
            )  # fmt: skip
            lines = {"color": INK, "linewidth": 1.1}
            if values.size:
                axes.boxplot(
                    values, positions=[place], orientation="horizontal", widths=0.5,
                    showfliers=False, boxprops=lines, whiskerprops=lines, capprops=lines,
                    medianprops={"color": INK, "linewidth": 2.2}, zorder=3, manage_ticks=False,
                )  # fmt: skip
            axes.annotate(
                written[place], (0, place - 0.32), xycoords=("axes fraction", "data"),
                fontsize=9, va="bottom",
            )  # fmt: skip
        axes.set_ylim(len(names) - 0.45, -0.75)
        axes.set_yticks([])
        axes.set_xlabel(label)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        if limits:
            axes.set_xlim(*limits)
        elif any(beyond):
            axes.set_xlim(right=top)

    alt = f"Box plots of {title}, {label}, with a point for every case; medians: {said}."
    alt += f" Beyond {top:.3g} lie {sum(beyond)} that are not drawn." if any(beyond) else ""
    return _drawn(title, 0.75 + _pitch(0.52, written) * len(names), alt, draw)


def _end_of(rows: Sequence[NDArray[np.float64]]) -> float:
    """Where an axis ends: at the farthest value of any row, unless it is FAR from every box."""
    ends = []
    for values in rows:
        if values.size:
            first, last = np.percentile(values, (25, 75))
            ends.append(float(min(values.max(), last + FAR * (last - first))))
    farthest = max((float(values.max()) for values in rows if values.size), default=np.inf)
    end = 1.05 * max(ends, default=np.inf)
    return end if 0 < end < farthest else np.inf


def _wrapped(name: str) -> str:
    """All of a long name, in several lines."""
    return "\n".join(textwrap.wrap(name, LETTERS)) or name


def _pitch(inches: float, written: Sequence[str]) -> float:
    """The height of a row that leaves room for the longest name."""
    return inches + 0.25 * max((words.count("\n") for words in written), default=0)


def histogram(title: str, values: Sequence[float], label: str, share: bool) -> Panel:
    """How many cases have which score; ``share`` for scores from 0 to 1."""
    numbers = _numbers(values)
    farthest = max(float(numbers.max()) if numbers.size else 1.0, 1e-6)
    top = 1.0 if share else min(farthest, _end_of([numbers]))
    beyond = int((numbers > top).sum())
    edges = np.linspace(0, top, 21)
    counts, _ = np.histogram(np.clip(numbers, 0, None), edges)
    fullest = int(counts.argmax())

    def draw(axes: Axes) -> None:
        axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=BLUE, edgecolor="white")
        if numbers.size:
            axes.axvline(float(np.median(numbers)), color=ORANGE, linestyle="--", label="median")
            axes.legend(loc="upper left", bbox_to_anchor=(0, 1))
        axes.set_xlabel(label + (f" ({beyond} beyond)" if beyond else ""))
        axes.set_ylabel("cases")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0, top)

    alt = (
        f"Histogram of {label} of {title}: {numbers.size} cases, most of them, "
        f"{counts[fullest]}, from {edges[fullest]:.2g} to {edges[fullest + 1]:.2g}."
    )
    alt += f" Beyond {top:.3g} lie {beyond} that are not drawn." if beyond else ""
    return _drawn(title, 2.3, alt, draw)


def volumes(title: str, reference: Sequence[float], prediction: Sequence[float]) -> Panel:
    """Predicted against reference volume, in mL, with the line of equality."""
    x, y = _pairs(reference, prediction)

    def draw(axes: Axes) -> None:
        top = 1.05 * max([1e-6, *x, *y])
        axes.plot([0, top], [0, top], color=GREY, linestyle="--", linewidth=1, label="equal")
        _scatter(axes, x, y)
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)
        axes.set_xlabel("reference / mL")
        axes.set_ylabel("prediction / mL")
        axes.legend(loc="upper left")

    r = f", correlation {np.corrcoef(x, y)[0, 1]:.3f}" if _varies(x) and _varies(y) else ""
    alt = f"Predicted against reference volume of {title} in mL, {x.size} cases{r}."
    return _drawn(title, 2.7, alt, draw)


def bland_altman(title: str, reference: Sequence[float], prediction: Sequence[float]) -> Panel:
    """Difference of the volumes against their mean, in mL, with the limits of agreement.

    Bias, and bias ± 1.96 standard deviations of the differences. Bland & Altman, Lancet 327 (1986)
    307-310.
    """
    x, y = _pairs(reference, prediction)
    bias, low, high = limits_of_agreement(reference, prediction)

    def draw(axes: Axes) -> None:
        _scatter(axes, (x + y) / 2, y - x)
        axes.axhline(0, color=PALE, linewidth=1)
        axes.axhline(bias, color=ORANGE)
        for limit in (low, high):
            axes.axhline(limit, color=ORANGE, linestyle="--", linewidth=1)
        # Volumes that agree but for rounding must not fill the plot with it.
        least = 0.01 * max([1e-6, *x, *y])
        seen = max([least, *abs(y - x), *(abs(v) for v in (low, high) if np.isfinite(v))])
        axes.set_ylim(-1.25 * seen, 1.25 * seen)
        far = np.isfinite(low) and high - low > 0.4 * seen
        words = {bias: "bias", low: "-1.96 SD", high: "+1.96 SD"} if far else {bias: "bias"}
        for value, word in words.items():
            if np.isfinite(value):
                axes.annotate(
                    f"{word} {value:.3g}", (1, value), xycoords=("axes fraction", "data"),
                    xytext=(0, 2), textcoords="offset points", ha="right", fontsize=8.5,
                    color=ORANGE, zorder=4,
                    bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.5},
                )  # fmt: skip
        axes.set_xlabel("mean of both / mL")
        axes.set_ylabel("prediction - reference / mL")

    alt = (
        f"Bland-Altman plot of the volumes of {title}: bias {bias:.3g} mL, limits of agreement "
        f"{low:.3g} to {high:.3g} mL."
    )
    return _drawn(title, 2.7, alt, draw)


def limits_of_agreement(
    reference: Sequence[float], prediction: Sequence[float]
) -> tuple[float, float, float]:
    """Bias of the prediction, and bias ± 1.96 sample standard deviations of the differences."""
    x, y = _pairs(reference, prediction)
    if not x.size:
        return (float("nan"),) * 3
    bias = float((y - x).mean())
    spread = 1.96 * float((y - x).std(ddof=1)) if x.size > 1 else float("nan")
    return bias, bias - spread, bias + spread


def score_by_volume(
    title: str, reference: Sequence[float], scores: Sequence[float], label: str
) -> Panel:
    """A score against the reference volume, in mL, on a logarithmic axis: small ones fare worse."""
    x, y = _pairs(reference, scores)
    missing = int((x <= 0).sum())
    x, y = x[x > 0], y[x > 0]

    def draw(axes: Axes) -> None:
        _scatter(axes, x, y)
        if x.size:
            axes.set_xscale("log")
            ticks = log_ticks(*axes.get_xlim())
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("reference / mL")
        axes.set_ylabel(label)

    left_out = f"; {missing} cases without the class are left out" if missing else ""
    alt = f"{label} of {title} against reference volume, {x.size} cases{left_out}."
    return _drawn(title, 2.7, alt, draw)


def log_ticks(low: float, high: float) -> list[float]:
    """A few round numbers between two, for a logarithmic axis."""
    tens = [10.0**k for k in range(floor(log10(low)), ceil(log10(high)) + 1)]
    for digits in ((1,), (1, 3), (1, 2, 5)):
        ticks = [n * ten for ten in tens for n in digits if low <= n * ten <= high]
        if len(ticks) >= 3:
            return ticks[:: ceil(len(ticks) / 7)]
    return [float(t) for t in MaxNLocator(4).tick_values(low, high) if low <= t <= high]


def ranks(candidates: Sequence[Mapping[str, Any]]) -> Panel:
    """Mean rank of every candidate with its interval, the best on top."""
    names = [_wrapped(f"{place}  {each['strategy']}") for place, each in enumerate(candidates, 1)]

    def draw(axes: Axes) -> None:
        for place, each in enumerate(candidates):
            colour = COLOURS[place % len(COLOURS)]
            at = each["average_rank"]
            low, high = each.get("ci_low"), each.get("ci_high")
            if low is not None and high is not None:
                axes.plot([low, high], [place, place], color=INK, linewidth=1.6)
                axes.plot([low, high], [place, place], "|", color=INK, markersize=8)
            axes.plot(at, place, "o", color=colour, markeredgecolor=INK, markersize=9)
            axes.annotate(
                names[place], (0, place - 0.3),
                xycoords=("axes fraction", "data"), fontsize=9, va="bottom",
            )  # fmt: skip
        axes.set_ylim(len(candidates) - 0.4, -0.8)
        axes.set_yticks([])
        axes.set_xlim(0.95, len(candidates) + 0.05)
        axes.set_xlabel("mean rank, lower is better")
        axes.grid(visible=False, axis="y")

    said = ", ".join(f"{each['strategy']} {each['average_rank']:.3g}" for each in candidates)
    height = 0.75 + _pitch(0.6, names) * len(candidates)
    return _drawn("Mean rank", height, f"Mean ranks: {said}.", draw)


def frequencies(candidates: Sequence[Mapping[str, Any]]) -> Panel:
    """How often every candidate had which rank when patients were drawn again."""
    names = [each["strategy"] for each in candidates]
    table = np.array([each["frequencies"] for each in candidates], float)
    firsts = ", ".join(f"{n} {row[0]:.0%}" for n, row in zip(names, table, strict=True))
    alt = f"Map of rank frequencies over bootstraps; first place: {firsts}."
    cells = [[f"{100 * value:.0f}" if value else "" for value in row] for row in table]
    colours = mpl.colormaps["Blues"](0.9 * table)
    places = [str(n + 1) for n in range(table.shape[1])]
    return _map("Rank frequencies / %", names, places, cells, colours, "rank", alt)


def significance(
    candidates: Sequence[str], pairs: Sequence[Mapping[str, Any]], alpha: float
) -> Panel:
    """Which candidate is better than which: adjusted p-values of row better than column."""
    place = {name: number for number, name in enumerate(candidates)}
    p = np.full((len(place), len(place)), np.nan)
    for pair in pairs:
        if pair["p_holm"] is not None:
            p[place[pair["strategy"]], place[pair["other"]]] = pair["p_holm"]
    better = p <= alpha
    cells = [["" if np.isnan(v) else _p_value(v) for v in row] for row in p]
    colours = np.where(better[..., None], mpl.colors.to_rgba("#9fd3c0"), (1.0, 1.0, 1.0, 1.0))
    colours[np.isnan(p)] = mpl.colors.to_rgba("#eceff2")
    said = "; ".join(
        f"{a} over {b}" for a in candidates for b in candidates if better[place[a], place[b]]
    )
    alt = f"Significance map of pairs of candidates: {said or 'no pair differs'} at {alpha:g}."
    columns = [str(n + 1) for n in range(len(place))]
    return _map("Adjusted p", list(candidates), columns, cells, colours, "is better than", alt)


def _p_value(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    colours: NDArray[Any],
    label: str,
    alt: str,
) -> Panel:
    """Coloured cells with a number in each, below the name of their row."""
    size = 9 if len(columns) < 9 else 6.5
    names = [_wrapped(f"{place}  {name}") for place, name in enumerate(rows, 1)]

    def draw(axes: Axes) -> None:
        for i, name in enumerate(names):
            for j, text in enumerate(cells[i]):
                axes.add_patch(
                    mpl.patches.Rectangle(
                        (j - 0.48, i - 0.18), 0.96, 0.56, facecolor=colours[i, j], edgecolor=PALE
                    )
                )
                dark = float(np.dot(colours[i, j][:3], (0.3, 0.59, 0.11))) < 0.5
                axes.text(
                    j, i + 0.1, text, ha="center", va="center", fontsize=size,
                    color="white" if dark else INK,
                )  # fmt: skip
            axes.text(-0.48, i - 0.22, name, fontsize=9, va="bottom")
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.55, -0.7)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks([])
        axes.set_xlabel(label)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)

    return _drawn(title, 0.75 + _pitch(0.6, names) * len(rows), alt, draw)


def curves(
    title: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], label: str
) -> Panel:
    """Something by epoch, a line for each fold, told apart by colour and mark."""
    ends = ", ".join(f"{name} {y[-1]:.3g}" for name, (_, y) in lines.items() if len(y))

    def draw(axes: Axes) -> None:
        # The pale yellow of the colours cannot be seen as a line on white.
        colours = cycle(colour for colour in COLOURS if colour != "#F0E442")
        for (name, (x, y)), colour, mark in zip(lines.items(), colours, cycle(MARKS), strict=False):
            every = max(1, len(x) // 8)
            axes.plot(x, y, color=colour, marker=mark, markersize=4, markevery=every, label=name)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(ncols=2)

    return _drawn(title, 2.5, f"{title} by epoch; at the end: {ends}.", draw)


def _scatter(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    axes.scatter(
        x, y, s=14, color=BLUE, alpha=0.7, edgecolors="white", linewidths=0.4, zorder=3,
        rasterized=x.size > MOST_VECTORS,
    )  # fmt: skip


def _numbers(values: Sequence[float]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.asarray(values, float)
    return found[np.isfinite(found)]


def _pairs(
    one: Sequence[float], other: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(one, float), np.asarray(other, float)
    both = np.isfinite(x) & np.isfinite(y)
    return x[both], y[both]


def _varies(values: NDArray[np.float64]) -> bool:
    return values.size > 1 and float(np.ptp(values)) > 0
