import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.hosted.services.fakes import KEY, FakeFal, FakeReplicate
from tests.mcp.serving import TOOL, text
from tests.mcp.stdio import (
    COMMAND,
    MODERN,
    Host,
    install_engine,
    wait_until_sigterm_is_ignored,
)

from mcp import Client  # isort: skip  # not before the module that skips without it
from mcp.client.stdio import StdioServerParameters, stdio_client

pytestmark = pytest.mark.slow

CAT = {"image": "cat.png", "size": "256x256"}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_host_uses_the_command(root: Path, mode: str) -> None:
    """The SDK's client starts the command, lists, calls, sees progress, and reads a resource."""
    parameters = StdioServerParameters(
        command=COMMAND[0],
        args=[*COMMAND[1:], "--root-dir", str(root), "--engine", "instant", "--thumbnail", "each"],
    )
    reports: list[float] = []

    async def keep(progress: float, total: float | None, message: str | None) -> None:
        reports.append(progress)

    async with Client(stdio_client(parameters), mode=mode) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == [TOOL, "list_images"]
        answer = await client.call_tool(TOOL, {**CAT, "n": 2}, progress_callback=keep)
        assert [block.type for block in answer.content] == ["text", "image", "image"]
        image = answer.structured_content["images"][1]
        assert image["name"] in text(answer)
        assert (await client.read_resource(image["uri"])).contents
        assert (await client.call_tool(TOOL, {"image": "dog.png"})).is_error
    assert reports == [1, 2]
    assert (root / image["path"]).exists()


def test_the_end_of_input_ends_the_server(root: Path) -> None:
    """When the host closes the stream, the server ends without an error, and has only answered."""
    with Host(root, "--engine", "instant") as host:
        assert host.request("tools/list")["result"]["tools"]
        out, err = host.finish()
    assert (host.process.returncode, out, err) == (0, b"", b"")


def test_a_host_that_is_gone_ends_the_server(root: Path) -> None:
    """A server whose host was killed ends, although nobody reads what it writes."""
    with Host(root, "--engine", "instant") as host:
        host.request("tools/list")
        assert host.process.stdout is not None
        host.process.stdout.close()
        host.send("tools/call", name=TOOL, arguments=CAT)
        assert host.process.stdin is not None
        host.process.stdin.close()
        assert host.process.wait(timeout=60) == 0
        assert b"Traceback" not in b"".join(host.lines())


def test_a_paid_call_is_not_lost_with_the_host(root: Path) -> None:
    """If the host leaves during a paid call, its job is cancelled, and what is finished is kept."""
    service = FakeFal()
    service.endless_seeds = {2}
    with (
        service.running(),
        Host(
            root,
            *("--engine", "fal", "--base-url", service.url, "--seed", "1"),
            env={**os.environ, "FAL_KEY": KEY},
        ) as host,
    ):
        host.send(
            "tools/call",
            name=TOOL,
            arguments={**CAT, "n": 2},
            _meta={**MODERN, "progressToken": 1},
        )
        while host.receive().get("method") != "notifications/progress":
            pass
        host.finish()
    assert host.process.returncode == 0
    assert len(service.cancelled) == 1
    assert len([*root.rglob("cat-*-1.png")]) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_an_impatient_host_does_not_cost_a_job(root: Path) -> None:
    """If the host sends SIGTERM after it left, as the SDK's does, the job is still cancelled."""
    service = FakeReplicate()
    service.endless_seeds = {1}
    service.accepts_jobs.clear()
    with (
        service.running(),
        Host(
            root,
            *("--engine", "replicate", "--base-url", service.url, "--seed", "1"),
            env={**os.environ, "REPLICATE_API_TOKEN": KEY},
        ) as host,
    ):
        host.send("tools/call", name=TOOL, arguments={**CAT, "n": 1})
        while not service.paths("POST"):
            time.sleep(0.01)
        assert host.process.stdin is not None
        host.process.stdin.close()
        wait_until_sigterm_is_ignored(host.process)
        host.process.send_signal(signal.SIGTERM)
        service.accepts_jobs.set()
        assert host.process.wait(timeout=60) == 0
    assert len(service.cancelled) == 1


@pytest.mark.parametrize("end", ["input", "interrupt", "terminate"])
def test_nothing_delays_the_end(root: Path, tmp_path: Path, end: str) -> None:
    """The server ends while an engine works that cannot be stopped, and leaves no file behind."""
    packages = tmp_path / "packages"
    packages.mkdir()
    with Host(root, "--engine", "stubborn", env=install_engine(packages)) as host:
        host.request("tools/list")
        host.send("tools/call", name=TOOL, arguments={**CAT, "n": 2})
        host.wait_for_log(b"working")
        if end == "input":
            host.finish()
        else:
            host.process.send_signal(signal.SIGINT if end == "interrupt" else signal.SIGTERM)
            # The engine would work for ten minutes.
            host.process.wait(timeout=120)
        assert host.process.returncode == {"input": 0, "interrupt": 130}.get(end, -signal.SIGTERM)
        if end == "interrupt":
            assert b"interrupted; no file is half-written." in b"".join(host.lines())
    assert [*(root / "variations").iterdir()] == []


def test_only_the_protocol_goes_to_standard_output(root: Path, tmp_path: Path) -> None:
    """What an engine, a library or a child prints goes to standard error, and no call goes out."""
    packages = tmp_path / "packages"
    packages.mkdir()
    with Host(root, "--engine", "stubborn", env=install_engine(packages)) as host:
        message = host.request("tools/call", name=TOOL, arguments=CAT)
        assert not message["result"].get("isError")
        out, err = host.finish()
    assert out == b""
    for line in (b"imported", b"called", b"from a library in C", b"from a child"):
        assert line in err
    assert b"NETWORK" not in err


BROKEN = [
    b"not JSON\n",
    b"\n",
    b"\xff\xfe\x00\n",
    b"{" * 100_000 + b"\n",
    b"[]\n",
    b"null\n",
    b'{"jsonrpc": "2.0"}\n',
    b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}\n',
    b'{"jsonrpc": "2.0", "id": {}, "method": "tools/list"}\n',
    b'{"jsonrpc": "2.0", "id": 99, "method": 7}\n',
    b'{"jsonrpc": "2.0", "id": 98, "result": {}}\n',
    b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 12345}}\n',
]


def test_broken_frames_are_survived(root: Path) -> None:
    """After lines that are not messages, the server still answers."""
    with Host(root, "--engine", "instant") as host:
        assert host.request("tools/list")["result"]
        for frame in BROKEN:
            host.send_bytes(frame)
        answer = host.request("tools/call", name=TOOL, arguments=CAT)
        assert answer["result"]["structuredContent"]["images"]
        _, err = host.finish()
    assert host.process.returncode == 0
    assert b"Traceback" not in err, err


WRONG_CALLS: list[Any] = [
    None,
    [],
    "cat.png",
    {"image": {"image": {"image": []}}},
    {"image": "A" * 10_000_000},
    {str(index): index for index in range(10_000)},
]


def test_wrong_arguments_are_survived(root: Path) -> None:
    """Arguments of any kind and size get a short answer."""
    with Host(root, "--engine", "instant") as host:
        for arguments in WRONG_CALLS:
            message = host.request("tools/call", name=TOOL, arguments=arguments)
            assert len(json.dumps(message)) < 3_000
            assert "error" in message or message["result"]["isError"]
        assert host.request("tools/list")["result"]
        _, err = host.finish()
    assert b"Traceback" not in err and len(err) < 10_000
