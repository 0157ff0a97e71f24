"""From a preprocessed image and trained networks to a label map on the scanner's grid."""

import pickle
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mist_core.augment import flip_axes
from mist_core.config import Predict, Train
from mist_core.device import MEMORY_FORMAT, best_device, enough_memory, has_bfloat16
from mist_core.errors import DataError
from mist_core.files import read_json
from mist_core.geometry import Origin
from mist_core.io import Volume, open_array
from mist_core.labels import smallest_uint, to_values
from mist_core.models import build
from mist_core.patches import sliding_window
from mist_core.plan import Plan, parse_plan
from mist_core.resample import strongest_class


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """What a model file holds, ready to run."""

    network: nn.Module
    plan: Plan
    train: Train


def load_model(path: Path, device: torch.device) -> TrainedModel:
    """Read a model file; nothing in it can run code. Raises DataError for any other file."""
    if not path.exists():
        raise DataError(f"{path}: expected a model file, found none. Train, or mend the path.")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: expected a model file, found another kind. Mend the path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        plan, train = parse_plan(state["plan"], str(path)), Train(**state["train"])
        network = build(
            train.model,
            in_channels=plan.model.in_channels,
            out_channels=plan.model.out_channels,
            patch_size=plan.patch_size,
            spacing=plan.target_spacing_mm,
        )
        network.load_state_dict(state["weights"])
    except (LookupError, TypeError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise DataError(
            f"{path}: expected a model file that this version can read, found a mistake "
            f"({type(error).__name__}: {error}). Train again, or use the version that wrote it."
        ) from error
    network = network.to(device).eval()
    network.to(memory_format=MEMORY_FORMAT)  # type: ignore[call-overload]
    return TrainedModel(network, plan, train)


def load_models(paths: Sequence[Path]) -> list[TrainedModel]:
    """Several model files, on the best device."""
    return [load_model(path, best_device()) for path in paths]


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
    wanted = models[0].train.amp
    amp = has_bfloat16(device) if wanted == "auto" else wanted
    logits = predict(models, image, settings, device, amp)
    return restore(logits, origin, models[0].plan.dataset_info.labels)


def predict(
    models: Sequence[TrainedModel],
    image: NDArray[np.float32],
    settings: Predict,
    device: torch.device,
    amp: bool,
) -> Tensor:
    """Mean logits (K, Z, Y, X), float32, of one or several models for an image (C, Z, Y, X)."""
    tensor = torch.tensor(image, device=device, dtype=torch.float32)
    total: Tensor | None = None
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=amp):
        for model in models:
            logits = sliding_window(
                model.network,
                tensor,
                model.plan.patch_size,
                overlap=settings.overlap,
                flip_axes=flip_axes(model.train.augment) if settings.flips else (),
                batch_size=settings.window_batch,
            )
            total = logits if total is None else total.add_(logits)
        if total is None:
            raise ValueError("expected at least one model")
        return total.div_(len(models))


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
