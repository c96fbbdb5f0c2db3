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
from langchain_image_variation.images.pixels import decode, pixel_sha256
from pytest_image_variation.samples import corrupt_png, non_square_png
from tests.batch.declared import made
from tests.batch.running import largest_file
from tests.images.compressed import encodings

Columns = dict[str, list[Any]]


def batch(**settings: Any) -> VariationBatch:
    """Return a batch with the engine that logs."""
    usual = {"output_dir": "out", "engine": "logged", "n": 2, "size": "256x256"}
    return VariationBatch(**{**usual, **settings})


def pictures() -> set[str]:
    """Return all files in the output folder."""
    return {str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file()}


def test_columns_go_in_and_come_out() -> None:
    """One row a picture; each is on disk, of the size asked for, and as its row says."""
    out = batch()({"path": ["photos/0.png", "photos/1.png"], "position": [7, 8]})
    assert tuple(out) == (*COLUMNS, "position")
    assert out["source_path"] == ["photos/0.png"] * 2 + ["photos/1.png"] * 2
    assert (out["index"], out["position"]) == ([1, 2, 1, 2], [7, 7, 8, 8])
    assert set(out["engine"]) == {"logged"}
    assert set(out["engine_version"]) == {"1.0"}
    assert set(out["size"]) == {"256x256"}
    assert set(out["error"]) == {None}
    assert all(spent > 0 for spent in out["milliseconds"])
    for path, digest in zip(out["output_path"], out["output_sha256"], strict=True):
        data = (Path("out") / path).read_bytes()
        assert (SquarePNG(data).side, hashlib.sha256(data).hexdigest()) == (256, digest)
    assert pictures() == set(out["output_path"])


def test_threads_that_share_a_batch_share_its_engine() -> None:
    """It is made once and closed once, though all threads begin at the same time."""
    shared, begin = batch(engine="slow"), Barrier(4)

    def rows(number: int) -> list[Any]:
        begin.wait(60)
        return shared.rows({"path": f"photos/{number}.png"})

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(rows, range(4)))
    assert [row["error"] for rows in found for row in rows] == [None] * 8
    assert Path(os.environ["ENGINE_LOG"]).read_text().split() == ["made"]
    shared.close()
    assert Path(os.environ["ENGINE_LOG"]).read_text().split() == ["made", "closed"]


def test_seeds_and_names_follow_from_the_content(photos: Path) -> None:
    """The same picture elsewhere, under another name and in another run, gives the same files."""
    (photos / "copy.jpg").write_bytes((photos / "0.png").read_bytes())
    one = batch()({"path": ["photos/0.png"]})
    other = VariationBatch("other", engine="logged", n=2, size="256x256")(
        {"path": ["photos/copy.jpg"]}
    )
    for column in ("source_sha256", "seed", "output_path", "output_sha256"):
        assert one[column] == other[column]
    digest = hashlib.sha256((photos / "0.png").read_bytes()).hexdigest()
    assert one["source_sha256"] == [digest] * 2
    assert one["seed"] == [int(digest[:8], 16), int(digest[:8], 16) + 1]


def test_how_a_source_is_compressed_changes_no_pixel(photos: Path) -> None:
    """With the same seed; names and manifest follow from the source's file, which is the user's."""
    files = encodings(decode(SquarePNG((photos / "0.png").read_bytes())))
    for at, data in enumerate(files):
        (photos / f"{at}.png").write_bytes(data)
    paths = [f"photos/{at}.png" for at in range(len(files))]
    out = batch(engine="instant", n=1)({"path": paths, "seed": [7] * len(files)})
    made = [decode(SquarePNG((Path("out") / path).read_bytes())) for path in out["output_path"]]
    assert len({pixel_sha256(image) for image in made}) == 1
    assert len(set(out["output_path"])) == len(set(out["source_sha256"])) == len(files)


def test_what_is_there_is_not_made_again() -> None:
    """A second call makes nothing, and says the same but for the time."""
    first, second = (batch()({"path": ["photos/0.png"]}) for _ in range(2))
    assert second.pop("milliseconds") == [None, None]
    del first["milliseconds"]
    assert first == second
    assert set(made().values()) == {1}


@pytest.mark.parametrize("engine", ["logged", "instant"])
def test_more_pictures_are_added_to_those_that_are_there(engine: str) -> None:
    """Raising n makes the further ones alone, with the seeds that follow."""
    few = batch(n=2, engine=engine)({"path": ["photos/0.png"]})
    many = batch(n=5, engine=engine)({"path": ["photos/0.png"]})
    assert many["output_sha256"][:2] == few["output_sha256"]
    assert len(set(many["output_sha256"])) == 5
    if engine == "logged":
        assert (len(made()), set(made().values())) == (5, {1})


@pytest.mark.parametrize("harm", ["gone", "cut", "other size", "damaged"])
def test_a_picture_that_is_not_whole_is_made_again(harm: str) -> None:
    """It alone; what comes of it is what was there."""
    first = batch(n=3)({"path": ["photos/0.png"]})
    path = Path("out") / first["output_path"][1]
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        other = Path("photos/0.png").read_bytes()
        path.write_bytes(
            {"cut": data[:-1], "other size": other, "damaged": data[:-20] + b"\0" + data[-19:]}[
                harm
            ]
        )
    second = batch(n=3)({"path": ["photos/0.png"]})
    assert second["output_sha256"] == first["output_sha256"]
    assert path.read_bytes() == data
    assert sorted(made().values()) == [1, 1, 2]


def test_other_settings_make_other_files() -> None:
    """Nothing is taken for what was made otherwise, and nothing is replaced."""
    kinds: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"size": "512x512"}, {}),
        ({"fit": "pad"}, {}),
        ({"model": "dall-e-2"}, {}),
        ({"options": {"strength": 0.2}}, {}),
        ({"options": {"seed": 5}}, {}),
        ({"engine": "instant"}, {}),
        ({}, {"seed": [5]}),
        ({}, {"strength": [0.2]}),
    ]
    outs = [batch(**settings)({"path": ["photos/0.png"], **row}) for settings, row in kinds]
    assert len({path for out in outs for path in out["output_path"]}) == 2 * len(kinds)
    assert [out["seed"][0] for out in outs[5:8]] == [5, outs[0]["seed"][0], 5]
    again = batch(size="512x512")({"path": ["photos/0.png"]})
    assert (
        again["output_path"]
        == batch()({"path": ["photos/0.png"], "size": ["512x512"]})["output_path"]
    )


def test_a_key_or_the_number_of_threads_changes_no_name() -> None:
    """What no picture depends on is no part of its name."""
    job = batch().job({"path": "photos/0.png"})
    one = VariationBatch("out", options={"threads": 1, "api_key": "sk-1"})
    other = VariationBatch("out", options={"threads": 2, "api_key": "sk-2", "timeout": 3})
    assert one.output_paths(job, "ab" * 32) == other.output_paths(job, "ab" * 32)
    assert one.version == __version__


def test_arrays_are_columns_too() -> None:
    """As Ray and data frames give them, with NaN where there is nothing."""
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
def test_tables_are_batches_too(kind: str) -> None:
    """As Ray, Dask and Spark give them; what they lack is the default."""
    table = pyarrow.table({"path": ["photos/0.png", "photos/1.png"], "seed": [None, 7]})
    if kind == "pandas":
        table = pytest.importorskip("pandas").DataFrame(table.to_pydict())
    out = batch(n=1)(table)
    assert out["error"] == [None, None]
    assert out["seed"] == [int(out["source_sha256"][0][:8], 16), 7]


def test_it_pickles_before_and_after_its_use() -> None:
    """What arrives elsewhere has the settings and makes its own engine."""
    fresh = batch()
    fresh({"path": ["photos/0.png"]})
    copy = pickle.loads(pickle.dumps(fresh))
    assert copy.load() is not fresh.load()
    assert copy({"path": ["photos/0.png"]})["error"] == [None, None]


def test_the_engine_of_a_source_is_closed_after_it() -> None:
    """One with connections of its own would otherwise leak them, a source each."""
    sources = {"path": ["photos/0.png", "photos/1.png"]}
    assert batch()(sources)["error"] == [None] * 4
    done = Path(os.environ["ENGINE_LOG"] + ".closed").read_text()
    assert done == "closed\nclosed\n"


@pytest.mark.parametrize("seed", [2**63 - 1, 1.5, True, "x"])
def test_a_seed_of_all_is_held_to_that_of_a_row(seed: object) -> None:
    """A ledger and a manifest have 64-bit integers."""
    with pytest.raises(InvalidRequestError, match="seed must be a whole number"):
        batch(options={"seed": seed})


def test_an_error_is_one_line_of_plain_text() -> None:
    """Whatever an engine says, so that a manifest and a terminal can have it."""
    row = batch().error_row({"path": "a"}, EngineError("bad \udcff\n\x1bname " + "x" * 9999))
    assert row["error"].startswith("EngineError: bad name xxx")
    assert len(row["error"]) == 500


def test_a_folder_stays_where_it_was_when_the_batch_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine may go to another folder."""
    made = batch()
    monkeypatch.chdir("/")
    assert made({"path": [str(tmp_path / "photos" / "0.png")]})["error"] == [None, None]
    assert len(list((tmp_path / "out" / "pictures").rglob("*.png"))) == 2


async def test_without_blocking_a_loop() -> None:
    """The async twin gives the same rows."""
    source = {"path": "photos/0.png"}
    rows = await batch().rows_async(source)
    again = await batch().rows_async(source)
    assert [{**row, "milliseconds": None} for row in rows] == again == batch().rows(source)
    (bad,) = await batch().rows_async({"path": "photos"})
    assert bad["error"] == "SourceError: 'photos' is a folder; pass the path of an image."


def test_a_bad_picture_is_a_row_with_its_error(photos: Path) -> None:
    """The others are made; the sentence names no path."""
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


def test_what_a_row_gets_wrong_is_its_own_error() -> None:
    """A limit that is passed, or an option that the engine does not have."""
    rows: dict[str, list[Any]] = {"path": ["photos/0.png"] * 4, "n": [11, 1, 1, 1]}
    rows |= {"strength": [None, 2, None, None], "seed": [None, None, -1, None]}
    out = batch()(rows)
    assert [bool(error) for error in out["error"]] == [True, True, True, False]
    out = batch(engine="instant")({"path": ["photos/0.png"] * 2, "strength": [1, None]})
    assert out["error"][0] == (
        "InvalidRequestError: The engine 'instant' has no option 'strength'. Its options are seed."
    )
    assert out["index"][1:] == [1, 2]


def test_a_picture_that_cannot_be_read_does_not_cost_the_others() -> None:
    """They are kept and told, and the error beside them."""
    out = batch(engine="fading", n=3)({"path": ["photos/0.png"]})
    assert out["index"] == [1, 2, None]
    assert out["error"][2].startswith("OutputError: The result holds no image")
    assert out["source_sha256"][2] == out["source_sha256"][0]


def test_what_would_happen_every_time_is_raised() -> None:
    """So that a run ends at the first picture and not with a million rows."""
    rows = {"path": ["photos/0.png"]}
    with pytest.raises(AuthenticationError, match="The key is wrong"):
        batch(engine="refused")(rows)
    with pytest.raises(EngineNotFoundError, match="There is no engine 'magic'"):
        batch(engine="magic")(rows)
    with pytest.raises(InvalidRequestError, match="strength must be a number from 0 to 1"):
        batch(engine="local", options={"strength": 2})(rows)
    with pytest.raises(MissingExtraError):
        batch(engine="lacking")(rows)


def test_a_full_disk_is_raised_and_leaves_no_half_file() -> None:
    """Once there is room, the rest is made."""
    with largest_file(50), pytest.raises(OutputError, match="cannot be written: File too large"):
        batch(engine="instant")({"path": ["photos/0.png"]})
    assert pictures() == set()
    assert batch(engine="instant")({"path": ["photos/0.png"]})["error"] == [None, None]


def test_a_folder_that_cannot_be_written_is_raised(photos: Path) -> None:
    """Such as one below a file."""
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
    ({"engine": object()}, "engine must be the name of an engine, got a object"),
    ({"options": [1]}, "options must be a mapping"),
    ({"storage_options": "ab"}, "storage_options must be a mapping"),
    ({"model": ""}, "model must be"),
    ({"options": {"progress": print, "prompt": object()}}, "options must be texts"),
]


@pytest.mark.parametrize(("settings", "message"), BAD, ids=[text for _, text in BAD])
def test_bad_settings_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    """Before anything is sent anywhere."""
    with pytest.raises(InvalidRequestError, match=message):
        batch(**settings)


def test_bad_columns_are_refused() -> None:
    """Without paths, of unequal length, or none at all."""
    for none in ({"path": "photos/0.png"}, {"path": 3}, ["photos/0.png"], "path", 3):
        with pytest.raises(InvalidRequestError, match="must be a mapping of columns"):
            batch()(none)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="no column 'path'"):
        batch()({"image": ["photos/0.png"]})
    with pytest.raises(InvalidRequestError, match="differ in length"):
        batch()({"path": ["photos/0.png"], "n": [1, 2]})


def test_engines_that_take_threads_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the options say otherwise; there is a process for each processor."""
    assert getattr(batch(engine="local").load(), "threads", None) == 1
    two = batch(engine="local", options={"threads": 2})
    made = two.load()
    assert getattr(made, "threads", None) == 2
    two.close()
    assert two.load() is not made
    assert os.listdir() == ["photos"]
