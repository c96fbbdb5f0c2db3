import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from langchain_image_variation.batch.interrupts import Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_noted_and_the_second_stops(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    """Afterwards the signals do what they did before."""
    before = signal.getsignal(number)
    interrupts = Interrupts()
    with interrupts.handled():
        signal.raise_signal(number)
        assert interrupts.signal == number
        assert "Interrupt again to stop immediately" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_signal_that_was_ignored_stays_so() -> None:
    """As one that `nohup` ignores, or a shell's for what runs in the background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        interrupts = Interrupts()
        with interrupts.handled():
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
        assert interrupts.signal is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@contextmanager
def closed(descriptor: int) -> Iterator[None]:
    """Close a descriptor for the block."""
    kept = os.dup(descriptor)
    os.close(descriptor)
    try:
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)


def test_nobody_needs_to_be_there_to_read() -> None:
    """As when the terminal is gone that the run was started from."""
    interrupts = Interrupts()
    with interrupts.handled(), closed(2):
        signal.raise_signal(signal.SIGTERM)
    assert interrupts.signal == signal.SIGTERM
