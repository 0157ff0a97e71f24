"""The page in a real browser, as wide as a desk and as a phone."""

import subprocess

import pytest
from report_runs import made_up_run, words

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")

WIDTHS = {"desk": 1280, "phone": 390}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    subprocess.run(words(made_up_run(folder)), check=True)
    return folder / "results/report.html"


@pytest.fixture
def opened(browser, report, request):
    """The page at one width; what went wrong in it, and what it asked for, is looked at in the end.

    Only for the page itself anything may be fetched.
    """
    width = getattr(request, "param", WIDTHS["desk"])
    context = browser.new_context(viewport={"width": width, "height": 800})
    page = context.new_page()
    troubles, asked = [], []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda one: asked.append(one.url.split(",")[0]))
    page.goto(report.as_uri())
    yield page
    context.close()
    assert troubles == []
    outside = [url for url in asked if not url.startswith(("data:", "blob:"))]
    assert {url.split("#")[0] for url in outside} == {report.as_uri()}


def column(page, number):
    """What stands in a column of the table of all cases, as numbers where they are given."""
    return page.eval_on_selector_all(
        f"table.sortable tbody tr > :nth-child({number + 1})",
        "cells => cells.map(cell => cell.dataset.value ?? cell.textContent.trim())",
    )


@pytest.mark.parametrize("opened", WIDTHS.values(), ids=WIDTHS, indirect=True)
def test_the_page_is_no_wider_than_the_window(opened):
    wide, window = opened.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window
    opened.wait_for_function("[...document.images].every(image => image.complete)")
    assert opened.evaluate("[...document.images].every(image => image.naturalWidth > 0)")


@pytest.mark.parametrize("opened", [WIDTHS["phone"]], ids=["phone"], indirect=True)
def test_letters_of_figures_can_be_read_on_a_phone(opened):
    """They are 10 pixels high where a panel is 360 wide, and those of the text are larger."""
    widths = opened.eval_on_selector_all(
        ".panels img", "images => images.map(image => image.getBoundingClientRect().width)"
    )
    assert min(widths) >= 340


def test_a_click_on_a_heading_sorts_by_it(opened):
    heading = opened.locator("table.sortable th[data-column='3']")
    before = [float(value) for value in column(opened, 3)]
    assert before != sorted(before)
    heading.get_by_role("button").click()
    assert [float(value) for value in column(opened, 3)] == sorted(before)
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.get_by_role("button").click()
    assert [float(value) for value in column(opened, 3)] == sorted(before, reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"

    name = opened.locator("table.sortable th[data-column='0']")
    name.get_by_role("button").press("Enter")
    names = column(opened, 0)
    of_cases = [name for name in names if name.startswith("case_")]
    assert of_cases == sorted(of_cases)
    assert len(of_cases) == 11
    assert heading.get_attribute("aria-sort") is None
    assert opened.locator("table.sortable th[aria-sort]").count() == 1


def test_cells_without_a_number_stay_last(opened):
    opened.eval_on_selector(
        "table.sortable tbody tr:nth-child(5) > :nth-child(4)",
        "cell => { cell.dataset.value = ''; }",
    )
    button = opened.locator("table.sortable th[data-column='3']").get_by_role("button")
    for _ in range(2):
        button.click()
        values = column(opened, 3)
        assert values[-1] == ""
        assert "" not in values[:-1]


def test_links_lead_to_the_pictures_of_a_case(opened):
    link = opened.locator("table.sortable tbody a").first
    case = link.inner_text()
    link.click()
    target = opened.evaluate("location.hash")
    assert opened.locator(f"{target} h3").inner_text() == case
    opened.wait_for_function(
        "id => { const top = document.querySelector(id).getBoundingClientRect().top;"
        " return top > -50 && top < innerHeight; }",
        arg=target,
    )
    assert opened.locator(f"{target} .pictures img").count() == 3


def test_the_viewer_of_a_case_opens_and_moves(opened):
    case = opened.locator("article").first
    case.locator("summary").click()
    readout = case.locator(".readout")
    sync_api.expect(readout).not_to_contain_text("loading")
    before = readout.inner_text()
    canvas = case.locator("canvas").first
    shades = "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
    assert canvas.evaluate(shades) > 10
    canvas.click(position={"x": 4, "y": 4})  # a corner: the view opens where something is
    assert readout.inner_text() != before


def test_headings_of_two_lines_stand_above_their_numbers(opened):
    """Those of the second line are aligned as numbers are, and both stay in sight."""
    box = opened.locator(".tall")
    lower = box.locator("thead tr:nth-child(2) th").first
    assert lower.evaluate("th => getComputedStyle(th).textAlign") == "right"
    box.evaluate("box => { box.style.maxHeight = '200px'; box.scrollTop = 150; }")
    top = box.bounding_box()["y"]
    places = [box.locator("thead tr").nth(n).bounding_box() for n in (0, 1)]
    assert places[0]["y"] == pytest.approx(top, abs=2)
    assert places[1]["y"] >= places[0]["y"]
    assert places[1]["y"] < top + 150


def test_pictures_are_large_enough_to_read(opened):
    widths = opened.eval_on_selector_all(
        ".pictures img", "images => images.map(image => image.getBoundingClientRect().width)"
    )
    assert min(widths) >= 440


def test_names_of_candidates_break_between_words(opened):
    names = opened.locator("th.candidate")
    assert names.first.locator("wbr").count() >= 1
    assert names.first.text_content() in ("plain/raw", "plain/largest")


def test_the_contents_stay_in_sight_on_a_desk(opened):
    opened.evaluate("scrollTo(0, 5000)")
    place = opened.locator("nav[aria-label=Contents] > div").bounding_box()
    assert place["y"] == pytest.approx(0, abs=1)


def test_nothing_is_missing_without_javascript(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("table.sortable tbody tr").count() == 12
    assert page.locator("table.sortable button").count() == 0
    assert page.locator(".pictures img").first.is_visible()
    context.close()


def test_the_page_can_be_printed(browser, report, tmp_path):
    page = browser.new_page()
    page.goto(report.as_uri())
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.locator(".tall").evaluate("box => box.scrollHeight <= box.clientHeight + 1")
    assert not page.locator("summary", has_text="Look through").first.is_visible()
    page.set_viewport_size({"width": 700, "height": 900})  # of A4 within its margins
    wide = page.eval_on_selector_all(
        ".wide, .tall", "boxes => boxes.map(box => box.scrollWidth - box.clientWidth)"
    )
    assert max(wide) <= 1
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 10_000
    page.close()


def test_words_stand_out_from_their_ground(opened):
    """Contrast of WCAG 2.2, level AA, in the light and in the dark."""
    for viewer in opened.locator("summary").all():
        viewer.click()
    for scheme in ("light", "dark"):
        opened.emulate_media(color_scheme=scheme)
        found = opened.evaluate(CONTRASTS)
        assert found["least"] >= 4.5, (scheme, found)


CONTRASTS = """() => {
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  function ground(node) {
    for (; node; node = node.parentElement) {
      const colour = numbers(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  }
  let least = 99, where = "";
  const nodes = "h1,h2,h3,p,a,td,th,li,dt,dd,code,figcaption,summary,label,button,output,"
    + ".ci,.name,.more,.legend span";
  for (const node of document.querySelectorAll(nodes)) {
    const two = [numbers(getComputedStyle(node).color), ground(node)].map(light);
    const contrast = (Math.max(...two) + 0.05) / (Math.min(...two) + 0.05);
    if (contrast < least) [least, where] = [contrast, node.outerHTML.slice(0, 120)];
  }
  return { least, where };
}"""
