"""From a preprocessed image and trained networks to a label map on the scanner's grid."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mist_core.augment import mirror_axes
from mist_core.config import Predict, Train
from mist_core.device import MEMORY_FORMAT, best_device, enough_memory, half_precision
from mist_core.files import read_json
from mist_core.geometry import Origin
from mist_core.io import Volume, open_array
from mist_core.labels import smallest_uint, to_values
from mist_core.modelfile import (
    ModelFile,
    network_of,
    read_model_file,
    read_models,
    refuse_other_plans,
)
from mist_core.onnxfile import OnnxModel, onnx_files, read_onnx_models
from mist_core.patches import sliding_window
from mist_core.plan import Plan
from mist_core.regions import membership, mirrored_classes, mirrored_regions
from mist_core.resample import strongest_class


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """What a model file holds, ready to run."""

    network: nn.Module
    plan: Plan
    train: Train


def load_model(path: Path, device: torch.device) -> TrainedModel:
    """Read a model file; nothing in it can run code. Raises DataError for any other file."""
    return _ready(read_model_file(path), device)


def load_models(
    paths: Path | Sequence[Path],
    folds: Sequence[int] | None = None,
    device: torch.device | None = None,
) -> list[TrainedModel]:
    """The models of a package, of a folder with fold_<k>.pt or .onnx, of a file of either kind, or
    of several of these, on a device; None: the best.

    ``folds`` are the numbers of those that are wanted of each path; None: all. Raises DataError for
    files that are no models, folds that are not there, and models of different plans.
    """
    device = device or best_device()
    found: dict[str, ModelFile | OnnxModel] = {}
    for path in [paths] if isinstance(paths, Path) else paths:
        read = read_onnx_models if onnx_files(path) else read_models
        found |= {f"{path}: {name}": model for name, model in read(path, folds).items()}
    refuse_other_plans(found)
    return [
        TrainedModel(model.network, model.plan, model.train)
        if isinstance(model, OnnxModel)
        else _ready(model, device)
        for model in found.values()
    ]


def _ready(found: ModelFile, device: torch.device) -> TrainedModel:
    network = network_of(found).to(device)
    network.to(memory_format=MEMORY_FORMAT)  # type: ignore[call-overload]
    return TrainedModel(network, found.plan, found.train)


def predict_case(
    models: Sequence[TrainedModel], image: Path, geometry: Path, settings: Predict
) -> Volume:
    """The label map of one preprocessed case, from the files that preprocess wrote."""
    return predict_array(models, open_array(image), Origin.from_json(read_json(geometry)), settings)


@enough_memory("Lower predict.window_batch, or use a machine with more.")
def predict_array(
    models: Sequence[TrainedModel],
    image: NDArray[np.float32],
    origin: Origin,
    settings: Predict,
) -> Volume:
    """The label map of a preprocessed image (C, Z, Y, X) on the grid that it came from."""
    device = best_device()
    amp = models[0].train.amp
    # Float16 is for GPUs: on a CPU it takes many times as long.
    half = half_precision("auto" if device.type == "cpu" and amp == "float16" else amp, device)
    logits = predict(models, image, settings, device, half)
    return restore(logits, origin, models[0].plan.dataset_info.labels)


def predict(
    models: Sequence[TrainedModel],
    image: NDArray[np.float32],
    settings: Predict,
    device: torch.device,
    half: torch.dtype | None,
) -> Tensor:
    """Mean logits (K, Z, Y, X) of the labels, float32, of models for an image (C, Z, Y, X)."""
    tensor = torch.tensor(image, device=device, dtype=torch.float32)
    total: Tensor | None = None
    with torch.inference_mode(), torch.autocast(device.type, half, enabled=half is not None):
        for model in models:
            logits = sliding_window(
                model.network,
                tensor,
                model.plan.patch_size,
                overlap=settings.overlap,
                flip_axes=mirror_axes(model.train) if settings.flips else (),
                mirrored=mirrored_outputs(model),
                batch_size=settings.window_batch,
            )
            if model.train.regions:
                logits = of_labels(logits, model.plan)
            total = logits if total is None else total.add_(logits)
        if total is None:
            raise ValueError("expected at least one model")
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
    """Logits (K, Z, Y, X) of the labels, from those (R, Z, Y, X) of the regions.

    With regions that are independent of each other, the probability of a label is the product of
    those of its regions and of the complements of the others. Its logarithm is the sum of the
    logits of its regions, but for what all labels have in common.
    """
    table = membership(plan.dataset_info.labels, plan.regions)
    # Sums and no matrix product, which autocast would compute in half precision.
    return torch.stack([logits[torch.from_numpy(of_label)].sum(0) for of_label in table.T])


@torch.inference_mode()
def restore(logits: Tensor, origin: Origin, labels: Sequence[int]) -> Volume:
    """Label values on the original grid.

    Probabilities are interpolated and the strongest class taken there: deciding on the training
    grid first would lose up to half a voxel at every border. Outside the part that was kept is
    background.
    """
    probabilities = logits.softmax(dim=0)

    def maps() -> Iterator[NDArray[np.float32]]:
        for values in probabilities:
            yield values.cpu().numpy()

    kept = origin.original.cropped(origin.box)
    indices = np.zeros(origin.original.shape, smallest_uint(len(labels)))
    indices[origin.box] = strongest_class(maps(), origin.training, kept, indices.dtype)
    return Volume(to_values(indices, labels), origin.original)
