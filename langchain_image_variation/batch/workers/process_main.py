"""The process of one worker of a batch: `python -m` this module.

It reads the settings and then one source after another from standard input. On standard output it
says None once it is ready, and then what came of each source. Told None, it closes its engine and
ends. Without a word it ends as soon as its run does, even amid a picture, since the next run may be
waiting.
"""

import contextlib
import os
import queue
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import IO, Any

from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.batch.workers.pipe import portable, receive, send
from langchain_image_variation.batch.workers.protocol import unexpected
from langchain_image_variation.exceptions import ImageVariationError

__all__ = ["main"]


def main(kept: Sequence[int] = ()) -> None:
    """Work until the run is over or gone.

    Args:
        kept: Descriptors that this process holds as long as it lives, and none that it starts.
    """
    # Interrupts are for the run to judge; it lets what is in hand be finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
    incoming, outgoing = _own_pipes()
    _keep_from_children([incoming.fileno(), outgoing.fileno(), *kept])
    sources: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(incoming, sources), daemon=True).start()
    batch: VariationBatch = sources.get()
    send(outgoing, None)
    come_home, own = _way_home(), os.getpid()
    while (source := sources.get()) is not None:
        come_home()
        outcome = _outcome(batch, source)
        if os.getpid() != own:
            # A child that the engine forked, and that wanted to end.
            os._exit(0)
        send(outgoing, outcome)
    batch.close()


def _way_home() -> Callable[[], None]:
    """Return what goes back to this folder: an engine may have left it, and paths be relative."""
    try:
        home = os.getcwd()
    except OSError:
        # It is gone, so that no path can be.
        return lambda: None

    def come_home() -> None:
        with contextlib.suppress(OSError):
            os.chdir(home)

    return come_home


def _own_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Take standard input and output away from engines, which may print or read."""
    incoming = os.fdopen(os.dup(0), "rb")
    outgoing = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    return incoming, outgoing


def _keep_from_children(descriptors: Sequence[int]) -> None:
    """Let no process that an engine starts hold these: one may outlive this process.

    The run would wait for an answer from it, and the next run for its lock.
    """
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)

    held = list(descriptors)

    def close() -> None:
        # Once: in a child of the child, a number may be that of another file by then.
        while held:
            with contextlib.suppress(OSError):
                os.close(held.pop())

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=close)


def _listen(incoming: IO[bytes], sources: "queue.SimpleQueue[Any]") -> None:
    try:
        while True:
            sources.put(receive(incoming))
    except BaseException:
        # Files are put in place whole, so there is nothing to clean up but what an engine started.
        if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(0)


def _outcome(batch: VariationBatch, source: dict[str, object]) -> object:
    try:
        return batch.rows(source)
    except ImageVariationError as error:
        return portable(error)
    except BaseException as error:
        return [batch.error_row(source, unexpected(error))]


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
