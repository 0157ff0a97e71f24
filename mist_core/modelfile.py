"""Model files: weights with all that is needed to use them, readable without running code."""

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mist_core.config import Train
from mist_core.errors import DataError
from mist_core.files import replacing
from mist_core.plan import Plan, parse_plan


@dataclass(frozen=True, eq=False)
class ModelFile:
    """What a model file holds."""

    weights: Mapping[str, Tensor]
    plan: Plan
    train: Train


def read_model_file(path: Path) -> ModelFile:
    """Read a model file to the CPU. Raises DataError for any other file."""
    state = read_state(path)
    try:
        plan, train = parse_plan(state["plan"], str(path)), Train(**state["train"])
    except (TypeError, ValueError) as error:
        raise unreadable(path, error) from error
    return ModelFile(state["weights"], plan, train)


def read_state(path: Path) -> dict[str, Any]:
    """All that a model file holds, as it was written. Raises DataError for any other file."""
    if not path.is_file():
        raise DataError(f"{path}: expected a model file, found none. Train, or mend the path.")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: expected a model file, found another kind. Mend the path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise unreadable(path, error) from error
    parts = ("weights", "plan", "train")
    if not isinstance(state, dict) or not all(isinstance(state.get(k), dict) for k in parts):
        raise DataError(
            f"{path}: expected a model file (models/fold_<k>.pt), found another, such as a "
            "checkpoint. Mend the path."
        )
    return state


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write all that a model file holds, under a temporary name that is then renamed."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def unreadable(path: Path, error: Exception) -> DataError:
    """What to say of a model file that another version wrote, or that is damaged."""
    return DataError(
        f"{path}: expected a model file that this version can read, found a mistake "
        f"({type(error).__name__}: {error}). Train again, or use the version that wrote it."
    )
