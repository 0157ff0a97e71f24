"""Checkpoints of a training: the newest and the one before it, in case the newest is damaged."""

import logging
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from mist_core.files import replacing

log = logging.getLogger(__name__)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, never half of it; the one that was there becomes the one before."""
    with replacing(path) as temporary:
        torch.save(state, temporary)
        if path.exists():
            path.replace(before(path))


def before(path: Path) -> Path:
    """Where the checkpoint before the newest lies."""
    return path.with_name(f"{path.stem}_before{path.suffix}")


def load(path: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read, on the CPU; None where there is none."""
    for candidate in (path, before(path)):
        if not candidate.exists():
            continue
        try:
            with zipfile.ZipFile(candidate) as parts:
                if damaged := parts.testzip():  # torch does not look at the checksums
                    raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
            state: dict[str, Any] = torch.load(candidate, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            continue  # another process of this training has found it damaged
        except (RuntimeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
            candidate.unlink(missing_ok=True)  # or it would become the one before
            older = "Taking the one before." if candidate == path else "Starting anew."
            log.warning(
                "WARNING: %s: expected a checkpoint, found a damaged file (%s). %s",
                *(candidate, str(error).splitlines()[0] if str(error) else "empty", older),
            )
        else:
            return state
    return None
