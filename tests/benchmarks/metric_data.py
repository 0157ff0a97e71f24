"""Make three pairs of label maps to measure metrics on, and one of many small lesions.

    python tests/benchmarks/metric_data.py /scratch/metrics

``brats``: three nested regions and some lesions, one missed, two invented; ``liver``: one large
structure of a CT; ``multi20``: 20 organs; ``metastases``: 50 small lesions, 47 predicted. Each is
an .npz with ``gt``, ``pred`` and ``sp``, the spacing in mm per array axis.
"""

import sys
from pathlib import Path

import numpy as np
from scipy.ndimage import zoom


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    made = {"brats": brats, "liver": liver, "multi20": multi20, "metastases": metastases}
    for name, make in made.items():
        reference, prediction, spacing = make()
        np.savez(folder / f"{name}.npz", gt=reference, pred=prediction, sp=np.array(spacing))
        print(name, reference.shape, np.bincount(reference.ravel())[1:].tolist())


def bumps(shape, scale, generator):
    """A smooth random field with a deviation of 1, and hills ``scale`` voxels apart."""
    coarse = generator.standard_normal([int(np.ceil(n / scale)) + 3 for n in shape])
    coarse = coarse.astype(np.float32)
    fine = zoom(coarse, [n / (k - 1) for n, k in zip(shape, coarse.shape, strict=True)], order=3)
    fine = fine[tuple(slice(0, n) for n in shape)]
    missing = [(0, n - k) for n, k in zip(shape, fine.shape, strict=True)]
    if any(after > 0 for _, after in missing):
        fine = np.pad(fine, missing, mode="edge")
    return fine / fine.std()


def ellipsoid(shape, centre, radii):
    """1 in the centre, 0 at the surface."""
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    squares = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True))
    return 1 - np.sqrt(squares).astype(np.float32)


def brats():
    shape = (240, 240, 155)
    hills = bumps(shape, 30, np.random.default_rng(7))
    balls = [((60, 70, 60), 5), ((150, 180, 100), 4), ((90, 60, 110), 3)]
    invented = [((170, 60, 40), 4), ((70, 190, 120), 3)]

    def tumour(offset, height, seed, more):
        generator = np.random.default_rng(seed)
        first, second = bumps(shape, 12, generator), bumps(shape, 8, generator)
        depth = ellipsoid(shape, (110 + offset, 130, 80), (33, 28, 24))
        depth = depth + height * hills + 0.04 * first
        core = (depth - 0.35 + 0.05 * second) > 0
        enhancing = core & ((depth - 0.6 + 0.05 * second) < 0)
        labels = np.zeros(shape, np.uint8)
        labels[depth > 0] = 2
        labels[core] = 1
        labels[enhancing] = 3
        for (z, y, x), radius in balls + more:
            labels[ellipsoid(shape, (z + offset, y, x), (radius,) * 3) > 0] = 3
        return labels

    reference, prediction = tumour(0, 0.18, 1, []), tumour(1, 0.17, 2, invented)
    prediction[85:97, 54:67, 104:117] = 0  # a lesion is missed
    return reference, prediction, (1.0, 1.0, 1.0)


def liver():
    shape = (512, 512, 300)
    depth = ellipsoid(shape, (200, 230, 150), (85, 75, 55))
    depth = depth + 0.12 * bumps(shape, 60, np.random.default_rng(3))
    reference = (depth + 0.02 * bumps(shape, 20, np.random.default_rng(4))) > 0
    prediction = (depth + 0.02 * bumps(shape, 20, np.random.default_rng(5)) + 0.01) > 0
    return reference.astype(np.uint8), np.roll(prediction.astype(np.uint8), 1, 0), (0.8, 0.8, 1.5)


def multi20():
    shape = (256, 256, 256)
    generator = np.random.default_rng(9)
    reference, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    hills, others = bumps(shape, 25, generator), bumps(shape, 25, np.random.default_rng(11))
    for number in range(20):
        row, column = divmod(number, 4)
        z, y = (
            30 + 48 * row + generator.integers(-5, 5),
            40 + 58 * column + generator.integers(-5, 5),
        )
        x = 128 + generator.integers(-60, 60)
        depth = ellipsoid(shape, (z, y, x), generator.integers(14, 30, 3)) + 0.15 * hills
        reference[depth > 0] = number + 1
        prediction[depth + 0.06 * others > 0] = number + 1
    return reference, prediction, (1.5, 1.5, 1.5)


def metastases():
    shape = (240, 240, 155)
    generator = np.random.default_rng(13)
    reference, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for number in range(50):
        centre, radii = generator.integers(12, np.array(shape) - 12), generator.uniform(2, 6, 3)
        ball = ellipsoid(shape, centre, radii) > 0
        reference |= ball
        if number >= 5:
            prediction |= np.roll(ball, int(generator.integers(0, 2)), 0)
    for _ in range(2):
        centre = generator.integers(12, np.array(shape) - 12)
        prediction |= ellipsoid(shape, centre, (3, 3, 3)) > 0
    return reference, prediction, (1.0, 1.0, 1.0)


if __name__ == "__main__":
    main()
