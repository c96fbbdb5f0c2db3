"""Results as resources of the protocol: whole PNG files, which a host reads when it needs them."""

from urllib.parse import quote, unquote

from mcp_types import Resource, ResourceTemplate

from langchain_image_variation.agents.results import Results
from langchain_image_variation.exceptions import ToolCallError, excerpt
from langchain_image_variation.output.names import RESULT_NAME

__all__ = [
    "MAX_RESOURCES",
    "MAX_RESOURCE_BYTES",
    "TEMPLATE",
    "is_result_uri",
    "list_results",
    "read_result",
    "result_name",
    "result_uri",
]

_PREFIX = "image-variation://results/"

MAX_RESOURCE_BYTES = 16 * 1024 * 1024
"""The maximum size of a resource in bytes. A PNG file of 1024x1024 pixels, the largest size of the
contract, has about 4 MiB at most, but some engines make larger images. The answer is base64, which
is a third longer, and both ends keep it in memory."""

MAX_RESOURCES = 100
"""The maximum number of resources to list, the newest first. Older ones can be read by name."""

TEMPLATE = ResourceTemplate(
    uri_template=f"{_PREFIX}{{name}}",
    name="result",
    title="A variation",
    description="The whole PNG file of a result, by its name.",
    mime_type="image/png",
)


def result_uri(handle: str) -> str:
    """Return the URI of a result."""
    return f"{_PREFIX}{quote(handle, safe='')}"


def is_result_uri(uri: str) -> bool:
    """Return whether a URI is that of a result, which may exist or not."""
    return uri.startswith(_PREFIX)


def result_name(image: str) -> str:
    """Return the name of a result if a model wrote its URI, or else the model's text."""
    uri = image.strip().strip("\"'`<>")
    return unquote(uri.removeprefix(_PREFIX)) if is_result_uri(uri) else image


def list_results(results: Results) -> list[Resource]:
    """Return the newest results, the newest first."""
    return [
        Resource(uri=result_uri(handle), name=handle, mime_type="image/png")
        for handle in results.newest_handles()[:MAX_RESOURCES]
    ]


def read_result(results: Results, uri: str) -> bytes:
    """Return the file of a result.

    Only names of results are looked up, so a URI cannot lead to another file.

    Raises:
        ToolCallError: If there is no such result, or if it is larger than `MAX_RESOURCE_BYTES`.
        ImageVariationError: If it cannot be read.
    """
    handle = unquote(uri.removeprefix(_PREFIX))
    file = results.open_handle(handle) if RESULT_NAME.fullmatch(f"{handle}.png") else None
    if file is None:
        raise ToolCallError(
            f"There is no result {excerpt(uri)}. Call list_images for the names of the results."
        )
    with file:
        data = file.read(MAX_RESOURCE_BYTES + 1)
    if len(data) > MAX_RESOURCE_BYTES:
        raise ToolCallError(
            f"{excerpt(handle)} exceeds the limit of {MAX_RESOURCE_BYTES:,} bytes. Open its file "
            f"in {results.location} instead."
        )
    return data
