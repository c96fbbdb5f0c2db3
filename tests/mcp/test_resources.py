import base64
from pathlib import Path

import pytest
from PIL import Image

from langchain_image_variation.output.names import RESULT_NAME
from pytest_image_variation.samples import square_png
from tests.mcp.serving import create, serve

from mcp import Client, MCPError  # isort: skip  # not before the module that skips without it
from mcp_types import BlobResourceContents


async def test_a_result_is_a_resource(root: Path) -> None:
    """The whole PNG file is read by the URI in the answer, and only then."""
    server = serve(root, thumbnail="none")
    image = (await create(server)).structured_content["images"][0]
    async with Client(server) as client:
        (content,) = (await client.read_resource(image["uri"])).contents
        (resource,) = (await client.list_resources()).resources
        (template,) = (await client.list_resource_templates()).resource_templates
    assert isinstance(content, BlobResourceContents)
    assert base64.b64decode(content.blob) == (root / image["path"]).read_bytes()
    assert content.mime_type == resource.mime_type == template.mime_type == "image/png"
    assert (resource.uri, resource.name) == (image["uri"], image["name"])
    assert template.uri_template.replace("{name}", image["name"]) == image["uri"]


@pytest.mark.parametrize(
    "name",
    [
        *("cat", "cat.png", "../cat", "..%2Fcat", "%2e%2e/cat", "", "%00", "x" * 100_000),
        *("variations/cat-0123abcd-1", "/etc/passwd", "link-0123abcd-1", "gone-0123abcd-1"),
    ],
)
async def test_only_results_are_resources(root: Path, name: str) -> None:
    """A URI leads to no other file, not even by a link in the folder of results."""
    secret = root.parent / "secret.png"
    secret.write_bytes(square_png(32))
    (root / "variations").mkdir()
    (root / "variations" / "link-0123abcd-1.png").symlink_to(secret)
    (root / "cat-0123abcd-1.png").write_bytes(square_png(8))
    async with Client(serve(root)) as client:
        with pytest.raises(MCPError, match="There is no result") as caught:
            await client.read_resource(f"image-variation://results/{name}")
    assert caught.value.code == -32602
    assert str(root) not in str(caught.value)
    assert len(str(caught.value)) < 300


async def test_a_large_file_is_refused(root: Path) -> None:
    """A resource has a limit, which the error names, with the folder of the file."""
    (root / "variations").mkdir()
    path = root / "variations" / "big-0123abcd-1.png"
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(16 * 1024 * 1024 + 1)
    async with Client(serve(root)) as client:
        with pytest.raises(MCPError, match="exceeds the limit of 16,777,216 bytes") as caught:
            await client.read_resource("image-variation://results/big-0123abcd-1")
    assert "variations/" in str(caught.value)


async def test_the_list_has_a_limit(root: Path) -> None:
    """The list has the newest results only, but older ones can be read."""
    (root / "variations").mkdir()
    names = [f"a-0123abcd-{index}" for index in range(120)]
    for name in names:
        assert RESULT_NAME.fullmatch(f"{name}.png")
        Image.new("RGB", (1, 1)).save(root / "variations" / f"{name}.png")
    async with Client(serve(root)) as client:
        listed = [resource.name for resource in (await client.list_resources()).resources]
        assert len(listed) == 100
        (left_out, *_) = set(names) - set(listed)
        assert (await client.read_resource(f"image-variation://results/{left_out}")).contents


async def test_other_uris_are_unknown(root: Path) -> None:
    """Other URIs are not opened."""
    (root / "variations").mkdir()
    async with Client(serve(root)) as client:
        for uri in (f"file://{root}/cat.png", "https://example.com/a.png"):
            with pytest.raises(MCPError, match="Unknown resource"):
                await client.read_resource(uri)
