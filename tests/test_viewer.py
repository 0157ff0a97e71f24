"""The viewer of a report in a browser: what it draws and says, what keys and fingers do."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import grid

import mist_core
from mist_core.io import Volume
from mist_core.pictures import COLOURS, colour_of, rgb
from mist_core.report.comparison import ONLY_PREDICTED, ONLY_REFERENCE, STATE_COLOURS, compare
from mist_core.report.viewer import scene

TEMPLATES = Path(mist_core.__file__).parent / "templates"
SHAPE, SPACING = (6, 8, 10), (4.0, 1.0, 2.0)
NAMES = {"organ <b>": [1], "other": [2]}
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>viewer</title>
<style>body {{ margin: 8px; }} {css}</style></head>
<body><p style="height: {above}px">above</p><section class="viewer">
<script type="application/json" class="scene">{scene}</script></section>
<p style="height: 2000px">below</p><script>{js}</script></body></html>"""


def case():
    """Image, reference and prediction: a block of the organ that is predicted too far left."""
    reference = np.zeros(SHAPE, np.uint8)
    reference[1:3, 2:6, 2:6] = 1
    prediction = np.zeros(SHAPE, np.uint8)
    prediction[1:3, 2:6, 4:8] = 1
    prediction[2, 2, 4] = 2
    image = np.zeros(SHAPE, np.float32) + 40 + 5 * np.arange(8)[:, None]
    image[:, :, 5:] += 50
    geometry = grid(SHAPE, SPACING)
    return [Volume(array, geometry) for array in (image, reference, prediction)]


def html(above=0, turn=lambda volume: volume, names=NAMES):
    made = scene("case & 1", compare("case & 1", *map(turn, case()), names))
    made = json.dumps(made).replace("<", "\\u003c")
    css, js = ((TEMPLATES / f"viewer.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return PAGE.format(css=css, js=js, scene=made, above=above)


@pytest.fixture
def opened(browser):
    """A function that opens the page; problems of its script fail the test."""
    contexts, problems = [], []

    def open_page(content="", **options):
        options = {"viewport": {"width": 1280, "height": 900}} | options
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.set_content(content or html())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def page(opened):
    page = opened()
    page.wait_for_selector(".viewer.loaded")
    return page


def said(page):
    """The readout, after what was asked for is drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    return page.locator(".readout").text_content()


def voxel(page):
    return said(page).split(" · ")[0]


def places(plane, at):
    """Where the middle of a voxel (z, y, x) is in a canvas, as shares of its width and height."""
    z, y, x = ((n + 0.5) / size for n, size in zip(at, SHAPE, strict=True))
    return {"axial": (x, y), "coronal": (x, 1 - z), "sagittal": (y, 1 - z)}[plane]


def canvas_of(page, plane):
    return page.locator("canvas").nth(("axial", "coronal", "sagittal").index(plane))


def colour(page, plane, at):
    """The pixel in the middle of a voxel."""
    said(page)
    return canvas_of(page, plane).evaluate(
        """(canvas, [x, y]) => Array.from(canvas.getContext("2d").getImageData(
        Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data).slice(0, 3)""",
        places(plane, at),
    )


def click(page, plane, at):
    canvas = canvas_of(page, plane)
    box = canvas.bounding_box()
    x, y = places(plane, at)
    canvas.click(position={"x": x * box["width"], "y": y * box["height"]})


def test_it_starts_where_the_case_is_worst_and_says_what_is_there(page):
    words = said(page).split(" · ")
    assert words[0] == "voxel (2, 2, 2)"
    assert words[1] == "L 4.0, P 2.0, S 8.0 mm"
    assert words[2:] == ["reference: organ <b>", "prediction: none"]
    labels = page.locator(".plane label > span").all_text_contents()
    assert labels == ["Axial 3 of 6", "Coronal 3 of 8", "Sagittal 3 of 10"]
    assert page.locator(".viewer b").count() == 0


def test_voxels_are_counted_as_in_the_file(opened):
    def as_nifti(volume):
        """To right, anterior, superior, with the first axis of the array from left to right."""
        order, flips = (2, 0, 1), (True, False, True)
        array = np.flip(volume.array.transpose(order), (0, 2))
        return Volume(np.ascontiguousarray(array), volume.geometry.moved_axes(order, flips))

    page = opened(html(turn=as_nifti))
    page.wait_for_selector(".viewer.loaded")
    words = said(page).split(" · ")
    # The axes of the array are x, reversed; z; and y, reversed.
    assert words[0] == "voxel (5, 2, 7)"
    assert words[1] == "L 4.0, P 2.0, S 8.0 mm"
    assert words[2:] == ["reference: organ <b>", "prediction: none"]


@pytest.mark.parametrize(
    ("plane", "at", "expected"),
    [
        ("axial", (2, 6, 8), "voxel (8, 6, 2)"),
        ("coronal", (5, 2, 1), "voxel (1, 2, 5)"),
        ("sagittal", (0, 7, 2), "voxel (2, 7, 0)"),
    ],
)
def test_a_click_moves_the_cross_to_the_voxel_below_it(page, plane, at, expected):
    click(page, plane, at)
    assert voxel(page) == expected


def test_keys_move_the_cross_as_it_is_seen(page):
    canvas_of(page, "axial").focus()
    for key, expected in (
        ("ArrowRight", "(3, 2, 2)"),
        ("ArrowDown", "(3, 3, 2)"),
        ("ArrowUp", "(3, 2, 2)"),
        ("ArrowLeft", "(2, 2, 2)"),
        ("PageUp", "(2, 2, 3)"),
        ("PageDown", "(2, 2, 2)"),
        ("Shift+ArrowRight", "(9, 2, 2)"),  # never beyond the end
    ):
        page.keyboard.press(key)
        assert voxel(page) == f"voxel {expected}", key
    canvas_of(page, "coronal").focus()
    page.keyboard.press("ArrowUp")  # towards superior
    page.keyboard.press("PageUp")
    assert voxel(page) == "voxel (9, 3, 3)"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "range"


def test_sliders_move_slices_and_say_which(page):
    slider = page.get_by_label("Axial", exact=False).locator("visible=true").last
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert voxel(page) == "voxel (2, 2, 3)"
    assert slider.get_attribute("aria-valuetext") == "slice 4 of 6"


def test_the_wheel_scrolls_the_page_until_a_slice_has_focus(page):
    box = canvas_of(page, "axial").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.wheel(0, 100)
    page.wait_for_timeout(300)
    assert page.evaluate("scrollY") > 50
    assert voxel(page) == "voxel (2, 2, 2)"
    page.evaluate("scrollTo(0, 0)")
    canvas_of(page, "axial").focus()
    page.mouse.wheel(0, -100)
    assert voxel(page) == "voxel (2, 2, 3)"
    assert page.evaluate("scrollY") == 0


def near(found, expected, tolerance=2):
    return np.abs(np.subtract(found, expected)).max() <= tolerance


def test_labels_and_errors_have_their_colours(page):
    click(page, "axial", (2, 7, 9))  # out of the way
    missed, right, invented, confused = (2, 3, 2), (2, 3, 4), (2, 3, 7), (2, 2, 4)
    plain = {at: colour(page, "axial", at) for at in (missed, right, invented, confused)}
    assert all(len(set(found)) == 1 for found in plain.values())  # contours alone leave it free
    page.get_by_label("Opacity").fill("100")
    page.get_by_label("Errors").check()
    assert colour(page, "axial", missed) == list(rgb(STATE_COLOURS[ONLY_REFERENCE]))
    assert colour(page, "axial", invented) == list(rgb(STATE_COLOURS[ONLY_PREDICTED]))
    assert colour(page, "axial", right) == list(rgb(STATE_COLOURS[1]))
    two = [list(rgb(STATE_COLOURS[s])) for s in (ONLY_PREDICTED, ONLY_REFERENCE)]
    assert colour(page, "axial", confused) in two
    page.get_by_label("Opacity").fill("50")
    dimmed = 0.5 * np.array(plain[invented])
    half = 0.5 * dimmed + 0.5 * np.array(rgb(STATE_COLOURS[ONLY_PREDICTED]))
    assert near(colour(page, "axial", invented), half)
    page.get_by_label("Errors").uncheck()
    page.get_by_label("Opacity").fill("100")
    page.get_by_label("Fill").check()
    assert colour(page, "axial", missed) == list(rgb(colour_of(1)))
    assert colour(page, "axial", confused) == list(rgb(colour_of(2)))
    page.get_by_label("Reference").uncheck()
    assert colour(page, "axial", missed) == plain[missed]
    assert colour(page, "axial", invented) == list(rgb(colour_of(1)))
    page.get_by_label("Prediction").uncheck()
    assert colour(page, "axial", invented) == plain[invented]


def test_every_plane_shows_its_slice(page):
    click(page, "axial", (2, 5, 7))
    page.get_by_label("Opacity").fill("100")
    page.get_by_label("Errors").check()
    orange = list(rgb(STATE_COLOURS[ONLY_PREDICTED]))
    for plane, inside, outside in (
        ("coronal", (1, 5, 6), (4, 5, 6)),
        ("sagittal", (1, 3, 7), (4, 3, 7)),
    ):
        assert colour(page, plane, inside) == orange
        assert colour(page, plane, outside) != orange


def outline(page, line):
    """Colours along a line of the axial canvas, x0, y0, x1, y1 in voxels."""
    said(page)
    return canvas_of(page, "axial").evaluate(
        """(canvas, [x0, y0, x1, y1]) => Array.from({ length: 200 }, (_, n) => {
        const at = (a, b, length) => Math.round(length * (a + (b - a) * (n + 0.5) / 200));
        const x = at(x0, x1, canvas.width / 10), y = at(y0, y1, canvas.height / 8);
        return Array.from(canvas.getContext("2d").getImageData(x, y, 1, 1).data).slice(0, 3);
        })""",
        line,
    )


def test_contours_are_solid_for_the_reference_and_dashed_for_the_prediction(page):
    click(page, "axial", (2, 7, 0))
    orange = rgb(colour_of(1))
    solid, dashed = outline(page, (2, 2.6, 2, 5.4)), outline(page, (8, 2.6, 8, 5.4))
    share_of = [np.mean([near(c, orange, 60) for c in found]) for found in (solid, dashed)]
    assert share_of[0] == 1
    assert 0.3 < share_of[1] < 0.8
    page.get_by_label("Prediction").uncheck()
    assert not any(near(c, orange, 60) for c in outline(page, (8, 2.6, 8, 5.4)))
    page.get_by_label("Reference").uncheck()
    assert not any(near(c, orange, 60) for c in outline(page, (2, 2.6, 2, 5.4)))


def test_brightness_and_contrast_change_the_grey_alone(page):
    click(page, "axial", (2, 7, 9))
    before = colour(page, "axial", (2, 6, 1))
    page.get_by_label("Brightness").fill("60")
    assert near(colour(page, "axial", (2, 6, 1)), np.array(before) + 60)
    page.get_by_role("button", name="Reset").click()
    assert colour(page, "axial", (2, 6, 1)) == before
    assert voxel(page) == "voxel (2, 2, 2)"


def test_zoom_keeps_the_cross_in_sight(page):
    click(page, "axial", (2, 3, 3))
    page.get_by_role("button", name="Zoom").click()
    assert page.get_by_role("button", name="Zoom").text_content() == "Zoom 2\u00d7"
    box = canvas_of(page, "axial").bounding_box()
    # Twice as large around voxel (3, 3): its left half now starts at 3.5 - 2.5 = 1 of 10 voxels.
    canvas_of(page, "axial").click(position={"x": box["width"] * 0.9, "y": box["height"] / 2})
    assert voxel(page) == "voxel (5, 3, 2)"
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert voxel(page) == "voxel (9, 3, 2)"
    white = canvas_of(page, "axial").evaluate(
        """(canvas) => { const line = canvas.getContext("2d").getImageData(
        0, 3, canvas.width, 1).data; let n = 0;
        for (let x = 0; x < canvas.width; x++) n += line[4 * x] === 255 && line[4 * x + 2] === 255;
        return n; }"""
    )
    assert white >= 1  # the upright line of the cross


def test_voxels_have_their_shape_in_mm(page):
    for plane, width, height in (("axial", 20, 8), ("coronal", 20, 24), ("sagittal", 8, 24)):
        box = canvas_of(page, plane).bounding_box()
        assert box["width"] / box["height"] == pytest.approx(width / height, rel=0.02)


def test_a_telephone_shows_all_of_it_and_takes_fingers(opened):
    page = opened(
        viewport={"width": 390, "height": 844},
        has_touch=True,
        is_mobile=True,
        device_scale_factor=2,
    )
    page.wait_for_selector(".viewer.loaded")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    box = canvas_of(page, "axial").bounding_box()
    assert box["width"] > 350
    x, y = places("axial", (2, 6, 8))
    page.touchscreen.tap(box["x"] + x * box["width"], box["y"] + y * box["height"])
    assert voxel(page) == "voxel (8, 6, 2)"
    assert canvas_of(page, "axial").evaluate("(c) => c.width / c.clientWidth") == 2
    for target in page.locator(".viewer button, .viewer .controls label").all():
        assert target.bounding_box()["height"] >= 30


def test_what_can_be_used_has_a_name_and_shows_its_focus(page):
    for part in page.locator(".viewer :is(input, button, canvas)").all():
        name = part.evaluate("(e) => e.ariaLabel || e.textContent || e.labels[0].textContent")
        assert name.strip()
        part.focus()
        assert part.evaluate("(e) => getComputedStyle(e).outlineStyle") == "solid"
    names = [c.get_attribute("aria-label") for c in page.locator("canvas").all()]
    assert names[0].startswith("Axial slice of case case & 1.")


def test_without_a_script_and_in_print_there_is_no_viewer(opened):
    still = opened(java_script_enabled=False)
    assert still.locator(".viewer").bounding_box() is None
    page = opened()
    page.wait_for_selector(".viewer.loaded")
    page.emulate_media(media="print")
    assert page.locator(".viewer").bounding_box() is None


def test_a_case_far_below_waits_until_it_comes_near(opened):
    page = opened(html(above=5000))
    page.wait_for_selector(".viewer.ready", state="attached")
    page.wait_for_timeout(100)
    assert page.locator(".viewer.loaded").count() == 0
    page.evaluate("scrollTo(0, 4800)")
    page.wait_for_selector(".viewer.loaded")


def test_a_browser_that_is_too_old_is_told(browser):
    page = browser.new_context().new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto("about:blank")
    page.set_content(html())
    page.get_by_text("This browser cannot show the volume").wait_for()
    page.context.close()


def test_of_many_classes_those_most_in_error_have_a_colour_and_a_name(opened):
    """The organ is the last of nine, and only it and the class after it are wrong."""
    names = {f"right {n}": [n + 10] for n in range(8)} | NAMES
    page = opened(html(names=names))
    page.wait_for_selector(".viewer.loaded")
    legend = page.locator(".legend li").all_text_contents()
    assert legend[: len(COLOURS)] == [*(f"right {n}" for n in range(5)), "organ <b>", "other"]
    assert "Of 10 classes, the 7 most in error are drawn" in page.locator(".note").text_content()
    page.get_by_label("Opacity").fill("100")
    page.get_by_label("Fill classes").check()
    assert colour(page, "axial", (1, 5, 3)) == list(rgb(COLOURS[5]))
