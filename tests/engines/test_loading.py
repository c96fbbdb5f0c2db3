import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines import AsyncVariationEngine, VariationEngine
from langchain_image_variation.engines.call import call_engine, call_engine_async
from langchain_image_variation.engines.context import Progress, progress_reporter
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.engines.loading import (
    engine_name,
    engine_names,
    load_engine,
    load_engine_class,
)
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.exceptions import (
    EngineError,
    EngineNotFoundError,
    InvalidRequestError,
    MissingExtraError,
)
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png

ROOT = Path(__file__).parents[2]


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Declare a third-party distribution with good and bad engines."""
    metadata = tmp_path / "their_engines-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-engines\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[langchain_image_variation.engines]\n"
        "theirs = their_engine:Engine\n"
        "heavy = their_heavy:Engine [gpu]\n"
        "gone = their_engine:NoSuchEngine\n"
        "broken = their_broken:Engine\n"
        "async = their_engine:AsyncEngine\n"
        "function = their_engine:new_engine\n"
        "arguments = their_engine:ThreeArguments\n"
        "methodless = their_engine:Methodless\n"
        "local = their_engine:Engine\n"
    )
    (tmp_path / "their_engine.py").write_text(
        "class Engine:\n"
        "    def __init__(self, *, depth: int = 1) -> None:\n"
        "        self.depth = 1 // depth\n"
        "    def create_variation(self, request: object) -> object: ...\n"
        "class AsyncEngine:\n"
        "    async def create_variation(self, request: object) -> object: ...\n"
        "class ThreeArguments:\n"
        "    def create_variation(self, image, n, size): ...\n"
        "class Methodless: ...\n"
        "def new_engine(): ...\n"
    )
    (tmp_path / "their_broken.py").write_text("raise OSError('/home/x sk-123')\n")
    (tmp_path / "their_heavy.py").write_text("import a_package_that_is_not_installed\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("their_engine", "their_heavy", "their_broken"):
        sys.modules.pop(module, None)
    return tmp_path


def test_our_engines_are_declared() -> None:
    """The engines of this project are declared as entry points, like any other."""
    assert {"instant", "local"} <= set(engine_names())
    assert isinstance(load_engine("instant"), InstantEngine)


def test_engines_satisfy_the_protocol() -> None:
    """Engines satisfy the Protocols, which can be checked at run time."""
    assert isinstance(load_engine("instant"), VariationEngine)
    assert not isinstance(object(), VariationEngine | AsyncVariationEngine)


def test_loads_an_engine_of_another_distribution(declared: Path) -> None:
    """An engine declared by another distribution is listed and loaded, with its options."""
    assert "theirs" in engine_names()
    assert vars(load_engine("theirs", depth=1)) == {"depth": 1}


def test_our_engines_win_over_a_namesake(declared: Path) -> None:
    """Another distribution cannot replace `local`."""
    assert load_engine_class("local") is LocalEngine


def test_corrupt_metadata_does_not_stop_our_engines(declared: Path) -> None:
    """Our engines load even if the entry points of another distribution are corrupt."""
    (declared / "their_engines-1.0.dist-info" / "entry_points.txt").write_text("[group]\nnothing\n")
    assert load_engine_class("local") is LocalEngine
    assert engine_name(InstantEngine()) == "instant"


def test_an_unknown_engine_is_refused_with_the_list() -> None:
    """The error for an unknown engine lists the installed engines."""
    with pytest.raises(EngineNotFoundError, match=r"no engine 'nope'. Installed engines: .*local"):
        load_engine("nope")


def test_a_misspelt_engine_is_refused_with_a_suggestion() -> None:
    """The error for a misspelt engine names the one that was probably meant, and no list."""
    with pytest.raises(EngineNotFoundError) as caught:
        load_engine("difusers")
    assert caught.value.message == "There is no engine 'difusers'. Did you mean 'diffusers'?"


def test_an_option_of_another_engine_names_that_engine() -> None:
    """The error for an option that other engines have says which."""
    with pytest.raises(InvalidRequestError) as caught:
        load_engine("local", steps=12)
    assert caught.value.message.endswith(", threads. The option 'steps' is for diffusers.")
    with pytest.raises(
        InvalidRequestError, match=r"option 'strength' is for diffusers and local\."
    ):
        load_engine("instant", strength=0.2)


@pytest.mark.parametrize("engine", [InstantEngine, InstantEngine(), None])
def test_an_object_needs_no_loading(engine: Any) -> None:
    """The error for an engine instead of its name says that it needs no loading."""
    with pytest.raises(
        InvalidRequestError, match="Use your own engine directly, without load_engine"
    ):
        load_engine(engine)


def test_an_unknown_option_is_refused_with_the_list(declared: Path) -> None:
    """A misspelt option is an error that lists the engine's options."""
    with pytest.raises(InvalidRequestError, match=r"'dept'\. Its options are depth"):
        load_engine("theirs", dept=3)
    with pytest.raises(InvalidRequestError, match=r"'depth'\. Its options are seed"):
        load_engine("instant", depth=3)


def test_a_missing_package_names_the_extra_to_install(declared: Path) -> None:
    """If an engine's package is missing, the error is an ImportError that names the extra."""
    with pytest.raises(ImportError, match=r"pip install 'their-engines\[gpu\]'") as caught:
        load_engine_class("heavy")
    assert isinstance(caught.value, MissingExtraError)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", "The engine 'gone' cannot be imported: AttributeError."),
        ("broken", "The engine 'broken' cannot be imported: OSError."),
        ("async", "The engine 'async' is async. Construct it yourself and pass the object"),
        (
            "function",
            "The engine 'function' is declared as their_engine:new_engine, which is not a class.",
        ),
        (
            "arguments",
            "The engine 'arguments' cannot be used: ThreeArguments.create_variation takes (image, "
            "n, size), but it is called as create_variation(request).",
        ),
        (
            "methodless",
            "The engine 'methodless' cannot be used: engine must have the method "
            "create_variation(self, request), got an object of type Methodless.",
        ),
    ],
)
def test_an_engine_that_fails_to_load_is_our_error(declared: Path, name: str, message: str) -> None:
    """Whatever an engine's module raises becomes an EngineError without its text."""
    with pytest.raises(EngineError) as caught:
        load_engine(name)
    assert str(caught.value).startswith(message)


def test_a_failing_constructor_is_an_engine_error(declared: Path) -> None:
    """Whatever an engine's constructor raises becomes an EngineError without its text."""
    with pytest.raises(EngineError, match="'theirs' cannot be constructed: ZeroDivisionError"):
        load_engine("theirs", depth=0)


REQUEST = CreateImageVariationRequest(image=SquarePNG(square_png()), n=2)


class Sync:
    """An engine that answers."""

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Answer as the instant engine."""
        return InstantEngine().create_variation(request)


class Async:
    """An async engine that answers."""

    async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Answer as the instant engine."""
        await asyncio.sleep(0)
        return InstantEngine().create_variation(request)


class Failing:
    """An engine with a bug."""

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Fail with a text that must not be shown."""
        raise RuntimeError("/home/x sk-123")


class Odd:
    """An engine that returns an object of the wrong type."""

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Answer as a server would."""
        return {"data": []}  # type: ignore[return-value]  # that is the point


class Empty:
    """An engine that returns an empty response."""

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Answer without an image."""
        return ImagesResponse(created=1)


@pytest.mark.parametrize("engine", [Sync(), Async()])
async def test_sync_and_async_engines_take_both_calls(
    engine: VariationEngine | AsyncVariationEngine,
) -> None:
    """Sync and async engines answer sync and async code, even inside a running loop."""
    for response in (call_engine(engine, REQUEST), await call_engine_async(engine, REQUEST)):
        assert len(response.data) == 2


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (
            Failing(),
            "The engine Failing failed with RuntimeError. Correct it at "
            f"test_loading.py:{Failing.create_variation.__code__.co_firstlineno + 2}, or raise an "
            "ImageVariationError there.",
        ),
        (Empty(), "Empty.create_variation returned 0 images for n=2; return request.n images."),
        (
            Odd(),
            "Odd.create_variation returned a dict; if it is the JSON of a server, return "
            "ImagesResponse.from_content(answer).",
        ),
    ],
)
async def test_an_engine_is_held_to_the_protocol(engine: VariationEngine, message: str) -> None:
    """Foreign errors and invalid answers of an engine become EngineErrors."""
    with pytest.raises(EngineError) as sync:
        call_engine(engine, REQUEST)
    with pytest.raises(EngineError) as later:
        await call_engine_async(engine, REQUEST)
    assert str(sync.value) == str(later.value) == message


def test_an_engine_that_exits_ends_only_its_call() -> None:
    """The SystemExit of an engine ends its call, and the next call is answered."""

    class Exiting:
        async def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        call_engine(Exiting(), REQUEST)
    assert len(call_engine(Async(), REQUEST).data) == 2


FORKING = """
import os
from tests.engines.test_loading import REQUEST, Async, call_engine
call_engine(Async(), REQUEST)
if child := os.fork():
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    os._exit(len(call_engine(Async(), REQUEST).data))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_an_async_engine_can_be_called_after_a_fork() -> None:
    """An async engine works in a forked process, which has none of its parent's threads."""
    done = subprocess.run(
        [sys.executable, "-c", FORKING], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "2\n", done.stderr


AT_ONCE = """
import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from tests.engines.test_loading import REQUEST, Async, call_engine

loops, begin = set(), Barrier(16)

class Looking(Async):
    async def create_variation(self, request):
        loops.add(asyncio.get_running_loop())
        return await super().create_variation(request)

def call(_):
    begin.wait()
    call_engine(Looking(), REQUEST)

with ThreadPoolExecutor(16) as pool:
    list(pool.map(call, range(16)))
print(len(loops))
"""


@pytest.mark.slow
def test_threads_share_one_loop_for_async_engines() -> None:
    """All threads run async engines on one loop, because connections belong to a loop."""
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "1\n", done.stderr


class TestProgress:
    """A caller can follow the progress of an engine."""

    @pytest.mark.parametrize("name", ["local", "instant"])
    async def test_each_finished_image_is_reported_once(self, name: str) -> None:
        """Each finished image is reported once and in order, even if the engine reports none."""
        request = CreateImageVariationRequest(image=SquarePNG(square_png()), n=3, size="256x256")
        engine = load_engine(name)
        sync: list[Progress] = []
        later: list[Progress] = []
        call_engine(engine, request, progress=sync.append)
        await call_engine_async(engine, request, progress=later.append)
        for reports in (sync, later):
            assert reports == sorted(set(reports))
            assert sorted({report.finished for report in reports} | {0}) == [0, 1, 2, 3]
            assert reports[-1] == (3, 3, 1.0, None)

    def test_too_many_reports_are_ignored(self) -> None:
        """No image is reported that was not requested, and none after a failure."""

        class Eager:
            def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
                reporter = progress_reporter()
                for _ in range(5):
                    reporter.image_finished()
                reporter.work_done(1.5)
                reporter.work_done(0.1)
                return ImagesResponse.from_pngs([square_png()], response_format="b64_json")

        reports: list[Progress] = []
        with pytest.raises(EngineError):
            call_engine(
                Eager(),
                CreateImageVariationRequest(image=SquarePNG(square_png()), n=2, size="256x256"),
                progress=reports.append,
            )
        assert reports == [(1, 2, 0.5, None), (2, 2, 1.0, None)]

    def test_an_activity_is_no_progress(self) -> None:
        """What an engine does before it makes images is reported, and counts as nothing done."""

        class Slow:
            def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
                progress_reporter().report_activity("loading")
                progress_reporter().work_done(0)
                return ImagesResponse.from_pngs([square_png(256)], response_format="b64_json")

        reports: list[Progress] = []
        request = CreateImageVariationRequest(image=SquarePNG(square_png()), size="256x256")
        call_engine(Slow(), request, progress=reports.append)
        assert reports == [(0, 1, 0, "loading"), (0, 1, 0, None), (1, 1, 1.0, None)]

    async def test_an_error_of_the_listener_ends_the_call(self) -> None:
        """An error of the listener ends the call unchanged, and is not an error of the engine."""

        def fail(progress: Progress) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            call_engine(load_engine("local"), REQUEST, progress=fail)
        with pytest.raises(ZeroDivisionError):
            await call_engine_async(load_engine("local"), REQUEST, progress=fail)

    def test_an_engine_without_a_caller_reports_to_nobody(self) -> None:
        """Reports that an engine makes outside a call do nothing."""
        progress_reporter().image_finished()
        progress_reporter().work_done(1.0)


def test_an_engine_is_named_as_it_is_declared(declared: Path) -> None:
    """An engine is named by its entry point, or by its class if none declares it."""
    assert engine_name(LocalEngine()) == "local"
    assert engine_name(InstantEngine()) == "instant"
    assert engine_name(load_engine("theirs")) == "theirs"
    assert engine_name(Empty()) == "Empty"
