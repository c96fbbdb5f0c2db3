"""The page in a real browser: one browser for all tests, with a new profile for each.

No test here is async: the browser's sync API has a loop running in the thread.
"""

import base64
import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")

from PIL import Image
from playwright.sync_api import Browser, Locator, Page
from starlette.applications import Starlette
from starlette.routing import Mount

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.context import progress_reporter
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.exceptions import ContentPolicyError
from langchain_image_variation.images.png import SquarePNG
from langchain_image_variation.server import create_app
from pytest_image_variation.samples import square_png
from tests.chromium import CHROMIUM
from tests.server.serving import serving

KEY = "sk-right"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


def photo(folder: Path) -> Path:
    """Write a photo that is neither square nor PNG."""
    path = folder / "photo.jpg"
    Image.effect_noise((1600, 1200), 80).convert("RGB").save(path)
    return path


def variations(tab: Page) -> Locator:
    """Return the variations of the latest round."""
    return tab.locator(".round").first.get_by_alt_text(re.compile("^Variation "))


def create_two(tab: Page, response_format: str) -> None:
    """Create two variations with the keyboard only, and wait for them."""
    tab.locator("#n").select_option("2")
    tab.locator("#response_format").select_option(response_format)
    tab.locator("#response_format").focus()
    if tab.locator("#key").is_visible():
        tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.get_by_text("2 of 2 created.").wait_for()


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_the_page_makes_variations(
    browser: Browser, tmp_path: Path, width: int, scheme: str
) -> None:
    """The page crops and sends a photo, shows an error, and shows variations that can be saved."""
    app = create_app("instant", store_dir=tmp_path / "store", api_key=KEY)
    with (
        serving(app) as address,
        browser.new_page(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,  # type: ignore[arg-type]  # one of the two
        ) as tab,
    ):
        failures: list[str] = []
        tab.on("pageerror", lambda error: failures.append(str(error)))
        tab.goto(address)
        # Not by a click: Playwright would wait until the button is enabled.
        tab.locator("#go").press("Enter")
        assert tab.locator("#error").inner_text() == "Choose an image first."
        tab.locator("#file").set_input_files(photo(tmp_path))
        tab.locator("#preview").wait_for()
        assert "1600x1200, sent as a PNG of 1024x1024" in tab.locator("#note").inner_text()
        tab.locator("#go").click()
        error = tab.locator("#error")
        assert error.inner_text() == "This server requires an API key. Enter it first."
        assert tab.evaluate("document.activeElement.id") == "key"
        tab.keyboard.type("sk-wrong")
        tab.keyboard.press("Enter")
        tab.get_by_text("The API key in the request is incorrect").wait_for()
        tab.locator("#key").fill(KEY)
        for response_format in ("b64_json", "url"):
            create_two(tab, response_format)
            assert variations(tab).count() == 2
            assert tab.locator("#error").is_hidden()
            with tab.expect_download() as download:
                tab.get_by_label("Download 2").first.click()
            assert Image.open(io.BytesIO(download.value.path().read_bytes())).size == (512, 512)
        for language, words in {"curl": "-F n=2", "JavaScript": "createVariation"}.items():
            tab.get_by_role("button", name=language).click()
            assert words in tab.locator("#code").inner_text()
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        if folder := os.environ.get("IMAGE_VARIATION_SCREENSHOTS"):
            tab.screenshot(path=f"{folder}/{width}-{scheme}.png", full_page=True)
    assert not failures


def test_the_page_works_below_a_path(browser: Browser, tmp_path: Path) -> None:
    """Mounted in another app, the page calls the app and fetches its results where they are."""
    app = Starlette(routes=[Mount("/img", create_app("instant", store_dir=tmp_path / "store"))])
    with serving(app) as address, browser.new_page() as tab:
        tab.goto(f"{address}/img/")
        tab.locator("#file").set_input_files(photo(tmp_path))
        tab.locator("#preview").wait_for()
        create_two(tab, "url")
        assert variations(tab).count() == 2
        assert f"{address}/img/v1/images/variations" in tab.locator("#code").inner_text()


def test_a_file_that_is_not_an_image_is_not_sent(browser: Browser, tmp_path: Path) -> None:
    """For a file that is not an image, the page says so and sends nothing."""
    (tmp_path / "notes.txt").write_text("not an image")
    with (
        serving(create_app("instant", store_dir=tmp_path / "store")) as address,
        browser.new_page() as tab,
    ):
        tab.goto(address)
        tab.locator("#file").set_input_files(tmp_path / "notes.txt")
        tab.get_by_text("notes.txt is not an image that this browser can read").wait_for()


class VaryingEngine(InstantEngine):
    """Returns a different image each time. Each call but the first waits for a permit."""

    def __init__(self, fail_at: int = 0) -> None:
        self.permits = threading.Semaphore(1)
        self.counts: list[int] = []
        self.max_running = 0
        self.two_running = threading.Event()
        self._fail_at = fail_at
        self._running = 0

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Wait for a permit, and answer."""
        self.counts.append(request.n)
        number = len(self.counts)
        self._running += 1
        self.max_running = max(self.max_running, self._running)
        if self._running == 2:
            self.two_running.set()
        self.permits.acquire(timeout=30)
        self._running -= 1
        if number == self._fail_at:
            raise ContentPolicyError("This image is not allowed.")
        source = SquarePNG(square_png(number))
        return super().create_variation(request.model_copy(update={"image": source}))


@contextmanager
def open_page(browser: Browser, tmp_path: Path, engine: Any) -> Iterator[Page]:
    """Open the page in a browser, and drop a photo on it."""
    with (
        serving(create_app(engine, store_dir=tmp_path / "store", workers=4)) as address,
        browser.new_page() as tab,
    ):
        tab.goto(address)
        drop(tab, photo(tmp_path))
        tab.locator("#preview").wait_for()
        tab.locator("#n").select_option("4")
        yield tab


def drop(tab: Page, path: Path) -> None:
    """Drop a file anywhere on the page."""
    transfer = tab.evaluate_handle(
        """([name, data]) => {
            const transfer = new DataTransfer();
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], name));
            return transfer;
        }""",
        [path.name, base64.b64encode(path.read_bytes()).decode()],
    )
    for event in ("dragover", "drop"):
        tab.dispatch_event("h1", event, {"dataTransfer": transfer})


def test_variations_are_shown_one_by_one(browser: Browser, tmp_path: Path) -> None:
    """Each variation is shown when it is ready, with at most two calls at once."""
    engine = VaryingEngine()
    with open_page(browser, tmp_path, engine) as tab:
        tab.locator("#go").click()
        for count in range(1, 5):
            if count < 4:
                tab.get_by_text(f"{count} of 4 created…").wait_for()
            else:
                tab.get_by_text("4 of 4 created.").wait_for()
            assert variations(tab).count() == count
            # The page requests the next one when this one is shown.
            engine.two_running.wait(timeout=30)
            engine.permits.release()
        links = [item.get_attribute("src") for item in variations(tab).all()]
        assert len(set(links)) == 4
    assert engine.counts == [1, 1, 1, 1]
    assert engine.max_running == 2


def test_finished_variations_stay_after_a_failure(browser: Browser, tmp_path: Path) -> None:
    """Finished variations stay when the page shows an error or the user stops."""
    engine = VaryingEngine(fail_at=2)
    for _ in range(3):
        engine.permits.release()
    with open_page(browser, tmp_path, engine) as tab:
        tab.locator("#go").click()
        tab.get_by_text("This image is not allowed.").wait_for()
        tab.get_by_text(re.compile(r"[1-3] of 4 created\.")).wait_for()
        while engine.permits.acquire(blocking=False):
            pass
        tab.get_by_role("button", name="Create variations").click()
        tab.get_by_role("button", name="Stop").click()
        tab.get_by_text("0 of 4 created.").wait_for()
        assert tab.locator("#error").is_hidden()
        engine.permits.release(2)


def test_a_repeating_engine_gets_one_call(browser: Browser, tmp_path: Path) -> None:
    """An engine that repeats itself gets one call, which returns different images."""
    with open_page(browser, tmp_path, "instant") as tab:
        tab.locator("#go").click()
        tab.get_by_text("4 of 4 created.").wait_for()
        images = tab.evaluate(
            """() => Promise.all([...document.querySelectorAll("#results img[alt^=Variation]")].map(
                async (image) => {
                    await image.decode();
                    const canvas = document.createElement("canvas");
                    canvas.getContext("2d").drawImage(image, 0, 0);
                    return canvas.toDataURL();
                }))"""
        )
    assert len(set(images)) == 4


READ_PIXELS = """async (image) => {
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas.toDataURL();
}"""


def create_four_of_the_sample(tab: Page, **options: str) -> list[str]:
    """Create four variations of the sample photo, and return their pixels."""
    tab.locator("#sample").click()
    tab.get_by_text("Sample photo: 640x640").wait_for()
    tab.locator("#size").select_option("256x256")
    for name, value in options.items():
        tab.locator(f"#{name}").fill(value)
    tab.locator("#go").click()
    tab.get_by_text("4 of 4 created.").wait_for()
    return [image.evaluate(READ_PIXELS) for image in variations(tab).all()]


def test_a_seed_repeats_variations(browser: Browser, tmp_path: Path) -> None:
    """A seed repeats the variations, and the code shows it. An invalid seed is not sent."""
    app = create_app("local", store_dir=tmp_path, accept_fields=["strength"])
    with serving(app) as address, browser.new_page() as tab:
        tab.goto(address)
        assert tab.locator("#strength-value").inner_text() == "0.5"
        options = {"seed": "7", "strength": "0.2"}
        images = create_four_of_the_sample(tab, **options)
        assert create_four_of_the_sample(tab, **options) == images
        assert create_four_of_the_sample(tab, **options | {"seed": "8"})[:3] == images[1:]
        assert create_four_of_the_sample(tab, **options | {"strength": "0.6"}) != images
        captions = tab.locator(".round").last.locator(".caption span").all_inner_texts()
        assert captions == ["Original", *(f"{i} · seed {6 + i}" for i in range(1, 5))]
        assert "-F strength=0.6 -F seed=7" in tab.locator("#code").inner_text()
        tab.get_by_role("button", name="Python").click()
        assert 'extra_body={"seed": 7, "strength": 0.6}' in tab.locator("#code").inner_text()
        tab.locator("#seed").fill("seven")
        tab.locator("#go").click()
        assert tab.locator("#error").inner_text() == "Seed must be a whole number, or empty."


def test_a_variation_can_be_compared_and_varied(browser: Browser, tmp_path: Path) -> None:
    """A click enlarges a variation, next to its original. A variation can be varied in turn."""
    app = create_app("local", store_dir=tmp_path, accept_fields=["strength"])
    with serving(app) as address, browser.new_page() as tab:
        failures: list[str] = []
        tab.on("pageerror", lambda error: failures.append(str(error)))
        tab.goto(address)
        images = create_four_of_the_sample(tab, strength="0.3")
        tab.get_by_label("Enlarge variation 2").click()
        assert tab.locator("#large").evaluate(READ_PIXELS) == images[1]
        left = "(split) => getComputedStyle(split).clipPath"
        assert tab.locator("#large").evaluate(left) == "inset(0px 0px 0px 0%)"
        tab.locator("#split").fill("40")
        assert tab.locator("#large").evaluate(left) == "inset(0px 0px 0px 40%)"
        assert tab.locator("dialog .ends").inner_text().split("\n") == ["← original", "variation →"]
        box = tab.locator("#stage").bounding_box()
        assert box is not None
        middle = box["y"] + box["height"] / 2
        tab.mouse.move(box["x"] + box["width"] * 0.4, middle)
        tab.mouse.down()
        tab.mouse.move(box["x"] + box["width"] * 0.7, middle)
        tab.mouse.up()
        tab.mouse.move(box["x"] + box["width"] * 0.1, middle)
        assert tab.locator("#large").evaluate(left) == "inset(0px 0px 0px 70%)"
        assert tab.locator("#split").input_value() == "70"
        tab.locator("#next").click()
        tab.keyboard.press("ArrowRight")
        assert tab.locator("#large").evaluate(READ_PIXELS) == images[3]
        tab.keyboard.press("ArrowRight")
        assert tab.locator("#viewer-title").inner_text() == "Original: Sample photo"
        tab.keyboard.press("ArrowLeft")
        tab.get_by_role("button", name="Vary this one").click()
        tab.get_by_role("heading", name="Variation 4 of Sample photo").wait_for()
        tab.get_by_text("4 of 4 created.").wait_for()
        assert tab.locator("#viewer").is_hidden()
        assert tab.locator(".round").count() == 2
        original = tab.locator(".round").first.locator("img").first
        assert original.evaluate(READ_PIXELS) == images[3]
        tab.get_by_label("Enlarge variation 1").first.click()
        tab.keyboard.press("Escape")
        assert tab.locator("#viewer").is_hidden()
    assert not failures


class SteppingEngine(InstantEngine):
    """Reports 40 % of the work, and waits for a permit before it answers."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Report, wait for a permit, and answer."""
        progress_reporter().work_done(0.4)
        self.permits.acquire(timeout=30)
        return super().create_variation(request)


@pytest.mark.parametrize("api_key", [None, KEY])
def test_each_variation_shows_its_progress(
    browser: Browser, tmp_path: Path, api_key: str | None
) -> None:
    """On a phone, the page scrolls to the variations, and each shows its progress."""
    engine = SteppingEngine()
    app = create_app(engine, store_dir=tmp_path / "store", workers=1, api_key=api_key)
    phone: Any = {"width": 390, "height": 800}
    with serving(app) as address, browser.new_page(viewport=phone) as tab:
        tab.goto(address)
        assert tab.locator("#key").is_visible() == (api_key is not None)
        if api_key is not None:
            tab.locator("#key").fill(api_key)
        tab.locator("#sample").click()
        tab.locator("#preview").wait_for()
        tab.locator("#n").select_option("2")
        tab.locator("#go").click()
        tab.get_by_text("40 %").wait_for()
        waiting = tab.locator(".wait span").all_inner_texts()
        assert sorted(waiting) == ["40 %", "Waiting…"]
        shares = [bar.evaluate("(bar) => bar.value") for bar in tab.locator("progress").all()]
        assert sorted(shares) == [0, 0.4]
        tab.wait_for_function(
            "document.querySelector('#results').getBoundingClientRect().top < 100"
        )
        # Once for each of the two, and once more if they turn out the same.
        engine.permits.release(3)
        tab.get_by_text("2 of 2 created.").wait_for()
        assert tab.locator(".wait").count() == 0


REBOUND = """async (png) => {
    const form = new FormData();
    form.append("image", new Blob([Uint8Array.from(png)], {type: "image/png"}), "a.png");
    form.append("size", "256x256");
    form.append("response_format", "b64_json");
    const options = {"/v1/images/variations": {method: "POST", body: form}};
    const answers = {};
    for (const path of ["/", "/v1/models", "/metrics", "/openapi.json", "/v1/images/variations"]) {
        const answer = await fetch(path, options[path]);
        answers[path] = [answer.status, await answer.text()];
    }
    return answers;
}"""


@pytest.mark.parametrize("options", [{}, {"public_url": "https://img.example"}], ids=str)
def test_a_page_under_a_rebound_name_is_refused(
    browser: Browser, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Only the server can refuse a rebound name, which is the page's own origin in a browser."""
    rules = "--host-resolver-rules=MAP evil.example 127.0.0.1"
    with (
        serving(create_app("instant", store_dir=tmp_path / "store", **options)) as address,
        browser.browser_type.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", rules]
        ) as other_browser,
        other_browser.new_page() as tab,
    ):
        for host, code in (("127.0.0.1", 200), ("evil.example", 403)):
            origin = address.replace("127.0.0.1", host)
            # A document of that origin. Its owner could have written the script.
            tab.goto(f"{origin}/nothing")
            answers = tab.evaluate(REBOUND, list(square_png(64)))
            assert {path: answer[0] for path, answer in answers.items()} == dict.fromkeys(
                answers, code
            )
            assert all(("no API key" in text) == (code == 403) for _, text in answers.values())
