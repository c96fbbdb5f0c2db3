"""Shared models, with a loader that counts instead of loading weights."""

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest

from langchain_image_variation.engines.diffusers.shared_models import SharedModel
from langchain_image_variation.exceptions import EngineError


@pytest.fixture(scope="module", autouse=True)
def quick_garbage_collections() -> None:
    """Leave what other tests made out of the many garbage collections here."""
    gc.collect()
    gc.freeze()


class FakeModel:
    """A model without weights."""

    def __init__(self) -> None:
        self.is_freed = False

    def free(self) -> None:
        """Note that the memory is released."""
        self.is_freed = True


@dataclass
class Loader:
    """Loads models without weights, and notes the order of events."""

    device: str = "cpu"
    events: list[str] = field(default_factory=list)
    models: "list[weakref.ref[FakeModel]]" = field(default_factory=list)
    fetching: Callable[[], object] = lambda: None
    loading: Callable[[], object] = lambda: None

    def device_name(self) -> str:
        """Return the name of the device."""
        return self.device

    def fetch(self) -> None:
        """Do what the test wants instead of a download."""
        self.events.append("fetch")
        self.fetching()

    def load(self) -> FakeModel:
        """Do what the test wants, and return a new model."""
        self.events.append("load")
        self.loading()
        model = FakeModel()
        self.models.append(weakref.ref(model))
        return model

    def living(self) -> int:
        """Return how many models are still in memory."""
        gc.collect()
        return sum(reference() is not None for reference in self.models)


def share(key: str, loader: Loader) -> SharedModel[FakeModel]:
    """Return a share. Each test uses its own keys, because all tests run in one process."""
    return SharedModel(key, loader)


@contextmanager
def threads(*targets: Callable[[], object]) -> Iterator[list[threading.Thread]]:
    """Run functions in threads, which must end soon after the block does."""
    started = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in started:
        thread.start()
    yield started
    for thread in started:
        thread.join(20)
        assert not thread.is_alive()


def test_nothing_is_loaded_before_the_first_use() -> None:
    """A share costs nothing until it is used, and loads once for all uses."""
    loader = Loader()
    shared = share("first", loader)
    assert loader.events == []
    with shared.lease() as model:
        assert loader.events == ["fetch", "load"]
    with shared.lease() as again:
        assert again is model
    assert loader.events == ["fetch", "load"]
    shared.close()


def test_equal_keys_share_a_pipeline() -> None:
    """Two engines with the same options use one model, until both are closed."""
    first, second = Loader(), Loader()
    shared, other = share("equal", first), share("equal", second)
    with shared.lease() as model:
        pass
    with other.lease() as same:
        assert same is model
    assert second.events == []
    shared.close()
    assert not model.is_freed
    shared.close()
    assert not model.is_freed
    other.close()
    assert model.is_freed
    del model, same
    assert first.living() == 0


def test_other_keys_have_other_pipelines() -> None:
    """Engines with other options do not share."""
    loader = Loader()
    shared, other = share("one", loader), share("two", loader)
    with shared.lease() as model:
        pass
    with other.lease() as different:
        assert different is not model
    shared.close()
    assert model.is_freed
    assert not different.is_freed
    other.close()


def test_a_copy_keeps_the_pipeline() -> None:
    """A copy's share counts separately: closing the copy does not free the original's model."""
    loader = Loader()
    shared = share("copy", loader)
    copy = shared.share()
    with shared.lease() as model:
        pass
    copy.close()
    assert not model.is_freed
    shared.close()
    assert model.is_freed


def test_an_unused_engine_keeps_the_pipeline() -> None:
    """An engine that is never called keeps the model for those that a batch makes meanwhile."""
    loader = Loader()
    kept = share("kept", loader)
    for _ in range(3):
        shared = share("kept", loader)
        with shared.lease():
            pass
        shared.close()
    assert loader.events == ["fetch", "load"]
    kept.close()
    assert loader.living() == 0


def test_twenty_engines_leave_nothing() -> None:
    """Engines made, used and closed one after the other leave no model in memory."""
    loader = Loader()
    for _ in range(20):
        shared = share("twenty", loader)
        with shared.lease():
            pass
        shared.close()
    assert loader.events.count("load") == 20
    assert loader.living() == 0


def test_a_forgotten_engine_frees_its_pipeline() -> None:
    """The garbage collector frees the model of an engine that was never closed."""
    loader = Loader()
    shared = share("forgotten", loader)
    with shared.lease():
        pass
    assert loader.living() == 1
    del shared
    assert loader.living() == 0


def test_a_forgotten_cycle_frees_its_pipeline() -> None:
    """The garbage collector frees the model of an engine that is part of a reference cycle."""
    loader = Loader()
    for _ in range(5):
        cycle: list[object] = []
        shared = share("cycle", loader)
        with shared.lease():
            pass
        cycle += [cycle, shared]
        del shared, cycle
        gc.collect()
    assert loader.living() == 0


def test_closing_during_a_call_waits_for_its_end() -> None:
    """A model that is in use when its last engine is closed is freed after the call."""
    shared = share("closing", Loader())
    with shared.lease() as model:
        shared.close()
        assert not model.is_freed
    assert model.is_freed


def test_a_closed_engine_loads_for_one_call() -> None:
    """A call of a closed engine works, and does not keep the model in memory."""
    loader = Loader()
    shared = share("closed", loader)
    shared.close()
    with shared.lease() as model:
        assert not model.is_freed
    assert model.is_freed


def test_threads_load_once_and_take_turns() -> None:
    """Threads that ask at once wait for one load, and use the model one at a time, in order."""
    may_load = threading.Event()
    loader = Loader(loading=lambda: may_load.wait(20))
    shared = share("ten", loader)
    in_use, order = list[int](), list[int]()

    def use(index: int, is_waiting: threading.Event) -> None:
        def note_waiting() -> bool:
            is_waiting.set()
            return False

        with shared.lease(note_waiting):
            in_use.append(index)
            order.append(index)
            time.sleep(0.01)
            assert in_use == [index]
            in_use.clear()

    started = []
    for index in range(5):
        is_waiting = threading.Event()
        started.append(threading.Thread(target=use, args=(index, is_waiting), daemon=True))
        started[-1].start()
        # The first one loads, and does not wait for a turn.
        while not (is_waiting.is_set() or (index == 0 and "load" in loader.events)):
            time.sleep(0.01)
    may_load.set()
    for thread in started:
        thread.join(20)
    assert order == list(range(5))
    assert loader.events == ["fetch", "load"]
    shared.close()


@pytest.mark.parametrize(
    ("devices", "seconds", "meet"),
    [(("gpu:0", "gpu:1"), 20, True), (("gpu:0", "gpu:0"), 0.3, False)],
    ids=["two devices", "one device"],
)
def test_pipelines_take_turns_on_a_device(
    devices: tuple[str, str], seconds: float, meet: bool
) -> None:
    """Two models on two devices are used at once; on one device, they are not."""
    barrier = threading.Barrier(2, timeout=seconds)
    results: list[bool] = []

    def use(shared: SharedModel[FakeModel]) -> None:
        with shared.lease():
            try:
                barrier.wait()
                results.append(True)
            except threading.BrokenBarrierError:
                results.append(False)

    shares = [share(f"turns {index}", Loader(device)) for index, device in enumerate(devices)]
    with threads(*(partial(use, shared) for shared in shares)):
        pass
    assert results == [meet] * 2
    for shared in shares:
        shared.close()


def test_a_download_does_not_hold_the_device() -> None:
    """While one engine downloads its model, another one uses the device."""
    is_fetching, may_end = threading.Event(), threading.Event()

    def download() -> None:
        is_fetching.set()
        may_end.wait(20)

    slow, other = share("download", Loader(fetching=download)), share("other", Loader())

    def use() -> None:
        with slow.lease():
            pass

    with threads(use):
        is_fetching.wait(20)
        with other.lease():
            may_end.set()
    slow.close()
    other.close()


def test_a_failed_load_lets_the_next_call_try() -> None:
    """If loading fails, every waiting call tries again, and nothing stays locked."""
    failures = [EngineError("The disk is full."), EngineError("The disk is full.")]

    def fail_twice() -> None:
        time.sleep(0.05)
        if failures:
            raise failures.pop()

    loader = Loader(loading=fail_twice)
    shared = share("failing", loader)
    results: list[str] = []

    def use() -> None:
        try:
            with shared.lease():
                results.append("made")
        except EngineError as error:
            results.append(error.message)

    with threads(use, use, use, use):
        pass
    assert sorted(results) == ["The disk is full."] * 2 + ["made"] * 2
    assert loader.events.count("load") == 3
    shared.close()
    assert loader.living() == 0


def test_an_error_in_a_call_passes_the_turn_on() -> None:
    """A call that fails keeps the model, and lets the next one in."""
    shared = share("error", Loader())
    with pytest.raises(ZeroDivisionError), shared.lease():
        raise ZeroDivisionError
    with shared.lease() as model:
        assert not model.is_freed
    shared.close()


def test_a_waiting_call_can_be_cancelled() -> None:
    """A cancelled call stops waiting for the call before it, and for another one's load."""
    shared = share("cancelled", Loader())
    is_cancelled, errors = threading.Event(), list[str]()

    def wait() -> None:
        try:
            with shared.lease(is_cancelled.is_set):
                errors.append("not cancelled")
        except EngineError as error:
            errors.append(error.message)

    with shared.lease(), threads(wait):
        time.sleep(0.05)
        assert not errors
        is_cancelled.set()
    assert errors == ["The call was cancelled."]
    with shared.lease():
        pass
    shared.close()


def test_a_listener_cannot_call_its_own_engine() -> None:
    """A call from inside a call of the same thread is an error, since it would wait forever."""
    shared, same_device = share("inner", Loader()), share("same device", Loader())
    with shared.lease():
        for inner in (shared, same_device):
            with pytest.raises(EngineError, match="progress listener cannot call"), inner.lease():
                raise AssertionError
    with same_device.lease():
        pass
    shared.close()
    same_device.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_loads_its_own() -> None:
    """A child forked in the middle of a call loads once, and frees nothing of its parent's."""
    loader = Loader()
    shared = share("fork", loader)
    with shared.lease() as model:
        child = os.fork()
        if not child:
            code = 1
            try:
                for _ in range(2):
                    with shared.lease() as own:
                        assert own is not model
                assert loader.events == ["fetch", "load"] * 2
                shared.close()
                assert own.is_freed
                assert not model.is_freed
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
    assert loader.events == ["fetch", "load"]
    shared.close()
    assert model.is_freed
