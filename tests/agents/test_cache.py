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
from langchain_image_variation.images.pixels import decode_png, encode_png
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import jpeg, square_png
from tests.agents.conversing import Talk, files, upload
from tests.agents.file_systems import Bucket, bucket
from tests.agents.names import name_of
from tests.agents.scripted import call
from tests.images.compressed import encodings


class RandomEngine:
    """An engine that makes different images at each call, and keeps the requests."""

    def __init__(self, fingerprint: str = "settings") -> None:
        self.fingerprint = fingerprint
        self.requests: list[CreateImageVariationRequest] = []

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return images in colors that were not used before."""
        self.requests.append(request)
        side = request.side
        seeds = [secrets.randbits(32) for _ in range(request.n)]
        colors = [tuple(seed.to_bytes(4)) for seed in seeds]
        pngs = [encode_png(Image.new("RGBA", (side, side), (*c[:3], c[3] | 8))) for c in colors]
        answer = ImagesResponse.from_pngs(
            pngs, response_format=request.response_format, seeds=seeds
        )
        answer.usage = Usage(input_tokens=3, output_tokens=4, total_tokens=7)
        answer.created = 1_700_000_000
        return answer


class OtherRandomEngine(RandomEngine):
    """Another class of engine."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with photos."""
    (tmp_path / "cat.jpg").write_bytes(jpeg())
    (tmp_path / "dog.png").write_bytes(square_png())
    return tmp_path


def make_tool(root: Path, engine: Any = None, **settings: Any) -> ImageVariationTool:
    """Return a tool with a cache."""
    all_settings = {"root_dir": root, "cache": True, "fixed_size": "256x256", **settings}
    return ImageVariationTool(engine=engine or RandomEngine(), **all_settings)


def hashes(message: Any) -> list[str]:
    """Return the hashes of the images that a call made."""
    return [image["sha256"] for image in message.artifact["images"]]


@pytest.mark.parametrize("output_dir", ["variations", "bucket://kept"])
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_an_equal_call_returns_the_same_images(
    root: Path, kind: str, output_dir: str
) -> None:
    """An equal call uses no engine, rate limiter or tokens, and its message says so."""
    acquisitions = []

    class Limiter:
        def acquire(self) -> bool:
            acquisitions.append("sync")
            return True

        async def aacquire(self) -> bool:
            acquisitions.append("async")
            return True

    engine = RandomEngine()
    with bucket():
        tool = make_tool(root, engine, rate_limiter=Limiter(), output_dir=output_dir)
        arguments = call(image="cat.jpg", n=2)
        first, second = [
            tool.invoke(arguments) if kind == "sync" else await tool.ainvoke(arguments)
            for _ in range(2)
        ]
    assert (len(engine.requests), acquisitions) == (1, [kind])
    assert second.artifact == {"images": first.artifact["images"], "cached": True}
    assert first.artifact["usage_metadata"]["total_tokens"] == 7
    assert second.artifact["images"][0]["created"] == 1_700_000_000
    sentence = " The same call was made before, with the same result."
    assert first.content.replace("vary it again.", f"vary it again.{sentence}") == second.content


def test_compression_does_not_matter(root: Path) -> None:
    """A file with the same pixels makes an equal call, and one with other pixels does not."""
    engine = RandomEngine()
    messages = []
    for data in encodings(decode_png(SquarePNG(square_png(24)))):
        (root / "dog.png").write_bytes(data)
        messages.append(make_tool(root, engine).invoke(call(image="dog.png")))
    assert len(engine.requests) == 1
    assert all(message.artifact.get("cached") for message in messages[1:])
    assert all(hashes(message) == hashes(messages[0]) for message in messages)
    for other in (square_png(25), square_png(24, "RGBA"), square_png(24, "L")):
        (root / "dog.png").write_bytes(other)
        assert "cached" not in make_tool(root, engine).invoke(call(image="dog.png")).artifact


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        ({"image": "dog.png"}, {}),
        ({"n": 3}, {}),
        ({"size": "512x512"}, {"fixed_size": None}),
        ({"model": "another"}, {}),
        ({}, {"engine": RandomEngine("other settings")}),
        ({}, {"engine": OtherRandomEngine()}),
        ({}, {"fit": "pad"}),
        ({}, {"fit": "keep"}),
    ],
)
def test_a_different_call_uses_the_engine(
    root: Path, change: dict[str, Any], settings: dict[str, Any]
) -> None:
    """Another image, number, size, model, engine or engine setting causes a new engine call."""
    first = make_tool(root, fixed_size=settings.pop("fixed_size", "256x256"))
    base_arguments = {"image": "cat.jpg", "n": 2, "size": "256x256"}
    original = first.invoke(call(**base_arguments))
    other = first.model_copy(update=settings)
    different = other.invoke(call(**{**base_arguments, **change}))
    assert "cached" not in different.artifact
    assert not set(hashes(original)) & set(hashes(different))
    assert first.invoke(call(**base_arguments)).artifact["cached"]


def test_the_shape_of_the_image_matters(root: Path) -> None:
    """Two images that are equal once padded get separate results, each cut correctly."""
    shapes = {"wide": (90, 30), "less wide": (90, 60), "square": (90, 90)}
    for name, shape in shapes.items():
        (root / f"{name}.png").write_bytes(encode_png(Image.new("RGB", shape, "teal")))
    engine = RandomEngine()
    pixels = set()
    for fit in ("keep", "pad"):
        tool = make_tool(root, engine, fit=fit)
        for name in shapes:
            first, second = [tool.invoke(call(image=f"{name}.png")) for _ in range(2)]
            assert hashes(first) == hashes(second)
            (image,) = second.artifact["images"]
            height = {"wide": 85, "less wide": 171}.get(name, 256) if fit == "keep" else 256
            assert (image["width"], image["height"]) == (256, height)
            pixels.add(image["sha256"])
    # The square image is the same with both fits, and both padded images are the same.
    assert (len(engine.requests), len(pixels)) == (3, 3)
    assert len({request.image.data for request in engine.requests}) == 1


@pytest.mark.parametrize(
    "change", [{"user": "somebody"}, {"response_format": "url"}, {"image": "copy.jpg"}]
)
def test_arguments_that_change_no_pixel_do_not_matter(root: Path, change: dict[str, Any]) -> None:
    """The cache ignores the user, the response format and the name of the image."""
    (root / "copy.jpg").write_bytes(jpeg())
    tool = make_tool(root)
    original = tool.invoke(call(image="cat.jpg", user="me"))
    repeat = tool.invoke(call(**{"image": "cat.jpg", **change}))
    assert repeat.artifact["cached"]
    assert hashes(repeat) == hashes(original)
    stem = change.get("image", "cat.jpg").partition(".")[0]
    assert repeat.artifact["images"][0]["handle"].startswith(f"{stem}-")


def test_a_later_change_of_the_engine_matters(root: Path) -> None:
    """After an engine's settings change, images from before are not reused."""
    engine = RandomEngine("strength=0.1")
    tool = make_tool(root, engine)
    original = tool.invoke(call(image="dog.png"))
    engine.fingerprint = "strength=0.2"
    other = tool.invoke(call(image="dog.png"))
    engine.fingerprint = "strength=0.1"
    assert hashes(other) != hashes(original) == hashes(tool.invoke(call(image="dog.png")))
    assert "cached" not in other.artifact


def test_by_default_nothing_is_cached(root: Path) -> None:
    """By default, each call uses the engine, and no record is written."""
    engine = RandomEngine()
    uncached_tool = make_tool(root, engine, cache=False)
    assert hashes(uncached_tool.invoke(call(image="cat.jpg"))) != hashes(
        uncached_tool.invoke(call(image="cat.jpg"))
    )
    assert not (root / "variations" / CACHE_FOLDER).exists()


@pytest.mark.parametrize("output_dir", ["variations", "bucket://kept"])
def test_another_conversation_gets_copies(root: Path, output_dir: str) -> None:
    """Another conversation gets copies under its own names, which do not reveal the first one."""
    with bucket():
        tool = make_tool(root, output_dir=output_dir)
        first = Talk(tool, "alice", upload(square_png())).vary("latest", n=2)
        other = Talk(tool, "bob", upload(square_png())).vary(name_of(square_png()), n=2)
        assert other.artifact["cached"]
        assert hashes(first) == hashes(other)
        for image in other.artifact["images"]:
            assert "bob-" in image["path"]
        assert "alice" not in other.model_dump_json()
        repeat = Talk(tool, "bob").vary(other.artifact["images"][0]["handle"])
        assert repeat.status == "success"
        for image in first.artifact["images"]:
            assert Talk(tool, "bob").vary(image["path"]).status == "error"


def test_copies_outlive_the_first_conversation(root: Path) -> None:
    """If the first images are deleted, the engine is called again, and the copies stay."""
    tool = make_tool(root)
    first = Talk(tool, "alice", upload(square_png())).vary("latest")
    other = Talk(tool, "bob", upload(square_png())).vary("latest")
    (root / first.artifact["images"][0]["path"]).unlink()
    third = Talk(tool, "carol", upload(square_png())).vary("latest")
    assert "cached" not in third.artifact
    assert (
        hashes(third)
        != hashes(other)
        == [hashlib.sha256(data).hexdigest() for data in files(other, root)]
    )


def _record(root: Path) -> Path:
    (path,) = (root / "variations" / CACHE_FOLDER).iterdir()
    return path


CORRUPTIONS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("empty", lambda _: b""),
    ("garbage", lambda _: secrets.token_bytes(500)),
    ("cut", lambda data: data[:-9]),
    ("null", lambda _: b"null"),
    ("a list", lambda data: b"[" + data + b"]"),
    ("deep", lambda _: b"[" * 60_000),
    ("long", lambda data: data[:-1] + b" " * 70_000 + data[-1:]),
    ("too few", lambda data: _changed(data, lambda images: images.pop())),
    ("too many", lambda data: _changed(data, lambda images: images.extend(images * 9))),
    ("no images", lambda data: _changed(data, lambda images: images.clear())),
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


def test_a_corrupt_record_is_replaced(root: Path) -> None:
    """A corrupt record, whatever it contains, is ignored and replaced by a valid one."""
    tool = make_tool(root)
    original = tool.invoke(call(image="dog.png", n=2))
    record = _record(root)
    for name, corrupt in CORRUPTIONS:
        valid_record = json.loads(record.read_bytes())
        assert [image["sha256"] for image in valid_record["images"]] == hashes(original), name
        record.write_bytes(corrupt(record.read_bytes()))
        original = tool.invoke(call(image="dog.png", n=2))
        assert "cached" not in original.artifact, name
    repeat = tool.invoke(call(image="dog.png", n=2))
    assert repeat.artifact["cached"]
    assert hashes(repeat) == hashes(original)


@pytest.mark.parametrize("path", ["dog.png", "../dog.png", "variations/../dog.png", None])
def test_a_record_leads_only_to_results(root: Path, path: str | None) -> None:
    """A record with the hash of an image that is not a result does not return that image."""
    tool = make_tool(root)
    tool.invoke(call(image="dog.png"))
    digest = hashlib.sha256((root / "dog.png").read_bytes()).hexdigest()
    forged_image = {"path": path or str(root / "dog.png"), "sha256": digest}
    record = _record(root)
    record.write_bytes(_changed(record.read_bytes(), lambda p: p[0].update(forged_image)))
    original = tool.invoke(call(image="dog.png"))
    assert "cached" not in original.artifact
    assert hashes(original) != [digest]


@pytest.mark.parametrize("output_dir", ["variations", "bucket://kept"])
def test_a_changed_image_is_made_again(root: Path, output_dir: str) -> None:
    """A cached image that no longer has the recorded hash is made again."""
    with bucket():
        tool = make_tool(root, output_dir=output_dir)
        path = tool.invoke(call(image="dog.png")).artifact["images"][0]["path"]
        if output_dir == "variations":
            (root / path).write_bytes(square_png(64))
        else:
            Bucket.objects[f"kept/{path}"] = (0, square_png(64))
        assert "cached" not in tool.invoke(call(image="dog.png")).artifact


def test_a_failing_record_costs_no_call(root: Path) -> None:
    """If a record cannot be read or written, the engine is used."""
    (root / "variations").mkdir()
    (root / "variations" / CACHE_FOLDER).write_text("no folder")
    tool = make_tool(root)
    for _ in range(2):
        message = tool.invoke(call(image="dog.png"))
        assert (message.status, "cached" in message.artifact) == ("success", False)


def test_records_never_leave_the_root(root: Path) -> None:
    """If the folder of records is a link that leads outside, it is neither read nor written."""
    outside = root.parent / f"{root.name}-outside"
    outside.mkdir()
    (root / "variations").mkdir()
    (root / "variations" / CACHE_FOLDER).symlink_to(outside)
    tool = make_tool(root)
    assert tool.invoke(call(image="dog.png")).status == "success"
    assert list(outside.iterdir()) == []


def test_a_record_reveals_nothing(root: Path) -> None:
    """A record reveals neither the user, the image nor the engine, and is not listed."""
    tool = make_tool(root, RandomEngine("prompt: hunter2"))
    arguments = call(image="cat.jpg", user="somebody", model="secret-model")
    handle = tool.invoke(arguments).artifact["images"][0]["handle"]
    record = _record(root)
    assert len(record.stem) == 64
    assert set(json.loads(record.read_text())) == {"created", "images"}
    for word in ("hunter2", "somebody", "secret-model", str(root)):
        assert word not in record.read_text()
    error_text = tool.invoke(call(image="nothing.png")).content
    assert handle in error_text
    assert record.stem not in error_text
    path = f"{CACHE_FOLDER}/{record.name}"
    for image in (f"variations/{path}", path, record.stem):
        assert tool.invoke(call(image=image)).status == "error"


def test_cached_images_are_reported_one_by_one(root: Path) -> None:
    """Cached images are reported one by one, like new ones."""
    settings = ToolSettings(engine=RandomEngine(), root_dir=root, cache=True)
    arguments = ImageVariationArguments(image="dog.png", n=3, size="256x256")
    reports: list[tuple[int, int]] = []

    def listener(finished: int, n: int) -> None:
        reports.append((finished, n))

    for _ in range(2):
        call_tool(settings, LoadedEngines(), arguments, listener=listener)
    assert reports == [(1, 3), (2, 3), (3, 3)] * 2


def test_errors_are_not_cached(root: Path) -> None:
    """After an error, the next call uses the engine again."""

    class FailingEngine(RandomEngine):
        def __init__(self) -> None:
            super().__init__()
            self.fails = True

        def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            if self.fails:
                raise RateLimitError("Too many.")
            return super().create_variation(request)

    engine = FailingEngine()
    tool = make_tool(root, engine)
    with pytest.raises(RateLimitError):
        tool.invoke(call(image="dog.png"))
    engine.fails = False
    assert "cached" not in tool.invoke(call(image="dog.png")).artifact


def test_an_engine_without_fingerprint_is_refused(root: Path) -> None:
    """A caching tool refuses an engine without fingerprint, also in a copy and if set later."""

    class UnknownEngine(InstantEngine):
        """An engine whose settings are unknown."""

    with pytest.raises(InvalidRequestError, match="UnknownEngine has no fingerprint") as error_info:
        make_tool(root, UnknownEngine())
    assert error_info.value.param == "cache"
    tool = make_tool(root, "instant")
    with pytest.raises(InvalidRequestError, match="UnknownEngine has no fingerprint"):
        tool.model_copy(update={"engine": UnknownEngine()})
    with pytest.raises(InvalidRequestError, match="UnknownEngine has no fingerprint"):
        tool.engine = UnknownEngine()
    assert tool.engine == "instant"


def test_parallel_calls_leave_one_valid_record(root: Path) -> None:
    """Parallel calls return images that exist, and all later calls return the same ones."""
    tool = make_tool(root)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(tool.invoke, call(image="dog.png", n=2)) for _ in range(16)]
        messages = [job.result() for job in jobs]
    for message in messages:
        assert [hashlib.sha256(data).hexdigest() for data in files(message, root)] == hashes(
            message
        )
    assert _record(root).suffix == ".json"
    next_hashes = {tuple(hashes(tool.invoke(call(image="dog.png", n=2)))) for _ in range(3)}
    assert len(next_hashes) == 1
    assert next_hashes <= {tuple(hashes(message)) for message in messages}


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
def test_processes_share_the_cache(root: Path) -> None:
    """One process makes an image without a seed; the next gets that image with its seed."""
    program = [sys.executable, "-c", PROGRAM, str(root)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    (original,) = json.loads(done.stdout)["images"]
    next_message = make_tool(root, "local").invoke(call(image="dog.png"))
    assert next_message.artifact == {"images": [original], "cached": True}


class NotingEngine(RandomEngine):
    """Names its model and the kind of its variations, and leaves a note."""

    variation_kind = "new images of the same subject"

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Return images with a model and a note."""
        answer = super().create_variation(request)
        answer.model, answer.note = "small", "Made at 512x512 and enlarged."
        return answer


def test_cached_images_keep_model_and_note(root: Path) -> None:
    """A cached answer has the model and the note that the engine gave, and the kind of images."""
    tool = make_tool(root, NotingEngine(), fit="keep")
    first, again = [tool.invoke(call(image="cat.jpg", n=2)) for _ in range(2)]
    assert again.artifact["cached"]
    for message in (first, again):
        assert [image["model"] for image in message.artifact["images"]] == ["small"] * 2
        assert message.artifact["note"] == "Made at 512x512 and enlarged."
        assert " Kind of variation: new images of the same subject. " in message.text
        assert message.text.endswith(" Made at 512x512 and enlarged.")


def test_cached_images_of_a_named_model(root: Path) -> None:
    """A model that the call names is in the artifact of a cached answer too."""
    tool = make_tool(root)
    messages = [tool.invoke(call(image="cat.jpg", model="large")) for _ in range(2)]
    assert [message.artifact["images"][0]["model"] for message in messages] == ["large"] * 2
