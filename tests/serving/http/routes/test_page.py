"""The page at / and the documentation, in a real Chromium."""

import re
import shutil

import httpx
import pytest

pytestmark = pytest.mark.browser

PREFIX = "/deep/lavit"

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


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


@pytest.fixture
def server(serve, bundle_path, request):
    return serve(bundle_path, *getattr(request, "param", ()))


below_a_prefix = pytest.mark.parametrize("server", [("--root-path", PREFIX)], indirect=True)


@pytest.fixture
def visit(chromium, server):
    """A page of the server that fails the test on any script error or request elsewhere."""
    context = chromium.new_context()
    page = context.new_page()
    complaints, requests = [], []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda message: (
            complaints.append(message.text)
            # Chromium itself logs every failed answer; those are what some tests are about.
            if message.type == "error" and not message.text.startswith("Failed to load resource")
            else None
        ),
    )
    # Choosers are intercepted only while somebody listens; turning that on takes a moment.
    page.on("filechooser", lambda _: None)
    page.on("request", lambda request: requests.append(request.url))

    def go(path):
        page.goto(server.url + path)
        return page

    yield go
    context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith((server.url, "blob:", "data:"))] == []


def upload(name, data, kind="image/png"):
    return {"name": name, "mimeType": kind, "buffer": data}


def labels(card):
    return card.locator(".bar .name").all_inner_texts()


def test_a_chosen_picture_becomes_bars(visit, picture, colours):
    page = visit("/")
    page.set_input_files("#files", upload("sea.png", picture((0, 80, 255))))
    card = page.locator(".card")
    card.locator(".bar").first.wait_for()
    assert card.count() == 1
    assert card.locator("h2").inner_text() == "sea.png"
    assert labels(card) == ["blue", "green", "red"]
    expected = colours((0, 80, 255))["blue"]
    assert card.locator(".share").first.inner_text() == f"{expected:.1%}"
    width, track = (
        card.locator(part).first.bounding_box()["width"] for part in (".fill", ".track")
    )
    assert width / track == pytest.approx(expected, abs=0.01)  # whole pixels of some 400
    assert re.match(r"decoded [\d.]+ ms", card.locator(".timing").inner_text())
    assert page.locator("#status").inner_text().startswith("1 picture classified in ")
    assert page.locator("#model").inner_text() == "colours, onnx-fp32, checkpoint 0123456789ab"


def test_several_pictures_keep_their_order_and_a_bad_one_is_explained(visit, picture):
    page = visit("/")
    page.set_input_files(
        "#files",
        [
            upload("a.png", picture((255, 0, 0))),
            upload("b.png", picture()[:60]),
            upload("c.png", picture((0, 255, 0))),
        ],
    )
    page.get_by_text("1 could not be.").wait_for()
    cards = page.locator(".card")
    assert cards.locator("h2").all_inner_texts() == ["a.png", "b.png", "c.png"]
    assert labels(cards.nth(0))[0] == "red"
    assert "truncated or damaged" in cards.nth(1).locator(".error").inner_text()
    assert labels(cards.nth(2))[0] == "green"
    assert page.locator("#status").inner_text().endswith("1 could not be.")


def test_a_file_that_is_no_picture_is_explained_and_the_next_works(visit, picture):
    page = visit("/")
    page.set_input_files("#files", upload("notes.txt", b"hello", "text/plain"))
    problem = page.get_by_role("alert")
    problem.wait_for()
    assert "not an image of an accepted format" in problem.inner_text()
    page.set_input_files("#files", upload("a.png", picture()))
    page.locator(".bar").first.wait_for()
    assert page.locator("#problem").is_hidden()


def test_the_reason_of_a_failure_takes_the_width_of_its_card(visit, picture):
    page = visit("/")
    page.set_input_files("#files", [upload("a.png", picture()), upload("b.txt", b"hello")])
    error = page.locator(".card").nth(1).locator(".error")
    error.wait_for()
    width = page.locator(".card").nth(1).bounding_box()["width"]
    assert error.bounding_box()["width"] > 0.9 * width


def test_a_dropped_picture_is_classified(visit, picture):
    page = visit("/")
    page.evaluate(
        """(bytes) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "drop.png", { type: "image/png" }));
            const event = new DragEvent("drop", { dataTransfer: data, bubbles: true });
            document.querySelector("#drop").dispatchEvent(event);
        }""",
        list(picture((0, 255, 0))),
    )
    page.locator(".bar").first.wait_for()
    assert labels(page.locator(".card"))[0] == "green"


def test_the_keyboard_reaches_the_file_chooser(visit):
    page = visit("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    assert chooser.value.is_multiple()


def test_screen_readers_are_told_what_happens(visit, picture):
    page = visit("/")
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.get_by_label(re.compile("choose files")).count() == 1
    page.set_input_files("#files", upload("a.png", picture()))
    page.get_by_role("list", name="Classes, most likely first").wait_for()
    assert "classified" in page.get_by_role("status").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground_in_both_schemes(visit, picture, scheme):
    page = visit("/")
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # no colour half way
    page.set_input_files("#files", upload("a.png", picture()))
    page.locator(".bar").first.wait_for()
    for selector in ("h1", "#model", ".hint", ".link", ".bar .name", ".timing", "nav a"):
        assert page.evaluate(CONTRAST, selector) >= 4.5, selector  # WCAG 2.2, level AA


CONTRAST = """(selector) => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = numbers(color).map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const element = document.querySelector(selector);
  let ground = element;
  while (numbers(getComputedStyle(ground).backgroundColor)[3] === 0) ground = ground.parentElement;
  const values = [light(getComputedStyle(element).color),
                  light(getComputedStyle(ground).backgroundColor)].sort((a, b) => b - a);
  return (values[0] + 0.05) / (values[1] + 0.05);
}"""


def test_a_narrow_screen_needs_no_sideways_scrolling(visit, picture):
    page = visit("/")
    page.set_viewport_size({"width": 340, "height": 700})
    page.set_input_files("#files", upload("a-very-long-name-" * 8 + ".png", picture()))
    page.locator(".bar").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_page_says_so_when_the_server_is_gone(visit, server, picture):
    page = visit("/")
    page.route("**/classify*", lambda route: route.abort("connectionrefused"))
    page.set_input_files("#files", upload("a.png", picture()))
    page.get_by_role("alert").wait_for()
    assert "did not answer" in page.get_by_role("alert").inner_text()


def test_no_card_is_left_waiting_when_the_server_is_gone(visit, picture):
    page = visit("/")
    page.route("**/classify*", lambda route: route.abort("connectionrefused"))
    page.set_input_files("#files", [upload(f"{n}.png", picture()) for n in range(6)])
    page.get_by_role("alert").wait_for()
    assert page.locator(".waiting").count() == 0
    assert page.locator("[aria-busy]").count() == 0


def test_a_busy_service_is_asked_again(visit, picture):
    page = visit("/")
    answers = iter([503, 503])

    def busy(route):
        if next(answers, None) is None:
            route.continue_()
        else:
            route.fulfill(status=503, headers={"Retry-After": "0.01"}, body="{}")

    page.route("**/classify*", busy)
    page.set_input_files("#files", upload("a.png", picture((0, 255, 0))))
    page.locator(".bar").first.wait_for()
    assert labels(page.locator(".card"))[0] == "green"


def test_a_service_that_stays_busy_says_so(visit, picture):
    page = visit("/")
    body = '{"title": "Overloaded", "detail": "every place is taken"}'
    page.route(
        "**/classify*",
        lambda route: route.fulfill(status=503, headers={"Retry-After": "0.01"}, body=body),
    )
    page.set_input_files("#files", upload("a.png", picture()))
    page.get_by_role("alert").wait_for()
    assert page.get_by_role("alert").inner_text() == "Overloaded: every place is taken."


def test_more_pictures_than_a_request_may_hold_are_all_classified(visit, picture):
    page = visit("/")
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)] * 12  # a request takes 32
    files = [upload(f"{n}.png", picture(colour)) for n, colour in enumerate(colours)]
    page.set_input_files("#files", files)
    page.get_by_text("36 pictures classified in").wait_for()
    names = page.locator(".card h2").all_inner_texts()
    assert names == [f"{n}.png" for n in range(36)]
    firsts = [labels(page.locator(".card").nth(n))[0] for n in range(3)]
    assert firsts == ["red", "green", "blue"]


def test_one_model_needs_no_picker_and_several_can_be_chosen_by_keyboard(visit, picture):
    page = visit("/")
    page.get_by_text("colours, onnx-fp32").wait_for()
    assert page.get_by_label("Model").is_hidden()
    entry = {"artifact": "onnx-fp32", "checkpoint": "0123456789ab", "version": "1", "classes": 3}
    models = [
        entry | {"name": "colours", "default": True, "ready": True},
        entry | {"name": "shapes", "default": False, "ready": False},
    ]
    page.route("**/models", lambda route: route.fulfill(json={"models": models}))
    page.reload()
    chooser = page.get_by_role("combobox", name="Model")
    chooser.wait_for()
    assert chooser.locator("option").all_inner_texts() == [
        "colours, version 1",
        "shapes, version 1 (not ready)",
    ]
    chooser.focus()
    page.keyboard.press("ArrowDown")
    with page.expect_request("**/classify*") as request:
        page.set_input_files("#files", upload("a.png", picture()))
    assert request.value.url.endswith("/classify?model=shapes&version=1")
    page.get_by_role("alert").wait_for()
    assert "there is no model 'shapes 1'" in page.get_by_role("alert").inner_text()


def test_the_picker_follows_models_that_come_and_go(
    chromium, serve, bundle_path, write_bundle, picture, tmp_path
):
    (tmp_path / "keys").write_text("a" * 32)
    server = serve(bundle_path, "--admin-keys", str(tmp_path / "keys"))

    def administer(method, **body):
        answer = httpx.request(
            method,
            f"{server.url}/admin/models/paints/versions/2",
            headers={"X-API-Key": "a" * 32},
            **body,
        )
        assert answer.is_success

    page = chromium.new_page()
    page.goto(server.url)
    page.get_by_text("colours, onnx-fp32").wait_for()
    administer("POST", json={"bundle": str(write_bundle(folder="other"))})
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    chooser = page.get_by_role("combobox", name="Model")
    chooser.wait_for()
    chooser.select_option(label="paints, version 2")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.get_by_text("paints, onnx-fp32").wait_for()  # the choice outlasts a new list
    page.set_input_files("#files", upload("a.png", picture((0, 255, 0))))
    page.get_by_text("1 picture classified").wait_for()
    administer("DELETE")
    page.set_input_files("#files", upload("a.png", picture()))
    page.get_by_role("alert").wait_for()
    assert "there is no model 'paints 2'" in page.get_by_role("alert").inner_text()
    chooser.wait_for(state="hidden")
    page.set_input_files("#files", upload("a.png", picture()))
    page.get_by_text("1 picture classified").wait_for()
    page.close()


def test_a_service_with_keys_asks_for_one_and_goes_on_with_the_pictures(
    chromium, serve, bundle_path, picture, tmp_path
):
    key = "0123456789abcdef"
    (tmp_path / "keys").write_text(key)
    server = serve(bundle_path, "--api-keys", str(tmp_path / "keys"))
    page = chromium.new_page()
    page.goto(server.url)
    page.get_by_label("asks for an API key").wait_for()
    page.set_input_files("#files", [upload(f"{n}.png", picture()) for n in range(6)])
    page.get_by_label("asks for an API key").fill("not the right one")
    page.keyboard.press("Enter")
    page.get_by_text("is not known here").wait_for()
    page.get_by_label("asks for an API key").fill(key)
    page.keyboard.press("Enter")
    page.get_by_text("6 pictures classified in").wait_for()
    assert page.locator("#gate").is_hidden()
    assert page.locator("#problem").is_hidden()
    assert page.locator(".card h2").all_inner_texts() == [f"{n}.png" for n in range(6)]
    page.close()


def test_the_documentation_renders_without_a_network(visit):
    page = visit("/docs")
    page.get_by_text("Classify one or several pictures").wait_for()


@below_a_prefix
@pytest.mark.parametrize("path", [PREFIX, f"{PREFIX}/"])
def test_below_a_prefix_the_page_stays_there(visit, picture, path):
    page = visit(path)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.set_input_files("#files", upload("sea.png", picture((0, 80, 255))))
    page.locator(".bar").first.wait_for()
    assert labels(page.locator(".card"))[0] == "blue"
    assert [url for url in asked if "/classify" in url]
    assert all(f"{PREFIX}/" in url for url in asked if not url.startswith("blob:"))
    page.get_by_text("HTTP API").click()
    page.get_by_text("Classify one or several pictures").wait_for()
    assert page.url.endswith(f"{PREFIX}/docs")


@below_a_prefix
def test_below_a_prefix_the_documentation_asks_there(visit):
    page = visit(f"{PREFIX}/docs")
    operation = page.locator(".opblock-get", has_text="Is the process alive?")
    operation.locator(".opblock-summary").click()
    operation.get_by_text("Try it out").click()
    operation.get_by_text("Execute").click()
    assert operation.locator(".request-url").inner_text().strip().endswith(f"{PREFIX}/healthz")
    operation.locator(".live-responses-table").get_by_text("200").wait_for()


@pytest.mark.parametrize(("status", "why"), [(413, "of this size"), (502, "could not reach")])
def test_an_answer_of_a_proxy_is_shown_with_its_picture(visit, picture, status, why):
    page = visit("/")
    page.route(
        "**/classify*",
        lambda route: route.fulfill(status=status, content_type="text/html", body="<html>"),
    )
    page.set_input_files("#files", [upload(name, picture()) for name in ("a.png", "b.png")])
    page.get_by_text("None of the pictures could be classified.").wait_for()
    errors = page.locator(".card .error").all_inner_texts()
    assert len(errors) == 2
    assert all(why in error for error in errors)
