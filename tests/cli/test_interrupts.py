import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from langchain_image_variation.cli.interrupts import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_second_signal_raises_an_interrupt(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only the second signal raises an interrupt, and the previous handlers are restored."""
    handler = signal.getsignal(number)
    interrupts = Interrupts()
    with interrupts.handle_signals():
        signal.raise_signal(number)
        assert interrupts.signal == number
        assert "Interrupt again to stop immediately" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is handler


def test_ignored_signal_stays_ignored() -> None:
    """Signals that `nohup` or a shell ignores stay ignored."""
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupts = Interrupts()
        with interrupts.handle_signals():
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
        assert interrupts.signal is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, handler)


def test_other_threads_handle_no_signals() -> None:
    """In a thread other than the main one, the block runs and no handler changes."""
    handler = signal.getsignal(signal.SIGINT)

    def handle() -> object:
        with Interrupts().handle_signals():
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor() as pool:
        assert pool.submit(handle).result() is handler


@contextmanager
def close_temporarily(descriptor: int) -> Iterator[None]:
    """Close a descriptor for the block."""
    copy = os.dup(descriptor)
    os.close(descriptor)
    try:
        yield
    finally:
        os.dup2(copy, descriptor)
        os.close(copy)


def test_message_needs_no_terminal() -> None:
    """The message about an interrupt raises no error if the terminal is closed."""
    interrupts = Interrupts()
    with interrupts.handle_signals(), close_temporarily(2):
        signal.raise_signal(signal.SIGTERM)
    assert interrupts.signal == signal.SIGTERM
