"""The gallery in a real browser, opened from disk: search, keys, links, widths, what it asks of the network."""

import shutil

import pytest
from conftest import tiny_model

from featviz.render_settings import RenderSettings
from featviz.site import build, plan

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery") / "site"
    settings = RenderSettings(size=32, steps=2)
    build(plan(tiny_model(), ["class:all", "conv2:0-3"], settings, folder, faces=2))
    return folder


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as ready:
        yield ready.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.trouble = []
    page.on("console", lambda said: page.trouble.append(said.text))
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    # a picture still on its way when the page is left is no trouble
    page.on("requestfailed", lambda r: "ABORTED" in r.failure or page.trouble.append(f"{r.url} {r.failure}"))
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or page.trouble.append(r.url))
    yield page
    assert page.trouble == []
    page.close()


def here(page):
    return page.url.rsplit("/", 1)[1]


def test_every_page_opens_and_every_link_leads_somewhere(page, site):
    page.goto(f"file://{site}/index.html")
    seen, waiting = set(), [page.url]
    while waiting:
        page.goto(waiting.pop())
        seen.add(page.url)
        links = page.eval_on_selector_all(
            "a[href]", "all => all.map(a => new URL(a.getAttribute('href').split('#')[0], location).href)"
        )
        waiting += [link for link in set(links) - seen - set(waiting) if link.endswith(".html")]
    assert len(seen) == 1 + 2 + 9
    images = "all => all.every(image => { image.loading = 'eager'; return true })"
    assert page.eval_on_selector_all("img", images)
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth)")


def test_search_by_name_layer_and_number(page, site):
    page.goto(f"file://{site}/index.html")
    page.keyboard.press("/")
    page.keyboard.type("tiger")
    assert page.locator("#results .name").all_text_contents() == ["tiger cat"]
    page.keyboard.press("Enter")
    page.wait_for_url("**/unit/class-1.html")
    page.fill("#query", "conv2 3")
    assert page.locator("#results .name").first.text_content() == "conv2:3"
    page.fill("#query", "zebra")
    assert "zebra" in page.locator("#results h2").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#results").is_hidden()


def test_arrows_go_to_the_neighbours_and_u_goes_up(page, site):
    page.goto(f"file://{site}/unit/class-1.html")
    for key, wanted in (("ArrowRight", "class-2"), ("ArrowLeft", "class-1"), ("ArrowLeft", "class-0")):
        page.keyboard.press(key)
        page.wait_for_url(f"**/{wanted}.html")
    page.keyboard.press("u")
    page.wait_for_url("**/layer/classes.html")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_url("**/class-1.html")


def test_light_and_dark(page, site):
    page.goto(f"file://{site}/index.html")
    colour = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(colour)
    page.click("#light")
    assert page.evaluate(colour) != before
    page.reload()
    assert page.evaluate(colour) != before, "it is not remembered"


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_window(page, site, width):
    page.set_viewport_size({"width": width, "height": 800})
    for name in ("index", "layer/conv2", "unit/class-1"):
        page.goto(f"file://{site}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_javascript_the_pictures_are_there(browser, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{site}/unit/conv2-1.html")
    assert page.locator(".large img").get_attribute("alt") and page.locator("#command").inner_text()
    context.close()
