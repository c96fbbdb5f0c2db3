"""Records the cassettes anew: ``python -m pytest_image_variation.record_cassettes [FOLDER]``.

vcrpy records each scenario from this project's own server over a real socket, since the vendor's
endpoint is gone. Times, signatures and request ids are replaced by fixed ones, and a cassette whose
recording says the same as before stays as it is.
"""

import argparse
import base64
import hashlib
import http.client
import json
import re
import sys
from pathlib import Path
from typing import Any

try:
    import httpx
    import vcr
    import yaml
    from vcr.request import Request
    from vcr.serialize import serialize
    from vcr.serializers import yamlserializer

    from langchain_image_variation.images.pixels import open_image
    from pytest_image_variation import samples
    from pytest_image_variation.loopback import Loopback, View
    from pytest_image_variation.replay import BASE_URL
    from pytest_image_variation.scenarios import SCENARIOS, Scenario
    from pytest_image_variation.vcr_settings import cassette_dir
except ImportError:
    if __name__ != "__main__":
        raise
    sys.exit("Recording needs two extras: pip install 'langchain-image-variation[pytest,server]'")

__all__ = ["record", "same"]

CREATED = 1767225600
"""The time of every recording: 2026-01-01T00:00:00Z."""

_HOST = BASE_URL.removesuffix("/v1")
_ORIGIN = "recorded by vcrpy from the server of langchain-image-variation, engine instant"
_BOUNDARY = "image-variation"
_SAMPLES = {
    "square_png": samples.square_png(8),
    "non_square_png": samples.non_square_png(12, 8),
    "truncated_png": samples.truncated_png(8),
    "jpeg": samples.jpeg(12, 8),
}
_KEPT_HEADERS = {
    "content-type",
    "openai-version",
    "retry-after",
    "retry-after-ms",
    "www-authenticate",
    "x-ms-error-code",
    "x-request-id",
}
_LARGEST_BODY = 64 * 1024
_ADDRESS = re.compile(r"/files/([0-9a-f]{64})\.png\?se=[0-9]+&sig=[0-9a-f]{64}")
_PNG = re.compile(rb"\x89PNG\r\n\x1a\n.*?(?:IEND\xaeB`\x82|(?=\r\n--))", re.DOTALL)
_BASE64_PNG = re.compile(r"iVBORw0KGgo[A-Za-z0-9+/=]+")


def record(folder: Path) -> list[str]:
    """Record every scenario into a folder, and return the names of those that have changed.

    Cassettes that were recorded here, of scenarios that do not exist any more, are removed; any
    other file stays.

    Raises:
        OSError: If a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    with Loopback() as server, httpx.Client() as client:
        for name, scenario in SCENARIOS.items():
            path = folder / f"{name}.yaml"
            with server.view() as view:
                text = _recorded(scenario, view, client)
            if not path.exists() or not same(path.read_text("ascii"), text):
                path.write_text(text, "ascii")
                changed.append(name)
    for path in folder.glob("*.yaml"):
        if path.stem not in SCENARIOS and path.read_bytes().startswith(_head(path.stem)):
            path.unlink()
            changed.append(path.stem)
    return changed


def same(first: str, second: str) -> bool:
    """Say whether two cassettes hold the same, however their pictures were compressed."""
    return first == second or _meaning(yaml.safe_load(first)) == _meaning(yaml.safe_load(second))


def _recorded(scenario: Scenario, view: View, client: httpx.Client) -> str:
    view.scenario(scenario.name)
    fixed = _Fixed(scenario.name, view)
    saved = _Saved()
    recorder = vcr.VCR(
        record_mode="all",
        before_record_request=fixed.request,
        before_record_response=fixed.response,
    )
    recorder.register_persister(saved)
    request = _request(scenario, view)
    cut = _cut_answer(request) if scenario.answers[0].cut else None
    with recorder.use_cassette(scenario.name) as cassette:
        if cut is not None:
            url = str(request.url)
            cassette.append(Request("POST", url, request.content, dict(request.headers)), cut)
        else:
            for _ in scenario.answers:
                answer = client.send(request)
            for url in re.findall(r'"url": "([^"]+)"', answer.text):
                client.get(url)
    problems = view.expectations.problems()
    assert not problems, problems
    return _head(scenario.name).decode() + saved.text


def _head(name: str) -> bytes:
    """Return how every cassette that is recorded here begins."""
    return f"scenario: {name}\norigin: {_ORIGIN}\n".encode()


def _request(scenario: Scenario, view: View) -> httpx.Request:
    if scenario.sample == "oversized_png":
        picture: bytes | None = samples.oversized_png()
    else:
        picture = _SAMPLES[scenario.sample] if scenario.sample else None
    name = "image.jpg" if scenario.sample == "jpeg" else "image.png"
    parts: list[tuple[str, Any]] = [(key, (None, v)) for key, v in scenario.fields.items()]
    if picture is not None:
        kind = "image/jpeg" if scenario.sample == "jpeg" else "image/png"
        parts.append(("image", (name, picture, kind)))
    headers = {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
    if scenario.breaks != "key":
        headers["authorization"] = f"Bearer {view.api_key}"
    request = httpx.Request(
        "POST", f"{view.base_url}/images/variations", headers=headers, files=parts
    )
    request.read()
    return request


def _cut_answer(request: httpx.Request) -> dict[str, Any]:
    """Return the answer to a request up to where it breaks off, which httpx would not."""
    connection = http.client.HTTPConnection(request.url.host, request.url.port or 80)
    connection.request("POST", request.url.path, request.content, dict(request.headers))
    response = connection.getresponse()
    try:
        body = response.read()
    except http.client.IncompleteRead as error:
        body = error.partial
    connection.close()
    headers = {name.lower(): [value] for name, value in response.getheaders()}
    status = {"code": response.status, "message": response.reason}
    return {"status": status, "headers": headers, "body": {"string": body}}


class _Saved:
    """A persister of vcrpy that keeps what it should write."""

    text = ""

    def load_cassette(self, path: object, serializer: object) -> tuple[list[Any], list[Any]]:
        return [], []

    def save_cassette(self, path: object, cassette_dict: Any, serializer: object) -> None:
        self.text = serialize(cassette_dict, yamlserializer)


class _Fixed:
    """Replaces in one recording what differs from one to the next."""

    def __init__(self, name: str, view: View) -> None:
        self._name = name
        self._root = view.base_url.removesuffix("/v1")
        self._pictures: list[str] = []
        self._request_id = f"req_{hashlib.sha256(name.encode()).hexdigest()[:32]}"

    def request(self, request: Any) -> Any:
        body = request.body or b""
        kept = {"Content-Type": request.headers["content-type"]} if body else {}
        if len(body) > _LARGEST_BODY:
            body, kept = b"", {}
        return Request(request.method, self._text(request.uri), body, kept)

    def response(self, response: dict[str, Any]) -> dict[str, Any]:
        headers = {
            name.title(): values
            for name, values in sorted(response["headers"].items())
            if name.lower() in _KEPT_HEADERS
        }
        if "X-Request-Id" in headers:
            headers["X-Request-Id"] = [self._request_id]
        body = response["body"]["string"]
        if not body.startswith(b"\x89PNG"):
            body = self._text(body.decode()).encode()
        status = {"code": response["status"]["code"], "message": response["status"]["message"]}
        return {"status": status, "headers": headers, "body": {"string": body}}

    def _text(self, text: str) -> str:
        text = text.replace(self._root, _HOST)
        text = re.sub(r'"created": [0-9]+', f'"created": {CREATED}', text)
        return _ADDRESS.sub(self._address, text)

    def _address(self, found: re.Match[str]) -> str:
        if found[1] not in self._pictures:
            self._pictures.append(found[1])
        number = self._pictures.index(found[1]) + 1
        return f"/files/{self._name}-{number}.png?se={CREATED + 3600}&sig={'0' * 64}"


def _meaning(content: Any) -> Any:
    """Return a cassette with each picture replaced by its pixels."""
    if isinstance(content, dict):
        return {key: _meaning(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_meaning(value) for value in content]
    if isinstance(content, bytes):
        return _PNG.sub(lambda found: _pixels(found[0]), content)
    if isinstance(content, str):
        return _BASE64_PNG.sub(lambda found: _pixels(_decoded(found[0])).decode(), content)
    return content


def _decoded(text: str) -> bytes:
    # A body that is cut ends anywhere.
    return base64.b64decode(text[: len(text) // 4 * 4])


def _pixels(png: bytes) -> bytes:
    try:
        with open_image(png) as image:
            pixels = image.convert("RGBA").tobytes()
            return f"{image.size} {image.mode} {hashlib.sha256(pixels).hexdigest()}".encode()
    except (OSError, SyntaxError):
        return b"broken"


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pytest_image_variation.record_cassettes",
        description="Record each scenario from this project's own server. Files of the folder that "
        "were not recorded by this program stay as they are.",
    )
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        type=Path,
        nargs="?",
        help="where to write; in a checkout, its cassettes/ if none is named",
    )
    folder = parser.parse_args().folder
    if folder is None:
        folder = cassette_dir()
        if folder.parent == Path(__file__).parent:
            parser.error("name a FOLDER: those of an installed package are not written over.")
    print(json.dumps({"changed": record(folder)}))


if __name__ == "__main__":
    _main()
