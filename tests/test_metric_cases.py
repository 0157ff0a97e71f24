"""Every case of the shared table of metric values."""

import json

import numpy as np
import pytest
from conftest import SHARED

from mist_core.metrics import LabelPair, choose, score
from mist_core.metrics.counts import (
    accuracy,
    adjusted_rand_index,
    balanced_accuracy,
    dice,
    iou,
    kappa,
    mcc,
    precision,
    sensitivity,
    specificity,
    volumetric_similarity,
)
from mist_core.metrics.instances import panoptic
from mist_core.metrics.pairs import Counts

TABLE = SHARED / "reference/metric-cases.json"
CASES = json.loads(TABLE.read_text())["cases"] if TABLE.exists() else []
VOXEL = {"surface": "voxel"}
ONE_WAY = {"gt_to_pred": "reference_to_prediction", "pred_to_gt": "prediction_to_reference"}
# Names of the table: metric and parameters.
MEANING = {
    "auc_hard": ("auc", {}),
    "hd_voxel": ("hd", VOXEL),
    "hd95_voxel_max_of_directed": ("hd95", VOXEL),
    "hd95_voxel_pooled": ("hd95", {**VOXEL, "directions": "pooled"}),
    "hd_voxel_directed_pred_to_gt": ("hd", {**VOXEL, "directions": ONE_WAY["pred_to_gt"]}),
    "hd95_voxel_directed_pred_to_gt": ("hd95", {**VOXEL, "directions": ONE_WAY["pred_to_gt"]}),
    "assd_voxel_pooled": ("assd", VOXEL),
    "asd_voxel_pred_to_gt": ("assd", {**VOXEL, "directions": ONE_WAY["pred_to_gt"]}),
    "masd_voxel": ("masd", VOXEL),
    "average_hausdorff_allvoxel_max": ("ahd", {"form": "max"}),
    "average_hausdorff_allvoxel_mean": ("ahd", {"form": "mean"}),
    "hd_surfel": ("hd", {}),
    "hd95_surfel": ("hd95", {}),
    "avg_surf_surfel_pooled": ("avg_surf", {}),
    "asd_surfel_gt_to_pred": ("avg_surf", {"directions": ONE_WAY["gt_to_pred"]}),
    "asd_surfel_pred_to_gt": ("avg_surf", {"directions": ONE_WAY["pred_to_gt"]}),
    "cldice_skimage_skeletonize": ("cldice", {}),
}
AT = {
    "nsd_voxel": ("nsd", "tolerance", VOXEL),
    "nsd_surfel": ("nsd", "tolerance", {}),
    "overlap_gt": ("nsd", "tolerance", {"directions": ONE_WAY["gt_to_pred"]}),
    "overlap_pred": ("nsd", "tolerance", {"directions": ONE_WAY["pred_to_gt"]}),
    "boundary_iou_metricsreloaded": ("boundary_iou", "width", {}),
}
BY_OTHERS = "by_convention"  # what other tools say of empty masks


def of_type(*types):
    return [pytest.param(c, id=c["id"]) for c in CASES if c["type"] in types]


def expand(shape, operations, reference=None):
    """The label map that a recipe of the table describes."""
    labels = np.zeros(shape, int)
    for op in operations:
        value = op.get("value", 1)
        if op["kind"] == "box":
            labels[tuple(map(slice, op["lo"], op["hi"]))] = value
        elif op["kind"] == "ellipsoid":
            axes = (op["center"], op.get("spacing", [1, 1, 1]), op["radii"])
            centre, spacing, radii = (np.reshape(values, (3, 1, 1, 1)) for values in axes)
            distance = (((np.indices(shape) - centre) * spacing / radii) ** 2).sum(axis=0)
            labels[distance <= 1] = value
        elif op["kind"] == "copy_gt":
            labels = reference.copy()
        elif op["kind"] == "rle":
            labels.flat[:] = np.repeat(*np.transpose(op["runs"]))
        elif op["kind"] == "roll":
            labels = np.roll(labels, op["shift"], op["axis"])
        else:
            raise ValueError(op)
    return labels


def maps_of(case):
    reference = expand(case["shape"], case["gt"])
    return reference, expand(case["shape"], case["pred"], reference)


def measured(key):
    """The metric and the parameters that a name of the table stands for."""
    name, at, value = key.partition("@")
    if at:
        metric, parameter, more = AT[name]
        return metric, {parameter: float(value), **more}
    return MEANING.get(key, (key, {}))


@pytest.mark.parametrize("case", of_type("binary"))
def test_masks(case):
    reference, prediction = (labels > 0 for labels in maps_of(case))
    for key, expected in case["expected"].items():
        if key != BY_OTHERS:
            metric, parameters = measured(key)
            found = score(reference, prediction, case["spacing"], {metric: parameters})
            assert found[metric] == pytest.approx(expected, rel=1e-6, abs=1e-9), key


@pytest.mark.parametrize("case", of_type("counts"))
def test_counts_of_a_large_volume(case):
    counts = Counts(**case["counts"])
    formulas = {
        "dice": dice, "iou": iou, "sensitivity": sensitivity, "specificity": specificity,
        "precision": precision, "accuracy": accuracy, "balanced_accuracy": balanced_accuracy,
        "auc_hard": balanced_accuracy, "kappa": kappa, "ari": adjusted_rand_index,
        "volumetric_similarity": volumetric_similarity, "mcc": mcc,
    }  # fmt: skip
    for key, expected in case["expected"].items():
        found = formulas[key](counts) if key in formulas else case["counts"][key]
        assert found == pytest.approx(expected, rel=1e-12), key


@pytest.mark.parametrize("case", of_type("labelmap"))
def test_label_maps(case):
    pair = LabelPair(*maps_of(case), case["spacing"])
    for label, expected in case["expected"].items():
        structure = pair.structure([int(label)])
        for key, value in expected.items():
            (chosen,) = choose(dict([measured(key)])).values()
            assert chosen.of(structure) == pytest.approx(value), (label, key)


@pytest.mark.parametrize("case", of_type("lesion"))
def test_lesions(case):
    reference, prediction = (labels > 0 for labels in maps_of(case))
    found = score(
        reference,
        prediction,
        case["spacing"],
        ["lesion_wise_dice", "lesion_wise_haus95", "lesion_wise_f1", "dice", "hd95"],
        preset="brats2023",
    )
    expected = case["expected"]
    assert found["lesion_wise_dice"] == pytest.approx(expected["lw_dice"])
    assert found["lesion_wise_haus95"] == pytest.approx(expected["lw_hd95"])
    tp, wrong = expected["tp"], expected["fp"] + expected["fn"]
    assert found["lesion_wise_f1"] == (2 * tp / (2 * tp + wrong) if tp + wrong else 1)
    assert found["dice"] == pytest.approx(expected["dice"])
    assert found["hd95"] == pytest.approx(expected["hd95"])


@pytest.mark.parametrize("case", of_type("instances"))
def test_instances(case):
    found, expected = panoptic(*maps_of(case)), case["expected"]
    assert len(found.ious) == expected["tp"]
    assert found.n_prediction - len(found.ious) == expected["fp"]
    assert found.n_reference - len(found.ious) == expected["fn"]
    assert found.recognition_quality == pytest.approx(expected["rq"])
    assert found.segmentation_quality == pytest.approx(expected["sq"])
    assert found.panoptic_quality == pytest.approx(expected["pq"])


def test_no_kind_of_case_is_left_out(shared):
    # Probabilities are not label maps: calibration is not measured here.
    known = {"binary", "counts", "labelmap", "lesion", "instances", "calibration"}
    assert {case["type"] for case in CASES} == known
