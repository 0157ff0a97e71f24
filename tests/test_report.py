"""The page and the table that sum up a run."""

import base64
import io
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest
from conftest import ball, grid

from mist_core.evaluate import summary_rows
from mist_core.files import write_rows
from mist_core.io import Volume, write_volume
from mist_core.plan import parse_plan
from mist_core.report import (
    Candidate,
    case_pictures,
    columns,
    contour_png,
    read_candidate,
    render,
    score_table,
    summary_text,
)

PLAN = parse_plan(
    {
        "mist_version": "0",
        "dataset_info": {"task": "liver <1>", "modality": "mr", "images": ["t1"], "labels": (0, 1)},
        "spatial_config": {
            "patch_size": (8, 16, 32),
            "target_spacing": (1, 1, 2.5),
            "median_resampled_image_size": (12, 12, 12),
        },
        "preprocessing": {
            "crop_to_foreground": False,
            "normalize_with_nonzero_mask": [False],
            "ct_normalization": [None],
        },
        "model": {"in_channels": 1, "out_channels": 2},
        "evaluation": {"organ": {"labels": [1]}},
    },
    "test",
)
RANKING = [
    {"strategy": "default/best", "average_rank": "1.25"},
    {"strategy": "default/raw", "average_rank": "1.75"},
]
DICES = {"default/raw": [0.8, 0.2, 0.6], "default/best": [0.5, 0.9, 0.7]}


def rows(values, column="organ_dice"):
    return [{"id": f"c{i}", column: str(v)} for i, v in enumerate(values)]


def candidate(name, values, column="organ_dice", folder=None):
    return Candidate(name, rows(values, column), folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images, label maps and predictions of three cases; rows of train_paths.csv."""
    folder = tmp_path_factory.mktemp("cases")
    geometry = grid((10, 12, 14), (2.0, 1.0, 1.0))
    volume = ball(geometry)
    paths = []
    for i in range(3):
        image = Volume(volume.array * 100.0 + np.arange(14, dtype=np.float32), geometry)
        write_volume(folder / f"image{i}.nii.gz", image)
        write_volume(folder / f"mask{i}.nii.gz", volume)
        write_volume(folder / f"c{i}.nii.gz", Volume(np.roll(volume.array, i, 2), geometry))
        places = {"mask": folder / f"mask{i}.nii.gz", "t1": folder / f"image{i}.nii.gz"}
        row = {"id": f"c{i}", "fold": str(i % 2)}
        paths.append(row | {key: str(path) for key, path in places.items()})
    return paths, folder


@pytest.fixture(scope="module")
def page(files):
    paths, folder = files
    both = [candidate(name, values, folder=folder) for name, values in DICES.items()]
    history = [{"epoch": "1", "loss": "0.9"}, {"epoch": "2", "loss": "0.5"}]
    return render(PLAN, paths, both, RANKING, {"default fold_0": history})


class Elements(HTMLParser):
    """Attributes of all elements by tag, and whether every element is closed."""

    VOID = ("meta", "img", "br", "hr", "link")

    def __init__(self, page):
        super().__init__()
        self.found, self.open = {}, []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.setdefault(tag, []).append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def pixels(png):
    return matplotlib.image.imread(io.BytesIO(base64.b64decode(png)), format="png")


def test_a_case_is_shown_in_the_first_channel_that_it_has(files):
    paths, folder = files
    info = PLAN.dataset_info.model_copy(update={"images": ("flair", "t1")})
    plan = PLAN.model_copy(update={"dataset_info": info})
    some = [row | {"flair": row["t1"] if row["id"] == "c1" else ""} for row in paths]
    one = candidate("default/raw", DICES["default/raw"], folder=folder)
    found, plain = case_pictures(one, some, plan), case_pictures(one, paths, PLAN)
    assert [p.caption.split(", without ")[1:] for p in found] == [[], ["flair"], ["flair"]]
    for picture, other in zip(found, plain, strict=True):
        assert np.array_equal(pixels(picture.png), pixels(other.png))


def test_the_page_needs_nothing_but_itself(page):
    elements = Elements(page)
    assert elements.open == []
    for tag in ("script", "link", "iframe"):
        assert tag not in elements.found
    for image in elements.found["img"]:
        assert image["alt"]
        assert pixels(image["src"].removeprefix("data:image/png;base64,")).shape[2] == 4
    values = [v for found in elements.found.values() for one in found for v in one.values()]
    assert not [value for value in values if value and "//" in value[:8]]
    assert "url(" not in page


def test_names_are_shown_and_never_markup(page):
    assert "liver &lt;1&gt;" in page
    assert "liver <1>" not in page


def test_the_page_says_how_many_cases_and_folds_there_were(page):
    assert "3 cases, 2-fold cross-validation" in page


def test_candidates_stand_in_the_order_of_the_ranking(page):
    best, raw = "<td>default/best</td><td>1.25</td>", "<td>default/raw</td><td>1.75</td>"
    assert 0 < page.index(best) < page.index(raw)
    assert "<td>0.700 ± 0.163</td>" in page


def test_sizes_are_shown_in_x_y_z(page):
    assert "<dd>8 \u00d7 16 \u00d7 32 voxels</dd>" in page
    assert "<dd>1.0 \u00d7 1.0 \u00d7 2.5 mm</dd>" in page


def test_pictures_show_the_worst_the_median_and_the_best_case(page):
    places = [page.index(f"<figcaption>{text}") for text in (
        "worst: c0, mean dice 0.500", "median: c2, mean dice 0.700", "best: c1, mean dice 0.900",
    )]  # fmt: skip
    assert places == sorted(places)


def test_cases_that_were_left_out_are_named(files):
    paths, folder = files
    plan = PLAN.model_copy(update={"left_out": {"c9": "c9/mask.nii: expected <labels>"}})
    tables = [candidate("default/raw", DICES["default/raw"], folder=folder)]
    page = render(plan, paths, tables, RANKING[1:], {})
    assert "left out" in page
    assert "c9/mask.nii: expected &lt;labels&gt;" in page
    assert "left out" not in render(PLAN, paths, tables, RANKING[1:], {})


def test_the_page_says_which_weights_were_chosen_and_by_whom(files):
    paths, folder = files
    both = [candidate(name, values, folder=folder) for name, values in DICES.items()]
    fair = {"default fold_0": {"chosen": "last weights", "by_held_out": False}}
    page = render(PLAN, paths, both, RANKING, {}, fair)
    assert "No model was chosen by the cases that score it." in page
    assert "<td>default fold_0</td><td>last weights</td>" in page
    asked = {"default fold_0": {"chosen": "weights of epoch 2", "by_held_out": True}}
    page = render(PLAN, paths, both, RANKING, {}, asked)
    assert "expect lower scores on new cases" in page
    assert "No model was chosen" not in page


def test_a_page_without_histories_has_no_curve(files):
    paths, folder = files
    both = [candidate(name, values, folder=folder) for name, values in DICES.items()]
    page = render(PLAN, paths, both, RANKING, {})
    assert "Training loss" not in page
    assert Elements(page).open == []


def test_one_case_and_one_candidate_are_enough(files):
    paths, folder = files
    only = [candidate("default/raw", [0.5], folder=folder)]
    page = render(PLAN, paths[:1], only, RANKING[1:], {})
    assert page.count("c0, mean dice 0.500") == 3


def test_the_score_table_by_hand():
    table = score_table([candidate("a", [0.2, 0.4, 0.9])])
    mean, std = table["a"]["organ_dice"]
    assert mean == pytest.approx(0.5)
    assert std == pytest.approx(np.sqrt((0.3**2 + 0.1**2 + 0.4**2) / 3))


def test_the_text_table_by_hand():
    values = {"organ_dice": 0.5, "organ_surf_dice": 0.25, "core_dice": 1, "core_surf_dice": 0}
    one = Candidate("default/raw", [{"id": "a"} | {k: str(v) for k, v in values.items()}], None)
    lines = summary_text([one], RANKING[1:]).splitlines()
    assert lines[0] == "default/raw  (mean rank 1.75)"
    assert [line.split() for line in lines[1:]] == [
        ["dice", "surf_dice"],
        ["organ", "0.5000", "0.2500"],
        ["core", "1.0000", "0.0000"],
    ]
    assert len({len(line) for line in lines[1:]}) == 1


def test_the_text_table_follows_the_ranking():
    both = [candidate(name, values) for name, values in DICES.items()]
    text = summary_text(both, RANKING)
    assert text.index("default/best") < text.index("default/raw")


def test_summary_rows_of_a_table_are_left_out(tmp_path):
    cases = [{"id": "a", "organ_dice": 0.5}, {"id": "b", "organ_dice": 1.0}]
    write_rows(tmp_path / "results.csv", ["id", "organ_dice"], cases + summary_rows(cases))
    found = read_candidate("x", tmp_path / "results.csv", tmp_path)
    assert [row["id"] for row in found.results] == ["a", "b"]
    assert columns([found]) == ["organ_dice"]


def test_a_class_may_have_any_name(files):
    paths, folder = files
    names = ("surface_dice", "organ_dice", "organ_surf_dice")
    values = [(0.2, 0.8, 0.0), (0.8, 0.6, 0.0), (1.0, 0.4, 0.0)]
    results = [
        {"id": f"c{i}"} | {n: str(v) for n, v in zip(names, row, strict=True)}
        for i, row in enumerate(values)
    ]
    pictures = case_pictures(Candidate("default/raw", results, folder), paths, PLAN)
    # Means over both classes: 0.5, 0.7, 0.7.
    assert pictures[0].caption == "worst: c0, mean dice 0.500"


def contours(prediction):
    volume = ball(grid((10, 12, 14)))
    image = volume.array.astype(np.float32)
    return contour_png(image, volume.array, prediction(volume.array), [1], (1.0, 1.0, 1.0))


def test_pictures_show_the_prediction_beside_the_reference():
    exact, moved = contours(lambda a: a), contours(lambda a: np.roll(a, 2, 1))
    assert pixels(exact).shape == pixels(moved).shape
    assert not np.array_equal(pixels(exact), pixels(moved))


def test_pictures_of_nothing_and_of_everything_can_be_drawn():
    assert pixels(contours(np.zeros_like)).size
    assert pixels(contours(np.ones_like)).size
