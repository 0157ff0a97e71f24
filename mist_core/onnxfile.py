"""Networks as ONNX files: for other programs, and to predict without the weights of torch.

A file holds one network for patches of one size, any number of them at once, and in its metadata
all else that prediction needs, and a checksum: that of the file with zeros in its place, since the
format has none. onnxruntime computes it on the CPU. The packages for this are an optional part,
installed as mist_core[onnx], and imported where they are needed.
"""

import hashlib
import json
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mist_core.config import Train
from mist_core.errors import DataError
from mist_core.files import replacing
from mist_core.modelfile import ModelFile, chosen, fold_files, network_of, unreadable, versions
from mist_core.plan import Plan, parse_plan

SUFFIX = ".onnx"
TOLERANCE = 1e-3  # of probabilities, against those of torch
INPUT, OUTPUT = "image", "logits"
CHECKSUM = re.compile(rb"sha256\x12\x40([0-9a-f]{64})")  # in the metadata, as protobuf writes it
ZEROS = "0" * 64


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """What an ONNX file holds, ready to run."""

    name: str
    network: nn.Module
    plan: Plan
    train: Train
    source: str


class OnnxNetwork(nn.Module):
    """The network in an ONNX file, with as many threads as torch has."""

    def __init__(self, path: Path) -> None:
        """Raises DataError for a file that onnxruntime cannot read."""
        super().__init__()
        runtime = _package("onnxruntime")
        of_runtime = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        try:
            self.session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except (
            *(of_runtime.Fail, of_runtime.InvalidArgument, of_runtime.InvalidGraph),
            *(of_runtime.InvalidProtobuf, of_runtime.NotImplemented, of_runtime.RuntimeException),
        ) as error:
            raise unreadable(path, error) from error

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, C, Z, Y, X) to logits (B, K, Z, Y, X), the only ones; float32."""
        patches = np.ascontiguousarray(x.float().cpu().numpy())
        (logits,) = self.session.run([OUTPUT], {INPUT: patches})
        return (torch.from_numpy(logits).to(x.device),)


class _Finest(nn.Module):
    """A network without its coarser outputs, of which there are none in prediction."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, Z, Y, X) to logits (B, K, Z, Y, X)."""
        logits: Tensor = self.network(x)[0]
        return logits


def onnx_files(path: Path) -> dict[str, Path]:
    """ONNX files by name: the file, or those of a folder that has no model files of torch."""
    if path.is_dir():
        return {} if fold_files(path, ".pt") else fold_files(path, SUFFIX)
    return {path.stem: path} if path.suffix.lower() == SUFFIX else {}


def read_onnx_models(path: Path, folds: Sequence[int] | None = None) -> dict[str, OnnxModel]:
    """Models by name, of an ONNX file or a folder with ``fold_<k>.onnx``.

    ``folds`` are the numbers of those that are wanted; None: all. Raises DataError for a fold that
    is not there and for files that ``write_onnx`` did not write.
    """
    if path.is_dir():
        files = chosen(onnx_files(path), folds, path)
        return {name: read_onnx(file) for name, file in files.items()}
    model = read_onnx(path)
    return chosen({model.name: model}, folds, path)


def read_onnx(path: Path) -> OnnxModel:
    """Read an ONNX file. Raises DataError for one that ``write_onnx`` did not write, or that was
    damaged or changed.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected an ONNX file, found none. Mend the path.")
    _refuse_damaged(path)
    network = OnnxNetwork(path)
    notes = network.session.get_modelmeta().custom_metadata_map
    try:
        name, plan, train = (notes[key] for key in ("name", "plan", "train"))
        parts = parse_plan(json.loads(plan), str(path)), Train(**json.loads(train))
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(path, error) from error
    return OnnxModel(name, network, *parts, str(path))


def _refuse_damaged(path: Path) -> None:
    content = path.read_bytes()
    said = CHECKSUM.search(content)
    if said is None:
        raise DataError(
            f"{path}: expected an ONNX file of mist_package, found another kind, or one that was "
            "cut off. Mend the path, or copy the file again."
        )
    expected, found = said[1].decode(), _checksum(content.replace(said[1], ZEROS.encode()))
    if found != expected:
        raise DataError(
            f"{path}: expected a file with the SHA-256 {expected}, found {found}: it was damaged "
            "or changed. Copy it again."
        )


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_onnx(path: Path, name: str, model: ModelFile) -> float:
    """Write a model as ONNX; return how far a probability is from that of torch at most.

    The patch is random. Logits have no scale of their own: of a trained network some are ten times
    those of a new one, and so are the differences between float32 sums in another order.

    Raises DataError, and leaves no file, where the network cannot be written as ONNX or where the
    difference is not below ``TOLERANCE``.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        _package(package)
    network = _Finest(network_of(model)).eval()
    size = (model.plan.model.in_channels, *model.plan.patch_size)
    # Two patches: the exporter would take one for a batch that is always one.
    images = torch.randn((2, *size), generator=torch.Generator().manual_seed(0))
    program = _exported(network, images, model.source)
    program.model.metadata_props.update(_notes(name, model))
    with replacing(path) as temporary:
        program.save(temporary, external_data=False)
        content = temporary.read_bytes()
        temporary.write_bytes(content.replace(ZEROS.encode(), _checksum(content).encode()))
        difference = _difference(
            network, OnnxNetwork(temporary), images[:1], independent=model.train.regions
        )
        if not difference < TOLERANCE:
            raise DataError(
                f"{path}: expected probabilities within {TOLERANCE:g} of those of "
                f"{model.source}, found a difference of {difference:.3g}. Use that model as it is."
            )
    return difference


def _notes(name: str, model: ModelFile) -> dict[str, str]:
    return {
        "name": name,
        "plan": model.plan.model_dump_json(),
        "train": model.train.model_dump_json(),
        "licence": model.licence,
        "versions": json.dumps(versions()),
        "sha256": ZEROS,
    }


def _exported(network: nn.Module, images: Tensor, source: str) -> Any:
    """The program of a network for images like these, any number of them.

    To torch the export is a compilation: blocks that have code of their own for the CPU do without.
    """
    try:
        with torch.no_grad(), _quietly():
            return torch.onnx.export(
                network,
                (images,),
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise DataError(
            f"{source}: expected a network that can be written as ONNX, found one that cannot "
            f"({reason}). Use the model file as it is."
        ) from error


@torch.inference_mode()
def _difference(
    network: nn.Module, written: nn.Module, images: Tensor, *, independent: bool
) -> float:
    expected, found = network(images), written(images)[0]
    if independent:
        return float((expected.sigmoid() - found.sigmoid()).abs().max())
    return float((expected.softmax(1) - found.softmax(1)).abs().max())


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's words, which are about its own code and packages."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise DataError(
            f"ONNX: expected the packages onnx, onnxruntime and onnxscript, found no {error.name}. "
            'Run: pip install "mist_core[onnx]".'
        ) from error
