import hashlib
import math
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image

from langchain_image_variation import SquarePNG, VariationBatch, __version__
from langchain_image_variation.batch.rows import COLUMNS
from langchain_image_variation.exceptions import (
    AuthenticationError,
    EngineError,
    EngineNotFoundError,
    InvalidRequestError,
    MissingExtraError,
    OutputError,
)
from langchain_image_variation.images.pixels import decode_png, decode_result, pixel_sha256
from pytest_image_variation.samples import corrupt_png, non_square_png
from tests.batch.declared_engines import count_made_images
from tests.batch.runs import limit_file_size
from tests.images.compressed import encodings

Columns = dict[str, list[Any]]


def batch(**settings: Any) -> VariationBatch:
    """Return a batch with the engine `logged`."""
    defaults = {"output_dir": "out", "engine": "logged", "n": 2, "size": "256x256"}
    return VariationBatch(**{**defaults, **settings})


def output_files() -> set[str]:
    """Return the paths of all files in the output folder."""
    return {str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file()}


def test_columns_in_and_columns_out() -> None:
    """The output has a row with the right size and hash for each image on disk."""
    out = batch()({"path": ["photos/0.png", "photos/1.png"], "position": [7, 8]})
    assert tuple(out) == (*COLUMNS, "position")
    assert out["source_path"] == ["photos/0.png"] * 2 + ["photos/1.png"] * 2
    assert (out["index"], out["position"]) == ([1, 2, 1, 2], [7, 7, 8, 8])
    assert set(out["engine"]) == {"logged"}
    assert set(out["engine_version"]) == {"1.0"}
    assert set(out["size"]) == {"256x256"}
    assert set(out["error"]) == {None}
    assert all(milliseconds > 0 for milliseconds in out["milliseconds"])
    for path, digest in zip(out["output_path"], out["output_sha256"], strict=True):
        data = (Path("out") / path).read_bytes()
        assert (SquarePNG(data).side, hashlib.sha256(data).hexdigest()) == (256, digest)
    assert output_files() == set(out["output_path"])


def test_threads_share_one_engine() -> None:
    """The engine is created once and closed once, even if all threads start together."""
    shared_batch, start = batch(engine="slow"), Barrier(4)

    def rows(number: int) -> list[Any]:
        start.wait(60)
        return shared_batch.make_rows({"path": f"photos/{number}.png"})

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(rows, range(4)))
    assert [row["error"] for rows in results for row in rows] == [None] * 8
    assert Path(os.environ["ENGINE_LOG"]).read_text().split() == ["made"]
    shared_batch.close()
    assert Path(os.environ["ENGINE_LOG"]).read_text().split() == ["made", "closed"]


def test_content_determines_seeds_and_names(photos: Path) -> None:
    """The same image under another name gives the same files, except for the stems."""
    (photos / "copy.jpg").write_bytes((photos / "0.png").read_bytes())
    rows = batch()({"path": ["photos/0.png"]})
    copy_rows = VariationBatch("other", engine="logged", n=2, size="256x256")(
        {"path": ["photos/copy.jpg"]}
    )
    for column in ("source_sha256", "seed", "output_sha256"):
        assert rows[column] == copy_rows[column]
    copy_paths = [path.replace("/0-", "/copy-") for path in rows["output_path"]]
    assert copy_rows["output_path"] == copy_paths
    digest = hashlib.sha256((photos / "0.png").read_bytes()).hexdigest()
    assert rows["source_sha256"] == [digest] * 2
    assert rows["seed"] == [int(digest[:8], 16), int(digest[:8], 16) + 1]


def test_source_compression_changes_no_pixel(photos: Path) -> None:
    """With the same seed, only names and hashes depend on the encoding of the source."""
    files = encodings(decode_png(SquarePNG((photos / "0.png").read_bytes())))
    for index, data in enumerate(files):
        (photos / f"{index}.png").write_bytes(data)
    paths = [f"photos/{index}.png" for index in range(len(files))]
    out = batch(engine="instant", n=1)({"path": paths, "seed": [7] * len(files)})
    images = [
        decode_png(SquarePNG((Path("out") / path).read_bytes())) for path in out["output_path"]
    ]
    assert len({pixel_sha256(image) for image in images}) == 1
    assert len(set(out["output_path"])) == len(set(out["source_sha256"])) == len(files)


def test_existing_images_are_not_made_again() -> None:
    """A second call makes nothing, and returns the same rows except for the times."""
    first, second = (batch()({"path": ["photos/0.png"]}) for _ in range(2))
    assert second.pop("milliseconds") == [None, None]
    del first["milliseconds"]
    assert first == second
    assert set(count_made_images().values()) == {1}


@pytest.mark.parametrize("engine", ["logged", "instant"])
def test_raising_n_adds_images(engine: str) -> None:
    """Only the additional images are made, with the seeds that follow."""
    two = batch(n=2, engine=engine)({"path": ["photos/0.png"]})
    five = batch(n=5, engine=engine)({"path": ["photos/0.png"]})
    assert five["output_sha256"][:2] == two["output_sha256"]
    assert len(set(five["output_sha256"])) == 5
    if engine == "logged":
        assert (len(count_made_images()), set(count_made_images().values())) == (5, {1})


@pytest.mark.mostly_slow("truncated", "corrupt")
@pytest.mark.parametrize("damage", ["missing", "truncated", "other size", "other shape", "corrupt"])
def test_damaged_image_is_made_again(damage: str) -> None:
    """Of all images, only a damaged one is made again, identical to the original."""
    first = batch(n=3)({"path": ["photos/0.png"]})
    path = Path("out") / first["output_path"][1]
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        other_image = Path("photos/0.png").read_bytes()
        path.write_bytes(
            {
                "truncated": data[:-1],
                "other size": other_image,
                "other shape": non_square_png(256, 100),
                "corrupt": data[:-20] + b"\0" + data[-19:],
            }[damage]
        )
    second = batch(n=3)({"path": ["photos/0.png"]})
    assert second["output_sha256"] == first["output_sha256"]
    assert path.read_bytes() == data
    assert sorted(count_made_images().values()) == [1, 1, 2]


def test_other_settings_make_other_files() -> None:
    """Images made with other settings are neither reused nor replaced."""
    kinds: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"size": "512x512"}, {}),
        ({"fit": "pad"}, {}),
        ({"fit": "keep"}, {}),
        ({"model": "dall-e-2"}, {}),
        ({"options": {"strength": 0.2}}, {}),
        ({"options": {"seed": 5}}, {}),
        ({"engine": "instant"}, {}),
        ({}, {"seed": [5]}),
        ({}, {"strength": [0.2]}),
    ]
    outs = [batch(**settings)({"path": ["photos/0.png"], **row}) for settings, row in kinds]
    assert len({path for out in outs for path in out["output_path"]}) == 2 * len(kinds)
    assert [out["seed"][0] for out in outs[6:9]] == [5, outs[0]["seed"][0], 5]
    other_rows = batch(size="512x512")({"path": ["photos/0.png"]})
    assert (
        other_rows["output_path"]
        == batch()({"path": ["photos/0.png"], "size": ["512x512"]})["output_path"]
    )


@pytest.mark.mostly_slow("local")
@pytest.mark.parametrize("engine", ["logged", "local"])
def test_keep_writes_images_of_the_source_shape(photos: Path, engine: str) -> None:
    """Each image has the shape of its source, and only missing or damaged ones are made again."""
    for name, size in (("wide", (90, 30)), ("high", (40, 60)), ("square", (50, 50))):
        Image.effect_noise(size, 60).save(photos / f"{name}.png")
    paths = [f"photos/{name}.png" for name in ("wide", "high", "square")]
    first = batch(engine=engine, fit="keep", n=3)({"path": paths})
    images = [Path("out", path) for path in first["output_path"]]
    sizes = [decode_result(image.read_bytes()).size for image in images]
    assert sizes == [(256, 85)] * 3 + [(171, 256)] * 3 + [(256, 256)] * 3
    contents = [image.read_bytes() for image in images]
    images[0].unlink()
    images[3].write_bytes(contents[3][:-1])
    images[4].write_bytes((photos / "high.png").read_bytes())
    second = batch(engine=engine, fit="keep", n=3)({"path": paths})
    assert [image.read_bytes() for image in images] == contents
    assert second["output_sha256"] == first["output_sha256"]
    made = [milliseconds is not None for milliseconds in second["milliseconds"]]
    assert made == [True, False, False, True, True, False, False, False, False]


def test_irrelevant_options_do_not_change_names() -> None:
    """Options that do not affect the images are not part of their names."""
    job = batch().read_job({"path": "photos/0.png"})
    first = VariationBatch("out", options={"threads": 1, "api_key": "sk-1"})
    second = VariationBatch("out", options={"threads": 2, "api_key": "sk-2", "timeout": 3})
    arguments = (job, "ab" * 32, "photo")
    assert first.output_paths(*arguments) == second.output_paths(*arguments)
    assert first.version == __version__


def test_columns_may_be_arrays() -> None:
    """Ray and data frames pass arrays, with NaN for missing values."""
    out = batch()(
        {
            "path": np.array(["photos/0.png", "photos/1.png"]),
            "n": np.array([math.nan, 1.0]),
            "seed": np.array([None, 3], dtype=object),
            "size": np.array(["", "512x512"]),
            "position": np.arange(2),
        }
    )
    assert out["size"] == ["256x256", "256x256", "512x512"]
    assert out["seed"][2] == 3


@pytest.mark.parametrize("kind", ["arrow", "pandas"])
def test_batch_may_be_a_table(kind: str) -> None:
    """Arrow tables and data frames work, and missing columns and values get the defaults."""
    table = pyarrow.table({"path": ["photos/0.png", "photos/1.png"], "seed": [None, 7]})
    if kind == "pandas":
        table = pytest.importorskip("pandas").DataFrame(table.to_pydict())
    out = batch(n=1)(table)
    assert out["error"] == [None, None]
    assert out["seed"] == [int(out["source_sha256"][0][:8], 16), 7]


def test_batch_pickles_after_use() -> None:
    """A copy of a used batch has the same settings and creates its own engine."""
    original = batch()
    original({"path": ["photos/0.png"]})
    copy = pickle.loads(pickle.dumps(original))
    assert copy.load() is not original.load()
    assert copy({"path": ["photos/0.png"]})["error"] == [None, None]


def test_engine_of_each_source_is_closed() -> None:
    """The engine of each source is closed, so that its connections do not leak."""
    sources = {"path": ["photos/0.png", "photos/1.png"]}
    assert batch()(sources)["error"] == [None] * 4
    log = Path(os.environ["ENGINE_LOG"] + ".closed").read_text()
    assert log == "closed\nclosed\n"


@pytest.mark.parametrize("seed", [2**63 - 1, 1.5, True, "x"])
def test_seed_option_has_the_limits_of_a_row(seed: object) -> None:
    """The option `seed` is limited to 64 bits, like the seeds of rows."""
    with pytest.raises(InvalidRequestError, match="seed must be a whole number"):
        batch(options={"seed": seed})


def test_error_is_a_single_line() -> None:
    """A manifest and a terminal can show the error, whatever the engine puts into it."""
    row = batch().error_row({"path": "a"}, EngineError("bad \udcff\n\x1bname " + "x" * 9999))
    assert row["error"].startswith("EngineError: bad name xxx")
    assert len(row["error"]) == 500


def test_relative_output_folder_is_fixed_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative output folder stays the same if an engine changes the working directory."""
    relative_batch = batch()
    monkeypatch.chdir("/")
    assert relative_batch({"path": [str(tmp_path / "photos" / "0.png")]})["error"] == [None, None]
    assert len(list((tmp_path / "out" / "images").rglob("*.png"))) == 2


async def test_async_calls_return_the_same_rows() -> None:
    """`make_rows_async` returns what `make_rows` returns."""
    source = {"path": "photos/0.png"}
    rows = await batch().make_rows_async(source)
    second_rows = await batch().make_rows_async(source)
    assert (
        [{**row, "milliseconds": None} for row in rows] == second_rows == batch().make_rows(source)
    )
    (error_row,) = await batch().make_rows_async({"path": "photos"})
    assert error_row["error"] == "SourceError: 'photos' is a folder; pass the path of an image."


def test_bad_image_is_a_row_with_an_error(photos: Path) -> None:
    """A bad image becomes a row with an error that contains no absolute path."""
    (photos / "corrupt.png").write_bytes(corrupt_png())
    (photos / "text.png").write_text("hello")
    (photos / "wide.png").write_bytes(non_square_png())
    names = ["none.png", "corrupt.png", "text.png", "wide.png", "0.png"]
    paths = [*(str(photos / name) for name in names), "", "https://example.com/a.png", "\0"]
    out = VariationBatch("out", size="256x256", fit="strict")({"path": paths})
    errors = dict(zip(out["source_path"], out["error"], strict=True))
    assert errors[paths[4]] is None
    kinds = [(errors[path] or "").partition(":")[0] for path in (*paths[:4], *paths[5:])]
    assert kinds == ["SourceError", *["InvalidImageError"] * 3, *["SourceError"] * 3]
    assert out["index"] == [None, None, None, None, 1, None, None, None]
    assert not any(str(photos) in str(error) for error in out["error"])


def test_bad_value_fails_only_its_row() -> None:
    """A value out of range, or an option that the engine does not have, is an error of that row."""
    rows: dict[str, list[Any]] = {"path": ["photos/0.png"] * 4, "n": [11, 1, 1, 1]}
    rows |= {"strength": [None, 2, None, None], "seed": [None, None, -1, None]}
    out = batch()(rows)
    assert [bool(error) for error in out["error"]] == [True, True, True, False]
    out = batch(engine="instant")({"path": ["photos/0.png"] * 2, "strength": [1, None]})
    assert out["error"][0] == (
        "InvalidRequestError: The engine 'instant' has no option 'strength'. Its options are seed. "
        "The option 'strength' is for diffusers and local."
    )
    assert out["index"][1:] == [1, 2]


def test_unreadable_result_keeps_the_others() -> None:
    """The other images of the response are written, and the error is one more row."""
    out = batch(engine="fading", n=3)({"path": ["photos/0.png"]})
    assert out["index"] == [1, 2, None]
    error = "EngineError: Fading.create_variation returned image 3 of 3 without its file"
    assert out["error"][2].startswith(error)
    assert out["source_sha256"][2] == out["source_sha256"][0]


def test_errors_of_every_source_are_raised() -> None:
    """A batch stops at the first source instead of writing a million error rows."""
    rows = {"path": ["photos/0.png"]}
    with pytest.raises(AuthenticationError, match="The key is wrong"):
        batch(engine="refused")(rows)
    with pytest.raises(EngineNotFoundError, match="There is no engine 'magic'"):
        batch(engine="magic")(rows)
    with pytest.raises(InvalidRequestError, match="strength must be a number from 0 to 1"):
        batch(engine="local", options={"strength": 2})(rows)
    with pytest.raises(MissingExtraError):
        batch(engine="lacking")(rows)


def test_full_disk_leaves_no_partial_file() -> None:
    """A full disk raises an error, and once there is space the missing images are made."""
    with limit_file_size(50), pytest.raises(OutputError, match="cannot be written: File too large"):
        batch(engine="instant")({"path": ["photos/0.png"]})
    assert output_files() == set()
    assert batch(engine="instant")({"path": ["photos/0.png"]})["error"] == [None, None]


def test_unwritable_folder_is_raised(photos: Path) -> None:
    """An output folder below a file cannot be created."""
    with pytest.raises(OutputError, match="cannot be"):
        VariationBatch(photos / "0.png" / "out", engine="instant")({"path": ["photos/0.png"]})


BAD = [
    ({"n": 11}, "n must be"),
    ({"size": "1x1"}, "size must be"),
    ({"fit": "stretch"}, "fit must be"),
    ({"output_dir": "https://a.example"}, "output_dir must be a path on this machine or"),
    ({"output_dir": None}, "output_dir must be a folder or a URL"),
    ({"output_dir": "a\0b"}, "output_dir must be a folder or a URL"),
    ({"output_dir": ""}, "output_dir is empty"),
    (
        {"engine": object()},
        "engine must be the name of an engine, because each worker creates",
    ),
    ({"options": [1]}, "options must be a mapping"),
    ({"storage_options": "ab"}, "storage_options must be a mapping"),
    ({"model": ""}, "model must be"),
    ({"options": {"progress": print, "prompt": object()}}, "options must be strings"),
]


@pytest.mark.parametrize(("settings", "message"), BAD, ids=[text for _, text in BAD])
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    """The constructor checks all settings."""
    with pytest.raises(InvalidRequestError, match=message):
        batch(**settings)


def test_bad_columns_are_refused() -> None:
    """The batch must be a table with paths and with columns of equal length."""
    for bad_batch in ({"path": "photos/0.png"}, {"path": 3}, ["photos/0.png"], "path", 3):
        with pytest.raises(InvalidRequestError, match="must be a mapping of column names"):
            batch()(bad_batch)  # type: ignore[arg-type]  # refused when it runs
    with pytest.raises(InvalidRequestError, match="no column 'path'"):
        batch()({"image": ["photos/0.png"]})
    with pytest.raises(InvalidRequestError, match="differ in length"):
        batch()({"path": ["photos/0.png"], "n": [1, 2]})


def test_engines_with_threads_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine with threads gets one by default, since there is one process per processor."""
    assert getattr(batch(engine="local").load(), "threads", None) == 1
    two = batch(engine="local", options={"threads": 2})
    engine = two.load()
    assert getattr(engine, "threads", None) == 2
    two.close()
    assert two.load() is not engine
    assert os.listdir() == ["photos"]
