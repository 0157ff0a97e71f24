"""Predictions lie where the scanner's grid says: files in, files out, SimpleITK as the oracle.

Images are painted as functions of physical points, on any grid. A network whose answer is known
from the intensities predicts them on another grid. What comes back is compared with the function at
the points that SimpleITK gives for the voxels of the file that was written.
"""

from itertools import pairwise

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from conftest import geometries
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mist_core.config import Predict, Train
from mist_core.io import Volume, read_image, to_sitk, write_volume
from mist_core.plan import parse_plan
from mist_core.predict import TrainedModel, predict_preprocessed
from mist_core.preprocess import preprocess

CPU = torch.device("cpu")
LOW, HIGH = 100.0, 300.0  # on the two sides of a plane
MEAN, STD = 150.0, 50.0  # of the normalisation
OCTANTS = (0, 3, 4, 7, 9, 20, 255, 300)  # label values, by which sides of three planes


class BySides(nn.Module):
    """Channel k says on which side of plane k a voxel lies: class 1 a + 2 b + 4 c of three."""

    def forward(self, x):
        over = 20 * (x * STD + MEAN - (LOW + HIGH) / 2) / (HIGH - LOW)
        sides = torch.tensor([[1 if k >> bit & 1 else -1 for bit in range(3)] for k in range(8)])
        return (torch.einsum("bczyx,kc->bkzyx", over, sides.float()),)


class ByValue(nn.Module):
    """Class k where the intensity is nearest to the k-th of some values."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def forward(self, x):
        intensity = x * STD + MEAN
        return (torch.cat([-5 * (intensity - value) ** 2 for value in self.values], dim=1),)


def plan_of(labels, spacing, channels=1, patch_size=(8, 12, 10), crop=False):
    """A plan that maps intensities by MEAN and STD; per-axis values in array order (z, y, x)."""
    window = {"window_min": 0, "window_max": 5000, "z_score_mean": MEAN, "z_score_std": STD}
    names = [f"c{number}" for number in range(channels)]
    return parse_plan(
        {
            "mist_version": "0",
            "dataset_info": {"task": "t", "modality": "ct", "images": names, "labels": labels},
            "spatial_config": {
                "patch_size": patch_size[::-1],
                "target_spacing": spacing[::-1],
                "median_resampled_image_size": (32, 32, 32),
            },
            "preprocessing": {
                "crop_to_foreground": crop,
                "normalize_with_nonzero_mask": [False] * channels,
                "ct_normalization": [window] * channels,
            },
            "model": {"in_channels": channels, "out_channels": len(labels)},
            "evaluation": {},
        },
        "test",
    )


def points_of(image):
    """The physical points (Z, Y, X, 3) of the voxels of an ITK image, as ITK says."""
    places = image.GetSize(), image.GetOrigin(), image.GetSpacing(), image.GetDirection()
    return sitk.GetArrayFromImage(sitk.PhysicalPointSource(sitk.sitkVectorFloat64, *places))


def written(path, array, like):
    """Write an array on the grid of an ITK image, without any code of ours."""
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(like)
    sitk.WriteImage(image, str(path))
    return path


def spacing_of(path):
    """That of an image (z, y, x) when its axes have been turned."""
    geometry = read_image(path).geometry
    return geometry.moved_axes(*geometry.to_lps()).spacing


def predicted(paths, network, plan, folder):
    """The prediction of a case, as it is read back from its file."""
    volumes = [read_image(path) for path in paths]
    done = preprocess(volumes, None, plan)
    models = [TrainedModel(network, plan, Train(amp=False))]
    found = predict_preprocessed(models, done.image, done.origin, Predict(flips=False)).labels
    write_volume(folder / "prediction.nii.gz", found)
    return sitk.ReadImage(str(folder / "prediction.nii.gz"))


def assert_same_grid(found, expected):
    """Size, spacing, origin and direction; NIfTI keeps them as float32."""
    assert found.GetSize() == expected.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        values = [getattr(image, name)() for image in (found, expected)]
        np.testing.assert_allclose(*values, rtol=1e-6, atol=1e-5, err_msg=name)


def edges_of(image, spacing):
    """Edges (3, 3) of the larger voxel of two grids, in mm: those of the image and of a grid of
    that spacing (z, y, x) along its axes. Rows are vectors.
    """
    axes = np.reshape(image.GetDirection(), (3, 3)).T
    along = [spacing[::-1][abs(axis).argmax()] for axis in axes]
    return axes * np.maximum(along, image.GetSpacing())[:, None]


class Planes:
    """Three planes, not far from the middle of an image, none of them along an axis."""

    normals = np.array([[0.8, 0.5, -0.33], [-0.45, 0.8, 0.4], [0.4, -0.33, 0.85]])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)

    def __init__(self, points):
        ends = points.reshape(-1, 3).min(axis=0), points.reshape(-1, 3).max(axis=0)
        self.through = ends[0] + (0.55, 0.42, 0.52) * (ends[1] - ends[0])

    def distances_mm(self, points):
        """Signed distances (Z, Y, X, 3) to the planes."""
        return (points - self.through) @ self.normals.T

    def paint(self, points):
        """Images (3, Z, Y, X): low and high, with a slope, since nothing is shown where all voxels
        of a window have one value.
        """
        sides = np.where(self.distances_mm(points) > 0, HIGH, LOW)
        slope = 0.05 * (points - self.through)
        return np.moveaxis(sides + slope.clip(-10, 10), -1, 0).astype(np.float32)

    def labels(self, points):
        """What is to be found (Z, Y, X)."""
        return np.array(OCTANTS)[(self.distances_mm(points) > 0) @ (1, 2, 4)]

    def are_near(self, points, edges):
        """Which planes pass within a voxel of such edges, on either side (Z, Y, X, 3)."""
        reach_mm = abs(self.normals @ edges.T).sum(axis=1)
        return abs(self.distances_mm(points)) <= reach_mm


def check_planes(folder, like, spacing, patch_size=(8, 12, 10)):
    """Paint on the grid of an ITK image, predict on one of that spacing (None: its own), compare.

    Returns of the voxels near a plane, those of each that came to lie on its other side: their
    share, and the share that lies on its high side by mistake without that on its low side.
    """
    planes = Planes(points_of(like))
    images = planes.paint(points_of(like))
    paths = [written(folder / f"{k}.mha", image, like) for k, image in enumerate(images)]
    own = spacing_of(paths[0])
    plan = plan_of(OCTANTS, spacing or own, channels=3, patch_size=patch_size)
    found = predicted(paths, BySides(), plan, folder)
    assert_same_grid(found, like)
    points, labels = points_of(found), sitk.GetArrayFromImage(found)
    assert set(np.unique(labels)) == set(OCTANTS)
    if spacing is None:
        np.testing.assert_array_equal(labels, planes.labels(points_of(like)))
    near = planes.are_near(points, edges_of(found, spacing or own))
    far = ~near.any(axis=-1)
    assert far.mean() > 0.08  # else little is compared
    np.testing.assert_array_equal(labels[far], planes.labels(points)[far])
    highs = np.searchsorted(OCTANTS, labels)[..., None] >> np.arange(3) & 1
    moved = highs - (planes.distances_mm(points) > 0)
    each = [moved[..., k][near[..., k]] for k in range(3)]
    return max(abs(m).mean() for m in each), max(abs(m.mean()) for m in each)


def grid_of(size, spacing, axes, turn_deg=(0, 0, 0), origin=(-31.7, 112.3, 45.1)):
    """An ITK image with nothing in it. Per-axis values are (x, y, z); ``axes`` says along which
    world axis each of its own runs, such as "-z", and ``turn_deg`` turns it about x, y and z.
    """
    image = sitk.Image(size, sitk.sitkFloat32)
    columns = [np.eye(3)["xyz".index(axis[-1])] * (-1 if axis[0] == "-" else 1) for axis in axes]
    turned = sitk.Euler3DTransform()
    turned.SetRotation(*np.deg2rad(turn_deg))
    image.SetDirection((np.reshape(turned.GetMatrix(), (3, 3)) @ np.stack(columns, 1)).ravel())
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


GRIDS = {
    "axial": grid_of((26, 22, 18), (1.0, 1.2, 1.5), ("x", "y", "z")),
    "RAS": grid_of((26, 22, 18), (1.0, 1.2, 1.5), ("-x", "-y", "z")),
    "sagittal": grid_of((24, 26, 18), (0.8, 0.7, 2.6), ("y", "-z", "-x")),
    "coronal, thick": grid_of((30, 28, 12), (0.9, 0.9, 4.5), ("x", "-z", "y")),
    "left-handed": grid_of((20, 22, 24), (1.3, 0.9, 1.1), ("z", "-y", "x")),
    "oblique": grid_of((22, 26, 20), (1.1, 0.8, 1.9), ("x", "y", "z"), (12, -9, 15)),
    "oblique, sagittal, thick": grid_of(
        (32, 30, 9), (0.7, 0.7, 5.0), ("y", "-z", "x"), (8, 14, -10)
    ),
}


SPACINGS = [(1.7, 1.0, 1.3), (3.1, 0.9, 2.2), (0.6, 1.4, 0.8)]  # (z, y, x)


@pytest.mark.parametrize("name", GRIDS)
def test_octants_are_found_at_every_voxel_on_the_same_grid(tmp_path, name):
    check_planes(tmp_path, GRIDS[name], None)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_octants_are_found_by_way_of_another_grid(tmp_path, name, spacing):
    share, one_way = check_planes(tmp_path, GRIDS[name], spacing)
    assert share < 0.1
    assert one_way < 0.06  # half a voxel of the training grid on every axis: 0.067 to 0.26


@settings(max_examples=25)
@given(geometries(low=11, high=18, oblique_deg=25), st.tuples(*[st.floats(0.6, 1.7)] * 3))
def test_octants_are_found_on_any_grid(tmp_path_factory, geometry, factors):
    spacing = geometry.moved_axes(*geometry.to_lps()).spacing
    like = to_sitk(Volume(np.zeros(geometry.shape, np.uint8), geometry))
    folder = tmp_path_factory.mktemp("any")
    check_planes(folder, like, None)
    share, _ = check_planes(folder, like, tuple(np.multiply(spacing, factors).tolist()))
    assert share < 0.25


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("spacing", [None, (1.9, 1.5, 1.1)])
def test_what_was_cropped_comes_back_to_its_place(tmp_path, name, spacing):
    """A bright ball, off the middle, of which the box is all that a network sees."""
    like = GRIDS[name]
    points = points_of(like)
    ends = points.reshape(-1, 3).min(axis=0), points.reshape(-1, 3).max(axis=0)
    centre = ends[0] + (0.6, 0.45, 0.55) * (ends[1] - ends[0])

    def from_border_mm(points):
        return np.linalg.norm(points - centre, axis=-1) - 7

    image = np.where(from_border_mm(points) < 0, HIGH, 0).astype(np.float32)
    path = written(tmp_path / "ball.nrrd", image, like)
    own = spacing_of(path)
    plan = plan_of((0, 1), spacing or own, patch_size=(6, 6, 6), crop=True)
    found = predicted([path], ByValue((0, HIGH)), plan, tmp_path)
    assert_same_grid(found, like)
    away_mm, labels = from_border_mm(points_of(found)), sitk.GetArrayFromImage(found)
    reach_mm = np.linalg.norm(edges_of(found, spacing or own), axis=1).max() if spacing else 0
    assert (labels[away_mm < -reach_mm] == 1).any()
    assert (labels[away_mm < -reach_mm] == 1).all()
    assert (labels[away_mm > reach_mm] == 0).all()


REAL = {
    "spine/semantic/ref.nii.gz": (0.9, 0.8, 3.3),
    "nrrd/brain1_image.nrrd": (3.0, 1.1, 1.3),
    "nrrd/breast1_image.nrrd": (3.5, 0.8, 0.9),
}


@pytest.mark.parametrize("name", REAL)
def test_octants_are_found_on_the_grids_of_real_scans(shared, tmp_path, name):
    like = sitk.ReadImage(str(shared / "data" / name))
    patch_size = (32, 128, 64)
    check_planes(tmp_path, like, None, patch_size)
    share, one_way = check_planes(tmp_path, like, REAL[name], patch_size)
    assert share < 0.1
    assert one_way < 0.005


@pytest.mark.parametrize("name", ["semantic", "unmatched_instance"])
@pytest.mark.parametrize("kind", ["ref", pytest.param("pred", marks=pytest.mark.slow)])
def test_label_maps_that_are_taken_for_images_come_back(shared, tmp_path, name, kind):
    path = shared / f"data/spine/{name}/{kind}.nii.gz"
    drawn = sitk.ReadImage(str(path))
    labels = tuple(np.unique(sitk.GetArrayFromImage(drawn)).tolist())
    assert len(labels) > 10
    plan = plan_of(labels, spacing_of(path), patch_size=(128, 128, 17))
    found = predicted([path], ByValue(labels), plan, tmp_path)
    assert_same_grid(found, drawn)
    np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (found, drawn)))


@pytest.mark.parametrize(
    ("name", "values"), [("brain1", (0, 301, 1500)), ("breast1", (0, 41, 100))]
)
def test_bright_voxels_of_real_scans_are_found_where_they_are(shared, tmp_path, name, values):
    path = shared / f"data/nrrd/{name}_image.nrrd"
    scan = sitk.ReadImage(str(path))
    plan = plan_of((0, 1, 2), scan.GetSpacing()[::-1], patch_size=(8, 64, 64))
    found = predicted([path], ByValue(values), plan, tmp_path)
    assert_same_grid(found, scan)
    bounds = [(a + b) / 2 for a, b in pairwise(values)]
    expected = sum(sitk.Cast(scan > bound, sitk.sitkUInt8) for bound in bounds)
    assert min(np.bincount(sitk.GetArrayFromImage(expected).ravel())) > 1000
    np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (found, expected)))
