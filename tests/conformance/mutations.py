"""A broken copy of our server for each rule.

Each changes the answers to the fewest requests that show the breach, so that exactly the rules fail
that it names. All of them name one: what no longer can be seen, since another rule is broken, is
not seen, and does not fail.
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
from tests.conformance.in_process import KEY, Change, Given, Sent

ENDPOINT = "/v1/images/variations"
When = Callable[[Sent], bool]


@dataclass(frozen=True)
class Mutation:
    """A change of our server, and the rules that it breaks."""

    name: str
    change: Change
    breaks: tuple[str, ...]
    capabilities: Capabilities = field(default_factory=Capabilities)
    model: str | None = None
    """The model that the kit is given."""
    expiring: bool = False
    """Whether it is the server whose addresses expire at once that is changed. Of that, nothing is
    seen but whether they do."""


MUTATIONS: list[Mutation] = []


def broken(rule: str, change: Change, **settings: Any) -> None:
    """Add the broken copy of a rule."""
    MUTATIONS.append(Mutation(rule, change, (rule,), **settings))


# Which requests...


def post(sent: Sent) -> bool:
    """Any request for variations with the right key."""
    right = sent.header("authorization") == f"Bearer {KEY}"
    return sent.method == "POST" and sent.path == ENDPOINT and right


def asked(**fields: str | None) -> When:
    """A request like most of the kit's, with these fields too, or without those that are None."""
    usual = {"response_format": "b64_json", "size": "256x256"}
    wanted = {k: v for k, v in {**usual, **fields}.items() if v is not None}

    def when(sent: Sent) -> bool:
        parts = sent.form.parts
        return (
            post(sent)
            and len(parts) == len(wanted) + 1
            and sent.form.fields == wanted
            and (parts[-1].file_name, parts[-1].content_type) == ("image.png", "image/png")
            and parts[-1].content == make_image("rgb.png")
            and not sent.header("idempotency-key")
            and not sent.header("transfer-encoding")
        )

    return when


def has(**fields: str) -> When:
    """A request with these fields, whatever else it has."""
    return lambda sent: post(sent) and fields.items() <= sent.form.fields.items()


def sends(name: str, *, user: str | None = None) -> When:
    """A request with a picture."""

    def when(sent: Sent) -> bool:
        image = sent.form.image
        same = image is not None and image.content == make_image(name)
        return post(sent) and same and sent.form.fields.get("user") == user

    return when


def reads(sent: Sent) -> bool:
    """A request for the file of an address."""
    return sent.path.startswith("/files/")


PLAIN = asked()
URL = asked(response_format="url", n="1")
ERROR = asked(n="-7")


# What is answered...


def changed(when: When, change: Callable[[Given], object]) -> Change:
    """Change our own answer."""

    def apply(sent: Sent, given: Given) -> Given:
        if when(sent):
            change(given)
        return given

    return apply


def served(when: When) -> Change:
    """Serve what is refused."""

    def apply(sent: Sent, given: Given) -> Given:
        if not when(sent):
            return given
        fields = [Field("response_format", "b64_json"), Field("size", "256x256")]
        return given.again(_sent(ProbeRequest(parts=(*fields, File("rgb.png")))))

    return apply


def _sent(question: ProbeRequest) -> Sent:
    request = httpx.Request(
        question.method,
        question.url("http://in.process/v1"),
        headers=question.all_headers(KEY),
        content=question.content(),
    )
    # Its form is not looked at.
    return Sent(request, None)  # type: ignore[arg-type]


def refused(when: When, status: int = 400) -> Change:
    """Refuse what is served."""
    error = {"message": "No.", "type": "invalid_request_error", "param": None, "code": None}
    return replied(when, status, {"error": error})


def replied(when: When, status: int, content: object) -> Change:
    """Answer something else."""

    def change(given: Given) -> None:
        given.status, given.body = status, json.dumps(content).encode()
        given.headers = {"content-type": "application/json"}

    return changed(when, change)


def status(when: When, code: int) -> Change:
    """Answer the same with another status."""
    return changed(when, lambda given: setattr(given, "status", code))


def header(when: When, name: str, value: str | None) -> Change:
    """Set a header, or leave it out."""

    def change(given: Given) -> None:
        given.headers.pop(name, None)
        if value is not None:
            given.headers[name] = value

    return changed(when, change)


def edited(when: When, edit: Callable[[Any], object]) -> Change:
    """Change the JSON of an answer; what the change returns, if anything, takes its place."""

    def change(given: Given) -> None:
        content = json.loads(given.body)
        instead = edit(content)
        given.body = json.dumps(content if instead is None else instead).encode()

    return changed(when, change)


def entry(when: When, edit: Callable[[dict[str, Any]], object]) -> Change:
    """Change the first entry of an answer."""
    return edited(when, lambda content: edit(content["data"][0]) and None)


def error(when: When, **keys: object) -> Change:
    """Change keys of an error."""
    return edited(when, lambda content: content["error"].update(keys))


def holds(when: When, data: bytes) -> Change:
    """Put another file into the first entry."""
    return entry(when, lambda it: it.update(b64_json=base64.b64encode(data).decode()))


# Of answers...

broken(
    "answer-status",
    lambda sent, given: replace(given, status=201) if given.status == 200 and post(sent) else given,
)
broken("answer-content-type", header(PLAIN, "content-type", "text/plain"))
broken("answer-object", edited(PLAIN, lambda content: content["data"]))
broken("answer-created", edited(PLAIN, lambda content: content.update(created="now")))
broken("answer-created-now", edited(PLAIN, lambda content: content.update(created=1)))
broken("answer-data", edited(PLAIN, lambda content: content.update(data=content["data"][0])))
broken("answer-keys", edited(PLAIN, lambda content: content.update(size="256x256")))
broken("answer-entry-keys", entry(PLAIN, lambda it: it.update(seed=7)))
broken("answer-no-nulls", entry(PLAIN, lambda it: it.update(url=None)))
broken("b64-string", entry(PLAIN, lambda it: it.update(b64_json=[it["b64_json"]])))
broken("b64-plain", entry(PLAIN, lambda it: it.update(b64_json=it["b64_json"] + "\n")))
broken("b64-alone", entry(PLAIN, lambda it: it.update(url="https://pictures.example/1.png")))
broken("picture-png", holds(PLAIN, jpeg(256, 256)))
broken("picture-decodes", holds(PLAIN, corrupt_png(256)))
broken(
    "picture-distinct",
    edited(asked(n="2"), lambda content: content.update(data=content["data"][:1] * 2)),
)
broken("default-n", edited(PLAIN, lambda content: content.update(data=content["data"] * 2)))
broken("default-size", holds(asked(size=None), square_png(512)))
broken(
    "default-format",
    entry(asked(response_format=None), lambda it: it.update(url=None, b64_json="AAAA")),
)
broken("answer-request-id", header(PLAIN, "x-request-id", None))
broken(
    "answer-new-request-id",
    header(
        lambda sent: PLAIN(sent) or has(user="conformance-other-id")(sent), "x-request-id", "req_1"
    ),
)
broken("answer-processing-ms", header(PLAIN, "openai-processing-ms", "1.5"))
broken("answer-version", header(PLAIN, "openai-version", None))

# Of what is served...


def alone(sent: Sent) -> bool:
    """The picture, and nothing else."""
    return post(sent) and [part.name for part in sent.form.parts] == ["image"]


broken("accept-picture-alone", refused(alone))
broken("accept-all-fields", refused(has(user="conformance-all")))
broken("accept-user", refused(has(user="conformance user \u00e9 42")))
broken("accept-model", refused(has(user="conformance-model")))
broken(
    "accept-no-model",
    refused(lambda sent: post(sent) and "model" not in sent.form.fields),
    model="dall-e-2",
)
broken(
    "accept-picture-first",
    refused(lambda s: len(s.form.parts) > 1 and s.form.parts[0].name == "image"),
)
broken(
    "accept-octet-stream",
    refused(
        lambda s: any(part.content_type == "application/octet-stream" for part in s.form.parts)
    ),
)
broken(
    "accept-any-file-name",
    refused(lambda s: any((p.file_name or "").endswith(".PNG") for p in s.form.parts)),
)
broken("accept-chunked", refused(lambda sent: sent.header("transfer-encoding") is not None))
broken("accept-empty-field", refused(has(user="")))
broken(
    "accept-idempotency-key",
    refused(lambda s: (s.header("idempotency-key") or "").startswith("conformance-alone")),
)
for name in (
    *("rgba", "grey", "grey-alpha", "palette", "black-white", "sixteen-bit", "one-pixel", "2048"),
    "just-below-4-mb",
):
    broken(f"accept-{name}", refused(sends(f"{name}.png")))
for rule, n in (("n-one", "1"), ("n-two", "2"), ("n-most", "10")):
    broken(rule, edited(asked(n=n), lambda content: content.update(data=content["data"] * 2)))
broken("size-256x256", holds(PLAIN, square_png(255)))
for size in ("512x512", "1024x1024"):
    broken(f"size-{size}", holds(asked(size=size), square_png(256)))
broken(
    "size-claimed",
    lambda sent, given: given,
    capabilities=Capabilities(sizes=("256x256", "512x512", "1024x1024", "768x768")),
)

# Of what is refused...

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
    broken(f"refuse-{rule}", served(has(**fields)))


def names(sent: Sent) -> list[str]:
    """Return the names of the parts of a form."""
    return [part.name for part in sent.form.parts]


broken("refuse-repeated-field", served(lambda sent: names(sent).count("n") == 2))
for rule, name in {
    **{name: f"{name}.png" for name in ("wide", "high", "almost-square", "4-mb", "text")},
    "jpeg": "photo.jpg",
    "gif": "photo.gif",
    "webp": "photo.webp",
    "empty-picture": "empty.png",
    **{name: f"{name}.png" for name in ("cut-off", "wrong-checksum", "broken-pixels")},
}.items():
    assert name in IMAGES
    broken(f"refuse-{rule}", served(sends(name)))
broken(
    "refuse-no-picture", served(lambda s: post(s) and "n" in names(s) and "image" not in names(s))
)
broken("refuse-two-pictures", served(lambda sent: names(sent).count("image") == 2))
broken(
    "refuse-picture-as-text", served(lambda s: "image" in s.form.fields and s.form.image is None)
)
BODIES: Mapping[str, str | None] = {
    "json": "application/json",
    "urlencoded": "application/x-www-form-urlencoded",
    "no-body": None,
    "broken-form": "multipart/form-data; boundary=conformance",
    "no-boundary": "multipart/form-data",
}


def comes_as(kind: str | None) -> When:
    """A request for variations whose body is of a kind."""
    return lambda sent: post(sent) and sent.header("content-type") == kind


for rule, kind in BODIES.items():
    broken(f"refuse-{rule}", served(comes_as(kind)))
broken("refuse-get", served(lambda sent: sent.method == "GET" and sent.path == ENDPOINT))

# Of addresses...


def whole(sent: Sent) -> bool:
    """A request for a whole file."""
    return reads(sent) and bool(sent.request.url.query) and not sent.header("range")


def as_jpeg(given: Given) -> None:
    """Give a JPEG, or the part of it that is asked for."""
    file = jpeg(256, 256)
    given.body = file[:8] if given.status == 206 else file


broken("url-string", entry(URL, lambda it: it.update(url=[it["url"]])))
broken("url-absolute", entry(URL, lambda it: it.update(url="/" + it["url"].partition("//")[2])))
broken("url-alone", entry(URL, lambda it: it.update(b64_json="AAAA")))
broken("url-read", status(reads, 401))
broken("url-picture", changed(lambda s: reads(s) and bool(s.request.url.query), as_jpeg))
broken("url-content-type", header(reads, "content-type", "application/octet-stream"))
broken("url-again", status(lambda sent: whole(sent) and sent.times > 1, 404))
broken(
    "url-each-its-own",
    edited(
        asked(response_format="url", n="2"),
        lambda content: content.update(data=content["data"][:1] * 2),
    ),
)
broken("url-signed", status(lambda sent: reads(sent) and not sent.request.url.query, 200))
broken("url-part", status(lambda sent: sent.header("range") is not None, 200))
EXPIRING = {"capabilities": Capabilities(url_ttl=0.001), "expiring": True}
broken("url-expires", status(whole, 200), **EXPIRING)
broken("url-expires-in-words", replied(whole, 403, "gone"), **EXPIRING)

# Of errors...

broken("error-content-type", header(ERROR, "content-type", "text/html"))
broken("error-envelope", edited(ERROR, lambda content: {"detail": "n is wrong"}))
broken("error-message", error(ERROR, message=None))
broken("error-type", error(ERROR, type="value_error"))
broken("error-all-keys", edited(ERROR, lambda content: content["error"].pop("code") and None))
broken("error-null", error(ERROR, code=""))
broken("error-alone", edited(ERROR, lambda content: content.update(status=400)))
for param, value in (("n", "99"), ("size", "640x480"), ("response_format", "jpeg")):
    rule = f"error-param-{param.replace('_', '-')}"
    broken(rule, error(has(**{param: value}), param=None))
BAD_PICTURE = sends("photo.jpg", user="conformance-error")
broken("error-param-image", error(BAD_PICTURE, param=None))
broken("error-code-image", error(BAD_PICTURE, code=None))
broken("error-code-model", error(has(model="conformance-no-such-model-either"), code=None))
broken("error-request-id", header(ERROR, "x-request-id", None))
broken("error-final", header(ERROR, "retry-after", "1"))
broken("error-short", error(has(size="x" * 5000), message="No: " + "x" * 5000))
broken(
    "error-nothing-inside",
    error(sends("cut-off.png", user="conformance-error"), message="Traceback (most recent call)"),
)
broken("error-no-address", status(lambda sent: sent.path.endswith("no-such-address"), 400))
broken("error-recovers", refused(has(user="conformance-after-errors"), 500))

# Of keys, of many at once, and of models...


def with_key(value: str | None, **fields: str) -> When:
    """A request for variations with some key."""

    def when(sent: Sent) -> bool:
        same = sent.method == "POST" and sent.header("authorization") == value
        return same and sent.form.fields.get("n") == fields.get("n")

    return when


WRONG = "Bearer sk-conformance-wrong-key"
broken("key-missing", served(with_key(None)))
broken("key-wrong", served(with_key(WRONG)))
broken("key-scheme", served(with_key(f"Basic {KEY}")))
broken("key-first", refused(with_key(WRONG, n="0")))
broken("key-lower-case", refused(with_key(f"bearer {KEY}"), 401))
broken("key-missing-type", error(with_key(None), type="auth"))
broken("key-wrong-code", error(with_key(WRONG), code=None))
broken("key-authenticate", header(with_key(None), "www-authenticate", None))
broken("key-not-shown", error(with_key(WRONG), message=f"{WRONG} is wrong"))
broken(
    "at-once",
    edited(
        has(user="conformance-at-once-4"), lambda content: content.update(data=content["data"][:1])
    ),
)
broken(
    "idempotent",
    edited(
        lambda s: s.header("idempotency-key") is not None and s.times > 1,
        lambda content: content.update(again=True),
    ),
)
broken(
    "idempotent-conflict",
    served(has(user="conformance-not-twice")),
)


def models(sent: Sent) -> bool:
    """A request for the list of models."""
    return sent.path == "/v1/models"


broken("models-list", edited(models, lambda content: content.update(object="models")))
broken("models-asked-for", edited(models, lambda content: content.update(data=[{"id": "other"}])))
broken("models-none", status(lambda sent: sent.path.startswith("/v1/models/"), 200))
