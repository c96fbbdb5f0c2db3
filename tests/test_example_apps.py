"""The apps in examples/ in a real browser, as their users start them.

No test here is async: the browser's sync API has a loop running in the thread.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import Browser, Page

from tests.chromium import CHROMIUM
from tests.server.ports import free_port

EXAMPLES = Path(__file__).parent.parent / "examples"
PHOTO = EXAMPLES / "tea-garden.jpg"
WAIT_SECONDS = 180
"""How long an app may take to start or to answer. On a busy machine, importing takes minutes."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@contextmanager
def open_app(browser: Browser, folder: Path, *arguments: str) -> Iterator[Page]:
    """Run a Python program that serves an app at `{port}`, and open the app."""
    port = free_port()
    settings = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false",
    }
    command = [sys.executable, *(argument.format(port=port) for argument in arguments)]
    with (
        (folder / "log").open("xb") as log,
        subprocess.Popen(
            command, cwd=folder, env={**os.environ, **settings}, stdout=log, stderr=log
        ) as process,
    ):
        try:
            deadline = time.monotonic() + WAIT_SECONDS
            while time.monotonic() < deadline and process.poll() is None:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.1)
            with browser.new_page(viewport={"width": 1100, "height": 900}) as tab:
                tab.set_default_timeout(WAIT_SECONDS * 1000)
                tab.goto(f"http://127.0.0.1:{port}")
                yield tab
        except BaseException:
            print((folder / "log").read_text())
            raise
        finally:
            process.terminate()


def results(tab: Page, size: tuple[int, int], count: int) -> list[str]:
    """Wait until that many images of this size are shown. Return their alternative texts."""
    width, height = size
    shown = (
        "[...document.images].filter((image) => image.complete"
        f" && image.naturalWidth == {width} && image.naturalHeight == {height})"
    )
    tab.wait_for_function(f"{shown}.length == {count}")
    sources = tab.evaluate(f"{shown}.map((image) => image.src)")
    assert len(set(sources)) == count
    texts: list[str] = tab.evaluate(f"{shown}.map((image) => image.alt)")
    return texts


def keep_screenshot(tab: Page, name: str) -> None:
    """Save what the browser shows, if a developer wants to see it."""
    if folder := os.environ.get("IMAGE_VARIATION_SCREENSHOTS"):
        tab.screenshot(path=f"{folder}/{name}.png")


def saved_names(folder: Path) -> list[str]:
    """Return the names of all results, in the order of their numbers."""
    names = [path.stem for path in folder.glob("chat-images/variations/*/*.png")]
    return sorted(names, key=lambda name: name.rpartition("-")[2])


def test_the_streamlit_app_shows_images_and_mistakes(browser: Browser, tmp_path: Path) -> None:
    """The app shows progress, the images of each call with their names, and a mistake."""
    pytest.importorskip("streamlit")
    options = ("--server.headless=true", "--server.address=127.0.0.1", "--server.port={port}")
    app = ("-m", "streamlit", "run", str(EXAMPLES / "streamlit_app.py"), *options)
    with open_app(browser, tmp_path, *app) as tab:
        text = tab.get_by_placeholder("Make 4 variations")
        text.wait_for()
        tab.locator("input[type=file]").set_input_files(PHOTO)
        text.fill("Make 3 variations")
        tab.get_by_test_id("stChatInputSubmitButton").click()
        tab.get_by_text("3 of 3 images").wait_for()
        tab.get_by_text("Name one of them to vary it again.").wait_for()
        results(tab, (512, 512), 3)
        names = saved_names(tmp_path)
        captions = tab.get_by_test_id("stImageCaption")
        assert captions.all_inner_texts() == names
        keep_screenshot(tab, "streamlit")
        text.fill(f"Make 20 variations of {names[0]}")
        text.press("Enter")
        tab.get_by_text("n must be a whole number from 1 to 8, got 20.").wait_for()
        tab.get_by_text("That did not work.").wait_for()
        keep_screenshot(tab, "streamlit-error")
        (deleted,) = tmp_path.glob(f"chat-images/variations/*/{names[2]}.png")
        deleted.unlink()
        text.fill(f"Make 1 variation of {names[0]}")
        text.press("Enter")
        tab.get_by_text(f"The result '{names[2]}' was deleted or changed.").wait_for()
        results(tab, (512, 512), 3)


def test_the_gradio_app_shows_images_and_errors(browser: Browser, tmp_path: Path) -> None:
    """The app shows progress, the images in the shape of the photo, and errors."""
    pytest.importorskip("gradio")
    with open_app(browser, tmp_path, str(EXAMPLES / "gradio_app.py")) as tab:
        button = tab.get_by_role("button", name="Vary", exact=True)
        button.wait_for()
        tab.get_by_label("Remove Image").click()
        button.click()
        tab.get_by_text("Choose a photo first.").wait_for()
        tab.locator("input[type=file]").first.set_input_files(PHOTO)
        tab.get_by_alt_text("").first.wait_for()
        tab.get_by_label("number input for Variations").fill("3")
        tab.wait_for_function("[...document.images].some((image) => image.naturalWidth == 600)")
        # The progress is shown for a moment only.
        tab.evaluate(
            """() => new MutationObserver(() => {
                window.hasProgress ||= /[1-3]\\/3 images/.test(document.body.innerText);
            }).observe(document.body, {childList: true, characterData: true, subtree: true})"""
        )
        button.click()
        results(tab, (512, 341), 3)
        assert tab.evaluate("window.hasProgress")
        keep_screenshot(tab, "gradio")


def test_the_chainlit_app_shows_images_and_mistakes(browser: Browser, tmp_path: Path) -> None:
    """The app shows progress, the images of each call in order, and a mistake."""
    pytest.importorskip("chainlit")
    options = ("--headless", "--host=127.0.0.1", "--port={port}")
    app = ("-m", "chainlit", "run", str(EXAMPLES / "chainlit_app.py"), *options)
    with open_app(browser, tmp_path, *app) as tab:
        text = tab.locator("#chat-input")
        tab.get_by_text("Send a photo.").wait_for()
        tab.locator("input[type=file]").first.set_input_files(PHOTO)
        tab.get_by_text("tea-garden.jpg").or_(tab.get_by_alt_text("tea-garden.jpg")).wait_for()
        text.click()
        tab.keyboard.type("Make 3 variations")
        tab.locator("#chat-submit").click()
        tab.get_by_text("Name one of them to vary it again.").wait_for()
        names = saved_names(tmp_path)
        tab.get_by_text(f"3 of 3 images: {', '.join(names)}").wait_for()
        assert results(tab, (512, 512), 3) == names
        keep_screenshot(tab, "chainlit")
        text.click()
        tab.keyboard.type("Make 20 variations")
        tab.locator("#chat-submit").click()
        tab.get_by_text("n must be a whole number from 1 to 8, got 20.").wait_for()
        tab.get_by_text("That did not work.").wait_for()
        keep_screenshot(tab, "chainlit-error")
