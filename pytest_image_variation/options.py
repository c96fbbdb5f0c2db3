"""The options of the plugin, and what is checked of them before any test runs."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

import pytest

__all__ = ["add", "check"]


def add(parser: pytest.Parser) -> None:
    """Declare the options."""
    group = parser.getgroup("image variations")
    group.addoption(
        "--image-variation-url",
        metavar="URL",
        help="run the tests against a live server, up to and with its /v1, instead of ours",
    )
    group.addoption(
        "--image-variation-api-key",
        metavar="KEY",
        help="the key for the live server; better set IMAGE_VARIATION_API_KEY",
    )
    group.addoption(
        "--image-variation-model",
        metavar="NAME",
        help="the model that image_variation_client and image_variation_tool ask for",
    )
    group.addoption(
        "--image-variation-record",
        metavar="DIR",
        help="write what the live server answers as cassettes, DIR/<module>/<test>.yaml",
    )
    _add_for_the_kit(group)


def _add_for_the_kit(group: pytest.OptionGroup) -> None:
    group.addoption(
        "--image-variation-capabilities",
        metavar="WORDS",
        help="what the server of --image-variation-url claims for the conformance kit, such as "
        "'url=no max_n=4 sizes=512x512 url_ttl=2'",
    )
    group.addoption(
        "--image-variation-timeout",
        metavar="SECONDS",
        type=float,
        default=300.0,
        help="how long the conformance kit waits for an answer of that server (default: 300)",
    )
    group.addoption(
        "--image-variation-level",
        choices=("must", "should", "may"),
        default="should",
        help="the weakest level of rules that fails when broken; those below are expected to",
    )
    group.addoption(
        "--image-variation-skips",
        metavar="FILE",
        action="append",
        default=[],
        help="ids of rules to skip, one a line; what follows a # is the reason",
    )
    group.addoption(
        "--image-variation-xfails",
        metavar="FILE",
        action="append",
        default=[],
        help="ids of rules that are known to be broken, in the same form",
    )
    group.addoption(
        "--image-variation-report",
        metavar="FILE",
        help="write what came of each rule as JSON",
    )


def check(config: pytest.Config) -> None:
    """End the run if an option makes no sense.

    Raises:
        pytest.UsageError: If so; the message names the option and what it takes.
    """
    url = config.getoption("--image-variation-url")
    if config.getoption("--image-variation-record") and not url:
        raise pytest.UsageError("--image-variation-record needs --image-variation-url.")
    _check_for_the_kit(config)


def _check_for_the_kit(config: pytest.Config) -> None:
    claimed = config.getoption("--image-variation-capabilities")
    if claimed:
        from pytest_image_variation.conformance.capabilities import Capabilities

        _checked("--image-variation-capabilities", lambda: Capabilities.parse(claimed))
    if config.getoption("--image-variation-url"):
        from pytest_image_variation.conformance.server_tests import named

        _checked("The server of --image-variation-url", lambda: named(config))
    lists = [
        *config.getoption("--image-variation-skips"),
        *config.getoption("--image-variation-xfails"),
    ]
    if lists:
        from pytest_image_variation.conformance.rule_lists import read_list

        # Here, since of xdist's processes the first must say so.
        _checked(None, lambda: [read_list(Path(path)) for path in lists])
    _check_report(config)


def _checked(option: str | None, read: Callable[[], object]) -> None:
    try:
        read()
    except ValueError as error:
        raise pytest.UsageError(f"{option}: {error}" if option else str(error)) from None


def _check_report(config: pytest.Config) -> None:
    report = config.getoption("--image-variation-report")
    if report:
        # An hour later would be too late to say so.
        try:
            if Path(report).is_dir():
                raise IsADirectoryError
            Path(report).parent.mkdir(parents=True, exist_ok=True)
            # What was reported before stays until there is something new.
            with TemporaryFile(dir=Path(report).parent):
                pass
        except OSError:
            raise pytest.UsageError(
                f"--image-variation-report: {Path(report).name!r} cannot be written there."
            ) from None
