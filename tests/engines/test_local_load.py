import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    not os.path.isdir("/proc/self/task") or not hasattr(os, "sched_setaffinity"),
    reason="threads and memory are read from Linux's /proc",
)

_SCRIPT = """
import json, os, threading
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
from concurrent.futures import ThreadPoolExecutor
from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.engines.call import call_engine
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.images.png import SquarePNG
from pytest_image_variation.samples import square_png

callers = 6
threads = []

def count(progress):
    threads.append(len(os.listdir("/proc/self/task")))

def peak():
    # What getrusage says would start at the peak of the parent.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

engine = LocalEngine(seed=1, strength=0.8)
request = CreateImageVariationRequest(
    image=SquarePNG(square_png(256)), size="1024x1024", response_format="b64_json"
)

def call(index):
    return [image.read() for image in call_engine(engine, request, progress=count).data]

start, idle = peak(), len(os.listdir("/proc/self/task"))
alone = call(0)
one = peak()
# All callers at the same time.
gate = threading.Barrier(callers)

def together(index):
    gate.wait()
    return call(index) == alone

with ThreadPoolExecutor(callers) as pool:
    right = list(pool.map(together, range(callers)))
child = os.fork()
if not child:
    os._exit(call(0) != alone)
print(json.dumps({
    "forked": os.waitpid(child, 0)[1] == 0, "right": all(right), "start": start, "one": one,
    "all": peak(), "threads": max(threads) - idle,
}))
"""


@pytest.mark.slow
def test_a_crowd_is_served_right_on_little_memory_and_few_threads() -> None:
    """Six threads that call one engine at once on two processors, and then a forked child.

    They get the bytes that one caller alone gets; they need less than four times the memory that
    one does; besides their own there are at most a few threads for each processor; and the child,
    which has inherited the engine but none of its threads, gets the right images too.
    """
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], check=True, capture_output=True, text=True, timeout=300
    )
    crowd: dict[str, Any] = json.loads(done.stdout)
    assert crowd["right"]
    assert crowd["all"] - crowd["start"] < 4 * (crowd["one"] - crowd["start"])
    assert crowd["threads"] <= 6 + 3 * 2
    assert crowd["forked"]
