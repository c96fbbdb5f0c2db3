"""A broken copy of our server for each rule.

Each copy changes the responses to as few requests as possible, so that only its own rule fails. A
rule that can no longer be checked because another one is broken is skipped, and does not fail.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from pytest_image_variation.conformance import Capabilities
from pytest_image_variation.conformance.images import IMAGES, make_image
from pytest_image_variation.conformance.probe_request import Field, File, ProbeRequest
from pytest_image_variation.samples import corrupt_png, jpeg, square_png
from tests.conformance.broken_copies import KEY, Change, Received, Reply

ENDPOINT = "/v1/images/variations"
When = Callable[[Received], bool]


@dataclass(frozen=True)
class Mutation:
    """A change of our server, and the rules that it breaks."""

    name: str
    change: Change
    breaks: tuple[str, ...]
    capabilities: Capabilities = field(default_factory=Capabilities)
    model: str | None = None
    """The model that the kit requests."""
    expiring: bool = False
    """Whether to change the server whose URLs expire at once. Only the rules about expiry can
    check it."""


MUTATIONS: list[Mutation] = []


def break_rule(rule: str, change: Change, **settings: Any) -> None:
    """Add the broken copy for a rule."""
    MUTATIONS.append(Mutation(rule, change, (rule,), **settings))


# Conditions on requests...


def is_post(request: Received) -> bool:
    """Return whether it is a variation request with the right key."""
    right = request.header("authorization") == f"Bearer {KEY}"
    return request.method == "POST" and request.path == ENDPOINT and right


def usual_request(**fields: str | None) -> When:
    """Match a request like most of the kit's, with these fields. None removes one."""
    defaults = {"response_format": "b64_json", "size": "256x256"}
    expected = {k: v for k, v in {**defaults, **fields}.items() if v is not None}

    def when(request: Received) -> bool:
        parts = request.form.parts
        return (
            is_post(request)
            and len(parts) == len(expected) + 1
            and request.form.fields == expected
            and (parts[-1].file_name, parts[-1].content_type) == ("image.png", "image/png")
            and parts[-1].content == make_image("rgb.png")
            and not request.header("idempotency-key")
            and not request.header("transfer-encoding")
        )

    return when


def has_fields(**fields: str) -> When:
    """Match a variation request with these fields, whatever else it has."""
    return lambda request: is_post(request) and fields.items() <= request.form.fields.items()


def has_image(name: str, *, user: str | None = None) -> When:
    """Match a variation request with this image."""

    def when(request: Received) -> bool:
        image = request.form.image
        is_same = image is not None and image.content == make_image(name)
        return is_post(request) and is_same and request.form.fields.get("user") == user

    return when


def is_download(request: Received) -> bool:
    """Return whether it is a download of a file."""
    return request.path.startswith("/files/")


PLAIN = usual_request()
URL = usual_request(response_format="url", n="1")
ERROR = usual_request(n="-7")


# Changes of responses...


def change_reply(when: When, change: Callable[[Reply], object]) -> Change:
    """Change our own response."""

    def apply(request: Received, reply: Reply) -> Reply:
        if when(request):
            change(reply)
        return reply

    return apply


def serve(when: When) -> Change:
    """Accept a request that is refused."""

    def apply(request: Received, reply: Reply) -> Reply:
        if not when(request):
            return reply
        fields = [Field("response_format", "b64_json"), Field("size", "256x256")]
        return reply.reply_to(_received(ProbeRequest(parts=(*fields, File("rgb.png")))))

    return apply


def _received(probe_request: ProbeRequest) -> Received:
    request = httpx.Request(
        probe_request.method,
        probe_request.url("http://in.process/v1"),
        headers=probe_request.all_headers(KEY),
        content=probe_request.content(),
    )
    return Received(request, None)  # type: ignore[arg-type]  # nothing reads its form


def refuse(when: When, status: int = 400) -> Change:
    """Refuse a request that is accepted."""
    error = {"message": "No.", "type": "invalid_request_error", "param": None, "code": None}
    return replace_reply(when, status, {"error": error})


def replace_reply(when: When, status: int, content: object) -> Change:
    """Respond with something else."""

    def change(reply: Reply) -> None:
        reply.status, reply.body = status, json.dumps(content).encode()
        reply.headers = {"content-type": "application/json"}

    return change_reply(when, change)


def set_status(when: When, code: int) -> Change:
    """Change only the status."""
    return change_reply(when, lambda reply: setattr(reply, "status", code))


def set_header(when: When, name: str, value: str | None) -> Change:
    """Set a header, or remove it."""

    def change(reply: Reply) -> None:
        reply.headers.pop(name, None)
        if value is not None:
            reply.headers[name] = value

    return change_reply(when, change)


def edit_json(when: When, edit: Callable[[Any], object]) -> Change:
    """Edit the JSON of a response. If the function returns a value, that replaces it."""

    def change(reply: Reply) -> None:
        content = json.loads(reply.body)
        replacement = edit(content)
        reply.body = json.dumps(content if replacement is None else replacement).encode()

    return change_reply(when, change)


def edit_entry(when: When, edit: Callable[[dict[str, Any]], object]) -> Change:
    """Edit the first entry of a response."""
    return edit_json(when, lambda content: edit(content["data"][0]) and None)


def edit_error(when: When, **keys: object) -> Change:
    """Change keys of an error."""
    return edit_json(when, lambda content: content["error"].update(keys))


def set_image(when: When, data: bytes) -> Change:
    """Put another file into the first entry."""
    return edit_entry(when, lambda entry: entry.update(b64_json=base64.b64encode(data).decode()))


# Responses...

break_rule(
    "answer-status",
    lambda request, reply: (
        replace(reply, status=201) if reply.status == 200 and is_post(request) else reply
    ),
)
break_rule("answer-content-type", set_header(PLAIN, "content-type", "text/plain"))
break_rule("answer-object", edit_json(PLAIN, lambda content: content["data"]))
break_rule("answer-created", edit_json(PLAIN, lambda content: content.update(created="now")))
break_rule("answer-created-now", edit_json(PLAIN, lambda content: content.update(created=1)))
break_rule("answer-data", edit_json(PLAIN, lambda content: content.update(data=content["data"][0])))
break_rule("answer-keys", edit_json(PLAIN, lambda content: content.update(size="256x256")))
break_rule("answer-entry-keys", edit_entry(PLAIN, lambda entry: entry.update(seed=7)))
break_rule("answer-no-nulls", edit_entry(PLAIN, lambda entry: entry.update(url=None)))
break_rule(
    "b64-string", edit_entry(PLAIN, lambda entry: entry.update(b64_json=[entry["b64_json"]]))
)
break_rule(
    "b64-plain", edit_entry(PLAIN, lambda entry: entry.update(b64_json=entry["b64_json"] + "\n"))
)
break_rule(
    "b64-alone", edit_entry(PLAIN, lambda entry: entry.update(url="https://pictures.example/1.png"))
)
break_rule("picture-png", set_image(PLAIN, jpeg(256, 256)))
break_rule("picture-decodes", set_image(PLAIN, corrupt_png(256)))
break_rule(
    "picture-distinct",
    edit_json(usual_request(n="2"), lambda content: content.update(data=content["data"][:1] * 2)),
)
break_rule("default-n", edit_json(PLAIN, lambda content: content.update(data=content["data"] * 2)))
break_rule("default-size", set_image(usual_request(size=None), square_png(512)))
break_rule(
    "default-format",
    edit_entry(
        usual_request(response_format=None), lambda entry: entry.update(url=None, b64_json="AAAA")
    ),
)
break_rule("answer-request-id", set_header(PLAIN, "x-request-id", None))
break_rule(
    "answer-new-request-id",
    set_header(
        lambda request: PLAIN(request) or has_fields(user="conformance-other-id")(request),
        "x-request-id",
        "req_1",
    ),
)
break_rule("answer-processing-ms", set_header(PLAIN, "openai-processing-ms", "1.5"))
break_rule("answer-version", set_header(PLAIN, "openai-version", None))

# Accepted requests...


def has_only_image(request: Received) -> bool:
    """Return whether the form has only the image."""
    return is_post(request) and [part.name for part in request.form.parts] == ["image"]


break_rule("accept-picture-alone", refuse(has_only_image))
break_rule("accept-all-fields", refuse(has_fields(user="conformance-all")))
break_rule("accept-user", refuse(has_fields(user="conformance user \u00e9 42")))
break_rule("accept-model", refuse(has_fields(user="conformance-model")))
break_rule(
    "accept-no-model",
    refuse(lambda request: is_post(request) and "model" not in request.form.fields),
    model="dall-e-2",
)
break_rule(
    "accept-picture-first",
    refuse(lambda request: len(request.form.parts) > 1 and request.form.parts[0].name == "image"),
)
break_rule(
    "accept-octet-stream",
    refuse(
        lambda request: any(
            part.content_type == "application/octet-stream" and part.file_name is not None
            for part in request.form.parts
        )
    ),
)
break_rule(
    "accept-any-file-name",
    refuse(lambda request: any((p.file_name or "").endswith(".PNG") for p in request.form.parts)),
)
break_rule(
    "accept-chunked", refuse(lambda request: request.header("transfer-encoding") is not None)
)
break_rule("accept-empty-field", refuse(has_fields(user="")))
break_rule("accept-null-field", refuse(has_fields(n="null")))
break_rule(
    "accept-unnamed-picture",
    refuse(
        lambda request: any(part.is_file and part.file_name is None for part in request.form.parts)
    ),
)
break_rule(
    "accept-idempotency-key",
    refuse(
        lambda request: (request.header("idempotency-key") or "").startswith("conformance-alone")
    ),
)
for name in (
    *("rgba", "grey", "grey-alpha", "palette", "black-white", "sixteen-bit", "one-pixel", "2048"),
    "just-below-4-mb",
):
    break_rule(f"accept-{name}", refuse(has_image(f"{name}.png")))
for rule, n in (("n-one", "1"), ("n-two", "2"), ("n-most", "10")):
    break_rule(
        rule,
        edit_json(usual_request(n=n), lambda content: content.update(data=content["data"] * 2)),
    )
break_rule("size-256x256", set_image(PLAIN, square_png(255)))
for size in ("512x512", "1024x1024"):
    break_rule(f"size-{size}", set_image(usual_request(size=size), square_png(256)))
break_rule(
    "size-claimed",
    lambda request, reply: reply,
    capabilities=Capabilities(sizes=("256x256", "512x512", "1024x1024", "768x768")),
)

# Refused requests...

FIELDS: Mapping[str, Mapping[str, str]] = {
    "n-zero": {"n": "0"},
    "n-negative": {"n": "-1"},
    "n-fraction": {"n": "1.5"},
    "n-word": {"n": "two"},
    "n-above": {"n": "11"},
    "size-other": {"size": "300x300"},
    "size-not-square": {"size": "1024x1536"},
    "size-one-number": {"size": "256"},
    "size-word": {"size": "large"},
    "format-other": {"response_format": "png"},
    "format-case": {"response_format": "B64_JSON"},
    "unknown-model": {"model": "conformance-no-such-model"},
    "unknown-field": {"prompt": "a cat"},
}
for rule, fields in FIELDS.items():
    break_rule(f"refuse-{rule}", serve(has_fields(**fields)))


def part_names(request: Received) -> list[str]:
    """Return the names of the parts of a form."""
    return [part.name for part in request.form.parts]


break_rule("refuse-repeated-field", serve(lambda request: part_names(request).count("n") == 2))
for rule, name in {
    **{name: f"{name}.png" for name in ("wide", "high", "almost-square", "4-mb", "text")},
    "jpeg": "photo.jpg",
    "gif": "photo.gif",
    "webp": "photo.webp",
    "empty-picture": "empty.png",
    **{name: f"{name}.png" for name in ("cut-off", "wrong-checksum", "broken-pixels")},
}.items():
    assert name in IMAGES
    break_rule(f"refuse-{rule}", serve(has_image(name)))
break_rule(
    "refuse-no-picture",
    serve(
        lambda request: (
            is_post(request) and "n" in part_names(request) and "image" not in part_names(request)
        )
    ),
)
break_rule("refuse-two-pictures", serve(lambda request: part_names(request).count("image") == 2))
break_rule(
    "refuse-picture-as-text",
    serve(lambda request: "image" in request.form.fields and request.form.image is None),
)
BODIES: Mapping[str, str | None] = {
    "json": "application/json",
    "urlencoded": "application/x-www-form-urlencoded",
    "no-body": None,
    "broken-form": "multipart/form-data; boundary=conformance",
    "no-boundary": "multipart/form-data",
}


def has_content_type(kind: str | None) -> When:
    """Match a variation request with this content type."""
    return lambda request: is_post(request) and request.header("content-type") == kind


for rule, kind in BODIES.items():
    break_rule(f"refuse-{rule}", serve(has_content_type(kind)))
break_rule(
    "refuse-unclosed-form",
    serve(
        lambda request: (
            is_post(request) and not request.form.is_closed and bool(request.form.fields)
        )
    ),
)
break_rule(
    "refuse-get", serve(lambda request: request.method == "GET" and request.path == ENDPOINT)
)

# URLs...


def is_full_download(request: Received) -> bool:
    """Return whether it is a download of a whole file."""
    return is_download(request) and bool(request.request.url.query) and not request.header("range")


def return_jpeg(reply: Reply) -> None:
    """Respond with a JPEG, or with the requested part of it."""
    file = jpeg(256, 256)
    reply.body = file[:8] if reply.status == 206 else file


break_rule("url-string", edit_entry(URL, lambda entry: entry.update(url=[entry["url"]])))
break_rule(
    "url-absolute",
    edit_entry(URL, lambda entry: entry.update(url="/" + entry["url"].partition("//")[2])),
)
break_rule("url-alone", edit_entry(URL, lambda entry: entry.update(b64_json="AAAA")))
break_rule("url-read", set_status(is_download, 401))
break_rule(
    "url-picture",
    change_reply(
        lambda request: is_download(request) and bool(request.request.url.query), return_jpeg
    ),
)
break_rule("url-content-type", set_header(is_download, "content-type", "application/octet-stream"))
break_rule(
    "url-again", set_status(lambda request: is_full_download(request) and request.times > 1, 404)
)
break_rule(
    "url-each-its-own",
    edit_json(
        usual_request(response_format="url", n="2"),
        lambda content: content.update(data=content["data"][:1] * 2),
    ),
)
break_rule(
    "url-signed",
    set_status(lambda request: is_download(request) and not request.request.url.query, 200),
)
break_rule("url-part", set_status(lambda request: request.header("range") is not None, 200))
EXPIRING = {"capabilities": Capabilities(url_ttl=0.001), "expiring": True}
break_rule("url-expires", set_status(is_full_download, 200), **EXPIRING)
break_rule("url-expires-in-words", replace_reply(is_full_download, 403, "gone"), **EXPIRING)

# Errors...

break_rule("error-content-type", set_header(ERROR, "content-type", "text/html"))
break_rule("error-envelope", edit_json(ERROR, lambda content: {"detail": "n is wrong"}))
break_rule("error-message", edit_error(ERROR, message=None))
break_rule("error-type", edit_error(ERROR, type="value_error"))
break_rule(
    "error-all-keys", edit_json(ERROR, lambda content: content["error"].pop("code") and None)
)
break_rule("error-null", edit_error(ERROR, code=""))
break_rule("error-alone", edit_json(ERROR, lambda content: content.update(status=400)))
for param, value in (("n", "99"), ("size", "640x480"), ("response_format", "jpeg")):
    rule = f"error-param-{param.replace('_', '-')}"
    break_rule(rule, edit_error(has_fields(**{param: value}), param=None))
BAD_IMAGE = has_image("photo.jpg", user="conformance-error")
break_rule("error-param-image", edit_error(BAD_IMAGE, param=None))
break_rule("error-code-image", edit_error(BAD_IMAGE, code=None))
break_rule(
    "error-code-model", edit_error(has_fields(model="conformance-no-such-model-either"), code=None)
)
break_rule("error-request-id", set_header(ERROR, "x-request-id", None))
break_rule("error-final", set_header(ERROR, "retry-after", "1"))
break_rule("error-short", edit_error(has_fields(size="x" * 5000), message="No: " + "x" * 5000))
break_rule(
    "error-nothing-inside",
    edit_error(
        has_image("cut-off.png", user="conformance-error"), message="Traceback (most recent call)"
    ),
)
break_rule(
    "error-no-address", set_status(lambda request: request.path.endswith("no-such-address"), 400)
)
break_rule("error-recovers", refuse(has_fields(user="conformance-after-errors"), 500))

# Keys, concurrent requests and models...


def has_key(value: str | None, **fields: str) -> When:
    """Match a variation request with this Authorization header."""

    def when(request: Received) -> bool:
        is_same = request.method == "POST" and request.header("authorization") == value
        return is_same and request.form.fields.get("n") == fields.get("n")

    return when


WRONG = "Bearer sk-conformance-wrong-key"
break_rule("key-missing", serve(has_key(None)))
break_rule("key-wrong", serve(has_key(WRONG)))
break_rule("key-scheme", serve(has_key(f"Basic {KEY}")))
break_rule("key-first", refuse(has_key(WRONG, n="0")))
break_rule("key-lower-case", refuse(has_key(f"bearer {KEY}"), 401))
break_rule("key-missing-type", edit_error(has_key(None), type="auth"))
break_rule("key-wrong-code", edit_error(has_key(WRONG), code=None))
break_rule("key-authenticate", set_header(has_key(None), "www-authenticate", None))
break_rule("key-not-shown", edit_error(has_key(WRONG), message=f"{WRONG} is wrong"))
break_rule(
    "at-once",
    edit_json(
        has_fields(user="conformance-at-once-4"),
        lambda content: content.update(data=content["data"][:1]),
    ),
)
break_rule(
    "idempotent",
    edit_json(
        lambda request: request.header("idempotency-key") is not None and request.times > 1,
        lambda content: content.update(again=True),
    ),
)
break_rule(
    "idempotent-conflict",
    serve(has_fields(user="conformance-not-twice")),
)


def lists_models(request: Received) -> bool:
    """Return whether it requests the list of models."""
    return request.path == "/v1/models"


break_rule("models-list", edit_json(lists_models, lambda content: content.update(object="models")))
break_rule(
    "models-asked-for",
    edit_json(lists_models, lambda content: content.update(data=[{"id": "other"}])),
)
break_rule("models-none", set_status(lambda request: request.path.startswith("/v1/models/"), 200))
