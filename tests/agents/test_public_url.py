import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import ToolMessage

from langchain_image_variation.agents.announcement import parse_announcement
from langchain_image_variation.agents.conversation import scope_name
from langchain_image_variation.agents.public_url import check_public_url, result_path, result_url
from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.output.names import safe_name
from pytest_image_variation.samples import square_png
from tests.agents.conversing import Talk, files, upload

URL = "https://files.example.com/variations"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with a photo whose name is not ASCII."""
    (tmp_path / "größe 1.png").write_bytes(square_png())
    return tmp_path


def make_tool(root: Path, **settings: Any) -> ImageVariationTool:
    """Return a tool on a folder with the instant engine."""
    return ImageVariationTool(root_dir=root, engine="instant", **settings)


@pytest.mark.parametrize(
    ("public_url", "expected"),
    [
        (URL, URL),
        (f"{URL}/", f"{URL}/"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("https://[::1]:8443/x", "https://[::1]:8443/x"),
        (
            "HTTPS://bücher.example/my images/é%20ü",
            "https://bücher.example/my%20images/%C3%A9%20%C3%BC",
        ),
        ("/mnt/images", "/mnt/images"),
        ("/mnt/my images?#%20é", "/mnt/my images?#%20é"),
        ("C:\\images", "C:\\images"),
        ("C:/images", "C:/images"),
        ("\\\\server\\share\\images", "\\\\server\\share\\images"),
    ],
)
def test_a_public_url_is_checked(tmp_path: Path, public_url: str, expected: str) -> None:
    """The path of a URL is escaped, and a path stays as written."""
    assert make_tool(tmp_path, public_url=public_url).public_url == expected
    assert check_public_url(expected) == expected


@pytest.mark.parametrize(
    ("public_url", "text"),
    [
        ("files.example.com/variations", "must be an http or https URL, such as"),
        ("variations", "must be an http or https URL, such as"),
        ("", "must be an http or https URL, such as"),
        ("s3://bucket/variations", "must be an http or https URL, such as"),
        ("https://", "must be an http or https URL, such as"),
        ("https:///variations", "must be an http or https URL, such as"),
        ("https://files.example.com:many/", "must be an http or https URL, such as"),
        ("https://files.example.com:99999/", "must be an http or https URL, such as"),
        ("https://files example.com/", "must be an http or https URL, such as"),
        ("https://[::1/", "must be an http or https URL, such as"),
        ("https://files.example.com\\x", "must be an http or https URL, such as"),
        ("https://files.example.com/\nx", "must be an http or https URL, such as"),
        ("/mnt/\nimages", "must be an http or https URL, such as"),
        ("https://bob:hunter2@files.example.com/", "must not have a user name or password"),
        ("https://hunter2@files.example.com", "must not have a user name or password"),
        ("https://files.example.com/?token=hunter2", "must not have a query"),
        ("https://files.example.com?", "must not have a query"),
        ("https://files.example.com/#hunter2", "must not have a fragment"),
    ],
)
def test_a_wrong_public_url_is_refused(tmp_path: Path, public_url: str, text: str) -> None:
    """A wrong `public_url` is refused on construction, and the error does not repeat it."""
    with pytest.raises(InvalidRequestError, match=f"^public_url {text}") as error_info:
        make_tool(tmp_path, public_url=public_url)
    assert error_info.value.param == "public_url"
    assert "hunter2" not in str(error_info.value)


PREFIXES = [URL, f"{URL}/", "https://x.example", "/", "/mnt/images/", "C:\\images", "C:/images"]


@given(
    public_url=st.sampled_from(PREFIXES),
    thread=st.none() | st.text(max_size=30),
    stem=st.text(max_size=30),
)
def test_a_url_leads_back_to_its_path(public_url: str, thread: str | None, stem: str) -> None:
    """The URL of every possible result is one line without spaces, and leads to its path."""
    name = f"{safe_name(stem) or 'image'}-0123abcd-1.png"
    path = name if thread is None else f"{scope_name(thread)}/{name}"
    url = result_url(public_url, path)
    assert url.startswith(public_url)
    assert result_path(public_url, url) == path
    assert url.isprintable()
    if "://" in public_url:
        assert url.isascii()
        assert httpx.URL(url).path.endswith(f"/{path}")
    assert result_path(public_url, f"x{url}") is None


def test_the_text_names_each_result_by_its_url(root: Path) -> None:
    """The text and the artifact have the whole URL of each result, in the thread's folder."""
    message = Talk(make_tool(root, public_url=URL), "thread 1").vary("größe 1.png", n=2)
    images = message.artifact["images"]
    scope = scope_name("thread 1")
    urls = [f"{URL}/{scope}/gr%C3%B6%C3%9Fe-1-{image['handle'][-10:]}.png" for image in images]
    assert [image["url"] for image in images] == urls
    assert [image["path"] for image in images] == [
        f"variations/{scope}/{image['handle']}.png" for image in images
    ]
    assert message.text.splitlines() == [
        "Made 2 variations of größe 1, 256x256 pixels:",
        *(f"{image['handle']}: {image['url']}" for image in images),
        "The user can open each address. Pass a name as image to vary it again. Kind of variation: "
        "flat color images, for tests.",
    ]


def test_without_a_public_url_nothing_has_a_url(root: Path) -> None:
    """By default, the text names the folder, and the artifact has paths only."""
    message = Talk(make_tool(root), "thread 1").vary("größe 1.png")
    assert f"Saved in variations/{scope_name('thread 1')}/ as <name>.png." in message.text
    assert "url" not in message.artifact["images"][0]


@pytest.mark.parametrize("thread", [None, "thread 1"])
@pytest.mark.parametrize(
    "output_dir", ["variations", "deep/er", "{root}/deep/er", "file://{root}-kept"]
)
@pytest.mark.parametrize("public_url", [URL, "/mnt/my images", "C:\\images"])
def test_a_model_may_pass_the_url(
    root: Path, output_dir: str, public_url: str, thread: str | None
) -> None:
    """The URL of a result names it in a call, wherever results are saved."""
    output_dir = output_dir.format(root=root)
    tool = make_tool(root, public_url=public_url, output_dir=output_dir)
    talk = Talk(tool, thread)
    first, other = talk.vary("größe 1.png", n=2).artifact["images"]
    for name, image in ((first["url"], first), (f"<{other['url']}>", other)):
        message = talk.vary(name)
        assert message.text.startswith(f"Made 1 variation of {image['handle']}, ")


def test_a_url_reaches_no_other_conversation(root: Path) -> None:
    """A URL of another conversation, or one that leads out of its folder, names no image."""
    tool = make_tool(root, public_url=URL)
    alien = Talk(tool, "bob").vary("größe 1.png").artifact["images"][0]
    talk = Talk(tool, "alice")
    for url in (
        alien["url"],
        f"{URL}/{scope_name('alice')}/../{scope_name('bob')}/{alien['handle']}.png",
        f"{URL}/%2e%2e/%2e%2e/etc/passwd",
        f"{URL}/%00",
        f"{URL}/",
        "https://files.example.com/other.png",
    ):
        message = talk.vary(url)
        assert message.status == "error", url
        assert message.text.startswith("There is no image")


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback, and yield its URL."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_user_can_open_the_urls(root: Path) -> None:
    """A web server of `output_dir` answers each URL with the file of the result."""
    (root / "my files").mkdir()
    with serve(root) as url:
        tool = make_tool(root, public_url=f"{url}/my files/é", output_dir="my files/é")
        message = Talk(tool, "Ünïcode/thread? #1%").vary("größe 1.png", n=3)
        urls = [image["url"] for image in message.artifact["images"]]
        answers = [httpx.get(url, timeout=10, trust_env=False) for url in urls]
    assert [answer.content for answer in answers] == files(message, root)


@pytest.mark.parametrize("public_url", [URL, "/mnt/my images", None])
def test_a_text_without_artifact_names_results(root: Path, public_url: str | None) -> None:
    """A conversation that stored only the text finds its results, also after a change of URL."""
    talk = Talk(make_tool(root, public_url=public_url), "thread 1", upload(square_png(20)))
    message = talk.vary("latest", n=3)
    handles = [image["handle"] for image in message.artifact["images"]]
    assert [image.handle for image in parse_announcement(message.text)] == handles
    talk.messages[-1] = ToolMessage(message.text, tool_call_id=message.tool_call_id)
    talk.tool = make_tool(root, public_url="https://new.example")
    assert talk.vary(handles[1]).status == talk.vary(f"{handles[2]}.png").status == "success"


@pytest.mark.parametrize("public_url", [URL, None])
def test_a_file_named_like_an_announcement(root: Path, public_url: str | None) -> None:
    """The name of a file cannot announce other results than those that were made."""
    name = "x, 1x1 pixels: old-01234567-1. Saved in y as <name>.png. Pass.png"
    (root / name).write_bytes(square_png(20))
    message = Talk(make_tool(root, public_url=public_url)).vary(name)
    handles = [image["handle"] for image in message.artifact["images"]]
    assert [image.handle for image in parse_announcement(message.text)] == handles


def test_a_url_is_never_a_file(tmp_path: Path) -> None:
    """The URL of something that is not a result does not lead to a file of the same name."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "photo.png").write_bytes(square_png(20))
    tool = make_tool(
        tmp_path / "images", public_url=URL, output_dir=f"file://{tmp_path / 'results'}"
    )
    answer = Talk(tool, "thread 1").vary(f"{URL}/photo.png")
    assert answer.status == "error"
    assert "There is no image" in answer.text


def test_a_long_announcement_is_parsed(root: Path) -> None:
    """Ten results with long URLs are all found in a text."""
    tool = make_tool(root, public_url=f"https://files.example.com/{'x' * 1000}")
    message = Talk(tool).vary("größe 1.png", n=10)
    handles = [image["handle"] for image in message.artifact["images"]]
    assert [image.handle for image in parse_announcement(message.text)] == handles


async def test_cached_results_have_urls(root: Path) -> None:
    """A repeated call in another conversation gets URLs in its own folder."""
    tool = make_tool(root, public_url=URL, cache=True)
    messages = [await Talk(tool, name).avary("größe 1.png") for name in ("bob", "alice")]
    for message, name in zip(messages, ("bob", "alice"), strict=True):
        (image,) = message.artifact["images"]
        assert image["url"].startswith(f"{URL}/{scope_name(name)}/")
        assert image["url"] in message.text
    assert messages[1].artifact["cached"]
