"""Servers on a real socket: in a thread of the test's process, or in another process."""

import base64
import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
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
def serving(app: Any, listener: socket.socket | None = None) -> Iterator[str]:
    """Serve an app on loopback during the block, and yield its address.

    Args:
        app: The app.
        listener: The socket to listen on. By default, the server listens on a free port.
    """
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        # The parser of `image-variation serve`. By default, it depends on the installed packages.
        http="h11",
        ws="none",
        # uvicorn's logging settings would stay, and later tests that read logs would miss records.
        log_config=None,
        access_log=False,
    )
    server = uvicorn.Server(config)
    sockets = None if listener is None else [listener]
    thread = threading.Thread(target=server.run, args=(sockets,), daemon=True)
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


@contextmanager
def server_process(
    *command: str, settings: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a server, and yield the process and the address, which is its first line of output."""
    pipe, environment = subprocess.PIPE, {**os.environ, **(settings or {})}
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


class MoodyEngine(InstantEngine):
    """Fails once for each user whose name requests it."""

    def __init__(self) -> None:
        self.users: set[str] = set()

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Answer, but fail for a new user that is named for a failure."""
        user = request.user or ""
        if user not in self.users:
            self.users.add(user)
            if user.startswith("limit"):
                error = RateLimitError("Please try again in 0.01s.")
                error.retry_after = 0.01
                raise error
            if user.startswith("fail"):
                raise RuntimeError
        return super().create_variation(request)


def check_image(image: str, size: str) -> None:
    """Check the size of an image, which is a URL or base64."""
    if image.startswith("http"):
        with urllib.request.urlopen(image, timeout=10) as file:
            data = file.read()
    else:
        data = base64.b64decode(image)
    side = SquarePNG(data).side
    assert f"{side}x{side}" == size


def installed_client(name: str) -> Path:
    """Return the path of a client that `.ci/clients` installed. Without it, skip the test.

    If `IMAGE_VARIATION_CLIENTS` names the folder, all clients must be there.
    """
    directory = os.environ.get("IMAGE_VARIATION_CLIENTS")
    folder = Path(directory) if directory else Path(__file__).parents[2] / ".ci" / "installed"
    if not (folder / name).exists():
        (pytest.fail if directory else pytest.skip)(
            f"{name} is not installed. .ci/clients installs it."
        )
    return folder / name
