"""A state machine over conversations: no name ever comes to mean another image."""

import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph

from langchain_image_variation.agents.middleware import ImageVariationMiddleware
from langchain_image_variation.agents.tool import ImageVariationTool
from pytest_image_variation.samples import square_png
from tests.agents.chats import RecordingEngine, question
from tests.agents.conversing import runtime
from tests.agents.names import name_of
from tests.agents.scripted import asks, call

IMAGES = {name_of(image): image for image in map(square_png, range(16, 24, 2))}
"""The images that users send, by name."""
TWO_IMAGES = 2 * max(map(len, IMAGES.values()))


class Owner:
    """What a conversation may reach. Branches of a thread share it."""

    def __init__(self, thread: str | None) -> None:
        self.thread = thread
        self.uploads: set[str] = set()
        """The names of the images that its messages ever had."""
        self.seen: set[str] = set()
        """The names of the images that a call or the middleware saw."""
        self.results: dict[str, bytes] = {}
        """The file of each result, by handle."""


class Branch:
    """The messages of one branch of a conversation."""

    def __init__(self, owner: Owner, messages: list[BaseMessage]) -> None:
        self.owner = owner
        self.messages = messages

    @property
    def images(self) -> list[str]:
        """The names and handles in its messages, the oldest first."""
        names: list[str] = []
        for message in self.messages:
            if isinstance(message, ToolMessage) and message.artifact:
                names += [image["handle"] for image in message.artifact["images"]]
            elif isinstance(message, HumanMessage) and "upload" in message.additional_kwargs:
                names.append(message.additional_kwargs["upload"])
        return names


class Conversations(RuleBasedStateMachine):
    """Users send images; models call the tool; histories are trimmed, resumed, copied, edited."""

    branches: Bundle[Branch] = Bundle("branches")
    folder: Path
    """The folder of all runs."""

    def __init__(self) -> None:
        super().__init__()
        self.root = self.folder / uuid4().hex
        self.root.mkdir()
        self.handles = ["image-00000000-1", "img_1", "img_2"]
        self.threads = [Owner("a"), Owner("b")]
        self.started_branches: list[Branch] = []
        self.limits: dict[str, Any] = {}
        self._open_tool()

    @initialize(
        limits=st.sampled_from(
            [{}, {"max_uploads": 2}, {"max_upload_bytes": TWO_IMAGES}, {"max_uploads": 0}]
        )
    )
    def set_limits(self, limits: dict[str, Any]) -> None:
        """Choose how many uploads are kept."""
        self.limits = limits
        self._open_tool()

    @initialize(target=branches, names=st.permutations(sorted(IMAGES)))
    def start_a_thread(self, names: list[str]) -> Branch:
        """Start a thread with two uploads."""
        branch = self._start(self.threads[0], [])
        for name in names[:2]:
            self._upload(branch, name, len(branch.messages))
        return branch

    @initialize(target=branches)
    def start_another_thread(self) -> Branch:
        """Start another thread."""
        return self._start(self.threads[1], [])

    @initialize(target=branches)
    def start_without_a_thread(self) -> Branch:
        """Start a conversation that has no thread."""
        return self._start(Owner(None), [])

    @precondition(lambda self: self.calls > 1)
    @rule()
    def resume(self) -> None:
        """Go on with another tool."""
        self._open_tool()

    def _open_tool(self) -> None:
        self.calls = 0
        self.engine = RecordingEngine()
        self.tool = ImageVariationTool(
            root_dir=self.root, engine=self.engine, fixed_size="256x256", **self.limits
        )
        builder = StateGraph(MessagesState)
        builder.add_node("announce", ImageVariationMiddleware(self.tool).before_agent)
        builder.add_edge(START, "announce")
        self.announcer: Any = builder.compile()

    @rule(target=branches, branch=branches)
    def copy(self, branch: Branch) -> Branch:
        """Copy a history. A thread's copies are one conversation; others are two."""
        owner = branch.owner
        if owner.thread is None:
            owner = Owner(None)
            owner.uploads = set(branch.owner.uploads)
            owner.results = dict(branch.owner.results)
        return self._start(owner, list(branch.messages))

    @rule(branch=branches, name=st.sampled_from(sorted(IMAGES)), data=st.data())
    def upload(self, branch: Branch, name: str, data: st.DataObject) -> None:
        """Send an image in a new message, or replace one in its message."""
        places = [i for i, m in enumerate(branch.messages) if "upload" in m.additional_kwargs]
        self._upload(branch, name, data.draw(st.sampled_from([len(branch.messages), *places])))

    @rule(branch=branches, data=st.data())
    def forget(self, branch: Branch, data: st.DataObject) -> None:
        """Remove the oldest messages or any one, or replace some with a text of their names."""
        text = f"The user sent: {', '.join(branch.images)}."
        summary = HumanMessage(text, id=uuid4().hex)
        index = data.draw(st.integers(0, max(len(branch.messages) - 1, 0)))
        newer_messages = branch.messages[index + 1 :]
        histories: list[list[BaseMessage]] = [
            [summary],
            [summary, *newer_messages],
            newer_messages,
            [*branch.messages[:index], *newer_messages],
        ]
        branch.messages[:] = histories[data.draw(st.integers(0, len(histories) - 1))]

    @rule(branch=branches)
    def announce(self, branch: Branch) -> None:
        """Let the middleware see the messages."""
        messages = self.announcer.invoke({"messages": branch.messages}, self._config(branch))
        branch.messages[:] = messages["messages"]
        self._note_seen(branch)
        for message in branch.messages:
            if name := message.additional_kwargs.get("upload"):
                side = int.from_bytes(IMAGES[name][16:20])
                assert f"[{name}: {side}x{side}]" in message.text

    def teardown(self) -> None:
        """Ask each branch for every image, and then each thread without its messages."""
        for branch in self.started_branches:
            if branch.messages:
                self.announce(branch)
                for name in IMAGES:
                    self._vary_an_upload(branch, name)
        for owner in self.threads:
            if owner.uploads:
                for name in IMAGES:
                    self._vary_an_upload(Branch(owner, []), name)
                for name in ("latest", "img_1"):
                    assert self._vary(Branch(owner, []), name).status == "error"

    @rule(branch=branches, data=st.data())
    def vary_an_upload(self, branch: Branch, data: st.DataObject) -> None:
        """Call the tool with the name of an upload from any conversation."""
        # Its own names are drawn more often than those of others.
        names = [*sorted(branch.owner.uploads), *sorted(IMAGES)]
        name = data.draw(st.sampled_from(names))
        is_varied = self._vary_an_upload(branch, name)
        if is_varied and branch.owner.thread is not None and self.limits.get("max_uploads") != 0:
            # Whatever else was deleted, the image of the last call was not.
            assert self._vary_an_upload(Branch(branch.owner, []), name)

    def _vary_an_upload(self, branch: Branch, name: str) -> bool:
        """Call the tool with an upload's name. Return whether it could be varied."""
        owner = branch.owner
        is_certain = name in branch.images or self._is_kept(owner, name)
        answer = self._vary(branch, name)
        if answer.status == "success":
            assert name in owner.uploads
            assert self.engine.images.pop() == IMAGES[name]
        else:
            assert not is_certain
            assert answer.text.startswith(f"There is no image {name} here.")
        return answer.status == "success"

    @rule(branch=branches, data=st.data())
    def vary_a_result(self, branch: Branch, data: st.DataObject) -> None:
        """Call the tool with the handle of any conversation's result, or with an unknown name."""
        handle = data.draw(st.sampled_from([*branch.owner.results, *self.handles]))
        is_certain = handle in branch.images or (
            branch.owner.thread is not None and handle in branch.owner.results
        )
        answer = self._vary(branch, handle)
        assert (answer.status == "success") == is_certain
        if is_certain:
            assert self.engine.images.pop() == branch.owner.results[handle]

    @rule(branch=branches)
    def vary_the_newest(self, branch: Branch) -> None:
        """Call the tool with `latest`."""
        newest = branch.images[-1] if branch.images else None
        answer = self._vary(branch, "latest")
        assert (answer.status == "success") == (newest is not None)
        if newest is not None:
            image = IMAGES.get(newest) or branch.owner.results[newest]
            assert self.engine.images.pop() == image

    def _start(self, owner: Owner, messages: list[BaseMessage]) -> Branch:
        branch = Branch(owner, messages)
        self.started_branches.append(branch)
        return branch

    def _upload(self, branch: Branch, name: str, index: int) -> None:
        """Put a message with an image at an index, instead of the one that is there."""
        branch.owner.uploads.add(name)
        old = branch.messages[index : index + 1]
        message = question("Look.", IMAGES[name])
        update = {"id": old[0].id if old else uuid4().hex, "additional_kwargs": {"upload": name}}
        branch.messages[index : index + 1] = [message.model_copy(update=update)]

    def _config(self, branch: Branch) -> Any:
        thread = branch.owner.thread
        return {"configurable": {"thread_id": thread}} if thread else {}

    def _note_seen(self, branch: Branch) -> None:
        branch.owner.seen |= {name for name in branch.images if name in IMAGES}

    def _is_kept(self, owner: Owner, name: str) -> bool:
        """Return whether the limits say that a thread still has an upload."""
        limits = {"max_uploads": 100, "max_upload_bytes": 2**28, **self.limits}
        fits = (
            len(owner.seen) <= limits["max_uploads"]
            and sum(len(IMAGES[other]) for other in owner.seen) <= limits["max_upload_bytes"]
        )
        return owner.thread is not None and name in owner.seen and fits

    def _vary(self, branch: Branch, image: str) -> ToolMessage:
        """Call the tool as an agent does, and check the names in its answer."""
        self.calls += 1
        owner = branch.owner
        message = asks(image=image)
        (tool_call,) = message.tool_calls
        injected_runtime = runtime({"messages": [*branch.messages, message]}, tool_call["id"])
        arguments = {**call(image=image, runtime=injected_runtime), "id": tool_call["id"]}
        answer = self.tool.invoke(arguments, self._config(branch))
        assert isinstance(answer, ToolMessage)
        self._note_seen(branch)
        names = set(re.findall(r"\bimg_[0-9a-f]{8}\b", answer.text)) - {image}
        assert names <= owner.uploads, "It names an image of another conversation."
        if answer.status == "error":
            visible = [name for name in branch.images if name in IMAGES]
            assert not visible or visible[-1] in names or visible[-1] == image
            assert not self.engine.images
            return answer
        branch.messages += [message, answer]
        for result in answer.artifact["images"]:
            owner.results[result["handle"]] = (self.root / result["path"]).read_bytes()
            self.handles.append(result["handle"])
        return answer


def run_conversations(folder: Path, **options: Any) -> None:
    """Run the state machine."""
    machine = type("Conversations", (Conversations,), {"folder": folder})
    run_state_machine_as_test(machine, settings=settings(deadline=None, **options))


def test_names_keep_their_meaning(tmp_path: Path) -> None:
    """In random conversations, each name gives its own image or an error that lists others."""
    run_conversations(
        tmp_path, max_examples=15, stateful_step_count=20, derandomize=True, database=None
    )


@pytest.mark.slow
def test_names_keep_their_meaning_in_many_conversations(tmp_path: Path) -> None:
    """In many long and random conversations, each name gives its own image or an error."""
    run_conversations(
        tmp_path,
        max_examples=300,
        stateful_step_count=60,
        suppress_health_check=list(HealthCheck),
    )
