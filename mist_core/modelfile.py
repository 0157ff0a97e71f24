"""Model files: weights with all that is needed to use them, readable without running code.

One file a fold is what training writes. A package is one file of several folds, to be handed on:
their weights with checksums, the plan that they share, the settings of each, a licence. It is known
by what it holds, so that it may have any name.
"""

import hashlib
import pickle
import platform
import re
import textwrap
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mist_core import __version__
from mist_core.config import Train
from mist_core.errors import DataError
from mist_core.files import replacing
from mist_core.models import for_plan
from mist_core.plan import Plan, parse_plan, trained_alike

T = TypeVar("T")
PACKAGE_FORMAT = 1
NOT_GIVEN = "not given"  # a licence
# What zipfile and torch raise for files that are damaged.
DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, pickle.UnpicklingError),
    *(EOFError, OSError, RuntimeError, ValueError),
)


@dataclass(frozen=True, eq=False)
class ModelFile:
    """What a model file holds of one model."""

    weights: Mapping[str, Tensor]
    plan: Plan
    train: Train
    source: str  # the file, and which of its models, for messages
    licence: str = NOT_GIVEN


def read_models(path: Path, folds: Sequence[int] | None = None) -> dict[str, ModelFile]:
    """Models by name (``fold_<k>``), on the CPU: of a package, a folder with ``fold_<k>.pt``, or a
    model file.

    ``folds`` are the numbers of those that are wanted; None: all. Raises DataError for a fold that
    is not there, for models of different plans, and for files that are damaged, of another kind or
    of another version.
    """
    return models_of(path, read_states(path, folds))


def models_of(path: Path, states: Mapping[str, Mapping[str, Any]]) -> dict[str, ModelFile]:
    """The models in what ``read_states`` found at ``path``. Raises DataError as ``read_models``."""
    models = {
        name: _model_of(state, str(path / f"{name}.pt") if path.is_dir() else f"{path}: {name}")
        for name, state in states.items()
    }
    refuse_other_plans(models)
    return models


def read_states(path: Path, folds: Sequence[int] | None = None) -> dict[str, dict[str, Any]]:
    """What each model file would hold, by name, of a package, a folder or a model file."""
    if path.is_dir():
        files = chosen(fold_files(path, ".pt"), folds, path)
        return {name: read_state(file) for name, file in files.items()}
    state = _load(path)
    if isinstance(state, dict) and "package" in state:
        return _unpacked(path, state, folds)
    state = _checked(path, state)
    number = state.get("fold")
    name = path.stem if number is None else f"fold_{number}"
    return chosen({name: state}, folds, path)


def read_model_file(path: Path) -> ModelFile:
    """Read the model file of one fold to the CPU. Raises DataError for any other file."""
    return _model_of(read_state(path), str(path))


def read_state(path: Path) -> dict[str, Any]:
    """All that the model file of one fold holds, as it was written. Raises DataError for any other
    file.
    """
    return _checked(path, _load(path))


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write all that a model file holds, under a temporary name that is then renamed."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def write_package(
    path: Path, states: Mapping[str, Mapping[str, Any]], licence: str = NOT_GIVEN
) -> None:
    """Write what ``read_states`` found as one file. The plan is that of the first of them."""
    first = next(iter(states.values()))
    write_state(
        path,
        {
            "package": PACKAGE_FORMAT,
            "plan": first["plan"],
            "licence": licence,
            "versions": versions(),
            "folds": {
                name: {key: value for key, value in state.items() if key not in ("plan", "licence")}
                | {"sha256": checksum(state["weights"])}
                for name, state in states.items()
            },
        },
    )


def versions() -> dict[str, str]:
    """Of what writes a file."""
    return {
        "mist_core": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def checksum(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and values of weights."""
    total = hashlib.sha256()
    for name, value in weights.items():
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def network_of(model: ModelFile) -> nn.Module:
    """The network with its weights, on the CPU, ready to predict. Raises DataError where they do
    not fit each other.
    """
    network = for_plan(model.plan, model.train)
    try:
        network.load_state_dict(model.weights)
    except (RuntimeError, TypeError) as error:
        raise unreadable(model.source, error) from error
    return network.eval()


def fold_files(folder: Path, suffix: str) -> dict[str, Path]:
    """The files ``fold_<k><suffix>`` of a folder by their stems, in the order of their numbers."""
    numbers = {
        int(found[1]): file
        for file in folder.iterdir()
        if (found := re.fullmatch(rf"fold_(\d+){re.escape(suffix)}", file.name))
    }
    return {file.stem: file for _, file in sorted(numbers.items())}


def chosen(named: Mapping[str, T], folds: Sequence[int] | None, path: Path) -> dict[str, T]:
    """Those of the named folds whose numbers are wanted; None: all. Raises DataError for one that
    is not there, and where there is none.
    """
    if not named:
        raise DataError(f"{path}: expected models fold_<k>.pt or .onnx, found none. Train first.")
    if folds is None:
        return dict(named)
    wanted = [f"fold_{number}" for number in folds]
    if missing := [name for name in wanted if name not in named]:
        raise DataError(
            f"{path}: expected {', '.join(missing)}, found {', '.join(named)}. Choose "
            "folds that are there."
        )
    return {name: named[name] for name in wanted}


def refuse_other_plans(models: Mapping[str, Any]) -> None:
    """Raise DataError where models, which have a plan, train settings and a source each, were not
    all trained with the same plan.
    """
    first, *others = models.values()
    for other in others:
        regions = first.train.regions or other.train.regions
        if not trained_alike(first.plan, other.plan, regions):
            raise DataError(
                f"{other.source}: expected the plan of {first.source}, found another. Put models "
                "of one dataset and one plan together."
            )


def unreadable(source: Path | str, error: Exception) -> DataError:
    """What to say of a model file that another version wrote, or that is damaged."""
    reason = textwrap.shorten(str(error), 300)
    return DataError(
        f"{source}: expected a model file that this version can read, found a mistake "
        f"({type(error).__name__}: {reason}). Train again, or use the version that wrote it."
    )


def _load(path: Path) -> Any:
    """What a file of torch holds, of which each part has the checksum that the file says."""
    if not path.is_file():
        raise DataError(f"{path}: expected a model file, found none. Train, or mend the path.")
    if not zipfile.is_zipfile(path):
        raise DataError(
            f"{path}: expected a model file, found another kind, or one that was cut off. Mend the "
            "path, or copy the file again."
        )
    try:
        with zipfile.ZipFile(path) as parts:
            if part := parts.testzip():  # torch does not look at the checksums
                raise zipfile.BadZipFile(f"wrong checksum of {part}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except zipfile.BadZipFile as error:
        raise DataError(
            f"{path}: expected a whole model file, found a damaged one ({error}). Copy it again."
        ) from error
    except DAMAGED as error:
        raise unreadable(path, error) from error


def _checked(path: Path, state: Any) -> dict[str, Any]:
    parts = ("weights", "plan", "train")
    if not isinstance(state, dict) or not all(isinstance(state.get(k), dict) for k in parts):
        raise DataError(
            f"{path}: expected a model file (models/fold_<k>.pt), found another, such as a "
            "checkpoint or a package. Mend the path."
        )
    return state


def _unpacked(
    path: Path, package: Mapping[str, Any], folds: Sequence[int] | None
) -> dict[str, dict[str, Any]]:
    """The states in a package whose weights have the checksums that it says."""
    if package["package"] != PACKAGE_FORMAT:
        raise DataError(
            f"{path}: expected a package of format {PACKAGE_FORMAT}, found {package['package']}. "
            f"Use the version that wrote it: {package.get('versions')}."
        )
    try:
        states = chosen(package["folds"], folds, path)
        shared = {"plan": package["plan"], "licence": package["licence"]}
        found = {name: checksum(state["weights"]) for name, state in states.items()}
        expected = {name: state["sha256"] for name, state in states.items()}
        states = {name: _checked(path, state | shared) for name, state in states.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise unreadable(path, error) from error
    for name, value in found.items():
        if value != expected[name]:
            raise DataError(
                f"{path}: expected weights of {name} with the SHA-256 {expected[name]}, found "
                f"{value}: they were damaged or changed. Copy the file again."
            )
    return states


def _model_of(state: Mapping[str, Any], source: str) -> ModelFile:
    try:
        plan, train = parse_plan(state["plan"], source), Train(**state["train"])
    except (TypeError, ValueError) as error:
        raise unreadable(source, error) from error
    return ModelFile(state["weights"], plan, train, source, state.get("licence", NOT_GIVEN))
