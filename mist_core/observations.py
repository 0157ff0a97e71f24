"""What statistics of a dataset may matter to the choice of network, loss and settings, in words.

The limits are MIST's.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SMALL_DATASET, LARGE_DATASET = 50, 500  # patients
LOW_FOREGROUND = 0.2  # of the image
SEVERE_IMBALANCE, MODERATE_IMBALANCE = 10, 3
RARE = 50  # % of the patients
VERY_SPARSE, SPARSE = 1, 5  # % of the image
THIN = 0.05  # skeleton ratio


def observations(dump: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each remark on the statistics of a data dump."""
    summary = dump["dataset_summary"]
    classes = summary["final_classes"]
    yield from _of_the_dataset(summary)
    yield from _of_the_images(dump["image_statistics"], summary)
    yield from _of_the_imbalance(dump["label_statistics"]["class_imbalance"], classes)
    for remarks in (_of_the_size, _of_the_sparsity, _of_the_shape, _of_the_resampling):
        for label, each in dump["label_statistics"]["per_label"].items():
            yield from remarks(f"Label {named(label, classes)}", each)


def named(label: str, classes: Mapping[str, Sequence[int]]) -> str:
    """A label value, with the names of the classes that it makes up alone."""
    names = [name for name, labels in classes.items() if list(map(str, labels)) == [label]]
    return f"{label} ({', '.join(names)})" if names else label


def _of_the_dataset(summary: Mapping[str, Any]) -> Iterator[str]:
    patients, channels = summary["num_patients"], summary["channel_names"]
    if patients < SMALL_DATASET:
        yield f"Small dataset: {patients} patients, fewer than {SMALL_DATASET}."
    if patients > LARGE_DATASET:
        yield f"Large dataset: {patients} patients, more than {LARGE_DATASET}."
    if len(channels) > 1:
        yield f"Several channels: {len(channels)} images of each patient ({', '.join(channels)})."
    for channel, number in summary["missing_images"].items():
        yield f"Channel {channel} is optional: {number} of {patients} patients lack it."


def _of_the_images(images: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterator[str]:
    spacing, intensity = images["spacing"], images["intensity"]
    if spacing["is_anisotropic"]:
        yield (
            f"Anisotropic spacing: voxels are {spacing['anisotropy_ratio']:.2f} times as long as "
            "wide."
        )
    filled = intensity["foreground_fraction"]["mean"]
    if filled < LOW_FOREGROUND and summary["num_labels"] > 2:
        yield f"Little foreground: labels fill {100 * filled:.2f} % of the image on average."
    for channel, values in intensity["per_channel"].items():
        modality = summary["modality"]
        if (modality if isinstance(modality, str) else modality[channel]) == "ct":
            yield (
                f"CT channel {channel}: the foreground is between {values['p01']:.0f} and "
                f"{values['p99']:.0f} HU (1st and 99th percentile), on average "
                f"{values['mean']:.1f} ± {values['std']:.1f} HU."
            )


def _of_the_imbalance(
    imbalance: Mapping[str, Any], classes: Mapping[str, Sequence[int]]
) -> Iterator[str]:
    ratio = imbalance["imbalance_ratio"]
    if ratio > MODERATE_IMBALANCE:
        degree = "Severe" if ratio > SEVERE_IMBALANCE else "Moderate"
        most, least = (
            named(str(imbalance[key]), classes) for key in ("dominant_label", "minority_label")
        )
        yield (
            f"{degree} class imbalance: label {most} has {ratio:.1f} times as many voxels as label "
            f"{least}."
        )


def _of_the_size(name: str, label: Mapping[str, Any]) -> Iterator[str]:
    present = label["presence_rate_pct"]
    if label["size_category"] == "tiny":
        percent = label["mean_volume_fraction_of_foreground_pct"]
        yield (
            f"{name} is tiny: {percent:.4f} % of the foreground on average, present in "
            f"{present:.1f} % of the patients."
        )
    elif present < RARE:
        yield f"{name} is absent in {100 - present:.1f} % of the patients."


def _of_the_sparsity(name: str, label: Mapping[str, Any]) -> Iterator[str]:
    percent = label["mean_volume_fraction_of_image_pct"]
    if percent < SPARSE:
        degree = "very sparse" if percent < VERY_SPARSE else "sparse"
        yield f"{name} is {degree}: it fills {percent:.4f} % of the image on average."


def _of_the_shape(name: str, label: Mapping[str, Any]) -> Iterator[str]:
    shape = label["shape"]
    if shape["shape_class"] == "unknown":
        return
    words = {"tubular": "is elongated", "planar": "is sheet-like", "blob": "is compact, blob-like"}
    thin = (shape["skeleton_ratio"] or 0) > THIN
    numbers = ", ".join(
        f"{key.replace('_', ' ')} {value:.2f}"
        for key, value in shape.items()
        if key != "shape_class" and value is not None
    )
    yield f"{name} {'is thin or branching' if thin else words[shape['shape_class']]}: {numbers}."


def _of_the_resampling(name: str, label: Mapping[str, Any]) -> Iterator[str]:
    shape, size = label["shape"], label["size_category"]
    ratio = shape["skeleton_ratio"]
    # Too large to be thinned: its extents are all that is known.
    thin = shape["shape_class"] in ("tubular", "planar") if ratio is None else ratio > THIN
    if size in ("tiny", "small") and thin:
        yield (
            f"{name} is {size} and thin: check that the target spacing, which follows from whole "
            "images, is fine enough to keep it."
        )
