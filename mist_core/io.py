"""Files to volumes and back: with geometry.py, the only place that knows ITK's (x, y, z) order."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from mist_core.errors import DataError
from mist_core.files import replacing
from mist_core.geometry import Geometry

LARGEST_LABEL = 65535
NIFTI1_HEADER_SIZE = 348
NIFTI1_TYPES = {  # code in the header: NumPy's name
    2: "u1", 256: "i1", 4: "i2", 512: "u2", 8: "i4", 768: "u4", 1024: "i8", 1280: "u8",
    16: "f4", 64: "f8",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D image or label map, (z, y, x), and where it sits."""

    array: NDArray[Any]
    geometry: Geometry


def from_sitk(image: sitk.Image) -> Volume:
    """Copy an ITK image, whose axes are (x, y, z), to an array (z, y, x) with its Geometry."""
    return Volume(sitk.GetArrayFromImage(image), geometry_of(image))


def geometry_of(image: Any) -> Geometry:
    """The Geometry of an ITK image, or of a reader that has read a header."""
    return Geometry.from_json(
        {
            "size": image.GetSize(),
            "spacing": image.GetSpacing(),
            "origin": image.GetOrigin(),
            "direction": image.GetDirection(),
        }
    )


def to_sitk(volume: Volume) -> sitk.Image:
    """The inverse of ``from_sitk``."""
    image = sitk.GetImageFromArray(volume.array)
    header = volume.geometry.to_json()
    image.SetSpacing(header["spacing"])
    image.SetOrigin(header["origin"])
    image.SetDirection(header["direction"])
    return image


def read_image(path: Path) -> Volume:
    """Read a scalar 3-D image in any format SimpleITK knows, as float32.

    Raises DataError for a file that is missing, unreadable, not 3-D or not scalar, or that holds
    values that are not finite.
    """
    volume = _read(path)
    array = volume.array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise DataError(
            f"{path}: expected finite intensities, found {count} voxels that are NaN or infinite. "
            "Replace them in the file."
        )
    return Volume(array, volume.geometry)


def read_labels(path: Path) -> Volume:
    """Read a 3-D label map as uint8, or as uint16 when a value is above 255.

    Raises DataError as ``read_image`` does, and for values that are not whole numbers in 0..65535.
    """
    volume = _read(path)
    array = volume.array
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.rint(array))).all():
        odd = array[~(np.isfinite(array) & (array == np.rint(array)))]
        raise DataError(
            f"{path}: expected whole-number labels, found {odd.size} voxels such as {odd[0]}. "
            "A label map must not be interpolated or normalised."
        )
    low, high = array.min(), array.max()
    if low < 0 or high > LARGEST_LABEL:
        raise DataError(
            f"{path}: expected labels in 0..{LARGEST_LABEL}, found {low:g} to {high:g}. "
            "Renumber the labels."
        )
    return Volume(array.astype(np.uint8 if high < 256 else np.uint16), volume.geometry)


def _reader(path: Path) -> sitk.ImageFileReader:
    if not path.exists():
        raise DataError(f"{path}: expected a file, found none. Check the path or restore the file.")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with _readable(path):
        reader.ReadImageInformation()
    size = reader.GetSize()
    if reader.GetDimension() != 3:
        raise DataError(
            f"{path}: expected a 3-D image, found {reader.GetDimension()}-D {size}. "
            "Give one 3-D file per channel."
        )
    if reader.GetNumberOfComponents() != 1:
        raise DataError(
            f"{path}: expected one value per voxel, found {reader.GetNumberOfComponents()}. "
            "Give one scalar file per channel."
        )
    return reader


def _read(path: Path) -> Volume:
    reader = _reader(path)
    if path.name.endswith((".nii", ".nii.gz")):
        array = _nifti_voxels(path)
        if array is not None:
            geometry = geometry_of(reader)
            return Volume(array.reshape(geometry.shape), geometry)
    with _readable(path):
        return from_sitk(reader.Execute())


def _nifti_voxels(path: Path) -> NDArray[Any] | None:
    """The voxels of a NIfTI-1 file, x fastest; None for kinds of file that are left to ITK.

    ITK reads a file that was cut off as if zeros followed, and NaN as zero; here the first is an
    error, and the second reaches the caller. Layout: nifti.nimh.nih.gov/nifti-1 (nifti1.h).
    """
    raw = path.read_bytes()
    try:
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, str(error)) from error
    order = "<" if raw[:4] == NIFTI1_HEADER_SIZE.to_bytes(4, "little") else ">"
    if int(np.frombuffer(raw, f"{order}i4", 1)[0]) != NIFTI1_HEADER_SIZE:
        return None
    size = np.frombuffer(raw, f"{order}i2", 8, offset=40)
    kind = NIFTI1_TYPES.get(int(np.frombuffer(raw, f"{order}i2", 1, offset=70)[0]))
    start, slope, intercept = np.frombuffer(raw, f"{order}f4", 3, offset=108).tolist()
    if kind is None:
        return None
    count = int(np.prod(size[1 : size[0] + 1], dtype=np.int64))
    dtype = np.dtype(order + kind)
    if len(raw) < start + count * dtype.itemsize:
        raise _damaged(
            path, f"{len(raw)} bytes where {start:.0f} + {count * dtype.itemsize} belong"
        )
    voxels = np.frombuffer(raw, dtype, count, offset=int(start)).astype(dtype.newbyteorder("="))
    scaled = slope != 0 and (slope, intercept) != (1, 0)
    return (voxels * np.float32(slope) + np.float32(intercept)) if scaled else voxels


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path}: expected a readable image, found a damaged file ({reason}). "
        "Copy or export it again."
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # all that SimpleITK raises
        reason = [line for line in str(error).splitlines() if line.strip()][-1].strip()
        raise DataError(
            f"{path}: expected a readable image, found a file that ITK refuses ({reason}). "
            "Copy or export it again."
        ) from error


def write_volume(path: Path, volume: Volume) -> None:
    """Write a volume, compressed, under a temporary name that is then renamed."""
    with replacing(path) as temporary:
        sitk.WriteImage(to_sitk(volume), str(temporary), useCompression=True)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an .npy file that can be memory-mapped, under a temporary name that is then renamed."""
    with replacing(path) as temporary:
        np.save(temporary, array, allow_pickle=False)
