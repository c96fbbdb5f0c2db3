"""The loopback server as the fixtures use it: started when needed, and reached without a proxy."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import pytest

from pytest_image_variation.marker import fail

if TYPE_CHECKING:
    from pytest_image_variation.loopback import Loopback
    from pytest_image_variation.loopback_session import LoopbackSession

__all__ = ["LazyLoopback", "bypass_proxy"]

_PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")


class LazyLoopback:
    """Starts the server with the first view, so that a blocked socket fails only its own test."""

    def __init__(self, start: Callable[[], Loopback]) -> None:
        self._start = start
        self._server: Loopback | None = None

    def view(self) -> AbstractContextManager[LoopbackSession]:
        """Give one test its own base URL while the block runs."""
        if self._server is None:
            self._server = self._try_start()
        if self._server is None:
            fail(
                "image_variation_server needs a socket, but pytest-socket blocks sockets. Pass "
                "--allow-hosts=127.0.0.1, or use image_variation_cassette, which needs none."
            )
        return self._server.view()

    def _try_start(self) -> Loopback | None:
        try:
            with warnings.catch_warnings():
                # pytest-socket warns when it creates its error.
                warnings.simplefilter("ignore", UserWarning)
                return self._start()
        except RuntimeError as error:
            if "Socket" not in type(error).__name__:
                raise
        return None

    def close(self) -> None:
        """Stop the server."""
        if self._server is not None:
            self._server.close()


def bypass_proxy(patch: pytest.MonkeyPatch) -> None:
    """Let clients reach 127.0.0.1 directly if the environment names a proxy."""
    if not any(os.environ.get(name) for name in _PROXIES):
        return
    others = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if others.strip() != "*" and "127.0.0.1" not in others.split(","):
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, f"{others},127.0.0.1".lstrip(","))
