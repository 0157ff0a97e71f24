"""Images, label maps and small files: read whole or refused in words, written whole or not."""

import gzip
import json
import os
import re
import struct
from itertools import pairwise

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import ball, geometries, grid, written_series
from hypothesis import given, settings
from hypothesis import strategies as st

from mist_core import io
from mist_core.errors import DataError, raise_all
from mist_core.files import (
    read_json,
    read_rows,
    remove,
    replacing,
    write_json,
    write_rows,
    write_text,
)
from mist_core.io import (
    Volume,
    from_sitk,
    geometry_of,
    open_array,
    read_channels,
    read_geometry,
    read_image,
    read_labels,
    read_probabilities,
    to_sitk,
    write_array,
    write_probabilities,
    write_volume,
)

NOISE = np.random.default_rng(0).integers(1, 1000, (60, 100, 120)).astype(np.int16)


@pytest.fixture(scope="module")
def noise_gz(tmp_path_factory):
    """The bytes of a .nii.gz so long that its header is read before its damage."""
    path = tmp_path_factory.mktemp("noise") / "noise.nii.gz"
    write_volume(path, Volume(NOISE, grid(NOISE.shape)))
    return path.read_bytes()


def written(path, array, is_vector=False):
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=is_vector), str(path))
    return path


# --- images ---------------------------------------------------------------------------------------


def test_arrays_are_zyx_and_itk_is_xyz():
    image = sitk.Image([5, 4, 3], sitk.sitkInt16)
    image[4, 2, 1] = 7
    volume = from_sitk(image)
    assert volume.array.shape == volume.geometry.shape == (3, 4, 5)
    assert volume.array[1, 2, 4] == 7
    assert to_sitk(volume)[4, 2, 1] == 7


@given(geometries(low=2, high=5))
def test_itk_round_trip_keeps_the_grid(geometry):
    image = to_sitk(Volume(np.zeros(geometry.shape, np.uint8), geometry))
    last = tuple(n - 1 for n in geometry.shape)
    place = image.TransformIndexToPhysicalPoint(last[::-1])
    np.testing.assert_allclose(place, geometry.world(last), atol=1e-6)
    assert geometry_of(image).matches(geometry, tolerance=1e-9)


@settings(max_examples=25)
@given(geometry=geometries(low=2, high=6))
def test_a_nifti_keeps_oblique_and_left_handed_grids(tmp_path_factory, geometry):
    path = tmp_path_factory.getbasetemp() / "grid.nii.gz"
    array = np.random.default_rng(0).normal(size=geometry.shape).astype(np.float32)
    write_volume(path, Volume(array, geometry))
    back = read_image(path)
    assert np.array_equal(back.array, array)
    assert back.geometry.matches(geometry, tolerance=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
def test_small_integers_stay_what_they_are_and_all_else_becomes_float32(tmp_path, dtype):
    array = (np.arange(24).reshape(2, 3, 4) * 5).astype(dtype)
    image = read_image(written(tmp_path / "a.nii.gz", array))
    assert image.array.dtype == (dtype if np.dtype(dtype).itemsize < 4 else np.float32)
    assert np.array_equal(image.array, array)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
def test_formats_are_told_by_their_suffix(tmp_path, name):
    volume = ball(grid((8, 9, 10), (3, 2, 1)), value=3)
    write_volume(tmp_path / name, volume)
    back = read_labels(tmp_path / name)
    assert np.array_equal(back.array, volume.array)
    assert back.geometry.matches(volume.geometry)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd"])
def test_written_volumes_are_compressed(tmp_path, name):
    write_volume(tmp_path / name, Volume(np.zeros((40, 40, 40), np.uint8), grid((40,) * 3)))
    assert (tmp_path / name).stat().st_size < 2000


def skewed_nifti(path, cosine):
    """A NIfTI with an sform whose x and y axes are not quite at right angles."""
    write_volume(path, Volume(NOISE, grid(NOISE.shape, (3.0, 2.0, 1.0))))
    raw = bytearray(path.read_bytes())
    struct.pack_into("<hh", raw, 252, 0, 1)  # no qform; an sform
    x, y = np.array([1.0, 0, 0]), 2.0 * np.array([cosine, np.sqrt(1 - cosine**2), 0])
    affine = np.column_stack([x, y, [0, 0, 3.0], [10, 20, 30]])
    struct.pack_into("<12f", raw, 280, *affine.ravel())
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("cosine", [1e-3, 0.015])
def test_axes_almost_at_right_angles_are_repaired_and_logged(tmp_path, caplog, cosine):
    path = skewed_nifti(tmp_path / "a.nii", cosine)
    with caplog.at_level("INFO"):
        volume = read_image(path)
    assert "taken as right angles" in caplog.text
    assert np.array_equal(volume.array, NOISE)
    geometry = volume.geometry
    assert geometry.skew() < 1e-9
    np.testing.assert_allclose(geometry.spacing, (3, 2, 1), rtol=1e-5)
    # NIfTI's x and y grow to the right and the front, LPS to the left and the back.
    np.testing.assert_allclose(geometry.origin, (-10, -20, 30), atol=1e-4)
    np.testing.assert_allclose(geometry.direction @ [0, 0, 1], (-1, 0, 0), atol=cosine)
    assert read_geometry(path).matches(geometry, tolerance=1e-9)


@pytest.mark.parametrize("name", ["a.nii", "a.nrrd"])
def test_tilted_axes_are_refused(tmp_path, name):
    path = tmp_path / name
    if name.endswith("nii"):
        skewed_nifti(path, 0.2)
    else:
        image = sitk.GetImageFromArray(NOISE)
        image.SetDirection([1, 0.2, 0, 0, np.sqrt(1 - 0.04), 0, 0, 0, 1])
        sitk.WriteImage(image, str(path))
    for read in (read_image, read_labels, read_geometry):
        refused(path, "axes at right angles, found a cosine of 0.2", read=read)


CT = (np.random.default_rng(1).integers(0, 900, (6, 8, 9))).astype(np.int16)


def test_a_folder_with_a_dicom_series_is_an_image(tmp_path):
    volume = read_image(written_series(tmp_path / "ct", CT))
    assert np.array_equal(volume.array, CT)
    assert volume.geometry.shape == (6, 8, 9)
    np.testing.assert_allclose(volume.geometry.spacing, (2.5, 0.8, 0.7))
    np.testing.assert_allclose(volume.geometry.origin, (-50, -60, 0))
    np.testing.assert_allclose(volume.geometry.direction, np.eye(3)[:, ::-1], atol=1e-9)
    assert read_geometry(tmp_path / "ct").matches(volume.geometry)


def test_the_channels_of_a_4d_image_are_read_as_stored(tmp_path):
    array = np.random.default_rng(2).integers(-900, 900, (3, 4, 5, 6)).astype(np.int16)
    image = sitk.JoinSeries([sitk.GetImageFromArray(channel) for channel in array])
    image.SetSpacing((0.5, 0.6, 2, 1))
    image.SetOrigin((10, -20, 30, 0))
    for name in ("a.nii.gz", "a.nrrd"):
        sitk.WriteImage(image, str(tmp_path / name))
        volumes = read_channels(tmp_path / name)
        assert np.array_equal([volume.array for volume in volumes], array)
        assert volumes[0].array.dtype == np.int16
        for volume in volumes:
            np.testing.assert_allclose(volume.geometry.spacing, (2, 0.6, 0.5), rtol=1e-6)
            np.testing.assert_allclose(volume.geometry.origin, (10, -20, 30))
    write_volume(tmp_path / "one.nii.gz", volumes[1])
    (one,) = read_channels(tmp_path / "one.nii.gz")
    assert np.array_equal(one.array, array[1])
    assert one.geometry.matches(volumes[1].geometry)


def test_a_4d_image_that_was_cut_off_is_refused(tmp_path):
    image = sitk.JoinSeries([sitk.Image(6, 5, 4, sitk.sitkFloat32) + c for c in (1, 2)])
    sitk.WriteImage(image, str(tmp_path / "a.nii"))
    (tmp_path / "a.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:-100])
    refused(tmp_path / "a.nii", "found a damaged file", read=read_channels)
    vectors = sitk.Compose([sitk.Image(6, 5, 4, sitk.sitkFloat32)] * 2)
    sitk.WriteImage(vectors, str(tmp_path / "b.nii"))
    refused(tmp_path / "b.nii", "one value per voxel", read=read_channels)


def test_a_missing_slice_is_noticed(tmp_path):
    places = 2.5 * np.array([0, 1, 2, 4, 5, 6])
    folder = written_series(tmp_path / "ct", CT, places=places)
    refused(folder, "evenly spaced slices, found gaps of 2.5 to 5 mm")


def test_two_series_in_a_folder_are_refused(tmp_path):
    written_series(tmp_path / "ct", CT)
    refused(written_series(tmp_path / "ct", CT, uid="1.2.4"), "one DICOM series, found 2 series")
    (tmp_path / "none").mkdir()
    refused(tmp_path / "none", "found 0 series")


def refused(path, *words, read=read_image):
    """The message of the refusal, which names the file and holds the words, on one line."""
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected ")
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def test_a_missing_file_is_named(tmp_path):
    for read in (read_image, read_labels):
        refused(tmp_path / "none.nii.gz", "found none", read=read)


@pytest.mark.parametrize("content", [b"", b"not an image\n" * 99, b"\x1f\x8b\x08"])
def test_what_is_no_image_is_refused(tmp_path, content):
    path = tmp_path / "text.nii.gz"
    path.write_bytes(content)
    refused(path, "readable image")


@pytest.mark.parametrize("read", [read_image, read_labels])
@pytest.mark.parametrize("share", [0.3, 0.99])
def test_a_cut_off_nii_gz_is_refused(tmp_path, noise_gz, share, read):
    path = tmp_path / "cut.nii.gz"
    path.write_bytes(noise_gz[: int(len(noise_gz) * share)])
    refused(path, read=read)


def test_a_cut_off_nii_is_refused(tmp_path, noise_gz):
    path = tmp_path / "cut.nii"
    path.write_bytes(gzip.decompress(noise_gz)[:-1000])
    refused(path)


def test_a_cut_off_nrrd_is_refused(tmp_path):
    path = tmp_path / "cut.nrrd"
    write_volume(path, Volume(NOISE, grid(NOISE.shape)))
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path)


def test_a_nii_gz_with_a_wrong_checksum_is_refused(tmp_path, noise_gz):
    path = tmp_path / "bad.nii.gz"
    middle = len(noise_gz) // 2
    path.write_bytes(noise_gz[:middle] + bytes([noise_gz[middle] ^ 255]) + noise_gz[middle + 1 :])
    refused(path)


def test_a_whole_nii_gz_is_read_to_its_last_voxel(tmp_path, noise_gz):
    path = tmp_path / "whole.nii.gz"
    path.write_bytes(noise_gz)
    assert np.array_equal(read_image(path).array, NOISE)


def test_only_scalar_3d_images_are_read(tmp_path):
    refused(written(tmp_path / "4d.nii.gz", np.zeros((3, 4, 5, 6), np.float32)), "3-D", "4-D")
    refused(written(tmp_path / "2d.nii.gz", np.zeros((5, 6), np.float32)), "3-D", "2-D")
    vectors = np.zeros((4, 5, 6, 3), np.float32)
    refused(written(tmp_path / "rgb.nii.gz", vectors, is_vector=True), "one value per voxel", "3")


def test_a_fourth_axis_of_one_is_no_axis(tmp_path):
    path = written(tmp_path / "a.nii.gz", np.ones((1, 4, 5, 6), np.float32))
    assert read_image(path).array.shape == (4, 5, 6)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_counted(tmp_path, value, name):
    array = np.ones((4, 5, 6), np.float32)
    array[1, 2, 3:5] = value
    refused(written(tmp_path / name, array), "finite", "2 voxels")


# --- label maps -----------------------------------------------------------------------------------


def test_whole_numbers_stored_as_floats_are_labels(tmp_path):
    array = np.array([0, 1, 2, 4], np.float32).reshape(1, 2, 2)
    labels = read_labels(written(tmp_path / "a.nii.gz", array))
    assert labels.array.dtype == np.uint8
    assert labels.array.ravel().tolist() == [0, 1, 2, 4]


@pytest.mark.parametrize("value", [0.5, 0.001, 3.9999, np.nan, np.inf])
def test_labels_that_are_not_whole_are_refused(tmp_path, value):
    array = np.ones((2, 3, 4), np.float32)
    array[1, 1, 1] = value
    path = written(tmp_path / "a.nrrd", array)
    refused(path, "whole-number labels", f"1 voxels such as {np.float32(value)}", read=read_labels)


@pytest.mark.parametrize("high", [255, 256, 300, 65535])
def test_labels_above_255_do_not_wrap(tmp_path, high):
    array = np.array([0, 1, 44, high], np.int32).reshape(1, 2, 2)
    labels = read_labels(written(tmp_path / "a.nii.gz", array))
    assert labels.array.dtype == (np.uint8 if high < 256 else np.uint16)
    assert labels.array.ravel().tolist() == [0, 1, 44, high]


@pytest.mark.parametrize("value", [-1, 65536, 70000])
def test_labels_out_of_range_are_refused(tmp_path, value):
    array = np.array([0, 1, 2, value], np.int32).reshape(1, 2, 2)
    refused(written(tmp_path / "a.nii.gz", array), "0..65535", str(value), read=read_labels)


def test_a_label_map_of_one_value_is_read(tmp_path):
    labels = read_labels(written(tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.int16)))
    assert labels.array.dtype == np.uint8
    assert not labels.array.any()


# --- probabilities --------------------------------------------------------------------------------


def softmaxed(shape, n_classes=3):
    """Probabilities, (K, z, y, x)."""
    odds = np.exp(np.random.default_rng(0).normal(size=(n_classes, *shape)))
    return (odds / odds.sum(axis=0)).astype(np.float32)


@settings(max_examples=25)
@given(geometry=geometries(low=1, high=6), n_classes=st.sampled_from([2, 3, 4, 6, 9]))
def test_probabilities_come_back_as_they_were(tmp_path_factory, geometry, n_classes):
    path = tmp_path_factory.getbasetemp() / "probabilities.nii.gz"
    array = softmaxed(geometry.shape, n_classes)
    write_probabilities(path, array, geometry)
    back, found = read_probabilities(path)
    assert back.dtype == np.float32
    assert np.array_equal(back, array)
    assert found.matches(geometry, tolerance=1e-3)


def test_a_file_of_probabilities_has_a_vector_at_every_voxel(tmp_path):
    array = softmaxed((3, 4, 5))
    write_probabilities(tmp_path / "a.nii.gz", array, grid((3, 4, 5), (3.0, 2.0, 1.0)))
    image = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    assert image.GetPixelIDTypeAsString() == "vector of 32-bit float"
    assert (image.GetSize(), image.GetSpacing()) == ((5, 4, 3), (1.0, 2.0, 3.0))
    np.testing.assert_array_equal(image[4, 1, 2], array[:, 2, 1, 4])
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


def test_what_holds_no_probabilities_is_refused(tmp_path):
    path = tmp_path / "a.nii.gz"
    refused(path, "found none", read=read_probabilities)
    write_volume(path, ball(grid((4, 4, 4))))
    refused(path, "a probability for each class", "[4, 4, 4]", read=read_probabilities)
    written(path, np.zeros((3, 4, 5, 6), np.float32))
    refused(path, "found a size of [6, 5, 4, 3]", read=read_probabilities)
    write_probabilities(path, softmaxed((20, 20, 20)), grid((20, 20, 20)))
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path, "readable image", read=read_probabilities)
    path.write_bytes(b"")
    refused(path, "readable image", read=read_probabilities)
    path.write_bytes(b"no image" * 99)
    refused(path, "found another kind of file", read=read_probabilities)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.01, 7.0])
def test_values_that_are_no_probabilities_are_refused(tmp_path, value):
    array = softmaxed((3, 4, 5))
    array[1, 2, 3, 4] = value
    write_probabilities(tmp_path / "a.nii.gz", array, grid((3, 4, 5)))
    refused(tmp_path / "a.nii.gz", "from 0 to 1, found", read=read_probabilities)


@pytest.mark.parametrize("value", [-1e-6, 1 + 1e-6])
def test_rounding_does_not_make_a_probability_a_wrong_one(tmp_path, value):
    array = softmaxed((3, 4, 5))
    array[1, 2, 3, 4] = value
    write_probabilities(tmp_path / "a.nii.gz", array, grid((3, 4, 5)))
    assert read_probabilities(tmp_path / "a.nii.gz")[0][1, 2, 3, 4] == np.float32(value)


# --- real scans -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["brain1", "breast1"])
def test_real_nrrd_pairs_lie_on_one_grid(shared, name):
    image = read_image(shared / "data/nrrd" / f"{name}_image.nrrd")
    labels = read_labels(shared / "data/nrrd" / f"{name}_label.nrrd")
    assert image.geometry.matches(labels.geometry)
    assert np.unique(labels.array).size >= 2
    reference = sitk.ReadImage(str(shared / "data/nrrd" / f"{name}_image.nrrd"))
    assert np.array_equal(image.array, sitk.GetArrayFromImage(reference))
    assert image.geometry.spacing == reference.GetSpacing()[::-1]


# --- small files ----------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_nothing_is_written_through_a_link(tmp_path):
    source = tmp_path / "source.txt"
    source.write_text("precious")
    target = tmp_path / "target.txt"
    target.symlink_to(source)
    # what a killed process of the same number would leave
    target.with_name(f".{os.getpid()}-target.txt").symlink_to(source)
    write_text(target, "new")
    assert (source.read_text(), target.read_text()) == ("precious", "new")
    assert not target.is_symlink()


def test_a_link_to_a_folder_is_deleted_and_the_folder_stays(tmp_path):
    (tmp_path / "folder/inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name in ("link", "none"):
        remove(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_the_temporary_file_is_a_hidden_neighbour_of_the_same_format(tmp_path):
    path = tmp_path / "new" / "folder" / "a.nii.gz"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.startswith(".")
        assert temporary.name.endswith("a.nii.gz")
        temporary.write_text("done")
        assert not path.exists()
    assert path.read_text() == "done"


def test_a_volume_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        write_volume(tmp_path / "a.unknown", ball(grid((4, 4, 4))))
    assert list(tmp_path.iterdir()) == []


def test_arrays_can_be_mapped_and_hold_no_objects(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write_array(tmp_path / "sub" / "a.npy", array)
    back = np.load(tmp_path / "sub" / "a.npy", mmap_mode="r", allow_pickle=False)
    assert isinstance(back, np.memmap)
    assert np.array_equal(back, array)
    with pytest.raises(ValueError, match="Object arrays"):
        write_array(tmp_path / "b.npy", np.array([{}]))
    assert not (tmp_path / "b.npy").exists()


def test_ids_with_leading_zeros_stay_strings(tmp_path):
    path = tmp_path / "a.csv"
    ids = ["001", "01", "1", "1e3", "0x10", "1.0", "True", ""]
    write_rows(path, ["id", "fold"], [{"id": i, "fold": 0} for i in ids])
    assert [row["id"] for row in read_rows(path)] == ids


@settings(max_examples=50)
@given(
    rows=st.lists(
        st.fixed_dictionaries({c: st.text("01aé,;\"' \n") for c in ("id", "t1,ce")}),
        max_size=5,
    )
)
def test_any_text_survives_a_csv(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "text.csv"
    write_rows(path, ["id", "t1,ce"], rows)
    assert read_rows(path) == rows


def test_a_csv_saved_by_a_spreadsheet_has_the_same_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfid,fold\r\n001,2\r\n")  # byte order mark, CR LF
    assert read_rows(path) == [{"id": "001", "fold": "2"}]


def test_a_csv_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: expected a CSV file, found none"):
        read_rows(tmp_path / "none.csv")
    (tmp_path / "a.csv").write_bytes(b"id\n\xff\xfe\n")
    with pytest.raises(DataError, match=r"a\.csv: expected"):
        read_rows(tmp_path / "a.csv")


def test_a_column_that_is_there_twice_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("id,t1,t1,,\n1,a,b,,\n")
    with pytest.raises(DataError, match=r"a\.csv: expected every column once, found 't1' twice"):
        read_rows(tmp_path / "a.csv")


def test_json_is_written_for_people(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1], "a": "ü"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == json.dumps({"b": [1], "a": "ü"}, indent=2) + "\n"
    write_text(tmp_path / "b.txt", "ü\n")
    assert (tmp_path / "b.txt").read_bytes() == "ü\n".encode()


@pytest.mark.parametrize(
    ("content", "words"), [(b'{\n  "a": 1,\n}', "line 3"), (b"", "line 1"), (b"\xff", "utf-8")]
)
def test_a_mistake_in_json_is_located(tmp_path, content, words):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: expected JSON.*{words}"):
        read_json(path)


def test_missing_json_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a\.json: expected a JSON file, found none"):
        read_json(tmp_path / "a.json")


def test_problems_are_raised_together_or_not_at_all():
    raise_all([], "dataset")
    with pytest.raises(DataError, match=r"^dataset: 1 problem\n  one$"):
        raise_all(["one"], "dataset")
    with pytest.raises(DataError, match=r"^config: 2 problems\n  one\n  two$"):
        raise_all(["one", "two"], "config")


@settings(max_examples=30)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(0, 3), st.integers(60, 5000))
def test_a_file_deflated_in_parts_is_one_image(tmp_path_factory, first, second, zeros, block):
    """As programs that deflate in parallel write it, and tapes that pad with zeros."""
    path = tmp_path_factory.mktemp("parts") / "a.nii"
    array = np.random.default_rng(first).integers(0, 900, (7, 8, 40)).astype(np.int16)
    array[2:] = 0
    written(path, array)
    raw = path.read_bytes()
    cuts = sorted({0, first, first + second, len(raw)})
    parts = [gzip.compress(raw[a:b]) for a, b in pairwise(c for c in cuts if c <= len(raw))]
    path = path.with_suffix(".nii.gz")
    path.write_bytes(b"".join(parts) + bytes(zeros))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "BLOCK", block)
        patch.setattr(io, "LARGEST_BLOCK", block)
        assert np.array_equal(read_image(path).array, array)
        path.write_bytes(b"".join(parts)[:-1])
        with pytest.raises(DataError, match="damaged"):
            read_image(path)


def edited(path, **fields):
    """Write over fields of the header of a NIfTI file; places as in nifti1.h."""
    places = {
        "size": (42, "<hhh"),
        "start": (108, "<f"),
        "slope": (112, "<f"),
        "shift": (116, "<f"),
    }
    raw = bytearray(path.read_bytes())
    for name, values in fields.items():
        place, form = places[name]
        struct.pack_into(form, raw, place, *np.atleast_1d(values).tolist())
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    "fields",
    [
        *({"start": 0}, {"start": np.nan}),
        *({"slope": np.nan}, {"slope": np.inf}),
        *({"slope": 0, "shift": 5}, {"slope": 1, "shift": np.nan}),
    ],
)
def test_headers_of_careless_programs_are_read_as_the_reference_library_does(tmp_path, fields):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path = edited(written(tmp_path / "a.nii", array), **fields)
    assert np.array_equal(read_image(path).array, array)


def test_a_header_that_promises_more_than_a_file_can_hold_is_refused(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path = edited(written(tmp_path / "a.nii", array), size=(30000, 30000, 30000))
    with pytest.raises(DataError, match="readable image"):
        read_image(path)
    with path.with_suffix(".nii.gz").open("wb") as stream:
        stream.write(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match="readable image"):
        read_image(path.with_suffix(".nii.gz"))


def test_what_is_beyond_float32_is_not_finite(tmp_path):
    array = np.full((2, 3, 4), 1e300)
    with pytest.raises(DataError, match="24 voxels that are NaN or infinite"):
        read_image(written(tmp_path / "a.nii.gz", array))


def test_junk_behind_the_last_member_is_left_alone(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path = written(tmp_path / "a.nii.gz", array)
    path.write_bytes(path.read_bytes() + b"signature")
    assert np.array_equal(read_image(path).array, array)


def test_a_damaged_array_is_refused_by_name(tmp_path):
    path = tmp_path / "a.npy"
    write_array(path, np.arange(1000.0))
    assert np.array_equal(open_array(path), np.arange(1000.0))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"a\.npy: expected an array, found a damaged file"):
        open_array(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="damaged"):
        open_array(path)
    path.unlink()
    with pytest.raises(DataError, match="found none"):
        open_array(path)
