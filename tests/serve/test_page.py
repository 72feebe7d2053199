"""The page in a real browser: what a person does with it, by mouse, keyboard and on a phone."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.applications import Starlette

from mdrt.runtime.serve.answers import FORMATS
from mdrt.runtime.serve.app import create_app
from mdrt.runtime.serve.workers import Workers

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


@contextmanager
def listening(app: Starlette) -> Iterator[str]:
    """The address of an application while it is served."""
    config = uvicorn.Config(app, port=0, log_level="error", lifespan="off")
    with config.bind_socket() as socket:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: server.run(sockets=[socket]))
        thread.start()
        try:
            yield f"http://127.0.0.1:{socket.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module")
def url(app: Starlette) -> Iterator[str]:
    with listening(app) as at:
        yield at


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Callable[..., Any]]:
    """Opens the page; at the end nothing was asked of anyone else, and no script failed."""
    pages: list[tuple[Any, str, list[str], list[str]]] = []

    def go(at: str = url, token: str = "", **context: Any) -> Any:
        page = browser.new_context(**context).new_page()
        page.set_default_timeout(10_000)
        asked: list[str] = []
        failed: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        page.goto(at)
        if token:
            page.get_by_role("textbox", name="Token").fill(token)
            page.get_by_role("button", name="Go on").click()
        page.get_by_label("Example: valley").wait_for()
        pages.append((page, at, asked, failed))
        return page

    yield go
    for page, at, asked, failed in pages:
        assert [u for u in asked if not u.startswith((at, "blob:", "data:"))] == []
        assert failed == []
        page.context.close()


def settled(page: Any, text: str) -> None:
    page.get_by_role("status").filter(has_text=re.compile(text)).wait_for()


def legend(page: Any) -> list[str]:
    return [str(name) for name in page.locator("#legend .name").all_inner_texts()]


def names(page: Any) -> list[str]:
    return [str(name) for name in page.locator("#chips li span").all_inner_texts()]


def test_an_example_is_segmented_and_the_mask_follows_the_words(visit: Callable[..., Any]) -> None:
    page = visit()
    assert page.get_by_text("Drop a picture here").is_visible()
    page.get_by_label("Example: valley").click()
    settled(page, "of 5 found")
    assert "water" in legend(page)
    heard = page.locator("#legend button", has_text="water").aria_snapshot()
    assert re.search(r'button "water, \d+ %, confidence 0\.\d\d"', heard)
    assert not page.get_by_text("Drop a picture here").is_visible()
    page.get_by_label("Remove water").click()
    settled(page, "of 4 found")
    assert "water" not in legend(page)
    page.get_by_label("Names", exact=True).fill("water, tree")
    settled(page, "of 6 found")
    assert names(page)[-2:] == ["water", "tree"]
    page.keyboard.press("Backspace")
    settled(page, "of 5 found")
    assert "water" in legend(page)
    page.get_by_role("button", name="Add boat").click()
    settled(page, "of 6 found")
    page.get_by_label("Names", exact=True).fill("giraffe")
    page.keyboard.press("Enter")
    page.get_by_text("never saw giraffe").wait_for()


def test_hover_tells_the_class_and_a_click_shows_it_alone(visit: Callable[..., Any]) -> None:
    page = visit()
    page.get_by_label("Example: valley").click()
    settled(page, "found")
    box = page.locator("#layers").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    tip = page.locator("#tip")
    assert re.fullmatch(r"water\s*0\.\d\d", tip.inner_text())
    row = page.locator("#legend button", has_text="water")
    assert row.get_attribute("data-hover") is not None
    page.mouse.click(*middle)
    assert row.get_attribute("aria-pressed") == "true"
    mask = page.locator("#mask")
    pixels = "canvas => [...canvas.getContext('2d').getImageData(128, 128, 1, 1).data]"
    assert mask.evaluate(pixels)[3] == 0  # the class itself is bare, the rest is veiled
    page.mouse.click(*middle)
    assert row.get_attribute("aria-pressed") == "false"
    assert mask.evaluate(pixels)[3] == 255
    row.click()
    assert row.get_attribute("aria-pressed") == "true"
    page.get_by_text("Without names").click()
    settled(page, "segments")
    assert page.locator("#legend [aria-pressed=true]").count() == 0


def test_all_of_it_goes_by_keyboard(visit: Callable[..., Any]) -> None:
    page = visit()
    page.get_by_label("Example: valley").focus()
    page.keyboard.press("Enter")
    settled(page, "of 5 found")
    stage = page.locator("#layers")
    assert "water 4" in stage.get_attribute("aria-label")
    stage.focus()
    page.keyboard.press("ArrowDown")
    settled(page, r"^\w+, 0\.\d\d$")
    page.keyboard.press("Enter")
    assert page.locator("#legend [aria-pressed=true]").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("#legend [aria-pressed=true]").count() == 0
    split = page.get_by_label("Before and after")
    split.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert split.input_value() == "2"
    assert page.locator("#mask").evaluate("m => getComputedStyle(m).clipPath").endswith("2%)")
    opacity = page.get_by_label("Opacity")
    opacity.focus()
    page.keyboard.press("End")
    playwright.expect(page.locator("#mask")).to_have_css("opacity", "1")
    page.get_by_label("By name").focus()
    page.keyboard.press("ArrowRight")
    settled(page, "segments")


def test_segments_without_names_are_as_many_as_asked(visit: Callable[..., Any]) -> None:
    page = visit()
    page.get_by_label("Example: valley").click()
    page.get_by_text("Without names").click()
    settled(page, "segments")
    page.get_by_label("Find out").uncheck()
    page.get_by_label("How many segments").fill("3")
    settled(page, "^3 segments")
    assert sorted(legend(page)) == ["segment 1", "segment 2", "segment 3"]


def test_settings_are_of_the_head_and_what_is_wrong_is_said(visit: Callable[..., Any]) -> None:
    page = visit()
    page.get_by_label("Example: valley").click()
    settled(page, "of 5 found")
    page.get_by_text("Method and settings").click()
    page.get_by_label("threshold").fill("0.6")
    page.keyboard.press("Tab")
    page.get_by_text("none of these:").wait_for()
    page.get_by_label("timestep").fill("5000")
    page.keyboard.press("Tab")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "expected 0 to 999" in alert.inner_text()
    page.get_by_label("Dismiss").click()
    assert not alert.is_visible()
    page.get_by_role("button", name="Back to what is recommended").click()
    settled(page, "of 5 found")
    page.get_by_label("Head").select_option("attention")
    settled(page, "of 5 found")
    assert page.locator("#set-map_power").count() == 0


def test_every_format_can_be_downloaded(visit: Callable[..., Any], tmp_path: Path) -> None:
    page = visit(accept_downloads=True)
    page.get_by_label("Example: valley").click()
    settled(page, "of 5 found")
    saved = {}
    for name in FORMATS:
        page.locator("#format").select_option(name)
        assert page.locator("#written").inner_text() == FORMATS[name]
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Download").click()
        saved[name] = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(saved[name])
        assert saved[name].stat().st_size > 100
        settled(page, "was made")
    assert saved["png"].name == "valley.png"
    assert np.asarray(Image.open(saved["png"])).shape == (256, 256)
    assert len(set(saved.values())) == len(FORMATS)


def test_a_file_is_opened_dropped_and_pasted(
    visit: Callable[..., Any], picture_file: Path, tmp_path: Path
) -> None:
    page = visit()
    page.locator("#file").set_input_files(picture_file)
    page.get_by_role("button", name="Add sky").click()
    page.get_by_role("button", name="Add grass").click()
    settled(page, "of 2 found")
    give = """async ([kind, example]) => {
        const file = new File([await (await fetch(example)).blob()], "given.webp",
            { type: "image/webp" });
        const data = new DataTransfer();
        data.items.add(file);
        const event = kind === "drop" ? new DragEvent("drop", { dataTransfer: data })
            : new ClipboardEvent("paste", { clipboardData: data });
        window.dispatchEvent(event);
    }"""
    for number, (kind, example) in enumerate((("drop", "valley"), ("paste", "cottage")), 2):
        page.evaluate(give, [kind, f"page/examples/{example}.webp"])
        page.locator(f"#history li:nth-child({number})").wait_for()
        assert "given.webp" in page.locator("#layers").get_attribute("aria-label")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    page.locator("#file").set_input_files(broken)
    page.get_by_role("alert").wait_for()
    assert "broken.png is no picture" in page.get_by_role("alert").inner_text()


def test_the_history_brings_back_picture_and_question(visit: Callable[..., Any]) -> None:
    page = visit()
    page.get_by_label("Example: valley").click()
    settled(page, "of 5 found")
    page.get_by_label("Example: harbour").click()
    settled(page, "of 4 found")
    page.get_by_role("button", name="valley.webp: sky, mountain").click()
    settled(page, "of 5 found")
    assert names(page) == ["sky", "mountain", "sand", "water", "house"]


def test_a_look_that_was_let_go_is_sent_again(visit: Callable[..., Any], workers: Workers) -> None:
    page = visit()
    page.get_by_label("Example: valley").click()
    settled(page, "of 5 found")
    worker = workers.every[0]
    for look in list(worker.looks._looks):
        worker.looks.drop(look)
    page.get_by_role("button", name="Add boat").click()
    settled(page, "of 6 found")


def test_a_server_with_a_token_asks_for_it(visit: Callable[..., Any], workers: Workers) -> None:
    with listening(create_app(workers, token="s3cret", hosts=None)) as at:
        page = visit(at, token="s3cret")
        page.get_by_label("Example: valley").click()
        settled(page, "of 5 found")


def test_a_phone_shows_all_of_it_without_scrolling_sideways(visit: Callable[..., Any]) -> None:
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert page.get_by_text("Begin with a picture").is_visible()
    assert not page.get_by_text("Drop a picture here").is_visible()
    page.get_by_label("Example: valley").tap()
    settled(page, "of 5 found")
    page.get_by_text("Method and settings").tap()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 360
    small = page.evaluate(
        """() => [...document.querySelectorAll("button, select, summary")]
            .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 24)
            .map((e) => e.outerHTML)"""
    )
    assert small == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(visit: Callable[..., Any], scheme: str) -> None:
    """Contrast of WCAG 2.2's AA, 4.5 to 1, of what is written on the panel and the page."""
    page = visit(color_scheme=scheme)
    page.get_by_label("Example: valley").click()
    settled(page, "of 5 found")
    for text, ground in (
        ("--ink", "--card"),
        ("--quiet", "--card"),
        ("--quiet", "--ground"),
        ("--accent", "--card"),
        ("--on-accent", "--accent"),
        ("--wrong", "--wrong-ground"),
        ("--quiet", "--sunk"),
    ):
        found = page.evaluate(
            """(names) => names.map((name) => {
                const probe = document.createElement("i");
                probe.style.color = `var(${name})`;
                document.body.append(probe);
                const colour = getComputedStyle(probe).color;
                probe.remove();
                return colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
            })""",
            [text, ground],
        )
        assert contrast(*found) >= 4.5, (text, ground, found)


def contrast(one: list[float], other: list[float]) -> float:
    """WCAG 2.2's ratio of two sRGB colours."""

    def luminance(colour: list[float]) -> float:
        srgb = np.array(colour) / 255
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
