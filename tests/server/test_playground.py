import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.server import create_app


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep each element."""
        self.elements.append((tag, dict(attrs)))


async def page(
    tmp_path: Path, engine: Any = "instant", path: str = "/", **settings: Any
) -> httpx.Response:
    """Return the response at a path of the app."""
    transport = httpx.ASGITransport(create_app(engine, store_dir=tmp_path, **settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.get(path)


async def test_only_its_own_script_runs(tmp_path: Path) -> None:
    """The page's policy allows only its own script and style, by their hashes."""
    answer = await page(tmp_path)
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    for kind in ("script", "style"):
        (text,) = re.findall(rf"<{kind}>(.*?)</{kind}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|style=""", answer.text)


async def test_every_control_has_a_name(tmp_path: Path) -> None:
    """Each control of the page has a label, and the element that describes it exists."""
    parser = _Elements()
    parser.feed((await page(tmp_path)).text)
    label_targets = {attributes.get("for") for tag, attributes in parser.elements if tag == "label"}
    names = {attributes["id"] for _, attributes in parser.elements if "id" in attributes}
    controls = [a for tag, a in parser.elements if tag in ("input", "select")]
    assert len(controls) == 8
    for attributes in controls:
        assert attributes["id"] in label_targets
        assert attributes.get("aria-describedby", "note") in names
    assert ("html", {"lang": "en"}) in parser.elements
    assert any(attributes.get("name") == "viewport" for _, attributes in parser.elements)


@pytest.mark.parametrize(
    ("engine", "settings", "expected"),
    [
        ("instant", {"api_key": "sk-right"}, {"options": {}, "requires_key": True}),
        (LocalEngine(seed=7), {}, {"options": {"seed": 7}, "requires_key": False}),
        (
            LocalEngine(seed=7, strength=0.25),
            {"accept_fields": ["strength"]},
            {"options": {"seed": 7, "strength": 0.25}, "requires_key": False},
        ),
    ],
)
async def test_the_page_knows_the_engines_options(
    tmp_path: Path, engine: Any, settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    """The page contains the options that a request may set, with the engine's values."""
    parser = _Elements()
    parser.feed((await page(tmp_path, engine, **settings)).text)
    contents = {a.get("name"): a.get("content") for tag, a in parser.elements if tag == "meta"}
    assert json.loads(contents["settings"] or "") == expected


async def test_the_sample_is_a_photo(tmp_path: Path) -> None:
    """The sample is a square JPEG without metadata."""
    answer = await page(tmp_path, path="/sample.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    image = Image.open(io.BytesIO(answer.content))
    image.load()
    assert (image.format, image.size) == ("JPEG", (640, 640))
    assert not image.getexif()
