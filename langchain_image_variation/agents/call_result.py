"""`CallResult`: what a call of the tool returns, once its variations are saved."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from langchain_image_variation.agents.announcement import announce_results
from langchain_image_variation.agents.image_blocks import encode_results
from langchain_image_variation.agents.message_image import normalize_name
from langchain_image_variation.agents.partial_response import keep_finished
from langchain_image_variation.agents.prepared_call import PreparedCall
from langchain_image_variation.agents.public_url import result_url
from langchain_image_variation.agents.usage import usage_metadata
from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.engines.auto import AUTO
from langchain_image_variation.engines.loading import engine_name
from langchain_image_variation.engines.traits import engine_variation_kind
from langchain_image_variation.output import cut_back
from langchain_image_variation.output.contact_sheet import ContactSheet
from langchain_image_variation.output.names import drop_suffix

__all__ = ["CallResult", "save_result"]


@dataclass(frozen=True, slots=True)
class CallResult:
    """What a call returns."""

    content: str
    """Text for the model: the handles of the new images, and what else it should know."""
    artifact: dict[str, Any]
    """Plain JSON for programs; see `ImageVariationTool`."""
    images: Sequence[bytes] = ()
    """The JPEG files that the message contains, after the text."""


def save_result(
    call: PreparedCall, response: ImagesResponse, *, is_awaited: bool = True
) -> CallResult:
    """Save the variations of a response, and describe them.

    Args:
        call: The call. If its response comes from the cache, nothing is added to the cache.
        response: The response of the engine or of the cache.
        is_awaited: Whether anybody waits for the result; see `keep_finished`.

    Raises:
        ImageVariationError: If a variation cannot be read or saved.
    """
    is_cached, failures = call.cached_response is not None, None
    if not is_cached:
        response, failures = keep_finished(
            cut_back(response, call.source), call.conversation_folder, is_awaited=is_awaited
        )
    saved_images = call.results.save(response, name=_result_name(call))
    if call.cache is not None and not is_cached and failures is None:
        call.cache.add(call.request, call.source.inset, saved_images, response)
    engine = call.settings.engine
    if not isinstance(engine, str) or engine == AUTO:
        engine = engine_name(call.engine)
    images: list[dict[str, Any]] = [
        {
            "handle": PurePosixPath(path).stem,
            "path": path,
            "sha256": image.sha256,
            "width": image.width,
            "height": image.height,
            "seed": image.seed,
            "engine": engine,
            "model": response.model,
            "created": response.created,
        }
        for path, image in saved_images
    ]
    recorded = {name: value for name, value in call.choices.items() if name != "name"}
    for item in images:
        item |= recorded
    if (public_url := call.settings.public_url) is not None:
        prefix = call.results.path_prefix
        for item in images:
            item["url"] = result_url(public_url, item["path"].removeprefix(prefix))
    artifact: dict[str, Any] = {"images": images}
    if response.note:
        artifact["note"] = response.note
    usage = usage_metadata(response)
    if usage is not None:
        artifact["usage_metadata"] = usage
    if is_cached:
        artifact["cached"] = True
    text = _content(call, response, images, failures)
    match call.settings.content:
        case "text":
            return CallResult(text, artifact)
        case "thumbnail":
            return CallResult(text, artifact, [ContactSheet.thumbnail(call.source, response)])
        case "blocks":
            return CallResult(text, artifact, encode_results(response))


def _result_name(call: PreparedCall) -> str:
    """Return what the names of the results begin with: the model's choice, or the source's name."""
    name = call.choices.get("name")
    if name is None:
        return call.source.name
    stem = drop_suffix(name)
    # A result with the name of an upload would be confused with it.
    return "image" if normalize_name(stem) else stem


def _content(
    call: PreparedCall,
    response: ImagesResponse,
    images: list[dict[str, Any]],
    failures: str | None,
) -> str:
    """Return the text for the model. `failures` is the sentence about the images that failed."""
    sentences = [
        announce_results(
            [image["handle"] for image in images],
            label=call.label,
            size=f"{images[0]['width']}x{images[0]['height']}",
            location=call.results.location,
            urls=None if call.settings.public_url is None else [image["url"] for image in images],
        )
    ]
    kind = engine_variation_kind(call.engine)
    if kind is not None:
        sentences.append(f"Kind of variation: {kind}.")
    if call.cached_response is not None:
        sentences.append("The same call was made before, with the same result.")
    sentences += filter(None, (failures, call.source.note, response.note))
    return " ".join(sentences)
