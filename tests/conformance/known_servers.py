"""Models of other servers with this endpoint, and how each differs from the contract.

The facts come from their documentation and source, read on 2026-11-21. Where nothing is known, a
model responds as our own server does, so the kit reports only what is known.
"""

import base64
import io
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import httpx
from PIL import Image

from pytest_image_variation.conformance import Capabilities
from pytest_image_variation.forms import Form, Part
from tests.conformance.broken_copies import Change, Received, Reply

ENDPOINT = "/v1/images/variations"
_BOUNDARY = "model-of-a-server"


@dataclass(frozen=True)
class KnownServer:
    """A server, and what is known about it."""

    name: str
    claims: Capabilities
    model: str | None
    change: Change


def _known_server(
    name: str, claims: Capabilities, model: str | None, respond: Callable[[Received, Reply], Reply]
) -> KnownServer:
    """Return a server that responds to variation requests its own way, and lists its model."""

    def change(request: Received, reply: Reply) -> Reply:
        if request.path == "/v1/models" and model is not None:
            return _edit(reply, lambda content: content["data"].append({"id": model}))
        is_variation = request.method == "POST" and request.path == ENDPOINT
        return respond(request, reply) if is_variation else reply

    return KnownServer(name, claims, model, change)


def _is_form(request: Received) -> bool:
    return (request.header("content-type") or "").startswith("multipart/form-data; boundary=")


def _our_reply(request: Received, reply: Reply, **fields: str | None) -> Reply:
    """Return our response to the request with fields changed, or removed if they are None."""
    parts = [part for part in request.form.parts if part.name not in fields]
    changes = [Part(name, value.encode()) for name, value in fields.items() if value is not None]
    headers = {k: v for k, v in request.headers.items() if k not in _BODY_HEADERS}
    headers["content-type"] = f"multipart/form-data; boundary={_BOUNDARY}"
    content = replace(request.form, parts=(*parts, *changes)).encode(_BOUNDARY)
    changed_request = httpx.Request("POST", request.request.url, headers=headers, content=content)
    return reply.reply_to(Received(changed_request, Form()))


_BODY_HEADERS = {"content-length", "content-type", "transfer-encoding"}


def _edit(reply: Reply, edit: Callable[[Any], object]) -> Reply:
    content = json.loads(reply.body)
    edit(content)
    reply.body = json.dumps(content).encode()
    return reply


def _set_json(reply: Reply, status: int, content: object) -> Reply:
    reply.status, reply.body = status, json.dumps(content).encode()
    return reply


def _missing_model(reply: Reply) -> Reply:
    error = {"message": "model is required", "type": "invalid_request_error"}
    return _set_json(reply, 400, {"error": {**error, "param": "model", "code": None}})


def _jpeg(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


# n is 1 to 4. It returns only b64_json, which is also its default. The images are JPEG, and there
# is a revised_prompt, null.

_REDUX = "black-forest-labs/FLUX-1-Redux-dev"


def _deepinfra(request: Received, reply: Reply) -> Reply:
    fields = request.form.fields
    if not _is_form(request) or fields.get("model") not in (None, _REDUX):
        return reply
    form = fields.get("response_format", "b64_json")
    # Our server would accept 5.
    too_many = {"n": "11"} if fields.get("n") == "5" else {}
    reply = _our_reply(request, reply, model=None, response_format=form, **too_many)
    if reply.status == 200:
        _edit(reply, _return_jpeg)
    return reply


def _return_jpeg(content: Any) -> None:
    for entry in content["data"]:
        data = _jpeg(base64.b64decode(entry["b64_json"]))
        entry |= {"b64_json": base64.b64encode(data).decode(), "revised_prompt": None}


# Only forms. model is required, n is 1 to 10, prompt is ignored. It returns only b64_json; the
# default size is 512x512. An error has message and type.


def _lemonade(request: Received, reply: Reply) -> Reply:
    reply = reply
    if _is_form(request) and not request.form.fields.get("model"):
        reply = _missing_model(reply)
    elif _is_form(request):
        fields = request.form.fields
        model = {} if fields.get("model") != "sd-turbo" else {"model": None}
        size = fields.get("size", "512x512")
        reply = _our_reply(request, reply, size=size, prompt=None, **model)
    if reply.status != 200:
        _edit(reply, _drop_param_and_code)
    return reply


def _drop_param_and_code(content: Any) -> None:
    content["error"] = {key: content["error"][key] for key in ("message", "type")}


# model is required. It accepts every image that Pillow reads, of any shape and length, and several
# at once; any size with two numbers; any number as n. Other fields are ignored. url is the path of
# a file, which is JPEG unless the image has alpha, and the other key is null. Errors are
# {"detail": …}.


def _xinference(request: Received, reply: Reply) -> Reply:
    fields, image = request.form.fields, request.form.image
    reply = reply
    plain = [part.name for part in request.form.parts if part.name != "image"]
    if len(plain) != len(set(plain)):
        return reply
    if not _is_form(request) or image is None or not fields.get("model"):
        return _set_json(
            reply, 422, {"detail": [{"loc": ["body", "image"], "msg": "Field required"}]}
        )
    if not re.fullmatch(r"-?\d+", fields.get("n", "1")):
        return _set_json(reply, 422, {"detail": [{"loc": ["body", "n"], "msg": "no integer"}]})
    if fields["model"] != "sd3":
        return _set_json(reply, 404, {"detail": "[address] Model not found in the model list"})
    form, size = fields.get("response_format", "url"), fields.get("size")
    sides = re.findall(r"\d+", size) if size else ["64", "64"]
    if form not in ("url", "b64_json") or len(sides) != 2 or not _is_readable(image.content):
        return _set_json(reply, 500, {"detail": "[address] the model failed"})
    entries = [
        _entry(int(sides[0]), int(sides[1]), index, form)
        for index in range(int(fields.get("n", "1")))
    ]
    return _set_json(reply, 200, {"created": int(time.time()), "data": entries})


def _is_readable(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    # Pillow's exceptions for corrupt files differ by format.
    except (OSError, ValueError, SyntaxError):
        return False
    return True


def _entry(width: int, height: int, index: int, form: str) -> dict[str, str | None]:
    if form == "url":
        return {"url": f"/root/.xinference/image/{index:032x}.jpg", "b64_json": None}
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (index * 20 % 256, 99, 99)).save(buffer, "JPEG")
    return {"url": None, "b64_json": base64.b64encode(buffer.getvalue()).decode()}


# model is required. size is auto or any WxH. Unknown fields are passed to the model. The response
# also has usage, size and output_format.


def _stdapi(request: Received, reply: Reply) -> Reply:
    if not _is_form(request):
        return reply
    fields = request.form.fields
    if not fields.get("model"):
        return _missing_model(reply)
    others = dict.fromkeys(fields.keys() - {"model", "n", "response_format", "size", "user"})
    model = {} if fields.get("model") != "sd3.5" else {"model": None}
    size = fields.get("size")
    if size is not None and re.fullmatch(r"\d+x\d+", size):
        size = size if size in ("256x256", "512x512", "1024x1024") else "256x256"
    reply = _our_reply(request, reply, size=size, **others, **model)
    if reply.status == 200:
        _edit(reply, lambda content: content.update(usage={}, size=size, output_format="png"))
    return reply


# The endpoint exists and reports that it is not implemented. Missing values are empty strings.


def _one_api(request: Received, reply: Reply) -> Reply:
    error = {
        "message": "API not implemented",
        "type": "one_api_error",
        "param": "",
        "code": "api_not_implemented",
    }
    return _set_json(reply, 501, {"error": error})


KNOWN_SERVERS = (
    _known_server("DeepInfra", Capabilities(url=False, max_n=4), _REDUX, _deepinfra),
    _known_server("Lemonade", Capabilities(url=False), "sd-turbo", _lemonade),
    _known_server("stdapi.ai", Capabilities(), "sd3.5", _stdapi),
    _known_server("Xinference", Capabilities(), "sd3", _xinference),
    _known_server("one-api, new-api", Capabilities(), None, _one_api),
)
"""The servers that do more than pass requests on."""
