"""Rules about requests: which are served and which are refused."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from langchain_image_variation.contract import MAX_N, SIZES
from pytest_image_variation.conformance.probe_request import Field, File, Question
from pytest_image_variation.conformance.rule import Level, Rule, unseen
from pytest_image_variation.conformance.server_probe import ServerProbe

__all__ = ["RULES", "serves"]

_Ask = Callable[[ServerProbe], Question]


def serves(probe: ServerProbe) -> None:
    """Leave a check if the server does not serve the plainest request either.

    Raises:
        Unseen: If it does not.
    """
    if not probe.serves:
        unseen("A plain request is not served; see answer-status and answer-data.")


def _accepts(id: str, level: Level, text: str, ask: _Ask) -> Rule[ServerProbe]:
    def check(probe: ServerProbe) -> None:
        serves(probe)
        probe.ask(ask(probe)).served()

    return Rule(f"accept-{id}", level, text, check)


def _refuses(
    id: str, level: Level, text: str, ask: _Ask, *others: int, status: int = 400
) -> Rule[ServerProbe]:
    def check(probe: ServerProbe) -> None:
        serves(probe)
        probe.ask(ask(probe)).refused(status, *others)

    return Rule(f"refuse-{id}", level, text, check)


def _field(name: str, value: str) -> _Ask:
    return lambda probe: probe.legal(**{name: value})


def _picture(name: str) -> _Ask:
    return lambda probe: probe.legal(picture=name)


def _file(**changes: str) -> _Ask:
    def ask(probe: ServerProbe) -> Question:
        fields = probe.legal(picture=None).parts
        return Question(parts=(*fields, File(**{"picture": "rgb.png", **changes})))

    return ask


# What is served...


def _accepted_forms() -> Iterator[Rule[ServerProbe]]:
    yield _accepts(
        "picture-alone",
        "MUST",
        "The picture is the only field that is needed.",
        lambda probe: probe.legal(response_format=None, size=None),
    )
    yield _accepts(
        "all-fields",
        "MUST",
        "All fields may come together.",
        lambda probe: probe.legal(
            model=_model(probe), n="1", size=probe.size, user="conformance-all"
        ),
    )
    yield _accepts(
        "user", "MUST", "user may be any text.", _field("user", "conformance user \u00e9 42")
    )
    yield _accepts(
        "model",
        "MUST",
        "model may name the model; dall-e-2 where none was given to the kit.",
        lambda probe: probe.legal(model=_model(probe), user="conformance-model"),
    )
    yield _accepts("no-model", "MUST", "model may be left out.", _without_model)
    yield _accepts(
        "picture-first",
        "MUST",
        "The parts of the form may come in any order.",
        lambda probe: replace(probe.legal(), parts=probe.legal().parts[::-1]),
    )
    yield _accepts(
        "octet-stream",
        "MUST",
        "The picture may come as application/octet-stream, as the SDKs send bytes without a name.",
        _file(content_type="application/octet-stream", file_name="upload"),
    )
    yield _accepts(
        "any-file-name",
        "SHOULD",
        "The file's name does not matter, nor whether it is plain ASCII.",
        _file(file_name="b\u00e4r \u718a.PNG"),
    )
    yield _accepts(
        "chunked",
        "SHOULD",
        "A body may come in chunks, without its length said in advance.",
        lambda probe: replace(probe.legal(), chunked=True),
    )
    yield _accepts(
        "empty-field",
        "MAY",
        "A field that is empty, as web forms send it, counts as left out.",
        _field("user", ""),
    )
    yield _accepts(
        "idempotency-key",
        "SHOULD",
        "A header that it does not know, such as Idempotency-Key, does no harm.",
        lambda probe: replace(
            probe.legal(), headers=(("idempotency-key", f"conformance-alone-{probe.run}"),)
        ),
    )


def _accepted_pictures() -> Iterator[Rule[ServerProbe]]:
    pictures: tuple[tuple[str, Level, str], ...] = (
        ("rgba", "MUST", "A picture may have an alpha channel."),
        # The vendor's took RGB and RGBA alone.
        ("grey", "MAY", "A picture may be grey."),
        ("grey-alpha", "MAY", "A picture may be grey with an alpha channel."),
        ("palette", "MAY", "A picture may have a palette."),
        ("black-white", "MAY", "A picture may have one bit a pixel."),
        ("sixteen-bit", "MAY", "A picture may have 16 bits a sample."),
        ("one-pixel", "MAY", "A picture may be as small as one pixel."),
        ("2048", "SHOULD", "A picture may be larger than what is asked for."),
        ("just-below-4-mb", "MUST", "A picture of 4 MB (4,194,304 bytes) less one byte is served."),
    )
    for name, level, text in pictures:
        yield _accepts(name, level, text, _picture(f"{name}.png"))


def _without_model(probe: ServerProbe) -> Question:
    if probe.server.model is None:
        unseen("No model was given to the kit, so every request leaves it out.")
    return probe.legal(model=None)


def _model(probe: ServerProbe) -> str:
    return probe.server.model or "dall-e-2"


# What is refused...


def _refused_fields() -> Iterator[Rule[ServerProbe]]:
    for id, value, text in (
        ("n-zero", "0", "n is at least 1; 0 is refused."),
        ("n-negative", "-1", "n is at least 1; -1 is refused."),
        ("n-fraction", "1.5", "n is a whole number; 1.5 is refused."),
        ("n-word", "two", "n is a number; a word is refused."),
    ):
        yield _refuses(id, "MUST", text, _field("n", value))
    yield Rule(
        "refuse-n-above",
        "MUST",
        "n is at most 10, or what the server claims; one more is refused, not cut down.",
        _one_too_many,
    )
    for id, value, text in (
        ("size-other", "300x300", "size is one of those that exist; 300x300 is refused."),
        ("size-not-square", "1024x1536", "size is square; 1024x1536 is refused."),
        ("size-one-number", "256", "size is width x height; one number is refused."),
        ("size-word", "large", "size is width x height; a word is refused."),
    ):
        yield _refuses(id, "MUST", text, _size(value))
    yield _refuses(
        "format-other",
        "MUST",
        "response_format is url or b64_json; png is refused.",
        _field("response_format", "png"),
    )
    yield _refuses(
        "format-case",
        "SHOULD",
        "Values are in lower case; B64_JSON is refused.",
        _field("response_format", "B64_JSON"),
    )
    yield _refuses(
        "unknown-model",
        "SHOULD",
        "A model that does not exist is refused, with 400 or 404, not exchanged for another.",
        _field("model", "conformance-no-such-model"),
        404,
    )
    yield _refuses(
        "unknown-field",
        "SHOULD",
        "A field that the contract does not have, such as prompt, is refused, not ignored.",
        _field("prompt", "a cat"),
    )
    yield _refuses(
        "repeated-field",
        "SHOULD",
        "A field that is there twice is refused.",
        lambda probe: Question(
            parts=(Field("n", "1"), Field("n", "2"), *probe.legal(n=None).parts)
        ),
    )


def _one_too_many(probe: ServerProbe) -> None:
    serves(probe)
    n = probe.capabilities.max_n + 1
    answer = probe.variation(n=str(n))
    # Who makes all of them does more than is claimed, which harms nobody.
    if n > MAX_N or answer.status != 200 or len(answer.entries) != n:
        answer.refused()


def _size(value: str) -> _Ask:
    def ask(probe: ServerProbe) -> Question:
        if value in probe.capabilities.sizes:
            unseen(f"The server claims the size {value}.")
        return probe.legal(size=value)

    return ask


def _refused_pictures() -> Iterator[Rule[ServerProbe]]:
    pictures: tuple[tuple[str, Level, str, str], ...] = (
        ("wide", "MUST", "wide.png", "A picture is square; one of 96x64 pixels is refused."),
        ("high", "MUST", "high.png", "A picture is square; one of 64x96 pixels is refused."),
        (
            "almost-square",
            "MUST",
            "almost-square.png",
            "A picture is square to the pixel; one of 65x64 is refused.",
        ),
        (
            "4-mb",
            "MUST",
            "4-mb.png",
            "A picture has less than 4 MB; 4,194,304 bytes are refused with 400 or 413.",
        ),
        ("jpeg", "MUST", "photo.jpg", "A picture is PNG; JPEG is refused."),
        ("gif", "MUST", "photo.gif", "A picture is PNG; GIF is refused."),
        ("webp", "MUST", "photo.webp", "A picture is PNG; WebP is refused."),
        ("text", "MUST", "text.png", "A picture is PNG; a text under its name is refused."),
        ("empty-picture", "MUST", "empty.png", "A picture is PNG; an empty file is refused."),
        ("cut-off", "MUST", "cut-off.png", "A PNG that is cut off is refused."),
        (
            "wrong-checksum",
            "SHOULD",
            "wrong-checksum.png",
            "A PNG with a wrong checksum is refused.",
        ),
        (
            "broken-pixels",
            "SHOULD",
            "broken-pixels.png",
            "A PNG whose pixels cannot be inflated is refused with 400: it is no fault of the "
            "server.",
        ),
    )
    for id, level, name, text in pictures:
        others = (413,) if id == "4-mb" else ()
        yield _refuses(id, level, text, _picture(name), *others)
    yield _refuses(
        "no-picture",
        "MUST",
        "A request without a picture is refused.",
        lambda probe: probe.legal(picture=None, n="1"),
    )
    yield _refuses(
        "two-pictures",
        "SHOULD",
        "A request with two pictures is refused.",
        lambda probe: Question(parts=(*probe.legal().parts, File("rgb.png"))),
    )
    yield _refuses(
        "picture-as-text",
        "SHOULD",
        "The picture is a file of the form; one that comes as text, say as base64, is refused.",
        lambda probe: Question(
            parts=(*probe.legal(picture=None).parts, Field("image", "iVBORw0KGgo="))
        ),
    )


_JSON = '{"image": "https://pictures.example/image.png", "n": 1}'
_CUT = '--conformance\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n\r\nabc'


def _refused_bodies() -> Iterator[Rule[ServerProbe]]:
    bodies: tuple[tuple[str, Level, str | None, str | None, str], ...] = (
        ("json", "MUST", _JSON, "application/json", "A body of JSON is refused with 400 or 415."),
        (
            "urlencoded",
            "MUST",
            "n=1&size=256x256",
            "application/x-www-form-urlencoded",
            "A form that is not multipart is refused with 400 or 415.",
        ),
        ("no-body", "MUST", None, None, "A request without a body is refused with 400 or 415."),
        (
            "broken-form",
            "MUST",
            _CUT,
            "multipart/form-data; boundary=conformance",
            "A form that breaks off is refused.",
        ),
        (
            "no-boundary",
            "SHOULD",
            "--x--\r\n",
            "multipart/form-data",
            "A form that does not say its boundary is refused.",
        ),
    )
    for id, level, body, kind, text in bodies:
        others = () if id in ("broken-form", "no-boundary") else (415,)
        yield _refuses(id, level, text, _body(body, kind), *others)
    yield _refuses(
        "get",
        "SHOULD",
        "GET is refused with 405, or 404.",
        lambda _: Question("GET"),
        404,
        status=405,
    )


def _body(body: str | None, kind: str | None) -> _Ask:
    return lambda _: Question(body=body, content_type=kind)


def _sizes() -> Iterator[Rule[ServerProbe]]:
    for size in SIZES:
        yield Rule(
            f"size-{size}",
            "MUST",
            f"size may be {size}, and each picture then is so to the pixel.",
            partial(_has_size, size),
        )
    yield Rule(
        "size-claimed",
        "MUST",
        "Other sizes that the server claims are served, to the pixel.",
        _other_sizes,
    )


def _has_size(size: str, probe: ServerProbe) -> None:
    if size not in probe.capabilities.sizes:
        unseen(f"The server does not claim the size {size}.")
    serves(probe)
    answer = probe.variation(size=size).served()
    for index, picture in enumerate(probe.pictures(answer)):
        answer.must(picture.size == size, f"data[{index}] is {picture.size or 'no picture'}")


def _other_sizes(probe: ServerProbe) -> None:
    others = [size for size in probe.capabilities.sizes if size not in SIZES]
    if not others:
        unseen("The server claims no other size.")
    for size in others:
        _has_size(size, probe)


def _counts() -> Iterator[Rule[ServerProbe]]:
    yield Rule("n-one", "MUST", "n may be 1, and data has 1 entry.", lambda p: _count(p, 1))
    yield Rule("n-two", "MUST", "n may be 2, and data has 2 entries.", lambda p: _count(p, 2))
    yield Rule(
        "n-most",
        "MUST",
        "n may be 10, or what the server claims, and data has as many entries.",
        lambda probe: _count(probe, probe.capabilities.max_n),
    )


def _count(probe: ServerProbe, n: int) -> None:
    if n > probe.capabilities.max_n:
        unseen(f"The server does not claim n={n}.")
    serves(probe)
    answer = probe.variation(n=str(n)).succeeded()
    answer.must(len(answer.entries) == n, lambda: f"{len(answer.entries)} entries: {answer}")


RULES: tuple[Rule[ServerProbe], ...] = (
    *_accepted_forms(),
    *_accepted_pictures(),
    *_counts(),
    *_sizes(),
    *_refused_fields(),
    *_refused_pictures(),
    *_refused_bodies(),
)
"""All of them."""
