"""Texts for models: images that cannot be used, and no advice that only developers can use."""

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from langchain_image_variation import URLPolicy, exceptions
from langchain_image_variation.agents.failure_log import log_hint
from langchain_image_variation.agents.failures import text_for_model
from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.exceptions import (
    ToolCallError,
)
from pytest_image_variation.samples import jpeg, square_png
from tests.agents.conversing import Talk
from tests.agents.failing import (
    FOR_DEVELOPERS,
    KEY,
    LOGGER,
    TREE,
    check_clean,
    error_records,
)
from tests.agents.file_systems import bucket
from tests.agents.scripted import call


@pytest.fixture(autouse=True)
def _forget_hints() -> None:
    log_hint.cache_clear()


@contextmanager
def without_heif() -> Iterator[None]:
    """Simulate that the extra `heif` is not installed."""
    module = sys.modules.get("pillow_heif")
    sys.modules["pillow_heif"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["pillow_heif"]
        if module is not None:
            sys.modules["pillow_heif"] = module


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + b"\0" * 64


def _link(url: str) -> HumanMessage:
    return HumanMessage([{"type": "image", "url": url}])


def _not_found(host: str, port: int) -> list[str]:
    raise OSError(f"{host} {KEY}")


SOURCES: dict[str, tuple[Any, dict[str, Any], str, str | None]] = {
    "unknown": ("dog.png", {}, "There is no image 'dog.png' here.", None),
    "absolute": ("{root}/dog.png", {}, "There is no image 'dog.png' here.", None),
    "corrupt": ("corrupt.png", {}, "corrupt.png: image is a corrupt PNG", None),
    "empty": ("empty.png", {}, "empty.png: The source is empty", None),
    "text": ("notes.png", {}, "notes.png: The source is text", None),
    "strict": ("photo.jpg", {"fit": "strict"}, "photo.jpg: image is not a PNG", "fit='crop'"),
    "link": (
        _link("https://example.com/a.png"),
        {},
        "This image is only a link, which this tool may not open. Ask the user to upload the image",
        "urls=URLPolicy",
    ),
    "host": (
        _link("https://example.org/a.png"),
        {"urls": URLPolicy(hosts=["example.com"])},
        "The host 'example.org' is not allowed. Ask the user to upload the image itself.",
        "If you trust it, add it to URLPolicy(hosts=[...]).",
    ),
    "no host": (
        _link("https://example.com/a.png"),
        {"urls": URLPolicy(hosts=["example.com"], resolve=_not_found)},
        "The host 'example.com' does not exist; check the URL. Ask the user to upload",
        None,
    ),
    "private": (
        _link("https://example.com/a.png"),
        {"urls": URLPolicy(hosts=["example.com"], resolve=lambda *_: ["127.0.0.1"])},
        "The host 'example.com' has an address that is not public. Ask the user to upload",
        "Download the image yourself.",
    ),
    "address": (
        _link("https://127.0.0.1/a.png"),
        {"urls": URLPolicy(hosts=["example.com"])},
        "Images are fetched by host name, never by IP address. Ask the user to upload",
        None,
    ),
    "HEIC": (
        "photo.heic",
        {},
        "This kind of image cannot be read here. Ask the user for a PNG or JPEG.",
        "[heif]",
    ),
}


@pytest.mark.parametrize("name", SOURCES)
async def test_an_unusable_image_is_a_mistake(
    root: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """An unusable image is answered as text, and advice for the developer is logged once."""
    image, settings, text, hint = SOURCES[name]
    (root / "corrupt.png").write_bytes(square_png()[:100])
    (root / "empty.png").write_bytes(b"")
    (root / "notes.png").write_bytes(b"not an image")
    (root / "photo.jpg").write_bytes(jpeg())
    (root / "photo.heic").write_bytes(HEIC)
    tool = ImageVariationTool(root_dir=root, engine="instant", **settings)
    with without_heif():
        for _ in range(2):
            talk = Talk(tool, None, *([] if isinstance(image, str) else [image]))
            handle = image.format(root=root) if isinstance(image, str) else "latest"
            for message in (talk.vary(handle), await talk.avary(handle)):
                assert message.status == "error"
                assert text in message.text
                assert not FOR_DEVELOPERS.search(message.text)
                check_clean(message.text, root)
    assert error_records(caplog) == []
    warnings = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert [hint in warning for warning in warnings if hint] == ([True] if hint else [])
    check_clean(caplog.text, root)


def test_texts_of_images_have_no_advice_for_developers() -> None:
    """No error about an image has a developer's word outside its hint."""
    package = Path(exceptions.__file__).parent
    agents = (
        "reachable_images",
        "image_choices",
        "arguments",
        "image_folder",
        "conversation",
        "message_image",
        "failures",
    )
    paths = [
        *(package / "images").rglob("*.py"),
        *(package / "source").rglob("*.py"),
        *(package / "http" / f"{name}.py" for name in ("address", "fetch")),
        *(package / "agents" / f"{name}.py" for name in agents),
    ]
    names = {"DownloadError", "InvalidImageError", "SourceError", "ToolCallError"}
    texts = []
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            # These two check a setting, when a tool is made.
            is_of_setting = any(
                keyword.arg == "param" and ast.literal_eval(keyword.value) in ("fit", "urls")
                for keyword in node.keywords
            )
            if node.func.id in names and node.args and not is_of_setting:
                texts += [
                    constant.value
                    for constant in ast.walk(node.args[0])
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
                ]
    assert len(texts) > 50
    assert [text for text in texts if FOR_DEVELOPERS.search(text)] == []
    for error_class in TREE:
        if error_class is not ToolCallError:
            assert not FOR_DEVELOPERS.search(text_for_model(error_class("x")))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"public_url": "https://files.example.com/variations", "cache": True},
        {"fit": "keep", "max_n": 1, "max_calls": 2},
        {"fixed_size": "256x256", "max_results": 1, "max_uploads": 0},
        {"output_dir": "bucket://kept"},
    ],
    ids=str,
)
def test_other_texts_have_no_advice_for_developers(root: Path, settings: dict[str, Any]) -> None:
    """Descriptions, answers to a model and refusals have no developer's word either."""
    (root / "photo.jpg").write_bytes(jpeg())
    with bucket():
        tool = ImageVariationTool(root_dir=root, engine="instant", **settings)
        talk = Talk(tool, "t-1", _link("https://example.com/a.png"))
        schema: Any = tool.tool_call_schema
        fields = schema.model_json_schema()["properties"].values()
        texts = [tool.description, *(field["description"] for field in fields)]
        for image in ("photo.jpg", "photo.jpg", "nothing", "latest"):
            texts.append(talk.vary(image).text)
        for wrong in ({"n": 11}, {"n": "x"}, {"count": 1}, {"size": "1x1"}):
            texts.append(tool.invoke(call(image="photo.jpg", **wrong)).text)
    assert [text for text in texts if FOR_DEVELOPERS.search(text)] == []
