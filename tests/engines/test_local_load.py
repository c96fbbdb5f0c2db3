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
def test_many_callers_share_memory_and_threads() -> None:
    """Six threads call one engine at once on two processors, and then a forked child does.

    All get the bytes that one caller alone gets. The six need less than four times the memory of
    one, and, apart from their own threads, only a few per processor. The child, which inherited the
    engine but none of its threads, gets the right images too.
    """
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], check=True, capture_output=True, text=True, timeout=300
    )
    outcome: dict[str, Any] = json.loads(done.stdout)
    assert outcome["right"]
    assert outcome["all"] - outcome["start"] < 4 * (outcome["one"] - outcome["start"])
    assert outcome["threads"] <= 6 + 3 * 2
    assert outcome["forked"]
