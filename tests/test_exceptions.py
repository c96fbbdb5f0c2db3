import copy
import inspect
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langchain_image_variation import exceptions
from langchain_image_variation.error_response import ErrorResponse
from langchain_image_variation.exceptions import (
    ImageVariationError,
    MissingExtraError,
    RateLimitError,
    install_command,
)
from langchain_image_variation.hosted.stop_errors import (
    CancelledJobError,
    RunningCallError,
    UnsentCallError,
)

TREE = [
    value
    for value in vars(exceptions).values()
    if inspect.isclass(value) and issubclass(value, ImageVariationError)
]

STOP_ERRORS = [CancelledJobError, RunningCallError, UnsentCallError]


@pytest.mark.parametrize("error_class", [c for c in TREE if c is not ImageVariationError])
def test_every_error_survives_the_wire(error_class: type[ImageVariationError]) -> None:
    """Each class becomes an error body and is read back as the same class with the same values."""
    sent_error = error_class("n must be at most 10, got 11.", param="n")
    body = ErrorResponse.from_exception(sent_error).to_json()
    received_error = ErrorResponse.from_json(body).to_exception(sent_error.status_code)
    assert type(received_error) is error_class
    assert vars(received_error) == vars(sent_error)
    assert str(received_error) == "n must be at most 10, got 11."


def pickled(value: Any) -> Any:
    """Return a value as another process receives it."""
    return pickle.loads(pickle.dumps(value))


def test_an_engine_says_how_long_to_wait() -> None:
    """The author of an engine sets the wait when it raises the error."""
    error = RateLimitError("Too many requests.", retry_after=5)
    assert error.retry_after == 5
    assert pickled(error).retry_after == 5
    assert RateLimitError("Too many requests.").retry_after is None


@pytest.mark.parametrize("error_class", [*TREE, *STOP_ERRORS])
@pytest.mark.parametrize("duplicate", [pickled, copy.copy, copy.deepcopy])
def test_every_error_can_be_pickled_and_copied(
    error_class: type[ImageVariationError], duplicate: Callable[[Any], Any]
) -> None:
    """A copied or pickled error keeps its class, text and attributes, also those set later."""
    error = error_class("The host is not allowed.", param="urls", hint="Allow it with urls=...")
    error.status_code, error.type, error.code = 499, "requests", "odd"
    error.request_id, error.retry_after = "r-1", 7.5
    error.add_note("a note")
    other = duplicate(error)
    assert type(other) is error_class
    assert other is not error
    assert str(other) == other.message == "The host is not allowed. Allow it with urls=..."
    assert other.problem == "The host is not allowed."
    assert vars(other) == vars(error)


def test_every_error_is_exported_and_in_the_tree() -> None:
    """The tree in the module's docstring names every class, and so does `__all__`."""
    tree = (exceptions.__doc__ or "").split("\n\n")[1]
    for error_class in TREE:
        assert error_class.__name__ in tree.replace("+--", "").split()
        assert error_class.__name__ in exceptions.__all__


@pytest.mark.parametrize("error_class", [c for c in TREE if c is not ImageVariationError])
def test_every_error_says_when_it_is_raised(error_class: type[ImageVariationError]) -> None:
    """The first line of each error's docstring is one sentence, which the docs show in a table."""
    line = (error_class.__doc__ or "").partition("\n")[0]
    assert line.startswith("Raised if ")
    assert line.endswith(".")
    assert line.count(". ") == 0


HERE = {"url": "file:///home/me/secret/place"}
GIT = {"url": "https://git.example/us/it.git"}


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'their-engines[gpu]'"),
        ({}, "pip install 'their-engines[gpu]'"),
        (HERE | {"dir_info": {}}, "pip install '.[gpu]', in the checkout of their-engines"),
        (
            HERE | {"dir_info": {"editable": True}},
            "pip install --editable '.[gpu]', in the checkout of their-engines",
        ),
        (
            {"url": "file:///home/me/their_engines-1.0-py3-none-any.whl", "archive_info": {}},
            "pip install './their_engines-1.0-py3-none-any.whl[gpu]', in its folder",
        ),
        (
            {"url": "https://files.example/e.whl", "archive_info": {}},
            "pip install 'their-engines[gpu] @ https://files.example/e.whl'",
        ),
        (
            GIT | {"vcs_info": {"vcs": "git", "requested_revision": "v1", "commit_id": "a1"}},
            "pip install 'their-engines[gpu] @ git+https://git.example/us/it.git@v1'",
        ),
        (
            GIT | {"vcs_info": {"vcs": "git", "commit_id": "a1"}},
            "pip install 'their-engines[gpu] @ git+https://git.example/us/it.git'",
        ),
        (
            {"url": "https://me:pass@git.example/it.git", "vcs_info": {"vcs": "git"}},
            "pip install 'their-engines[gpu]'",
        ),
    ],
)
def test_an_extra_comes_from_where_its_package_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: dict[str, object] | None, command: str
) -> None:
    """The install command works for a checkout, a repository and a file, and shows no secret."""
    metadata = tmp_path / "their_engines-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-engines\nVersion: 1\n")
    if origin is not None:
        (metadata / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(str(tmp_path))
    # Not above the environment of the tests.
    monkeypatch.chdir(tmp_path)
    assert install_command("their-engines[gpu]") == command
    error = MissingExtraError.for_package("This", "torch", "their-engines[gpu]")
    assert error.message.endswith(f"which is not installed. Run: {command}")


def test_the_extra_of_an_unknown_package_has_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the package itself is not installed, the command uses its name."""
    monkeypatch.chdir(tmp_path)
    assert install_command("nowhere[x]") == "pip install 'nowhere[x]'"


def test_a_missing_extra_is_an_import_error() -> None:
    """Code that guards an optional import with `except ImportError` keeps working."""
    assert issubclass(MissingExtraError, ImportError)


def test_the_command_installs_into_this_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If `pip` is another environment's, the command is this one's pip, relative to the folder."""
    own, other = tmp_path / "work" / ".venv" / "bin", tmp_path / "other"
    for folder in (own, other):
        folder.mkdir(parents=True)
        (folder / "pip").write_text("#!/bin/sh\n")
        (folder / "pip").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(own / "python"))
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("PATH", str(other))
    assert install_command("nowhere[x]") == ".venv/bin/pip install 'nowhere[x]'"
    monkeypatch.setenv("PATH", f"{own}{os.pathsep}{other}")
    assert install_command("nowhere[x]") == "pip install 'nowhere[x]'"
    monkeypatch.setenv("PATH", str(other))
    monkeypatch.chdir(other)
    assert install_command("nowhere[x]") == "pip install 'nowhere[x]'"
