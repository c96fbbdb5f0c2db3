"""Servers that share a store at a URL: in memory and in a folder. `test_s3_store.py` uses S3."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import fsspec
import httpx
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from starlette.applications import Starlette

from langchain_image_variation.cli import main
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.exceptions import (
    ExpiredURLError,
    ImageVariationError,
    InvalidRequestError,
    MissingExtraError,
    NotFoundError,
    OutputError,
    ServiceUnavailableError,
)
from langchain_image_variation.server import create_app
from langchain_image_variation.server.store.url_store import URLStore
from pytest_image_variation.samples import square_png
from tests.server.serving import serving

KEY = "0123456789abcdef" * 2
GIGABYTE = 1024**3
DAY = 24 * 3600.0


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty folder that does not exist yet."""
    name = f"memory://{uuid4().hex}" if request.param == "memory" else f"file://{tmp_path}/store"
    yield name
    files, path = fsspec.url_to_fs(name)
    if files.exists(path):
        files.rm(path, recursive=True)


def open_store(url: str, **settings: Any) -> URLStore:
    """Open a store."""
    defaults: dict[str, Any] = {"signing_key": KEY, "ttl": 60, "max_bytes": GIGABYTE}
    return URLStore(url, {}, **(defaults | settings))


def app(url: str, engine: Any = "instant", **settings: Any) -> Starlette:
    """Return an app with its store at a URL."""
    return create_app(engine, store_url=url, signing_key=KEY, **settings)


def names(url: str) -> list[str]:
    """Return the names of the files at a URL, but not that of the probe."""
    files, path = fsspec.url_to_fs(url)
    found = (str(name).rpartition("/")[2] for name in files.ls(path, detail=False))
    return sorted(name for name in found if name != ".writable")


def add(store: URLStore, png: bytes) -> tuple[str, str, str]:
    """Store an image as the only one of an answer, and return the three parts of its URL."""
    (address,) = store.add_all([png])
    name, _, query = address.partition("?se=")
    expires, _, signature = query.partition("&sig=")
    return name, expires, signature


def post(address: str, key: str = "", **form: str) -> httpx.Response:
    """Request variations."""
    return httpx.post(
        f"{address}/v1/images/variations",
        files={"image": ("a.png", square_png(8))},
        data={"size": "256x256", **form},
        headers={"idempotency-key": key},
        timeout=60,
    )


def on_server(address: str, url: str) -> str:
    """Return the URL of an image as another server would have given it."""
    parts = urlsplit(url)
    return f"{address}{parts.path}?{parts.query}"


class CountingEngine(LocalEngine):
    """Counts its calls. If it has a barrier, calls wait until there are two."""

    calls = 0
    barrier: threading.Barrier | None = None

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Count, wait and answer."""
        CountingEngine.calls += 1
        if self.barrier is not None:
            self.barrier.wait(60)
        return super().create_variation(request)


@pytest.fixture(autouse=True)
def _reset_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start counting at 0."""
    monkeypatch.setattr(CountingEngine, "calls", 0)


def test_every_server_serves_every_url(url: str) -> None:
    """A URL that one server gave is answered by the other, until it is restarted and after."""
    with serving(app(url, "local")) as first, serving(app(url, "local")) as second:
        urls = [entry["url"] for entry in post(first, n="3").json()["data"]]
        images = [httpx.get(on_server(second, each)) for each in urls]
        assert [image.status_code for image in images] == [200] * 3
        assert [image.content for image in images] == [httpx.get(each).content for each in urls]
        part = httpx.get(on_server(second, urls[0]), headers={"range": "bytes=1-3"})
        assert (part.status_code, part.content) == (206, b"PNG")
        assert httpx.get(on_server(second, f"{urls[0]}0")).status_code == 403
    with serving(app(url)) as third:
        assert httpx.get(on_server(third, urls[0])).content == images[0].content


def test_servers_share_answers(url: str) -> None:
    """A key that one server has answered gets the same answer from the other, and 409 otherwise."""
    with (
        serving(app(url, CountingEngine())) as first,
        serving(app(url, CountingEngine())) as second,
    ):
        for form in ({"response_format": "url"}, {"response_format": "b64_json"}):
            key = form["response_format"]
            answers = [post(address, key, **form).content for address in (first, second, first)]
            assert len(set(answers)) == 1
            assert post(second, key, n="2", **form).status_code == 409
    assert CountingEngine.calls == 2


@pytest.mark.parametrize("fields", [({}, {}), ({}, {"n": "2"})])
def test_answers_made_at_once_become_one(
    monkeypatch: pytest.MonkeyPatch, fields: tuple[dict[str, str], dict[str, str]]
) -> None:
    """If two servers make an answer to a key at the same time, both give the first one."""
    url = f"memory://{uuid4().hex}"
    monkeypatch.setattr(CountingEngine, "barrier", threading.Barrier(2))
    with (
        serving(app(url, CountingEngine())) as first,
        serving(app(url, CountingEngine())) as second,
        ThreadPoolExecutor(2) as pool,
    ):
        posts = [
            pool.submit(post, address, "k1", response_format="b64_json", **form)
            for address, form in zip((first, second), fields, strict=True)
        ]
        answers = [each.result() for each in posts]
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == ([200, 200] if fields[0] == fields[1] else [200, 409])
        if statuses == [200, 200]:
            assert answers[0].content == answers[1].content
        (given,) = {answer.content for answer in answers if answer.status_code == 200}
        form = fields[0] if answers[0].status_code == 200 else fields[1]
        for address in (first, second):
            assert post(address, "k1", response_format="b64_json", **form).content == given
    assert CountingEngine.calls == 2


@pytest.mark.mostly_slow(
    "memory-changed", "memory-cut off", "memory-empty", "memory-expired", "file-cut off"
)
@pytest.mark.parametrize("damage", ["cut off", "changed", "empty", "expired"])
def test_a_damaged_record_is_replaced(url: str, damage: str, monkeypatch: Any) -> None:
    """A record that is incomplete, changed or expired gives a new answer, which is shared."""
    with serving(app(url, "local")) as address:
        first = post(address, "k1").content
    files, path = fsspec.url_to_fs(url)
    (record,) = (name for name in names(url) if name.endswith(".answer"))
    content = files.cat_file(f"{path}/{record}")
    damaged = {
        "cut off": content[:-9],
        "changed": content.replace(b"/files/", b"/evil/"),
        "empty": b"",
    }
    files.pipe_file(f"{path}/{record}", damaged.get(damage, content))
    if damage == "expired":
        true_time = time.time
        monkeypatch.setattr(time, "time", lambda: true_time() + 3601)
    with serving(app(url, "local")) as address:
        second = post(address, "k1").content
        assert second != first
    with serving(app(url, "local")) as address:
        assert post(address, "k1").content == second


def test_other_keys_open_nothing(url: str) -> None:
    """A server with another signing key answers neither the URLs nor the keys of the others."""
    with serving(app(url, "local")) as address:
        given = post(address, "k1")
    other = create_app("local", store_url=url, signing_key="x" * 32)
    with serving(other) as address:
        assert httpx.get(on_server(address, given.json()["data"][0]["url"])).status_code == 403
        assert post(address, "k1").content != given.content


def test_urls_expire(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL stops working at its time. Its file is removed when no server's clock needs it."""
    first, second = open_store(url), open_store(url, ttl=3600)
    image, other_image = add(first, square_png(1)), add(second, square_png(2))
    true_time = time.time
    for seconds, is_there in ((61, True), (125, False)):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: true_time() + seconds)
        with pytest.raises(ExpiredURLError):
            second.open(*image)
        second.tidy()
        assert any(name.endswith(image[0]) for name in names(url)) is is_there
        assert first.open(*other_image).file.read() == square_png(2)


def test_old_answers_are_removed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of an answer is removed a day after it was written."""
    with serving(app(url)) as address:
        post(address, "k1", response_format="b64_json")
    true_time = time.time
    for seconds, count in ((DAY - 100, 1), (DAY + 100, 0)):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: true_time() + seconds)
        open_store(url).tidy()
        assert len(names(url)) == count


def test_the_oldest_images_make_room(url: str) -> None:
    """Beyond the limit, the oldest images are removed, also those of other servers."""
    limit = sum(len(square_png(side)) for side in (102, 103))
    first, second = open_store(url, max_bytes=limit), open_store(url, max_bytes=limit)
    images = []
    for index, side in enumerate((100, 101, 102, 103)):
        images.append(add((first, second)[index % 2], square_png(side)))
        # Another clock tick, or the files would be equally old.
        time.sleep(0.02)
    second.tidy()
    for image in images[:2]:
        with pytest.raises(NotFoundError, match="make room"):
            second.open(*image)
    assert first.open(*images[3]).length == len(square_png(103))
    assert (
        sum(fsspec.url_to_fs(url)[0].info(f"{url}/{name}")["size"] for name in names(url)) <= limit
    )


def test_the_images_of_an_answer_stay_together(url: str) -> None:
    """Images of one answer do not evict each other, even if they exceed the limit."""
    store = open_store(url, max_bytes=1)
    old = add(store, square_png(9))
    addresses = store.add_all(square_png(side) for side in (1, 2, 3))
    assert len(addresses) == len(names(url)) == 3
    with pytest.raises(NotFoundError):
        store.open(*old)


def test_an_answer_longer_than_the_store_is_not_recorded(url: str) -> None:
    """An answer that exceeds the limit of the store leaves its images alone, and is remembered."""
    with serving(app(url, store_max_bytes=1500)) as address:
        image = post(address, "k1").json()["data"][0]["url"]
        form = {"n": "10", "response_format": "b64_json"}
        long = post(address, "k2", **form)
        assert len(long.content) > 1500
        assert post(address, "k2", **form).content == long.content
        assert httpx.get(image).status_code == 200


def test_other_files_are_left_alone(url: str) -> None:
    """Files with other names are left alone, and so are unfinished ones until they are old."""
    files, path = fsspec.url_to_fs(url)
    files.makedirs(path, exist_ok=True)
    part = f".{'0' * 16}.part"
    others = ["holiday.png", f"{'a' * 64}.png", f"1-{'a' * 64}.png", "film.answer", part]
    for name in others:
        files.pipe_file(f"{path}/{name}", bytes(5000))
    store = open_store(url, max_bytes=10)
    add(store, square_png(8))
    store.tidy()
    assert set(others) <= set(names(url))
    if url.startswith("file"):
        os.utime(f"{path}/{part}", (100, 100))
        store.tidy()
        assert part not in names(url)


@pytest.mark.parametrize("content", [b"secret", square_png(2), b""])
def test_a_replaced_image_is_not_sent(
    url: str, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A file whose content does not match its name counts as removed, and the log says so."""
    store = open_store(url)
    image = add(store, square_png(1))
    (name,) = names(url)
    fsspec.url_to_fs(url)[0].pipe_file(f"{url}/{name}", content)
    with pytest.raises(NotFoundError):
        store.open(*image)
    assert "was replaced" in caplog.text


def test_images_in_sending_are_limited(url: str) -> None:
    """Images in memory are limited. Closing one makes room for the next."""
    png = square_png(8)
    store = open_store(url, max_open_bytes=2 * len(png))
    image = add(store, png)
    files = [store.open(*image).file for _ in range(2)]
    with pytest.raises(ServiceUnavailableError, match="too many images at once") as caught:
        store.open(*image)
    assert caught.value.retry_after
    for file in files:
        file.close()
        file.close()
    del files
    kept = [store.open(*image).file for _ in range(2)]
    assert all(file.read() == png for file in kept)


class SlowListing(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store in memory whose listings wait for an event."""

    protocol = "slowlisting"
    listings = 0
    is_listing = threading.Event()
    may_finish = threading.Event()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("slowlisting:")))

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """Return the files of a folder."""
        SlowListing.listings += 1
        self.is_listing.set()
        assert self.may_finish.wait(60)
        return list(super().ls(path, detail=detail, **options))


@pytest.fixture
def slow_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a store whose listings wait until `SlowListing.may_finish` is set."""
    fsspec.register_implementation("slowlisting", SlowListing, clobber=True)
    monkeypatch.setattr(SlowListing, "is_listing", threading.Event())
    monkeypatch.setattr(SlowListing, "may_finish", threading.Event())
    SlowListing.may_finish.set()
    yield f"slowlisting://{uuid4().hex}"
    SlowListing.may_finish.set()


def hold_listings() -> None:
    """Let the next listing wait, and count from there."""
    SlowListing.listings = 0
    SlowListing.is_listing.clear()
    SlowListing.may_finish.clear()


def test_a_slow_listing_delays_no_request(slow_url: str) -> None:
    """While the store is listed, images are sent and other requests are answered."""
    with serving(app(slow_url, store_max_bytes=1)) as address, ThreadPoolExecutor() as pool:
        image = post(address).json()["data"][0]["url"]
        hold_listings()
        try:
            other_answer = pool.submit(post, address)
            assert SlowListing.is_listing.wait(60)
            assert httpx.get(image, timeout=30).status_code == 200
            assert httpx.get(f"{address}/openapi.json", timeout=30).status_code == 200
            assert not other_answer.done()
        finally:
            SlowListing.may_finish.set()
        assert other_answer.result().status_code == 200


def test_waiting_writers_share_a_listing(slow_url: str) -> None:
    """Images that wait for room in a full store are stored after one listing."""
    store = open_store(slow_url, max_bytes=len(square_png(200)))
    add(store, square_png(200))
    hold_listings()
    with ThreadPoolExecutor() as pool:
        try:
            images = [pool.submit(add, store, square_png(side)) for side in (1, 2, 3)]
            assert SlowListing.is_listing.wait(60)
            # Usually, all of them wait now.
            time.sleep(0.1)
        finally:
            SlowListing.may_finish.set()
        assert all(store.open(*image.result()).length for image in images)
    assert SlowListing.listings == 1


def test_a_failing_store_costs_one_engine_call(tmp_path: Path) -> None:
    """While images cannot be stored, requests for URLs get a 503. Afterwards, they work again."""
    folder = tmp_path / "store"
    with serving(app(f"file://{folder}", CountingEngine())) as address:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        folder.touch()
        for _ in range(3):
            refused = post(address)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "30"
            assert str(tmp_path) not in refused.text
        assert CountingEngine.calls == 1
        assert httpx.get(f"{address}/healthz").status_code == 503
        answers = [post(address, "k1", response_format="b64_json") for _ in range(2)]
        assert answers[0].status_code == 200
        assert answers[0].content == answers[1].content
        folder.unlink()
        deadline = time.monotonic() + 60
        while httpx.get(f"{address}/healthz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert httpx.get(post(address).json()["data"][0]["url"]).status_code == 200


SECRET = "hunter2-hunter2-hunter2-hunter2-"


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"store_url": "memory://a"}, InvalidRequestError, "signing_key is missing.*openssl rand"),
        (
            {"store_url": "memory://a", "signing_key": SECRET[:31]},
            InvalidRequestError,
            "has 31 characters, and needs at least 32",
        ),
        ({"store_url": "memory://a", "signing_key": f"{SECRET}\n"}, InvalidRequestError, "blanks"),
        ({"signing_key": SECRET}, InvalidRequestError, "signing_key is only for a store_url"),
        ({"storage_options": {}}, InvalidRequestError, "storage_options is only for a store_url"),
        (
            {"store_url": "memory://a", "store_dir": "b", "signing_key": SECRET},
            InvalidRequestError,
            "exclude each other",
        ),
        ({"store_url": "bucket", "signing_key": SECRET}, InvalidRequestError, "URL such as"),
        ({"store_url": "", "signing_key": SECRET}, InvalidRequestError, "URL such as"),
        (
            {"store_url": f"sftp://me:{SECRET}@nas/a", "signing_key": SECRET},
            InvalidRequestError,
            "store_url contains a password",
        ),
        (
            {"store_url": "https://example.com/a", "signing_key": SECRET},
            InvalidRequestError,
            "not an https URL",
        ),
        (
            {"store_url": "zip::memory://a", "signing_key": SECRET},
            InvalidRequestError,
            "without '::'",
        ),
        (
            {"store_url": "unknown://a", "signing_key": SECRET},
            InvalidRequestError,
            "fsspec does not know",
        ),
        (
            {"store_url": "hdfs://a/b", "signing_key": SECRET, "storage_options": {"x": SECRET}},
            (OutputError, MissingExtraError),
            "hdfs",
        ),
    ],
)
def test_wrong_settings_are_refused(
    settings: dict[str, Any],
    kind: type[ImageVariationError],
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A wrong setting is an error that says what to do, and neither it nor the log has the key."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(kind, match=message) as caught:
        create_app("instant", **settings)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in caplog.text


def test_a_store_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A store that cannot be used is an error at the start, without its path."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file storage cannot be used.*store_url") as caught:
        create_app("instant", store_url=f"file://{tmp_path}/file", signing_key=KEY)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "message"), [("", "is missing. A --store-url"), (SECRET[:8], "has 8 characters")]
)
def test_serve_names_the_variable_of_the_key(
    key: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`serve --store-url` without a good key names the variable to set, and not its value."""
    monkeypatch.setenv("IMAGE_VARIATION_SIGNING_KEY", key)
    assert main(["serve", "--port", "0", "--engine", "instant", "--store-url", "memory://a"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"image-variation: IMAGE_VARIATION_SIGNING_KEY {message}")
    assert "hunter2" not in error
