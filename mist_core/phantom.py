"""Made-up anatomy for the demo: enough to learn from, enough trouble to trip over.

Oblique grids of different spacings, some stored with reversed axes; texture, a bias field and
noise; one training case lacks label 4. Everything follows from a seed.
"""

import zlib

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from mist_core.geometry import Geometry
from mist_core.io import Volume

WITHOUT_SPOT = "demo_05"


# Mean intensity of background, body, organ (1), core (2) and spot (4), per channel.
INTENSITIES = {"t1": (0.0, 400.0, 700.0, 550.0, 250.0), "t2": (0.0, 300.0, 420.0, 800.0, 1100.0)}
SPACINGS = ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (1.2, 0.9, 0.9), (1.0, 1.0, 1.0), (1.5, 1.1, 1.0))
SHAPE = (36, 44, 40)


def make_case(case_id: str, seed: int) -> tuple[dict[str, Volume], Volume]:
    """Images by channel and the label map of one case; the same for the same id and seed."""
    generator = np.random.default_rng([seed, zlib.crc32(case_id.encode())])
    number = int(case_id[-2:])
    geometry = _geometry(number, generator)
    tissue = _anatomy(geometry, with_spot=case_id != WITHOUT_SPOT, generator=generator)
    bias = np.exp(0.15 * _smooth(geometry.shape, 10, generator))
    images = {}
    for channel, means in INTENSITIES.items():
        texture = np.exp(0.08 * _smooth(geometry.shape, 1.2, generator))
        signal = gaussian_filter(np.asarray(means)[tissue], 0.5) * texture * bias
        noise = generator.normal(0, 25, geometry.shape)
        images[channel] = Volume((signal + noise).clip(0).astype(np.float32), geometry)
    labels = np.array([0, 0, 1, 2, 4], np.uint8)[tissue]
    return images, Volume(labels, geometry)


def _geometry(number: int, generator: np.random.Generator) -> Geometry:
    """A grid turned by up to 15 degrees; every third one is stored with two axes reversed."""
    angle = np.deg2rad(generator.uniform(-15, 15))
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    axes = np.eye(3)[:, ::-1]  # array axes z, y, x along world z, y, x
    signs = (-1, -1, 1) if number % 3 == 0 else (1, 1, 1)
    spacing = SPACINGS[number % len(SPACINGS)]
    shape = tuple(int(n / s + 0.5) for n, s in zip(SHAPE, spacing, strict=True))
    return Geometry(
        shape=(shape[0], shape[1], shape[2]),
        spacing=spacing,
        origin=(generator.uniform(-50, 50), generator.uniform(-50, 50), 100.0),
        direction=turn @ axes * np.array(signs),
    )


def _anatomy(
    geometry: Geometry, with_spot: bool, generator: np.random.Generator
) -> NDArray[np.intp]:
    """Tissue index (background, body, organ, core, spot) of every voxel."""
    edges = np.asarray(geometry.shape) * np.asarray(geometry.spacing)
    index = np.indices(geometry.shape)
    spacing = np.asarray(geometry.spacing)[:, None, None, None]
    mm = (index + 0.5) * spacing - edges[:, None, None, None] / 2
    ripple = 0.12 * _smooth(geometry.shape, 4, generator)

    def blob(centre: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.bool_]:
        offset = (mm - centre[:, None, None, None]) / radii[:, None, None, None]
        return np.asarray(np.sqrt((offset**2).sum(axis=0)) < 1 + ripple)

    body = blob(np.zeros(3), np.array([16.0, 20.0, 18.0]))
    organ_at = generator.uniform(-2.5, 2.5, 3) + np.array([0.0, 3.0, -2.0])
    organ = blob(organ_at, generator.uniform(0.9, 1.1, 3) * np.array([10.0, 12.0, 11.0]))
    core_at = organ_at + generator.uniform(-1.5, 1.5, 3)
    core = blob(core_at, generator.uniform(0.9, 1.1, 3) * np.array([6.0, 7.5, 7.0]))
    spot = blob(core_at + generator.uniform(-1, 1, 3), generator.uniform(3.0, 4.0, 3))
    tissue = np.zeros(geometry.shape, np.intp)
    tissue[body] = 1
    tissue[body & organ] = 2
    tissue[body & organ & core] = 3
    if with_spot:
        tissue[body & organ & core & spot] = 4
    return tissue


def _smooth(
    shape: tuple[int, int, int], sigma: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Smooth noise of mean 0 and standard deviation 1."""
    noise = gaussian_filter(generator.normal(size=shape), sigma, mode="wrap")
    return np.asarray((noise - noise.mean()) / noise.std())
