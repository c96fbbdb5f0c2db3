"""Models of servers that speak the path: what is known of how each differs.

What their own documentation and source say was read on 2026-11-21. Where nothing is known of a
server, its model answers as our own does, so the kit reports nothing but what is known.
"""

import base64
import io
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image

from pytest_image_variation.conformance import Capabilities
from pytest_image_variation.forms import Form, Part
from tests.conformance.in_process import Change, Given, Sent

ENDPOINT = "/v1/images/variations"
_BOUNDARY = "model-of-a-server"


@dataclass(frozen=True)
class KnownServer:
    """A server, and what is known of it."""

    name: str
    claims: Capabilities
    model: str | None
    change: Change


def _known(
    name: str, claims: Capabilities, model: str | None, answer: Callable[[Sent, Given], Given]
) -> KnownServer:
    """Return a server that answers requests for variations in its own way, and lists its model."""

    def change(sent: Sent, ours: Given) -> Given:
        if sent.path == "/v1/models" and model is not None:
            return _edited(ours, lambda content: content["data"].append({"id": model}))
        wanted = sent.method == "POST" and sent.path == ENDPOINT
        return answer(sent, ours) if wanted else ours

    return KnownServer(name, claims, model, change)


def _is_form(sent: Sent) -> bool:
    return (sent.header("content-type") or "").startswith("multipart/form-data; boundary=")


def _ours(sent: Sent, ours: Given, **fields: str | None) -> Given:
    """Return our answer to the request with fields set, or left out if they are None."""
    kept = [part for part in sent.form.parts if part.name not in fields]
    added = [Part(name, value.encode()) for name, value in fields.items() if value is not None]
    headers = {k: v for k, v in sent.headers.items() if k not in _OF_THE_BODY}
    headers["content-type"] = f"multipart/form-data; boundary={_BOUNDARY}"
    content = Form((*kept, *added)).encode(_BOUNDARY)
    request = httpx.Request("POST", sent.request.url, headers=headers, content=content)
    return ours.again(Sent(request, Form()))


_OF_THE_BODY = {"content-length", "content-type", "transfer-encoding"}


def _edited(given: Given, edit: Callable[[Any], object]) -> Given:
    content = json.loads(given.body)
    edit(content)
    given.body = json.dumps(content).encode()
    return given


def _json(given: Given, status: int, content: object) -> Given:
    given.status, given.body = status, json.dumps(content).encode()
    return given


def _needs_model(given: Given) -> Given:
    error = {"message": "model is needed", "type": "invalid_request_error"}
    return _json(given, 400, {"error": {**error, "param": "model", "code": None}})


def _jpeg(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


# n is 1 to 4; b64_json alone, and without being asked for; the bytes are JPEG; there is a
# revised_prompt, null.

_REDUX = "black-forest-labs/FLUX-1-Redux-dev"


def _deepinfra(sent: Sent, ours: Given) -> Given:
    fields = sent.form.fields
    if not _is_form(sent) or fields.get("model") not in (None, _REDUX):
        return ours
    form = fields.get("response_format", "b64_json")
    # Ours would serve five.
    too_many = {"n": "11"} if fields.get("n") == "5" else {}
    given = _ours(sent, ours, model=None, response_format=form, **too_many)
    if given.status == 200:
        _edited(given, _as_jpeg)
    return given


def _as_jpeg(content: Any) -> None:
    for entry in content["data"]:
        data = _jpeg(base64.b64decode(entry["b64_json"]))
        entry |= {"b64_json": base64.b64encode(data).decode(), "revised_prompt": None}


# A form alone; model is needed; n is 1 to 10; prompt is ignored; b64_json alone; 512x512 without
# being asked for; an error has message and type.


def _lemonade(sent: Sent, ours: Given) -> Given:
    given = ours
    if _is_form(sent) and not sent.form.fields.get("model"):
        given = _needs_model(ours)
    elif _is_form(sent):
        fields = sent.form.fields
        model = {} if fields.get("model") != "sd-turbo" else {"model": None}
        size = fields.get("size", "512x512")
        given = _ours(sent, ours, size=size, prompt=None, **model)
    if given.status != 200:
        _edited(given, _without_param_and_code)
    return given


def _without_param_and_code(content: Any) -> None:
    content["error"] = {key: content["error"][key] for key in ("message", "type")}


# model is needed; any picture that Pillow reads, of any shape and length, and several of them; any
# size with two numbers; n is a number, unchecked; other fields are ignored; url is the path of a
# file, JPEG but for pictures with alpha, with the other key as null; errors are {"detail": …}.


def _xinference(sent: Sent, ours: Given) -> Given:
    fields, image = sent.form.fields, sent.form.image
    given = ours
    plain = [part.name for part in sent.form.parts if part.name != "image"]
    if len(plain) != len(set(plain)):
        return ours
    if not _is_form(sent) or image is None or not fields.get("model"):
        return _json(given, 422, {"detail": [{"loc": ["body", "image"], "msg": "Field required"}]})
    if not re.fullmatch(r"-?\d+", fields.get("n", "1")):
        return _json(given, 422, {"detail": [{"loc": ["body", "n"], "msg": "no integer"}]})
    if fields["model"] != "sd3":
        return _json(given, 404, {"detail": "[address] Model not found in the model list"})
    form, size = fields.get("response_format", "url"), fields.get("size")
    sides = re.findall(r"\d+", size) if size else ["64", "64"]
    if form not in ("url", "b64_json") or len(sides) != 2 or not _readable(image.content):
        return _json(given, 500, {"detail": "[address] the model failed"})
    entries = [
        _entry(int(sides[0]), int(sides[1]), index, form)
        for index in range(int(fields.get("n", "1")))
    ]
    return _json(given, 200, {"created": int(time.time()), "data": entries})


def _readable(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    # What Pillow raises for broken files differs by format.
    except (OSError, ValueError, SyntaxError):
        return False
    return True


def _entry(width: int, height: int, index: int, form: str) -> dict[str, str | None]:
    if form == "url":
        return {"url": f"/root/.xinference/image/{index:032x}.jpg", "b64_json": None}
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (index * 20 % 256, 99, 99)).save(buffer, "JPEG")
    return {"url": None, "b64_json": base64.b64encode(buffer.getvalue()).decode()}


# model is needed; size is auto or any WxH; fields that it does not know go to the model; the answer
# says usage, size and output_format too.


def _stdapi(sent: Sent, ours: Given) -> Given:
    if not _is_form(sent):
        return ours
    fields = sent.form.fields
    if not fields.get("model"):
        return _needs_model(ours)
    others = dict.fromkeys(fields.keys() - {"model", "n", "response_format", "size", "user"})
    model = {} if fields.get("model") != "sd3.5" else {"model": None}
    size = fields.get("size")
    if size is not None and re.fullmatch(r"\d+x\d+", size):
        size = size if size in ("256x256", "512x512", "1024x1024") else "256x256"
    given = _ours(sent, ours, size=size, **others, **model)
    if given.status == 200:
        _edited(given, lambda content: content.update(usage={}, size=size, output_format="png"))
    return given


# The address is there, and says that it does nothing; texts that it does not have are empty.


def _one_api(sent: Sent, ours: Given) -> Given:
    error = {
        "message": "API not implemented",
        "type": "one_api_error",
        "param": "",
        "code": "api_not_implemented",
    }
    return _json(ours, 501, {"error": error})


KNOWN_SERVERS = (
    _known("DeepInfra", Capabilities(url=False, max_n=4), _REDUX, _deepinfra),
    _known("Lemonade", Capabilities(url=False), "sd-turbo", _lemonade),
    _known("stdapi.ai", Capabilities(), "sd3.5", _stdapi),
    _known("Xinference", Capabilities(), "sd3", _xinference),
    _known("one-api, new-api", Capabilities(), None, _one_api),
)
"""Those of which more is known than that they pass requests on."""
