"""The conversation that an agent of each host has with a scripted model, and what must be true."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler

from langchain_image_variation.agents.tool import PROGRESS_EVENT, ImageVariationTool
from langchain_image_variation.images.png import SquarePNG
from tests.agents.hosts.scripted_server import Answer, ScriptedServer
from tests.docs.pages import Block, find_page

PAGE = "docs/hosts.md"
CALLS: tuple[list[dict[str, Any]], ...] = (
    [{"image": "dog.png", "n": 1}],
    [{"image": "chelsea.png", "n": 2}, {"image": "bird.png", "n": 1}],
    [{"image": "latest", "n": 1}],
)
"""A mistake, after which the agent must go on, a call and a mistake in parallel, and a call that
builds on the second image of the other."""
BOUNDS = {"type": "integer", "minimum": 1, "maximum": 4}
"""What the schema says about `n` where a host keeps bounds."""


class Events(BaseCallbackHandler):
    """Callbacks that keep the progress of calls."""

    def __init__(self) -> None:
        self.progress: list[tuple[int, int]] = []

    def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        """Keep an event of the tool."""
        if name == PROGRESS_EVENT:
            self.progress.append((data["done"], data["n"]))


@dataclass
class Host:
    """What a test of a host needs: the tool, the model's server, and where results are saved."""

    tool: ImageVariationTool
    server: ScriptedServer
    events: Events
    root: Path

    def start(self, *answers: Answer) -> None:
        """Let the model begin a conversation with these answers, without earlier results."""
        shutil.rmtree(self.root / "variations", ignore_errors=True)
        self.server.script[:] = answers
        self.server.requests.clear()
        self.events.progress.clear()

    def run_example(self, heading: str, model: Any, end: Answer = "Done.") -> dict[str, Any]:
        """Run the host's example on the page, and return the names that it defines.

        Args:
            heading: Where the example is.
            model: The model of the host.
            end: What the model answers after its calls.
        """
        self.start(*CALLS, end)
        names = {"__name__": "__main__", "tool": self.tool, "model": model}
        block = example(heading)
        exec(compile("\n" * (block.line - 1) + block.text, block.page, "exec"), names)
        return names

    def check(self, folder: str = "variations") -> None:
        """Check that the model saw the mistake and both results, and that the files are there."""
        assert not self.server.script
        self.check_texts(self.server.conversation, folder)

    def check_texts(self, text: str, folder: str = "variations") -> None:
        """Check the same of texts that came another way."""
        for image in ("dog", "bird"):
            assert f"There is no image '{image}.png' here. Files: chelsea.png." in text
        names = re.search(r"Made 2 variations of chelsea, 256x256 pixels: (\S+), (\S+)\.", text)
        assert names
        third = re.search(rf"Made 1 variation of {names[2]}, 256x256 pixels: (\S+)\.", text)
        assert third
        for name in (names[1], names[2], third[1]):
            (path,) = self.root.glob(f"{folder}/{name}.png")
            assert SquarePNG(path.read_bytes()).side == 256
        if folder != "variations":
            assert not [*self.root.glob("variations/*.png")]
        # The model gets text, and none of the artifact.
        assert "sha256" not in text
        assert len(text) < 12_000
        assert self.events.progress == [(1, 2), (2, 2), (1, 1)]


def example(heading: str) -> Block:
    """Return the block of Python under a heading of the page."""
    page = find_page(PAGE)
    first = page.text.partition(f"\n## {heading}\n")[0].count("\n") + 2
    assert f"\n## {heading}\n" in page.text
    return next(block for block in page.blocks if block.line > first and block.kind == "program")
