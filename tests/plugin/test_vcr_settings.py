import asyncio
import gc
import io
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import vcr
from PIL import Image
from vcr.errors import CannotOverwriteExistingCassetteException
from vcr.request import Request

from pytest_image_variation import vcr_settings
from pytest_image_variation.forms import form_of
from pytest_image_variation.loopback_session import LoopbackSession
from pytest_image_variation.redaction import Redaction
from pytest_image_variation.samples import square_png
from tests.http.raw_server import raw_server, response

PNG = square_png(8)
OTHER = square_png(9)


def form(fields: dict[str, str] | None = None, data: bytes = PNG, name: str = "a.png") -> Request:
    """Return a form as a vcrpy request with its own boundary."""
    request = httpx.Request(
        "POST", "https://x.example/v1/images/variations", data=fields, files={"image": (name, data)}
    )
    return Request("POST", str(request.url), request.read(), dict(request.headers))


def recompress(png: bytes) -> bytes:
    """Return the same pixels as other bytes."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def test_boundary_and_order_do_not_matter() -> None:
    """Forms match whatever their boundary and the order of their parts."""
    first, second = form({"n": "2", "size": "256x256"}), form({"size": "256x256", "n": "2"})
    assert first.body != second.body
    vcr_settings.multipart(first, second)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (form({"n": "3"}), "n: '2' != '3'"),
        (form({}), "n: '2' != none"),
        (form({"n": "2", "user": "u"}), "user: none != 'u'"),
        (form({"n": "2"}, name="b.png"), "image: 'a.png' != 'b.png'"),
        (form({"n": "2"}, OTHER), "image: a file of 205 bytes != a file of"),
        (Request("POST", "https://x.example/", b"{}", {}), "image: 'a.png' != none"),
    ],
)
def test_parts_must_match(other: Request, message: str) -> None:
    """Names, file names and contents of parts must match, and the message names the difference."""
    with pytest.raises(AssertionError) as difference:
        vcr_settings.multipart(form({"n": "2"}), other)
    assert message in str(difference.value)
    with pytest.raises(AssertionError):
        vcr_settings.multipart(other, form({"n": "2"}))


def test_a_form_that_is_cut_off_does_not_match() -> None:
    """A form without its closing boundary differs from a complete one, also once redacted."""
    whole = form({"user": "u"})
    end = str(whole.headers["content-type"]).partition("boundary=")[2]
    cut = Request(
        "POST", whole.uri, whole.body.removesuffix(f"--{end}--\r\n".encode()), whole.headers
    )
    for first, second in (whole, cut), tuple(map(Redaction().redact_request, (whole, cut))):
        with pytest.raises(AssertionError, match="no closing boundary"):
            vcr_settings.multipart(first, second)


def test_images_match_by_pixels() -> None:
    """With "pixels", another compression is the same image, and another pixel is not."""
    first, second = form(), form(data=recompress(PNG))
    vcr_settings.multipart_pixels(first, second)
    with pytest.raises(AssertionError):
        vcr_settings.multipart(first, second)
    with pytest.raises(AssertionError):
        vcr_settings.multipart_pixels(first, form(data=OTHER))
    with pytest.raises(AssertionError):
        vcr_settings.multipart_pixels(form(data=b"not an image"), form(data=b"nor is this"))


def test_other_bodies_match_by_bytes() -> None:
    """Bodies that are not forms are compared byte by byte."""
    one, other = (Request("POST", "https://x.example/", body, {}) for body in (b"a", b"b"))
    vcr_settings.multipart(one, one)
    with pytest.raises(AssertionError):
        vcr_settings.multipart(one, other)


def test_settings_take_bytes_or_pixels() -> None:
    """Any value of `images` other than "bytes" and "pixels" is a ValueError."""
    assert vcr_settings.vcr_settings()["match_on"][-1] == "multipart"
    assert vcr_settings.vcr_settings("pixels")["match_on"][-1] == "multipart_pixels"
    with pytest.raises(ValueError, match="'bytes' or 'pixels', got 'colors'"):
        vcr_settings.vcr_settings("colors")  # type: ignore[arg-type]  # that is the point


def recorder() -> Any:
    """Return vcrpy, set up as the README shows."""
    configured_vcr = vcr.VCR(**vcr_settings.vcr_settings())
    configured_vcr.register_matcher("multipart", vcr_settings.multipart)
    return configured_vcr


def upload(client: str, view: LoopbackSession, n: str = "2") -> int:
    """Request variations, and return how many images came back."""
    url = f"{view.base_url}/images/variations"
    fields = {"n": n, "user": "jane@example.com", "response_format": "b64_json"}
    headers = {"Authorization": "Bearer sk-secret-0123456789", "Cookie": "session=secret"}
    if client == "aiohttp":
        return asyncio.run(_upload_by_aiohttp(url, fields, headers))
    files = {"image": ("a.png", PNG, "image/png")}
    response: Any
    if client == "requests":
        response = requests.post(url, data=fields, files=files, headers=headers, timeout=10)
    else:
        response = httpx.post(url, data=fields, files=files, headers=headers)
    return len(response.json()["data"])


async def _upload_by_aiohttp(url: str, fields: dict[str, str], headers: dict[str, str]) -> int:
    form_data = aiohttp.FormData(fields)
    form_data.add_field("image", io.BytesIO(PNG), filename="a.png", content_type="image/png")
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=form_data, headers=headers) as response,
    ):
        return len((await response.json())["data"])


@pytest.mark.parametrize("client", ["httpx", "requests"])
def test_suite_records_and_replays(view: LoopbackSession, tmp_path: Path, client: str) -> None:
    """The cassette holds no secret, and a different request gets an explanation."""
    path = str(tmp_path / "own.yaml")
    with recorder().use_cassette(path):
        assert upload(client, view) == 2
    text = Path(path).read_text()
    assert not any(secret in text for secret in ("secret", "jane", "req_"))
    count_before = len(view.journal)
    with recorder().use_cassette(path, record_mode="none") as cassette:
        assert upload(client, view) == 2
        assert cassette.all_played
    with (
        recorder().use_cassette(path, record_mode="none"),
        pytest.raises(CannotOverwriteExistingCassetteException) as mismatch,
    ):
        upload(client, view, n="3")
    assert "n: '3' != '2'" in str(mismatch.value)
    assert len(view.journal) == count_before


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_aiohttp_form_cannot_be_recorded(view: LoopbackSession, tmp_path: Path) -> None:
    """An aiohttp form cannot be recorded, and our error names an alternative."""
    with (
        recorder().use_cassette(str(tmp_path / "own.yaml")),
        pytest.raises(ValueError, match=r"aiohttp\.FormData, .* --image-variation-record"),
    ):
        upload("aiohttp", view)
    # vcrpy raises after the response has arrived, so nothing closes the connection.
    gc.collect()


@pytest.mark.parametrize("client", ["httpx", "requests"])
def test_secrets_in_responses_are_redacted(tmp_path: Path, client: str) -> None:
    """Request ids, account ids, cookies, keys and signatures are removed from headers and text."""
    address = (
        "https://x.example/private/org-0123456789abcdef/user-0123456789abcdef/img-1.png?sig=Zm9v%3D"
    )
    body = json.dumps(
        {
            "data": [{"url": address, "b64_json": "c2stc2VjcmV0LTAxMjM0NTY3ODk="}],
            "error": {"message": "Incorrect API key provided: sk-abcd********wxyz."},
            "user": "user-0123456789abcdef",
        }
    ).encode()
    headers = {
        "set_cookie": "__cf_bm=secret",
        "openai_organization": "org-0123456789abcdef",
        "x_request_id": "req_0123456789abcdef",
        "content_type": "application/json",
    }
    path = tmp_path / "own.yaml"
    with raw_server(response(200, body, **headers)) as server, recorder().use_cassette(str(path)):
        get: Any = httpx.get if client == "httpx" else requests.get
        received = get(f"{server.base_url}/x", timeout=10)
        # The program still sees the original response.
        assert received.content == body
        assert received.headers["x-request-id"] == "req_0123456789abcdef"
    text = path.read_text()
    assert not any(secret in text for secret in ("0123456789", "abcd*", "__cf_bm", "Zm9v"))
    assert "c2stc2VjcmV0LTAxMjM0NTY3ODk=" in text
    assert "org-REDACTED" in text


SECRETS = {
    "x-goog-api-key": "GOOGLEKEY",
    "x-auth-token": "TOKENHEADER",
    "api-key": "private-LIVEKEY",
    "openai-organization": "ORGHEADER",
    "cookie": "c=COOKIESENT",
    "user-agent": "AGENTNAME",
}
LEAKS = {
    "set_cookie": "__cf=COOKIEGIVEN",
    "openai_organization": "ORGGIVEN",
    "apim_request_id": "IDOFAZURE",
    "x_amzn_requestid": "IDOFAMAZON",
    "location": "http://x.example/?sig=SIGOFPLACE&n=2",
    "content_type": "application/json",
    "retry_after": "3",
}
LEAKING = (
    rb'{"go": "https://x.example/a.png?se=1\u0026sig=SIGOFGO\u002Bx&X-Amz-Signature=SIGOFAMAZON",'
    rb' "html": "?a=b&amp;sig=SIGOFHTML", "user": "USERGIVEN", "request_id": "IDGIVEN",'
    rb' "echo": "private-LIVEKEY GOOGLEKEY", "org": "org-acme", "of": "Bearer OTHERBEARER",'
    rb' "text": "in organization org-ofMine on", "to": "http://joe:PASSGIVEN@x.example/"}'
)


@pytest.mark.parametrize("client", ["httpx", "requests"])
def test_repeated_secrets_are_redacted(tmp_path: Path, client: str) -> None:
    """Secrets repeated in a URL, a header, a form or a response are redacted."""
    path = tmp_path / "own.yaml"
    send: Any = httpx.post if client == "httpx" else requests.post
    with raw_server(response(200, LEAKING, **LEAKS)) as server, recorder().use_cassette(str(path)):
        base = server.base_url.replace("http://", "http://joe:PASSWORD@")
        url = f"{base}/x?api-key=QUERYSECRET&api-version=2026&sig=SIGSENT"
        parts = [("user", (None, "USERONE")), ("user", (None, "USERTWO")), ("image", ("a", b"x"))]
        for body in (
            {"files": parts},
            {"data": {"user": "USERTHREE", "n": "2"}},
            {"json": {"api_key": "sk-abcdefGHIJKLMNOP", "n": 2}},
        ):
            assert send(url, headers=SECRETS, timeout=10, **body).content == LEAKING
    text = path.read_text()
    assert set(re.findall("[A-Z]{6,}", text)) == {"REDACTED"}
    assert "acme" not in text and "ofMine" not in text
    for harmless in ("api-version=2026", "api-key=REDACTED", "n=2", "se=1", "retry-after"):
        assert harmless in text.lower().replace("redacted", "REDACTED")


def test_sent_request_is_not_redacted(view: LoopbackSession) -> None:
    """Only the copy for the cassette is redacted, not the request that is sent."""
    request = form({"user": "jane"})
    request.headers["Authorization"] = "Bearer sk-secret"
    redacted = Redaction().redact_request(request)
    assert b"jane" in request.body and b"jane" not in redacted.body
    assert request.headers["Authorization"] == "Bearer sk-secret"
    assert "Authorization" not in redacted.headers
    assert form_of(redacted).fields == {"user": "REDACTED"}


def test_words_that_resemble_ids_are_kept() -> None:
    """Words that resemble ids are kept, so that other endpoints' responses stay readable."""
    body = b'{"user_identifier": "org_settings", "req_id": 1, "about": "user-generated content"}'
    answer = {"status": {}, "headers": {}, "body": {"string": body}}
    assert Redaction().redact_response(answer)["body"]["string"] == body


@pytest.mark.filterwarnings("error")
def test_aiohttp_bodies_with_files_are_forms(tmp_path: Path) -> None:
    """Mappings and pairs with files are forms, but a mapping without files may be JSON."""
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    with path.open("rb") as file:
        for data in ({"n": "2", "image": file}, [("n", "2"), ("image", file)]):
            parsed_form = form_of(Request("POST", "https://x.example/", data, {}))
            assert parsed_form.fields == {"n": "2"}
            assert parsed_form.image is not None
            assert (parsed_form.image.content, parsed_form.image.file_name) == (PNG, "a.png")
    raw = form_of(Request("POST", "https://x.example/", {"image": PNG, "n": 2}, {}))
    assert raw.image is not None
    assert raw.fields == {"n": "2"}
    content = {"model": "m", "input": [1, {"a": None}]}
    assert not form_of(Request("POST", "https://x.example/", content, {})).parts


def test_user_in_json_is_redacted() -> None:
    """The user in JSON requests and responses of other endpoints is redacted too."""
    body = b'{"model": "m", "user": "jane \\"x\\" doe", "input": "user"}'
    hidden = b'{"model": "m", "user": "REDACTED", "input": "user"}'
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    redacted = Redaction().redact_request(Request("POST", "https://x.example/v1/x", body, headers))
    assert redacted.body == hidden
    assert "Content-Length" not in redacted.headers
    answer = {"status": {}, "headers": {}, "body": {"string": body}}
    assert Redaction().redact_response(answer)["body"]["string"] == hidden


def test_images_are_not_redacted() -> None:
    """Images are not redacted, although they may contain bytes that look like a secret."""
    png = b"\x89PNG\r\n\x1a\nsk-0123456789abcdef"
    answer = {"status": {}, "headers": {}, "body": {"string": png}}
    assert Redaction().redact_response(answer)["body"]["string"] == png
