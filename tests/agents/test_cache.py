import hashlib
import json
import secrets
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from langchain_image_variation.agents.arguments import ImageVariationArguments
from langchain_image_variation.agents.call import call_tool
from langchain_image_variation.agents.loaded_engines import LoadedEngines
from langchain_image_variation.agents.results import CACHE_FOLDER
from langchain_image_variation.agents.settings import ToolSettings
from langchain_image_variation.agents.tool import ImageVariationTool
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse, Usage
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.exceptions import InvalidRequestError, RateLimitError
from langchain_image_variation.images.pixels import decode, encode
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import jpeg, square_png
from tests.agents.conversing import Talk, files, upload
from tests.agents.file_systems import Bucket, bucket
from tests.agents.scripted import call
from tests.images.compressed import encodings


class Dice:
    """An engine that makes other pictures at each call, and counts the calls."""

    def __init__(self, fingerprint: str = "dice") -> None:
        self.fingerprint = fingerprint
        self.asked: list[CreateImageVariationRequest] = []

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return pictures of colours that were not there before."""
        self.asked.append(request)
        side = request.side
        seeds = [secrets.randbits(32) for _ in range(request.n)]
        colors = [tuple(seed.to_bytes(4)) for seed in seeds]
        pngs = [encode(Image.new("RGBA", (side, side), (*c[:3], c[3] | 8))) for c in colors]
        answer = ImagesResponse.from_pngs(
            pngs, response_format=request.response_format, seeds=seeds
        )
        answer.usage = Usage(input_tokens=3, output_tokens=4, total_tokens=7)
        answer.created = 1_700_000_000
        return answer


class OtherDice(Dice):
    """Another class of engines."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with photos."""
    (tmp_path / "cat.jpg").write_bytes(jpeg())
    (tmp_path / "dog.png").write_bytes(square_png())
    return tmp_path


def tool(root: Path, engine: Any = None, **settings: Any) -> ImageVariationTool:
    """Return a tool with a cache."""
    given = {"root_dir": root, "cache": True, "fixed_size": "256x256", **settings}
    return ImageVariationTool(engine=engine or Dice(), **given)


def hashes(message: Any) -> list[str]:
    """Return the hashes of the pictures that a call gave."""
    return [image["sha256"] for image in message.artifact["images"]]


@pytest.mark.parametrize("output_dir", ["variations", "bucket://kept"])
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_the_same_call_is_answered_with_the_same_pictures(
    root: Path, kind: str, output_dir: str
) -> None:
    """Without the engine, the rate limiter or any usage; the message says so."""
    waited = []

    class Limiter:
        def acquire(self) -> bool:
            waited.append("sync")
            return True

        async def aacquire(self) -> bool:
            waited.append("async")
            return True

    engine = Dice()
    with bucket():
        cached = tool(root, engine, rate_limiter=Limiter(), output_dir=output_dir)
        asked = call(image="cat.jpg", n=2)
        first, second = [
            cached.invoke(asked) if kind == "sync" else await cached.ainvoke(asked)
            for _ in range(2)
        ]
    assert (len(engine.asked), waited) == (1, [kind])
    assert second.artifact == {"images": first.artifact["images"], "cached": True}
    assert first.artifact["usage_metadata"]["total_tokens"] == 7
    assert second.artifact["images"][0]["created"] == 1_700_000_000
    again = " These are the results of an earlier call with the same arguments."
    assert first.content.replace("vary it again.", f"vary it again.{again}") == second.content


def test_how_the_picture_is_compressed_does_not_count(root: Path) -> None:
    """Another machine's file of the same pixels is the same call; other pixels are another one."""
    engine = Dice()
    messages = []
    for data in encodings(decode(SquarePNG(square_png(24)))):
        (root / "dog.png").write_bytes(data)
        messages.append(tool(root, engine).invoke(call(image="dog.png")))
    assert len(engine.asked) == 1
    assert all(message.artifact.get("cached") for message in messages[1:])
    assert all(hashes(message) == hashes(messages[0]) for message in messages)
    for other in (square_png(25), square_png(24, "RGBA"), square_png(24, "L")):
        (root / "dog.png").write_bytes(other)
        assert "cached" not in tool(root, engine).invoke(call(image="dog.png")).artifact


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        ({"image": "dog.png"}, {}),
        ({"n": 3}, {}),
        ({"size": "512x512"}, {"fixed_size": None}),
        ({"model": "another"}, {}),
        ({}, {"engine": Dice("other dice")}),
        ({}, {"engine": OtherDice()}),
        ({}, {"fit": "pad"}),
    ],
)
def test_another_call_is_made(root: Path, change: dict[str, Any], settings: dict[str, Any]) -> None:
    """One with another picture, number, size, model, engine or setting of the engine."""
    first = tool(root, fixed_size=settings.pop("fixed_size", "256x256"))
    usual = {"image": "cat.jpg", "n": 2, "size": "256x256"}
    made = first.invoke(call(**usual))
    other = first.model_copy(update=settings)
    changed = other.invoke(call(**{**usual, **change}))
    assert "cached" not in changed.artifact
    assert not set(hashes(made)) & set(hashes(changed))
    assert first.invoke(call(**usual)).artifact["cached"]


@pytest.mark.parametrize(
    "change", [{"user": "somebody"}, {"response_format": "url"}, {"image": "copy.jpg"}]
)
def test_what_changes_no_pixel_does_not_count(root: Path, change: dict[str, Any]) -> None:
    """Whoever asks, in which form the engine answers, and how the picture is called."""
    (root / "copy.jpg").write_bytes(jpeg())
    cached = tool(root)
    made = cached.invoke(call(image="cat.jpg", user="me"))
    again = cached.invoke(call(**{"image": "cat.jpg", **change}))
    assert again.artifact["cached"]
    assert hashes(again) == hashes(made)
    stem = change.get("image", "cat.jpg").partition(".")[0]
    assert again.artifact["images"][0]["handle"].startswith(f"{stem}-")


def test_a_setting_that_is_changed_later_counts(root: Path) -> None:
    """Engines are objects whose settings may be set at any time."""
    engine = Dice("strength=0.1")
    cached = tool(root, engine)
    made = cached.invoke(call(image="dog.png"))
    engine.fingerprint = "strength=0.2"
    other = cached.invoke(call(image="dog.png"))
    engine.fingerprint = "strength=0.1"
    assert hashes(other) != hashes(made) == hashes(cached.invoke(call(image="dog.png")))
    assert "cached" not in other.artifact


def test_by_default_every_call_is_made(root: Path) -> None:
    """And nothing is remembered."""
    engine = Dice()
    plain = tool(root, engine, cache=False)
    assert hashes(plain.invoke(call(image="cat.jpg"))) != hashes(
        plain.invoke(call(image="cat.jpg"))
    )
    assert not (root / "variations" / CACHE_FOLDER).exists()


@pytest.mark.parametrize("output_dir", ["variations", "bucket://kept"])
def test_another_conversation_gets_copies_of_its_own(root: Path, output_dir: str) -> None:
    """In its own place, by its own names, and without a word of whose they were."""
    with bucket():
        cached = tool(root, output_dir=output_dir)
        one = Talk(cached, "alice", upload(square_png())).vary("latest", n=2)
        other = Talk(cached, "bob", upload(square_png())).vary("img_1", n=2)
        assert other.artifact["cached"]
        assert hashes(one) == hashes(other)
        for image in other.artifact["images"]:
            assert "bob-" in image["path"]
        assert "alice" not in other.model_dump_json()
        again = Talk(cached, "bob").vary(other.artifact["images"][0]["handle"])
        assert again.status == "success"
        for image in one.artifact["images"]:
            assert Talk(cached, "bob").vary(image["path"]).status == "error"


def test_pictures_outlive_the_conversation_that_they_were_copied_from(root: Path) -> None:
    """When the first one's are deleted, the call is made again; the copies stay."""
    cached = tool(root)
    one = Talk(cached, "alice", upload(square_png())).vary("latest")
    other = Talk(cached, "bob", upload(square_png())).vary("latest")
    (root / one.artifact["images"][0]["path"]).unlink()
    third = Talk(cached, "carol", upload(square_png())).vary("latest")
    assert "cached" not in third.artifact
    assert (
        hashes(third)
        != hashes(other)
        == [hashlib.sha256(data).hexdigest() for data in files(other, root)]
    )


def _record(root: Path) -> Path:
    (path,) = (root / "variations" / CACHE_FOLDER).iterdir()
    return path


BROKEN: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("empty", lambda _: b""),
    ("garbage", lambda _: secrets.token_bytes(500)),
    ("cut", lambda data: data[:-9]),
    ("null", lambda _: b"null"),
    ("a list", lambda data: b"[" + data + b"]"),
    ("deep", lambda _: b"[" * 60_000),
    ("long", lambda data: data[:-1] + b" " * 70_000 + data[-1:]),
    ("too few", lambda data: _changed(data, lambda pictures: pictures.pop())),
    ("too many", lambda data: _changed(data, lambda pictures: pictures.extend(pictures * 9))),
    ("no pictures", lambda data: _changed(data, lambda pictures: pictures.clear())),
    ("another hash", lambda data: _changed(data, lambda p: p[0].update(sha256="0" * 64))),
    ("no hash", lambda data: _changed(data, lambda p: p[0].update(sha256=None))),
    ("another path", lambda data: _changed(data, lambda p: p[0].update(path=p[1]["path"]))),
    ("no such file", lambda data: _changed(data, lambda p: p[0].update(path="variations/x.png"))),
    ("a number", lambda data: _changed(data, lambda p: p[0].update(path=7))),
    ("NUL", lambda data: _changed(data, lambda p: p[0].update(path="variations/x\0.png"))),
]


def _changed(data: bytes, change: Callable[[list[Any]], object]) -> bytes:
    record = json.loads(data)
    change(record["images"])
    return json.dumps(record).encode()


def test_a_broken_record_is_a_miss_and_is_mended(root: Path) -> None:
    """Whatever it holds, the call is made, and there is a good record afterwards."""
    cached = tool(root)
    made = cached.invoke(call(image="dog.png", n=2))
    record = _record(root)
    for name, broken in BROKEN:
        good = json.loads(record.read_bytes())
        assert [picture["sha256"] for picture in good["images"]] == hashes(made), name
        record.write_bytes(broken(record.read_bytes()))
        made = cached.invoke(call(image="dog.png", n=2))
        assert "cached" not in made.artifact, name
    again = cached.invoke(call(image="dog.png", n=2))
    assert again.artifact["cached"]
    assert hashes(again) == hashes(made)


@pytest.mark.parametrize("path", ["dog.png", "../dog.png", "variations/../dog.png", None])
def test_a_record_leads_to_results_only(root: Path, path: str | None) -> None:
    """A picture that is none is not given out, though the record knows its hash."""
    cached = tool(root)
    cached.invoke(call(image="dog.png"))
    digest = hashlib.sha256((root / "dog.png").read_bytes()).hexdigest()
    planted = {"path": path or str(root / "dog.png"), "sha256": digest}
    record = _record(root)
    record.write_bytes(_changed(record.read_bytes(), lambda p: p[0].update(planted)))
    made = cached.invoke(call(image="dog.png"))
    assert "cached" not in made.artifact
    assert hashes(made) != [digest]


@pytest.mark.parametrize("output_dir", ["variations", "bucket://kept"])
def test_a_picture_that_was_changed_is_made_again(root: Path, output_dir: str) -> None:
    """Its hash is compared before it is given out."""
    with bucket():
        cached = tool(root, output_dir=output_dir)
        path = cached.invoke(call(image="dog.png")).artifact["images"][0]["path"]
        if output_dir == "variations":
            (root / path).write_bytes(square_png(64))
        else:
            Bucket.objects[f"kept/{path}"] = (0, square_png(64))
        assert "cached" not in cached.invoke(call(image="dog.png")).artifact


def test_a_place_that_fails_costs_no_call(root: Path) -> None:
    """A record that cannot be read or written only means that the call is made."""
    (root / "variations").mkdir()
    (root / "variations" / CACHE_FOLDER).write_text("no folder")
    cached = tool(root)
    for _ in range(2):
        message = cached.invoke(call(image="dog.png"))
        assert (message.status, "cached" in message.artifact) == ("success", False)


def test_records_never_leave_the_root(root: Path) -> None:
    """A folder of records that is a link to elsewhere is neither written to nor read."""
    outside = root.parent / f"{root.name}-outside"
    outside.mkdir()
    (root / "variations").mkdir()
    (root / "variations" / CACHE_FOLDER).symlink_to(outside)
    cached = tool(root)
    assert cached.invoke(call(image="dog.png")).status == "success"
    assert list(outside.iterdir()) == []


def test_a_record_tells_nothing(root: Path) -> None:
    """Neither its name nor its text says who asked, of what, or of which engine; it is no file."""
    cached = tool(root, Dice("prompt: hunter2"))
    asked = call(image="cat.jpg", user="somebody", model="secret-model")
    handle = cached.invoke(asked).artifact["images"][0]["handle"]
    record = _record(root)
    assert len(record.stem) == 64
    assert set(json.loads(record.read_text())) == {"created", "images"}
    for word in ("hunter2", "somebody", "secret-model", str(root)):
        assert word not in record.read_text()
    missing = cached.invoke(call(image="nothing.png")).content
    assert handle in missing
    assert record.stem not in missing
    path = f"{CACHE_FOLDER}/{record.name}"
    for image in (f"variations/{path}", path, record.stem):
        assert cached.invoke(call(image=image)).status == "error"


def test_finished_pictures_are_told_of(root: Path) -> None:
    """One by one, as if they were made now."""
    settings = ToolSettings(engine=Dice(), root_dir=root, cache=True)
    asked = ImageVariationArguments(image="dog.png", n=3, size="256x256")
    told: list[tuple[int, int]] = []
    for _ in range(2):
        call_tool(settings, LoadedEngines(), asked, listener=lambda done, n: told.append((done, n)))
    assert told == [(1, 3), (2, 3), (3, 3)] * 2


def test_what_failed_is_not_remembered(root: Path) -> None:
    """An error is no result: the next call asks again."""

    class Failing(Dice):
        def __init__(self) -> None:
            super().__init__()
            self.fails = True

        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            if self.fails:
                raise RateLimitError("Too many.")
            return super().create_variation(request)

    engine = Failing()
    cached = tool(root, engine)
    assert cached.invoke(call(image="dog.png")).status == "error"
    engine.fails = False
    assert "cached" not in cached.invoke(call(image="dog.png")).artifact


def test_an_engine_that_says_nothing_of_itself_is_never_cached(root: Path) -> None:
    """It is said when the tool is made; where it comes later, every call is made."""

    class Silent(InstantEngine):
        """Made with a setting of its own that nobody knows."""

    with pytest.raises(InvalidRequestError, match="Silent has no fingerprint") as got:
        tool(root, Silent())
    assert got.value.param == "cache"
    copy = tool(root, "instant").model_copy(update={"engine": Silent()})
    for _ in range(2):
        assert "cached" not in copy.invoke(call(image="dog.png")).artifact


def test_many_at_once_leave_one_whole_record(root: Path) -> None:
    """Each gets pictures that are there, and those who ask later all get the same."""
    cached = tool(root)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(cached.invoke, call(image="dog.png", n=2)) for _ in range(16)]
        made = [job.result() for job in jobs]
    for message in made:
        assert [hashlib.sha256(data).hexdigest() for data in files(message, root)] == hashes(
            message
        )
    assert _record(root).suffix == ".json"
    later = {tuple(hashes(cached.invoke(call(image="dog.png", n=2)))) for _ in range(3)}
    assert len(later) == 1
    assert later <= {tuple(hashes(message)) for message in made}


PROGRAM = """
import json, sys
from langchain_image_variation.agents.arguments import ImageVariationArguments
from langchain_image_variation.agents.call import call_tool
from langchain_image_variation.agents.loaded_engines import LoadedEngines
from langchain_image_variation.agents.settings import ToolSettings
settings = ToolSettings(engine="local", root_dir=sys.argv[1], cache=True)
asked = ImageVariationArguments(image="dog.png", size="256x256")
print(json.dumps(call_tool(settings, LoadedEngines(), asked).artifact))
"""


@pytest.mark.slow
def test_processes_share_it_and_it_outlives_them(root: Path) -> None:
    """What one made without a seed, the next is given, with the seed that made it."""
    program = [sys.executable, "-c", PROGRAM, str(root)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    (made,) = json.loads(done.stdout)["images"]
    later = tool(root, "local").invoke(call(image="dog.png"))
    assert later.artifact == {"images": [made], "cached": True}
