"""Records the cassettes: ``python -m pytest_image_variation.record_cassettes [FOLDER]``.

The vendor removed its endpoint, so vcrpy records each scenario from this project's own server over
a real socket. Times, signatures and request ids are replaced by fixed values, and a cassette file
is written only if its meaning changes.
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
    from pytest_image_variation.loopback import Loopback
    from pytest_image_variation.loopback_session import LoopbackSession
    from pytest_image_variation.replay import BASE_URL
    from pytest_image_variation.scenarios import SCENARIOS, Scenario
    from pytest_image_variation.vcr_settings import cassette_dir
except ImportError:
    if __name__ != "__main__":
        raise
    from langchain_image_variation.exceptions import install_command

    command = install_command("langchain-image-variation[pytest,server]")
    sys.exit(f"Recording cassettes needs two extras. Run: {command}")

__all__ = ["have_equal_meaning", "record"]

CREATED = 1767225600
"""The time in every cassette: 2026-01-01T00:00:00Z."""

_HOST = BASE_URL.removesuffix("/v1")
_ORIGIN = "recorded by vcrpy from the server of langchain-image-variation, engine instant"
_BOUNDARY = "image-variation"
_SAMPLES = {
    "square_png": samples.square_png(8),
    "non_square_png": samples.non_square_png(12, 8),
    "truncated_png": samples.truncated_png(8),
    "jpeg": samples.jpeg(12, 8),
}
_RECORDED_HEADERS = {
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
    """Record every scenario into a folder, and return the names of the cassettes that changed.

    Cassettes of scenarios that no longer exist are removed if this program recorded them. Other
    files are not touched.

    Raises:
        OSError: If a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    with Loopback() as server, httpx.Client() as client:
        for name, scenario in SCENARIOS.items():
            path = folder / f"{name}.yaml"
            with server.view() as view:
                text = _record_scenario(scenario, view, client)
            if not path.exists() or not have_equal_meaning(path.read_text("ascii"), text):
                path.write_text(text, "ascii")
                changed.append(name)
    for path in folder.glob("*.yaml"):
        if path.stem not in SCENARIOS and path.read_bytes().startswith(_head(path.stem)):
            path.unlink()
            changed.append(path.stem)
    return changed


def have_equal_meaning(first: str, second: str) -> bool:
    """Return whether two cassettes are equal, apart from how their images are compressed."""
    return first == second or _meaning(yaml.safe_load(first)) == _meaning(yaml.safe_load(second))


def _record_scenario(scenario: Scenario, view: LoopbackSession, client: httpx.Client) -> str:
    view.scenario(scenario.name)
    normalizer = _Normalizer(scenario.name, view)
    persister = _TextPersister()
    recorder = vcr.VCR(
        record_mode="all",
        before_record_request=normalizer.normalize_request,
        before_record_response=normalizer.normalize_response,
    )
    recorder.register_persister(persister)
    request = _request(scenario, view)
    cut_response = _fetch_cut_response(request) if scenario.answers[0].cut else None
    with recorder.use_cassette(scenario.name) as cassette:
        if cut_response is not None:
            headers = dict(request.headers)
            vcr_request = Request("POST", str(request.url), request.content, headers)
            cassette.append(vcr_request, cut_response)
        else:
            for _ in scenario.answers:
                response = client.send(request)
            for url in re.findall(r'"url": "([^"]+)"', response.text):
                client.get(url)
    problems = view.expectations.problems()
    assert not problems, problems
    return _head(scenario.name).decode() + persister.text


def _head(name: str) -> bytes:
    """Return the first lines of a cassette that this program records."""
    return f"scenario: {name}\norigin: {_ORIGIN}\n".encode()


def _request(scenario: Scenario, view: LoopbackSession) -> httpx.Request:
    if scenario.sample == "oversized_png":
        image: bytes | None = samples.oversized_png()
    else:
        image = _SAMPLES[scenario.sample] if scenario.sample else None
    name = "image.jpg" if scenario.sample == "jpeg" else "image.png"
    parts: list[tuple[str, Any]] = [(key, (None, v)) for key, v in scenario.fields.items()]
    if image is not None:
        kind = "image/jpeg" if scenario.sample == "jpeg" else "image/png"
        parts.append(("image", (name, image, kind)))
    headers = {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}
    if scenario.breaks != "key":
        headers["authorization"] = f"Bearer {view.api_key}"
    request = httpx.Request(
        "POST", f"{view.base_url}/images/variations", headers=headers, files=parts
    )
    request.read()
    return request


def _fetch_cut_response(request: httpx.Request) -> dict[str, Any]:
    """Return a response up to where it is cut. httpx would raise an error instead."""
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


class _TextPersister:
    """A vcrpy persister that keeps the cassette as text."""

    text = ""

    def load_cassette(self, path: object, serializer: object) -> tuple[list[Any], list[Any]]:
        return [], []

    def save_cassette(self, path: object, cassette_dict: Any, serializer: object) -> None:
        self.text = serialize(cassette_dict, yamlserializer)


class _Normalizer:
    """Replaces values that differ from one recording to the next."""

    def __init__(self, name: str, view: LoopbackSession) -> None:
        self._name = name
        self._root = view.base_url.removesuffix("/v1")
        self._images: list[str] = []
        self._request_id = f"req_{hashlib.sha256(name.encode()).hexdigest()[:32]}"

    def normalize_request(self, request: Any) -> Any:
        body = request.body or b""
        headers = {"Content-Type": request.headers["content-type"]} if body else {}
        if len(body) > _LARGEST_BODY:
            body, headers = b"", {}
        return Request(request.method, self._normalize_text(request.uri), body, headers)

    def normalize_response(self, response: dict[str, Any]) -> dict[str, Any]:
        headers = {
            name.title(): values
            for name, values in sorted(response["headers"].items())
            if name.lower() in _RECORDED_HEADERS
        }
        if "X-Request-Id" in headers:
            headers["X-Request-Id"] = [self._request_id]
        body = response["body"]["string"]
        if not body.startswith(b"\x89PNG"):
            body = self._normalize_text(body.decode()).encode()
        status = {"code": response["status"]["code"], "message": response["status"]["message"]}
        return {"status": status, "headers": headers, "body": {"string": body}}

    def _normalize_text(self, text: str) -> str:
        text = text.replace(self._root, _HOST)
        text = re.sub(r'"created": [0-9]+', f'"created": {CREATED}', text)
        return _ADDRESS.sub(self._normalize_address, text)

    def _normalize_address(self, match: re.Match[str]) -> str:
        if match[1] not in self._images:
            self._images.append(match[1])
        number = self._images.index(match[1]) + 1
        return f"/files/{self._name}-{number}.png?se={CREATED + 3600}&sig={'0' * 64}"


def _meaning(content: Any) -> Any:
    """Return a cassette with each image replaced by a digest of its pixels."""
    if isinstance(content, dict):
        return {key: _meaning(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_meaning(value) for value in content]
    if isinstance(content, bytes):
        return _PNG.sub(lambda match: _pixels(match[0]), content)
    if isinstance(content, str):
        return _BASE64_PNG.sub(lambda match: _pixels(_decode(match[0])).decode(), content)
    return content


def _decode(text: str) -> bytes:
    # A cut body may end in the middle of a group of four characters.
    return base64.b64decode(text[: len(text) // 4 * 4])


def _pixels(png: bytes) -> bytes:
    try:
        with open_image(png) as image:
            pixels = image.convert("RGBA").tobytes()
            return f"{image.size} {image.mode} {hashlib.sha256(pixels).hexdigest()}".encode()
    except (OSError, SyntaxError):
        return b"corrupt"


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pytest_image_variation.record_cassettes",
        description="Record each scenario from this project's own server. Files in the folder that "
        "this program did not record are not touched.",
    )
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        type=Path,
        nargs="?",
        help="the folder to write to (default in a checkout: cassettes/)",
    )
    folder = parser.parse_args().folder
    if folder is None:
        folder = cassette_dir()
        if folder.parent == Path(__file__).parent:
            parser.error("pass a FOLDER: the cassettes of an installed package are not changed.")
    print(json.dumps({"changed": record(folder)}))


if __name__ == "__main__":
    _main()
