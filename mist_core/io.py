"""Files to volumes and back: with geometry.py, the only place that knows ITK's (x, y, z) order."""

import logging
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from mist_core.errors import DataError
from mist_core.files import replacing
from mist_core.geometry import Geometry

log = logging.getLogger(__name__)
LARGEST_LABEL = 65535
BLOCK, LARGEST_BLOCK = 1 << 18, 1 << 20  # bytes of a file that are read at once, and inflated
NOISE_OF_HEADERS = 1e-4  # cosine between axes up to which they are at right angles
SKEW = 0.02  # and up to which they are taken to be: about one degree; a tilted gantry is more
UNEVEN_SLICES = 0.01  # of the distance of slices, up to which they are evenly spaced
NIFTI1_HEADER_SIZE, NIFTI1_FIRST_VOXEL = 348, 352  # bytes
GZIP = b"\x1f\x8b"
MOST_INFLATED = 1100  # deflate makes no byte of less than a thousandth
ROUNDING = 1e-4  # by which probabilities may lie outside 0..1
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
    _place(image, volume.geometry)
    return image


def _place(image: sitk.Image, geometry: Geometry) -> None:
    header = geometry.to_json()
    image.SetSpacing(header["spacing"])
    image.SetOrigin(header["origin"])
    image.SetDirection(header["direction"])


def read_image(path: Path) -> Volume:
    """Read a scalar 3-D image in any format SimpleITK knows, or a DICOM series.

    A DICOM series is given by its folder, which holds nothing else. Integers of 8 and 16 bits stay
    what they are, all else becomes float32.

    Raises DataError for a file that is missing, unreadable, not 3-D or not scalar, or that holds
    values that are not finite.
    """
    volume = _read(path)
    array = volume.array
    if array.dtype.kind != "f" and array.itemsize <= 2:
        return volume
    with np.errstate(over="ignore"):  # beyond float32 is as bad as infinite
        array = array.astype(np.float32, copy=False)
    if not (finite := np.isfinite(array)).all():
        raise DataError(
            f"{path}: expected finite intensities, found {int((~finite).sum())} voxels that are "
            "NaN or infinite. Replace them in the file."
        )
    return Volume(array, volume.geometry)


def read_labels(path: Path) -> Volume:
    """Read a 3-D label map as uint8, or as uint16 when a value is above 255.

    Raises DataError as ``read_image`` does, and for values that are not whole numbers in 0..65535.
    """
    volume = _read(path)
    array = volume.array
    if array.dtype.kind == "f":
        array = _whole_numbers(path, array)
    low, high = array.min(), array.max()
    if low < 0 or high > LARGEST_LABEL:
        raise DataError(
            f"{path}: expected labels in 0..{LARGEST_LABEL}, found {low:g} to {high:g}. "
            "Renumber the labels."
        )
    dtype = np.uint8 if high < 256 else np.uint16
    return Volume(array.astype(dtype, copy=False), volume.geometry)


def _whole_numbers(path: Path, array: NDArray[Any]) -> NDArray[np.int32]:
    """Labels that are stored as floating-point numbers."""
    whole = np.empty(array.shape, np.int32)
    with np.errstate(invalid="ignore"):  # NaN becomes some number, and differs from it
        np.copyto(whole, array, casting="unsafe")
    odd = array[whole != array]
    if odd.size:
        raise DataError(
            f"{path}: expected whole-number labels, found {odd.size} voxels such as {odd[0]}. "
            "Restore the label map that was drawn: it must not be interpolated or normalised."
        )
    return whole


def read_channels(path: Path) -> list[Volume]:
    """The volumes of a 4-D image, one for each channel, or the one of a 3-D image.

    Values are as stored. Raises DataError as ``read_image`` does, but not for values that are not
    finite.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with _readable(path):
        reader.ReadImageInformation()
    if reader.GetDimension() == 3:
        return [_read(path)]
    size = reader.GetSize()
    if reader.GetDimension() != 4 or reader.GetNumberOfComponents() != 1:
        raise DataError(
            f"{path}: expected a 4-D image of one value per voxel, found {len(size)}-D {size} with "
            f"{reader.GetNumberOfComponents()}. Give one scalar file per channel."
        )
    with _readable(path):
        array = _nifti_voxels(path) if path.name.endswith((".nii", ".nii.gz")) else None
        if array is None:
            array = sitk.GetArrayFromImage(reader.Execute())
    geometry = Geometry.from_json(
        {
            "size": size[:3],
            "spacing": reader.GetSpacing()[:3],
            "origin": reader.GetOrigin()[:3],
            "direction": np.reshape(reader.GetDirection(), (4, 4))[:3, :3].ravel().tolist(),
        }
    )
    geometry = _with_right_angles(path, geometry)
    return [Volume(channel, geometry) for channel in array.reshape(size[::-1])]


def read_probabilities(path: Path) -> tuple[NDArray[np.float32], Geometry]:
    """Read the probability of every class, (K, Z, Y, X), from a NIfTI with K values per voxel.

    Raises DataError for a file that is missing, damaged, or of another kind, and for values that
    are not finite or lie outside 0..1 by more than rounding.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected a file, found none. Check the path or restore the file.")
    with _readable(path):
        layout, voxels = _nifti_layout(_head(_blocks(path))), _nifti_voxels(path)
    size = layout[0] if layout else []
    # Not ITK's: it drops an axis of a vector image that has one voxel.
    geometry = _nifti_geometry(path, dimension=5)
    if voxels is None or geometry is None or len(size) != 5 or size[3] != 1:
        found = f"a size of {size}" if size else "another kind of file"
        raise DataError(
            f"{path}: expected a 3-D NIfTI with an sform and a probability for each class at every "
            f"voxel, found {found}. Write probabilities, not labels, as vectors."
        )
    geometry = _with_right_angles(path, geometry)
    array = voxels.reshape(size[4], *geometry.shape).astype(np.float32, copy=False)
    low, high = float(array.min()), float(array.max())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # nor is NaN
        raise DataError(
            f"{path}: expected probabilities from 0 to 1, found {low:g} to {high:g}. Write the "
            "output of a softmax, not logits, and do not resample it with splines."
        )
    return array, geometry


def read_geometry(path: Path) -> Geometry:
    """The grid of an image, from its header (of a DICOM series, from the headers of its slices).

    Axes that are almost at right angles are taken to be so, and the log says it: headers round.
    Raises DataError as ``read_image`` does, except for what only the voxels show.
    """
    return _header(path)[0]


def _header(path: Path) -> tuple[Geometry, list[str]]:
    """The grid of an image, and the files that its voxels are in."""
    if not path.exists():
        raise DataError(f"{path}: expected a file, found none. Check the path or restore the file.")
    if path.is_dir():
        geometry, files = _series(path)
        return _with_right_angles(path, geometry), files
    try:
        geometry = _geometry_in(path)
    except DataError as error:
        # ITK refuses a NIfTI whose axes are a little off, also by rounding.
        skewed = _nifti_geometry(path) if "orthonormal" in str(error) else None
        if skewed is None:
            raise
        geometry = skewed
    return _with_right_angles(path, geometry), [str(path)]


def _geometry_in(path: Path) -> Geometry:
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
    return geometry_of(reader)


def _with_right_angles(path: Path, geometry: Geometry) -> Geometry:
    skew = geometry.skew()
    if skew > SKEW:
        raise DataError(
            f"{path}: expected axes at right angles, found a cosine of {skew:.3g} between two of "
            "them. Resample the image onto a grid with right angles."
        )
    if skew <= NOISE_OF_HEADERS:
        return geometry
    log.info("%s: axes with a cosine of %.2g between them, taken as right angles", path, skew)
    return geometry.with_right_angles()


def _series(folder: Path) -> tuple[Geometry, list[str]]:
    """The grid of a DICOM series and its files, in the order of the slices."""
    found = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(found) != 1:
        raise DataError(
            f"{folder}: expected the files of one DICOM series, found {len(found)} series. "
            "Give every series a folder of its own."
        )
    files = list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), found[0]))
    slices = [_geometry_in(Path(file)) for file in files]
    first = slices[0]
    if any(s.shape != first.shape or s.shape[0] != 1 for s in slices):
        raise DataError(
            f"{folder}: expected slices of one size, found others. Take out those that do not "
            "belong to the volume."
        )
    if len(files) == 1:
        return first, files
    steps = np.diff([s.origin for s in slices], axis=0)
    step = steps.mean(axis=0)
    spacing = float(np.linalg.norm(step))
    uneven = float(abs(steps - step).max())
    if spacing == 0 or uneven > UNEVEN_SLICES * spacing:
        raise DataError(
            f"{folder}: expected evenly spaced slices, found gaps of "
            f"{np.linalg.norm(steps, axis=1).min():.4g} to "
            f"{np.linalg.norm(steps, axis=1).max():.4g} mm. Restore the slices that are missing, "
            "or take out those that are there twice."
        )
    direction = np.column_stack([step / spacing, first.direction[:, 1:]])
    shape = (len(files), *first.shape[1:])
    return Geometry(shape, (spacing, *first.spacing[1:]), first.origin, direction), files


def _read(path: Path) -> Volume:
    geometry, files = _header(path)
    if path.name.endswith((".nii", ".nii.gz")):
        with _readable(path):
            array = _nifti_voxels(path)
        if array is not None:
            return Volume(array.reshape(geometry.shape), geometry)
    with _readable(path):
        # A file through its own reader: the reader of series makes a volume of 2-D images.
        image = sitk.ReadImage(files if path.is_dir() else files[0])
    return Volume(sitk.GetArrayFromImage(image), geometry)


def _nifti_geometry(path: Path, dimension: int = 3) -> Geometry | None:
    """The grid that the sform of a NIfTI-1 header gives, axes as they are.

    None without one, or where the voxels are not in that many dimensions.
    """
    raw = _head(_blocks(path))
    order = _byte_order(raw)
    if order is None:
        return None
    size = np.frombuffer(raw, f"{order}i2", 4, offset=40)
    if size[0] != dimension or not int(np.frombuffer(raw, f"{order}i2", 1, offset=254)[0]):
        return None
    affine = np.frombuffer(raw, f"{order}f4", 12, offset=280).reshape(3, 4).astype(float)
    affine[:2] *= -1  # NIfTI's x and y grow to the right and to the front
    spacing = np.linalg.norm(affine[:, :3], axis=0)
    return Geometry.from_json(
        {
            "size": size[1:].tolist(),
            "spacing": spacing.tolist(),
            "origin": affine[:, 3].tolist(),
            "direction": (affine[:, :3] / spacing).ravel().tolist(),
        }
    )


def _nifti_voxels(path: Path) -> NDArray[Any] | None:
    """The voxels of a NIfTI-1 file, x fastest; None for kinds of file that are left to ITK.

    ITK reads a file that was cut off as if zeros followed, and NaN as zero; here the first is an
    error, and the second reaches the caller. Layout: nifti.nimh.nih.gov/nifti-1 (nifti1.h).
    """
    blocks = _blocks(path)
    head = _head(blocks)
    if len(head) <= NIFTI1_HEADER_SIZE:
        raise _damaged(path, f"{len(head)} bytes")
    layout = _nifti_layout(head)
    if layout is None:
        return None
    size, dtype, start, slope, intercept = layout
    n_bytes = prod(size) * dtype.itemsize
    if min(size, default=0) < 1 or start + n_bytes > path.stat().st_size * MOST_INFLATED:
        raise _damaged(path, f"a size of {list(size)}, for which it is too short")
    voxels = np.empty(prod(size), dtype)
    found = _fill(voxels.view(np.uint8), chain([head], blocks), start)
    if found < start + n_bytes:
        raise _damaged(path, f"{found} bytes where {start} + {n_bytes} belong")
    voxels = voxels.astype(dtype.newbyteorder("="), copy=False)
    if (slope, intercept) == (1, 0):
        return voxels
    scaled = voxels * np.float32(slope)
    scaled += np.float32(intercept)
    return scaled


def _nifti_layout(head: bytes) -> tuple[list[int], np.dtype[Any], int, float, float] | None:
    """Size (x, y, z, ...), type, first byte, slope and intercept of the voxels, from a header.

    None for other kinds of file and of voxel. What is not finite or zero means no scaling, and a
    first byte inside the header the one behind it, as in the reference library.
    """
    order = _byte_order(head)
    if order is None:
        return None
    size = np.frombuffer(head, f"{order}i2", 8, offset=40).tolist()
    kind = NIFTI1_TYPES.get(int(np.frombuffer(head, f"{order}i2", 1, offset=70)[0]))
    if kind is None or not 1 <= size[0] <= 7:
        return None
    start, slope, intercept = np.frombuffer(head, f"{order}f4", 3, offset=108).tolist()
    first = int(start) if isfinite(start) else 0
    scaled = isfinite(slope) and slope != 0
    return (
        size[1 : size[0] + 1],
        np.dtype(order + kind),
        max(first, NIFTI1_FIRST_VOXEL),
        slope if scaled else 1.0,
        intercept if scaled and isfinite(intercept) else 0.0,
    )


def _head(blocks: Iterator[bytes]) -> bytes:
    """Blocks from the front of a file, until they hold a header of NIfTI-1 or the file ends."""
    head = b""
    while len(head) <= NIFTI1_HEADER_SIZE and (block := next(blocks, None)) is not None:
        head += block
    return head


def _byte_order(head: bytes) -> str | None:
    """How numbers are stored, by the size of the header in its first four bytes; None where that is
    not NIfTI-1's.
    """
    if len(head) < NIFTI1_HEADER_SIZE:
        return None
    orders = (o for o in "<>" if int(np.frombuffer(head, f"{o}i4", 1)[0]) == NIFTI1_HEADER_SIZE)
    return next(orders, None)


def _blocks(path: Path) -> Iterator[bytes]:
    """What is in a file, inflated if it is deflated, block by block."""
    with path.open("rb") as stream:
        deflated = stream.read(2) == GZIP
        stream.seek(0)
        blocks = iter(partial(stream.read, BLOCK), b"")
        yield from _inflated(path, blocks) if deflated else blocks


def _inflated(path: Path, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Gzip's members after each other, whose checksums zlib compares."""
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        for rest in blocks:
            block = rest
            while block:
                yield inflate.decompress(block, LARGEST_BLOCK)
                if not inflate.eof:
                    block = inflate.unconsumed_tail
                elif block := inflate.unused_data.lstrip(b"\0"):
                    if not GZIP.startswith(block[: len(GZIP)]):
                        return  # whatever stands behind the last member
                    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
        yield inflate.flush()
    except zlib.error as error:
        raise _damaged(path, str(error)) from error
    if not inflate.eof:
        raise _damaged(path, "it ends before its end")


def _fill(target: NDArray[np.uint8], blocks: Iterable[bytes], skip: int) -> int:
    """Write blocks after each other into an array, but for the first ``skip`` bytes of them.

    Returns how many bytes there were. All are read: the checksum stands at the end.
    """
    place = -skip
    for block in blocks:
        begin, end = max(place, 0), min(place + len(block), target.size)
        if begin < end:
            target[begin:end] = np.frombuffer(block, np.uint8)[begin - place : end - place]
        place += len(block)
    return place + skip


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path}: expected a readable image, found a damaged file ({reason}). "
        "Copy or export it again."
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: expected a readable file, found {error.strerror or error}. Mend its "
            "permissions or its disk."
        ) from error
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


def write_probabilities(path: Path, probabilities: NDArray[np.float32], geometry: Geometry) -> None:
    """Write the probability of every class, (K, Z, Y, X), K at least 2, to a ``.nii.gz``.

    The file has K values of float32 per voxel. Written under a temporary name that is then renamed.
    """
    last = np.ascontiguousarray(np.moveaxis(probabilities, 0, -1), np.float32)
    image = sitk.GetImageFromArray(last, isVector=True)
    _place(image, geometry)
    with replacing(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an .npy file that can be memory-mapped, under a temporary name that is then renamed."""
    with replacing(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def open_array(path: Path) -> NDArray[Any]:
    """Map an .npy file, of which only the parts are read that are used.

    Raises DataError for a file that is missing or damaged.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: expected an array, found none. Run it again.") from None
    except (ValueError, EOFError) as error:
        raise DataError(
            f"{path}: expected an array, found a damaged file ({error}). Delete it: the next run "
            "makes it again."
        ) from error
    return array


def write_arrays(
    path: Path, arrays: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: str
) -> None:
    """The same for one array whose parts along the first axis come one by one."""
    with replacing(path) as temporary:
        whole = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.dtype(dtype), shape=shape)
        for index, array in enumerate(arrays):
            whole[index] = array
        whole.flush()
