"""The HTML report, as text and in a real Chromium."""

import re
import shutil
from pathlib import Path

import pytest

from lavit_deploy.profiles.render import markdown
from lavit_deploy.profiles.render.html_page import html, write_html
from lavit_deploy.profiles.report.costs import UncountedOperator
from lavit_deploy.profiles.report.schema import Report

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
CHARTS = [
    "Throughput against multiply-adds",
    "Throughput against batch size",
    "Multiply-adds by part",
    "Time by part, batch 1",
    "Roofline",
    "Growth with resolution",
]
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def report():
    """The committed report of this project: real numbers, every plot."""
    return Report.read(ROOT / "docs" / "reports" / "cpu-stages" / "report.json")


@pytest.fixture(scope="module")
def text(report):
    return html(report)


def test_every_plot_is_there_and_nothing_comes_from_elsewhere(text):
    assert re.findall(r'role="img" aria-label="([^"]+)"', text) == CHARTS
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r'https?://[^\s"<>]+', text)) <= namespaces
    assert not re.findall(r'(?:src|href)="(?!#|data:)', text)


def test_no_id_occurs_twice_and_every_reference_has_its_target(text):
    found = re.findall(r'\bid="([^"]+)"', text)
    assert len(found) == len(set(found))
    used = re.findall(r'href="#([^"]+)"', text) + re.findall(r"url\(#([^)]+)\)", text)
    assert used
    assert set(used) <= set(found)


def test_the_page_is_the_same_for_the_same_report(report, text):
    assert html(report) == text


def test_plots_take_their_ink_from_the_page(text):
    assert "currentColor" in text
    assert "#010203" not in text


def test_labels_cannot_inject_markup(report):
    label = "<script>alert(1)</script>&"
    model = report.models[0].model_copy(update={"label": label})
    page = html(report.model_copy(update={"models": (model,)}))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_page_answers_first_and_says_what_was_not_counted(text, report):
    assert text.index("<h2>Comparisons") < text.index("<svg")
    assert "Not counted, at most M elements" in text
    assert text.count("Operators of one image") == len(report.models)
    assert text.count("the exponent is of the number of pixels.</caption>") == len(report.models)


def test_an_operator_that_may_hide_a_product_is_a_warning_on_every_page(report):
    model = report.models[0]
    unknown = UncountedOperator(operator="my::product", calls=3, elements=7, reason=None)
    counts = model.counts.model_copy(update={"uncounted": (unknown,)})
    changed = report.model_copy(update={"models": (model.model_copy(update={"counts": counts}),)})
    said = f"WARNING: {model.label}: my::product ran 3 times, is not counted"
    assert f'<p class="warning">{said}' in html(changed)
    assert f"- {said}" in markdown.page(changed)


def test_missing_parts_are_absent(report):
    models = tuple(
        model.model_copy(
            update={"timings": (), "time_splits": (), "roofline": (), "growth": None, "cells": ()}
        )
        for model in report.models
    )
    bare = report.model_copy(update={"models": models, "comparisons": (), "peaks": None})
    page = html(bare)
    assert re.findall(r'role="img" aria-label="([^"]+)"', page) == ["Multiply-adds by part"]
    assert "Comparisons" not in page


def test_an_interrupted_run_says_so(report):
    assert "Interrupted" in html(report.model_copy(update={"complete": False}))


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium on PATH")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("scheme", "ink", "paper"),
    [
        ("light", "rgb(28, 36, 48)", "rgb(255, 255, 255)"),
        ("dark", "rgb(228, 232, 238)", "rgb(20, 24, 31)"),
    ],
)
def test_chromium_shows_every_plot_without_a_network(
    chromium, report, tmp_path, scheme, ink, paper
):
    file = tmp_path / "report.html"
    write_html(report, file)
    context = chromium.new_context(color_scheme=scheme, offline=True)
    page = context.new_page()
    complaints, requests = [], []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    boxes = [svg.bounding_box() for svg in page.locator("svg").all()]
    assert len(boxes) == len(CHARTS)
    assert all(box["width"] > 600 and box["height"] > 100 for box in boxes)
    # Text drawn by matplotlib has the page's ink, whatever the theme.
    label = page.locator("svg text", has_text="images per second").first
    assert label.evaluate("one => getComputedStyle(one).fill") == ink
    assert page.locator("body").evaluate("one => getComputedStyle(one).backgroundColor") == paper
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert complaints == []
    assert requests == [file.as_uri()]
    context.close()
