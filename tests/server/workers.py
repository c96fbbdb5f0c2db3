"""An app for several worker processes. `STORE` is its folder, `FINISH` a file that calls wait for.

Each response names its process, so that tests know which one answered.
"""

import os
import time
from pathlib import Path

from starlette.types import Message, Receive, Scope, Send

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.local import LocalEngine
from langchain_image_variation.server import create_app


class PatientEngine(LocalEngine):
    """Logs the process of each call, and finishes once a file exists."""

    def create_variation(self, request: CreateImageVariationRequest) -> ImagesResponse:
        """Log the call, wait and answer."""
        folder = Path(os.environ["STORE"])
        with (folder.parent / "calls").open("a") as calls:
            calls.write(f"{os.getpid()}\n")
        while not Path(os.environ["FINISH"]).exists():
            time.sleep(0.01)
        return super().create_variation(request)


variations = create_app(PatientEngine(), store_dir=os.environ["STORE"], workers=1, queue=0)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer, and add the header `x-process`."""

    async def send_with_process(message: Message) -> None:
        if message["type"] == "http.response.start":
            process = (b"x-process", str(os.getpid()).encode())
            message = {**message, "headers": [*message["headers"], process]}
        await send(message)

    await variations(scope, receive, send_with_process)
