"""The process of one worker: `python -m langchain_image_variation.bulk.worker`, for a run alone.

It reads the settings and then one source after another from standard input. On standard output it
says None once it is ready, and then what came of each source. It ends as soon as its run does, even
amid a picture, since the next run may be waiting.
"""

import os
import queue
import signal
import sys
import threading
import warnings
from typing import IO, Any

from langchain_image_variation.batch import VariationBatch
from langchain_image_variation.bulk.pipe import receive, send
from langchain_image_variation.exceptions import EngineError, ImageVariationError

__all__ = ["main"]


def main() -> None:
    """Work until the run is gone."""
    # Interrupts are for the run to judge; it lets what is in hand be finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
    incoming, outgoing = _own_pipes()
    sources: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(incoming, sources), daemon=True).start()
    batch: VariationBatch = sources.get()
    send(outgoing, None)
    while True:
        send(outgoing, _outcome(batch, sources.get()))


def _own_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Take standard input and output away from engines, which may print or read."""
    incoming = os.fdopen(os.dup(0), "rb")
    outgoing = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    return incoming, outgoing


def _listen(incoming: IO[bytes], sources: "queue.SimpleQueue[Any]") -> None:
    try:
        while True:
            sources.put(receive(incoming))
    except BaseException:
        # Files are put in place whole, so there is nothing to clean up.
        os._exit(0)


def _outcome(batch: VariationBatch, source: dict[str, object]) -> object:
    try:
        return batch.rows(source)
    except ImageVariationError as error:
        # One of a foreign class might not arrive, nor what it carries.
        ours = type(error).__module__ == ImageVariationError.__module__
        return error if ours else EngineError(error.message)


if __name__ == "__main__":
    main()
