"""What several tests share: grids, made-up volumes, and reference data that may be absent."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mist_core.dataset import Case
from mist_core.geometry import Geometry
from mist_core.io import Volume, write_volume

ROOT = Path(__file__).parents[1]
# Real scans and tables of expected values, kept beside the repository where they are available.
SHARED = ROOT.parent / "shared"

# Where tests share the cores, threads of one would wait for those of another.
if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Snakemake's plugin for SLURM asks a cluster, also one that is down, for as long as it takes.
os.environ["SLURM_CONF"] = os.devnull

settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("default")


CHROMIUM = Path("/usr/bin/chromium")
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


def pytest_collection_modifyitems(items):
    """Whole workflows first: they take longest, and other tests fill the time beside them."""
    items.sort(key=lambda item: item.path.name != "test_workflow.py")


@pytest.fixture(scope="session")
def browser():
    """Chromium, driven by Playwright; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    if not CHROMIUM.exists():
        pytest.skip(f"needs a browser at {CHROMIUM}")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield running
        running.close()


@pytest.fixture
def shared():
    """Folder of the reference data; skips where it is not available."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the reference data in {SHARED.name}/ beside the repository")
    return SHARED


@st.composite
def geometries(draw, low=12, high=24, oblique_deg=10.0):
    """Grids of any axis order, with reversed (also left-handed) and oblique axes."""
    order = draw(st.permutations([0, 1, 2]))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    angle = np.deg2rad(draw(st.floats(-oblique_deg, oblique_deg)))
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return Geometry(
        shape=tuple(draw(st.integers(low, high)) for _ in range(3)),
        spacing=tuple(draw(st.floats(0.5, 4.0)) for _ in range(3)),
        origin=tuple(draw(st.floats(-200, 200)) for _ in range(3)),
        direction=turn @ (np.eye(3)[:, order] * signs),
    )


def grid(shape, spacing=(1.0, 1.0, 1.0)):
    """A plain grid: array axes z, y, x along world z, y, x."""
    return Geometry(shape, spacing, (0.0, 0.0, 0.0), np.eye(3)[:, ::-1])


def ball(geometry, share=0.35, value=1):
    """A label map with a ball whose radius is a share of the shortest edge in mm."""
    edges = np.asarray(geometry.shape) * np.asarray(geometry.spacing)
    centre = (np.asarray(geometry.shape) - 1) / 2
    offset = np.indices(geometry.shape) - centre[:, None, None, None]
    mm = offset * np.asarray(geometry.spacing)[:, None, None, None]
    inside = (mm**2).sum(axis=0) <= (share * edges.min()) ** 2
    return Volume((inside * value).astype(np.uint8), geometry)


def written_series(folder, array, uid="1.2.3", places=None):
    """A DICOM series of CT slices, 2.5 mm apart, in files whose names say nothing."""
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    places = 2.5 * np.arange(len(array)) if places is None else places
    for number, (slice_, place) in enumerate(zip(array, places, strict=True)):
        image = sitk.GetImageFromArray(slice_)
        image.SetSpacing((0.7, 0.8))
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{uid}.{number + 1}",
            "0008|0060": "CT",
            "0020|000d": "1.2",
            "0020|000e": uid,
            "0020|0032": f"-50\\-60\\{place:g}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(number + 1),
            "0028|1052": "-1024",
            "0028|1053": "1",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid}_{(7 * number) % 11}.dcm"))
        writer.Execute(image)
    return folder


def stored(folder, case_id, images, mask):
    """Write a case to files."""
    paths = tuple(folder / case_id / f"{n}.nii.gz" for n in range(len(images)))
    for path, image in zip(paths, images, strict=True):
        write_volume(path, image)
    write_volume(folder / case_id / "mask.nii.gz", mask)
    return Case(case_id, paths, folder / case_id / "mask.nii.gz")


def one_cell(logits):
    """Logits (K, Z, Y, X) of a whole image, as windows that slid over it would give them."""
    from mist_core.sliding import Cell  # noqa: PLC0415 (most tests need no torch)

    box = tuple(slice(0, n) for n in logits.shape[1:])
    return [Cell(box, box, logits)]


def certain(indices, n_classes):
    """Those of a network that has no doubt: one-hot probabilities of class indices (Z, Y, X)."""
    import torch  # noqa: PLC0415

    classes = torch.arange(n_classes).reshape(-1, 1, 1, 1)
    return one_cell((torch.from_numpy(indices.astype(np.int64)) == classes).float().log())


def heed_ctrl_c():
    """Undo what a shell does to jobs that it starts in the background: they ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
