"""An app of ours on a real socket, in a thread of the test's process."""

import base64
import os
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.exceptions import RateLimitError
from langchain_image_variation.images.png import SquarePNG


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an app on loopback while the block runs, and give its address."""
    # Its own logging settings would outlast it, and later tests that read logs would miss some.
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, access_log=False, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


class Moody(InstantEngine):
    """Fails for users that ask for it, once each."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Answer, but fail a new user named for a failure."""
        user = request.user or ""
        if user not in self.seen:
            self.seen.add(user)
            if user.startswith("limit"):
                error = RateLimitError("Please try again in 0.01s.")
                error.retry_after = 0.01
                raise error
            if user.startswith("fail"):
                raise RuntimeError
        return super().create_variation(request)


def check_picture(given: str, size: str) -> None:
    """Check what an answer holds for a picture, an address or base64."""
    if given.startswith("http"):
        with urllib.request.urlopen(given, timeout=10) as file:
            data = file.read()
    else:
        data = base64.b64decode(given)
    side = SquarePNG(data).side
    assert f"{side}x{side}" == size


def installed(name: str) -> Path:
    """Return where a client is that `.ci/clients` installs; without it the test is skipped.

    Who names the folder, in `IMAGE_VARIATION_CLIENTS`, has them all: there it is a failure.
    """
    named = os.environ.get("IMAGE_VARIATION_CLIENTS")
    folder = Path(named) if named else Path(__file__).parents[2] / ".ci" / "installed"
    if not (folder / name).exists():
        (pytest.fail if named else pytest.skip)(f"{name} is not installed; .ci/clients installs it")
    return folder / name
