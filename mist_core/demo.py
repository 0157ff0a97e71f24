"""The demo dataset as it is described; phantom.py makes its images.

Two channels, labels 0, 1, 2 and 4 (3 is missing on purpose), ten training and two test cases.
"""

from pathlib import Path

from mist_core.dataset import Case, Found

TRAIN_IDS = tuple(f"demo_{n:02d}" for n in range(1, 11))
TEST_IDS = tuple(f"test_{n:02d}" for n in range(1, 3))
CHANNELS = ("t1", "t2")
LABELS = (0, 1, 2, 4)
CLASSES = {"organ": (1, 2, 4), "core": (2, 4), "spot": (4,)}
DESCRIPTION = {
    "task": "demo",
    "modality": "mr",
    "train-data": "train",
    "test-data": "test",
    "mask": ["mask"],
    "images": {name: [name] for name in CHANNELS},
    "labels": LABELS,
    "final_classes": CLASSES,
}
# The same as Dataset.facts() of the description.
FACTS = {
    "task": "demo",
    "modality": "mr",
    "channels": CHANNELS,
    "optional_images": (),
    "labels": LABELS,
    "final_classes": CLASSES,
    "ignore_label": None,
    "mirrored_labels": (),
    "image_names": {name: (name,) for name in CHANNELS},
}


def demo_cases(folder: Path) -> Found:
    """The training and the test cases that will lie in ``folder`` once they are made."""

    def case(part: str, case_id: str) -> Case:
        home = folder / part / case_id
        mask = home / "mask.nii.gz" if part == "train" else None
        return Case(case_id, tuple(home / f"{c}.nii.gz" for c in CHANNELS), mask)

    train = {i: case("train", i) for i in TRAIN_IDS}
    return Found(train, {i: case("test", i) for i in TEST_IDS}, {})
