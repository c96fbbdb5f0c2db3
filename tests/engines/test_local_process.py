import os
import subprocess
import sys

import pytest

_SETTING = """
import os, signal, sys, threading, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.engines.call import call_engine
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.exceptions import EngineError
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png

request = CreateImageVariationRequest(
    image=SquarePNG(square_png(64)), size="256x256", response_format="b64_json"
)
"""


def _output(script: str, *arguments: str) -> str:
    """Return what this script prints in a separate process on one processor."""
    command = [sys.executable, "-c", _SETTING + script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


_FORK = """
begun, done = threading.Event(), threading.Event()

def wait(progress):
    begun.set()
    done.wait()

def call():
    call_engine(LocalEngine(seed=1), request, progress=wait)

for _ in range(3):
    threading.Thread(target=call, daemon=True).start()
begun.wait()
time.sleep(0.2)
child = os.fork()
if not child:
    signal.alarm(5)
    LocalEngine(seed=1).create_variation(request)
    os._exit(0)
print(os.waitpid(child, 0)[1])
done.set()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_mid_request_works() -> None:
    """A child works although threads that it lacks hold every turn."""
    assert _output(_FORK) == "0"


_LEAK = """
import gc, weakref
from langchain_image_variation.engines.local import engine as module

gc.disable()
kept = []

class Noted(module.Synthesis):
    def __init__(self, *arguments, **options):
        kept.append(weakref.ref(self))
        super().__init__(*arguments, **options)

def fail(progress):
    if progress.share > 0.3:
        raise ZeroDivisionError

def draw(*arguments):
    raise ArithmeticError

module.Synthesis = Noted
wanted = CreateImageVariationRequest(image=request.image, n=3, size="256x256")
for listener in (fail, None):
    try:
        call_engine(LocalEngine(seed=1), wanted, progress=listener)
    except (ArithmeticError, EngineError):
        pass
    Noted.draw = draw
# A thread lets go of its last work a moment after it has said that it is done.
time.sleep(0.2)
print(len(kept), sum(made() is not None for made in kept))
"""


@pytest.mark.slow
def test_a_failed_request_frees_its_memory() -> None:
    """Data of a stopped or failed request needs no garbage collector."""
    assert _output(_LEAK) == "2 0"


_SLOW = """
begun, done = threading.Event(), threading.Event()

def wait(progress):
    begun.set()
    done.wait()

def call():
    call_engine(LocalEngine(seed=1), request, progress=wait)

slow = threading.Thread(target=call, daemon=True)
slow.start()
begun.wait()
other = LocalEngine(seed=1)
quick = threading.Thread(target=other.create_variation, args=(request,), daemon=True)
quick.start()
quick.join(20)
print(quick.is_alive())
done.set()
"""


@pytest.mark.slow
def test_a_slow_listener_delays_no_other_request() -> None:
    """While the listener of one request blocks, another request uses the only thread."""
    assert _output(_SLOW) == "False"


_NESTED = """
both = threading.Barrier(2)

def ask(progress):
    if not progress.share:
        both.wait()
        made.append(inner.create_variation(request).data[0].read())

made = []
inner = LocalEngine(seed=1)
alone = inner.create_variation(request).data[0].read()
outer = LocalEngine(seed=2)

def call():
    call_engine(outer, request, progress=ask)

# On one processor two requests take all turns.
threads = [threading.Thread(target=call, daemon=True) for _ in "ab"]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(20)
print([image == alone for image in made], [thread.is_alive() for thread in threads])
"""


@pytest.mark.slow
def test_a_listener_may_call_an_engine() -> None:
    """A request made within another gets its images, even if all turns are taken."""
    assert _output(_NESTED) == "[True, True] [False, False]"


_INTERRUPTED_START = """
def interrupt(frame, event, argument):
    caller = frame.f_back
    if event == "call" and caller is not None and caller.f_code is threading.Thread.start.__code__:
        sys.setprofile(None)
        raise KeyboardInterrupt

engine = LocalEngine(seed=1)
sys.setprofile(interrupt)
try:
    engine.create_variation(request)
except KeyboardInterrupt:
    if sys.argv[1:]:
        engine.create_variation(request)
    # The thread waits for another job by then. Otherwise, it could end by chance.
    time.sleep(1)
    print("interrupted")
"""


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["again"]])
def test_an_interrupt_while_a_thread_starts_ends(arguments: list[str]) -> None:
    """The process ends after an interrupt at any time, and an engine can be called again."""
    assert _output(_INTERRUPTED_START, *arguments) == "interrupted"


_EXIT = """
import atexit

leaving = threading.Event()

def ask():
    leaving.wait()
    try:
        LocalEngine(seed=1).create_variation(request)
    except EngineError as error:
        print("shutting down" in error.message)

late = threading.Thread(target=ask, daemon=True)

@atexit.register
def leave():
    leaving.set()
    late.join(5)
    ask()

if sys.argv[1:]:
    LocalEngine(seed=1).create_variation(request)
late.start()
"""


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["warm"]], ids=["first request", "later request"])
def test_a_request_at_exit_is_an_engine_error(arguments: list[str]) -> None:
    """In an exit handler or a daemon thread, the error says that the interpreter shuts down."""
    assert _output(_EXIT, *arguments) == "True\nTrue"
