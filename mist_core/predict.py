"""From a preprocessed image and trained networks to a label map on the scanner's grid."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mist_core import sliding
from mist_core.augment import mirror_axes
from mist_core.config import Blending, Predict, Train
from mist_core.device import MEMORY_FORMAT, best_device, enough_memory, half_precision, tune
from mist_core.errors import DataError
from mist_core.files import read_json
from mist_core.geometry import Geometry, Origin
from mist_core.io import Volume, open_array
from mist_core.labels import smallest_uint, to_values
from mist_core.metrics.surfaces import check_spacing
from mist_core.modelfile import ModelFile, network_of, read_models, refuse_other_plans
from mist_core.onnxfile import OnnxModel, onnx_files, read_onnx_models
from mist_core.own import is_own
from mist_core.plan import Plan
from mist_core.preprocess import preprocess
from mist_core.regions import membership, mirrored_classes, mirrored_regions
from mist_core.restore import restore, restore_probabilities
from mist_core.sliding import Cell, WindowGrid, flipped_mean, own_copy, window_weight

CPU = torch.device("cpu")
MOST_LOGITS = 1 << 28  # of windows that are shown at once, where these are several
LARGEST_SUMS = 2 << 30  # bytes of the cells that are begun, as float32; else they are float16
LARGEST_LOGIT = 1000.0  # that a network is expected to give; most are far smaller


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """What a model file holds, ready to run."""

    network: nn.Module
    plan: Plan
    train: Train
    device: torch.device = CPU  # where the network is


def load_model(
    paths: Path | str | Sequence[Path | str],
    folds: Sequence[int] | None = None,
    device: torch.device | None = None,
    own_code: bool = False,
) -> list[TrainedModel]:
    """The networks of the folds of a model, on a device; None: the best.

    A model is a package, a folder with fold_<k>.pt or .onnx, a file of either kind, or several of
    these. ``folds`` are the numbers of those that are wanted of each path; None: all. A file may
    name a network of somebody's own, ``module:function``: its code is run only with ``own_code``;
    nothing else in a file can run code. Raises DataError for that, for files that are no models,
    folds that are not there, and models of different plans.
    """
    device = device or best_device()
    found: dict[str, ModelFile | OnnxModel] = {}
    for path in [Path(paths)] if isinstance(paths, Path | str) else map(Path, paths):
        read = read_onnx_models if onnx_files(path) else read_models
        found |= {f"{path}: {name}": model for name, model in read(path, folds).items()}
    if not found:
        raise ValueError("expected the path of a model, found none")
    refuse_other_plans(found)
    if not own_code:
        refuse_own_code(found)
    return [
        TrainedModel(model.network, model.plan, model.train)
        if isinstance(model, OnnxModel)
        else _ready(model, device)
        for model in found.values()
    ]


def refuse_own_code(found: Mapping[str, ModelFile | OnnxModel]) -> None:
    """Raise DataError for a model whose file names code to run that is not of this library."""
    for model in found.values():
        if isinstance(model, ModelFile) and is_own(model.train.model):
            raise DataError(
                f"{model.source}: expected a network of this library, found {model.train.model}, "
                "whose code would be run. Say --own-code (own_code=True) if you trust the file."
            )


def _ready(found: ModelFile, device: torch.device) -> TrainedModel:
    network = network_of(found).to(device)
    network.to(memory_format=MEMORY_FORMAT)  # type: ignore[call-overload]
    return TrainedModel(network, found.plan, found.train, device)


def predict_array(
    models: Sequence[TrainedModel],
    image: NDArray[Any],
    spacing_mm: Sequence[float],
    settings: Predict | None = None,
) -> NDArray[np.unsignedinteger]:
    """Label values (Z, Y, X) of an image (Z, Y, X), or (C, Z, Y, X) with channels as in the plan.

    ``models`` are those of ``load_model``, which are averaged.
    ``spacing_mm`` is per array axis. Axes run to the head, to the back and to the left, as those of
    files that are read with SimpleITK do unless their headers say otherwise. No files are needed.
    By default windows are not mirrored. Raises ValueError for another shape, and
    for values that are not finite.
    """
    plan = models[0].plan
    channels = np.asarray(image)[None] if np.ndim(image) == 3 else np.asarray(image)
    if channels.ndim != 4 or len(channels) != len(plan.dataset_info.images):
        raise ValueError(
            f"expected an image of {len(plan.dataset_info.images)} channels (C, Z, Y, X), found "
            f"shape {np.shape(image)}"
        )
    if not np.isfinite(channels).all():
        raise ValueError("expected an image of finite values, found NaN or infinity")
    check_spacing(spacing_mm, 3)
    z, y, x = map(float, spacing_mm)
    place = Geometry(channels.shape[1:], (z, y, x), (0.0, 0.0, 0.0), np.eye(3)[:, ::-1])
    done = preprocess([Volume(channel, place) for channel in channels], None, plan)
    settings = settings or Predict(flips=False)
    return predict_preprocessed(models, done.image, done.origin, settings).labels.array


@dataclass(frozen=True, eq=False)
class Predicted:
    """A label map on the grid of the scanner, and the probabilities it was made of."""

    labels: Volume
    probabilities: NDArray[np.float32] | None = None  # (K, Z, Y, X), where they were asked for


def predict_case(
    models: Sequence[TrainedModel],
    image: Path,
    geometry: Path,
    settings: Predict,
    probabilities: bool = False,
) -> Predicted:
    """The label map of one preprocessed case, from the files that preprocess wrote."""
    origin = Origin.from_json(read_json(geometry))
    return predict_preprocessed(models, open_array(image), origin, settings, probabilities)


@enough_memory(
    "Show fewer windows at once (window_batch), predict on the CPU, or use a machine with more."
)
@torch.inference_mode()
def predict_preprocessed(
    models: Sequence[TrainedModel],
    image: NDArray[np.floating],
    origin: Origin,
    settings: Predict,
    probabilities: bool = False,
) -> Predicted:
    """The label map of a preprocessed image (C, Z, Y, X) on the grid that it came from.

    With ``probabilities`` those of all classes are held at once.
    """
    if probabilities and settings.restore == "labels":
        raise ValueError("expected restore=probabilities where these are asked for, found labels")
    # Models of ONNX files are on the CPU, but take windows from anywhere.
    device = next((model.device for model in models if model.device != CPU), CPU)
    tune(device)
    amp = models[0].train.amp
    # Float16 is for GPUs: on a CPU it takes many times as long.
    half = half_precision("auto" if device.type == "cpu" and amp == "float16" else amp, device)
    cells = predict_cells(models, image, settings, device, half)
    labels = models[0].plan.dataset_info.labels
    if not probabilities:
        return Predicted(restore(cells, origin, labels, settings.restore))
    found = restore_probabilities(cells, origin, len(labels))
    indices = found.argmax(axis=0).astype(smallest_uint(len(labels)))
    return Predicted(Volume(to_values(indices, labels), origin.original), found)


def predict_cells(
    models: Sequence[TrainedModel],
    image: NDArray[np.floating],
    settings: Predict,
    device: torch.device,
    half: torch.dtype | None,
) -> Iterator[Cell]:
    """Mean logits of the labels, of models for an image (C, Z, Y, X), cell by cell (sliding.py).

    Where no window was shown, because there is nothing, they are those of background.
    """
    if not models:
        raise ValueError("expected at least one model")
    plan = models[0].plan
    z, y, x = image.shape[1:]
    grid = WindowGrid.over((z, y, x), plan.patch_size, settings.overlap)
    network = partial(mean_logits, models, settings.flips, half)
    n_classes = len(plan.dataset_info.labels)
    dtype = type_of_sums(grid, n_classes, settings.blending)
    for cell in sliding.cells(
        network,
        image,
        grid,
        device=device,
        batch_size=min(settings.window_batch, windows_at_once(plan)),
        blending=settings.blending,
        dtype=dtype,
        skip_empty=True,
        sums_on=device_of_sums(n_classes * grid.begun() * dtype.itemsize, device),
    ):
        if cell.logits is not None:
            cell.logits[0].masked_fill_(cell.logits[0] == -torch.inf, 0)
        yield cell


def windows_at_once(plan: Plan) -> int:
    """How many windows may be shown at once, for the memory of what is said of them; 1 or more."""
    return max(1, MOST_LOGITS // (len(plan.dataset_info.labels) * prod(plan.patch_size)))


def type_of_sums(grid: WindowGrid, n_classes: int, blending: Blending) -> torch.dtype:
    """Float32, or float16 where the cells that are begun would take too much memory, unless so many
    windows show a voxel that their sum could be infinite.
    """
    fits = largest_weight(grid, blending) * LARGEST_LOGIT < torch.finfo(torch.float16).max
    too_much = n_classes * grid.begun() * 4 > LARGEST_SUMS
    return torch.float16 if too_much and fits else torch.float32


def device_of_sums(size: int, device: torch.device) -> torch.device:
    """The device of the network, or the CPU where so many bytes are over half of what a GPU has
    left.
    """
    if device.type == "cpu" or size <= torch.cuda.mem_get_info(device)[0] // 2:
        return device
    return CPU


def largest_weight(grid: WindowGrid, blending: Blending) -> float:
    """What all windows that show a voxel count together, at the most: of windows that overlap by
    half 1 with Gaussian blending, 8 with constant.
    """
    largest = 1.0
    for starts, n in zip(grid.starts, grid.patch_size, strict=True):
        weight = window_weight((1, 1, n), blending).flatten()
        total = torch.zeros(starts[-1] - starts[0] + n)
        for start in starts:
            total[start - starts[0] :][:n] += weight
        largest *= float(total.max())
    return largest


def mean_logits(
    models: Sequence[TrainedModel], flips: bool, half: torch.dtype | None, batch: Tensor
) -> Tensor:
    """Logits (B, K, Z, Y, X) of the labels for windows (B, C, Z, Y, X), averaged over models and
    mirrored copies.
    """
    total: Tensor | None = None
    for model in models:
        with torch.autocast(batch.device.type, half, enabled=half is not None):
            axes = mirror_axes(model.train) if flips else ()
            logits = flipped_mean(model.network, batch, axes, mirrored_outputs(model))
        if model.train.regions:
            logits = of_labels(logits, model.plan)
        if len(models) == 1:
            return logits
        total = total.add_(logits) if total is not None else own_copy(logits)
    assert total is not None
    return total.div_(len(models))


def mirrored_outputs(model: TrainedModel) -> tuple[int, ...]:
    """Which output of a network each one is where left and right change places; none: itself."""
    info = model.plan.dataset_info
    if not info.mirrored_labels:
        return ()
    if model.train.regions:
        return mirrored_regions(model.plan.regions, info.mirrored_labels)
    return mirrored_classes(info.labels, info.mirrored_labels)


def of_labels(logits: Tensor, plan: Plan) -> Tensor:
    """Logits (B, K, Z, Y, X) of the labels, float32, from those (B, R, Z, Y, X) of the regions.

    With regions that are independent of each other, the probability of a label is the product of
    those of its regions and of the complements of the others. Its logarithm is the sum of the
    logits of its regions, but for what all labels have in common.
    """
    table = membership(plan.dataset_info.labels, plan.regions)
    regions = logits.float().unbind(1)
    found = []
    for members in table.T.tolist():
        of_label = torch.zeros_like(regions[0])
        for region, member in zip(regions, members, strict=True):
            of_label = of_label + region if member else of_label
        found.append(of_label)
    return torch.stack(found, dim=1)
