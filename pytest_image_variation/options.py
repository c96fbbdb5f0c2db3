"""The command-line options of the plugin, and their checks before any test runs."""

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
        help="run the tests against this live server instead of ours; the URL includes /v1",
    )
    group.addoption(
        "--image-variation-api-key",
        metavar="KEY",
        help="the live server's API key; prefer the variable IMAGE_VARIATION_API_KEY",
    )
    group.addoption(
        "--image-variation-model",
        metavar="NAME",
        help="the model that image_variation_client and image_variation_tool request",
    )
    group.addoption(
        "--image-variation-record",
        metavar="DIR",
        help="record the live server's responses as DIR/<module>/<test>.yaml",
    )
    _add_kit_options(group)


def _add_kit_options(group: pytest.OptionGroup) -> None:
    group.addoption(
        "--image-variation-capabilities",
        metavar="WORDS",
        help="what the server of --image-variation-url supports, for the conformance kit, such as "
        "'url=no max_n=4 sizes=512x512 url_ttl=2'",
    )
    group.addoption(
        "--image-variation-timeout",
        metavar="SECONDS",
        type=float,
        default=300.0,
        help="how long the conformance kit waits for a response (default: 300)",
    )
    group.addoption(
        "--image-variation-level",
        choices=("must", "should", "may"),
        default="should",
        help="the weakest level whose broken rules fail; below it, they xfail (default: should)",
    )
    group.addoption(
        "--image-variation-skips",
        metavar="FILE",
        action="append",
        default=[],
        help="skip the rules with these ids: one per line, with an optional reason after a #",
    )
    group.addoption(
        "--image-variation-xfails",
        metavar="FILE",
        action="append",
        default=[],
        help="expect the rules with these ids to be broken; same format",
    )
    group.addoption(
        "--image-variation-report",
        metavar="FILE",
        help="write the outcome of each rule as JSON",
    )


def check(config: pytest.Config) -> None:
    """Check the options.

    Raises:
        pytest.UsageError: If an option has an invalid value. The message names the option and
            what it takes.
    """
    url = config.getoption("--image-variation-url")
    if config.getoption("--image-variation-record") and not url:
        raise pytest.UsageError("--image-variation-record needs --image-variation-url.")
    _check_kit_options(config)


def _check_kit_options(config: pytest.Config) -> None:
    capabilities = config.getoption("--image-variation-capabilities")
    if capabilities:
        from pytest_image_variation.conformance.capabilities import Capabilities

        _usage_error("--image-variation-capabilities", lambda: Capabilities.parse(capabilities))
    if config.getoption("--image-variation-url"):
        from pytest_image_variation.conformance.server_tests import server_of

        _usage_error("--image-variation-url", lambda: server_of(config))
    lists = [
        *config.getoption("--image-variation-skips"),
        *config.getoption("--image-variation-xfails"),
    ]
    if lists:
        from pytest_image_variation.conformance.rule_lists import read_list

        # Checked here because with xdist the main process must report it.
        _usage_error(None, lambda: [read_list(Path(path)) for path in lists])
    _check_report(config)


def _usage_error(option: str | None, read_value: Callable[[], object]) -> None:
    """Read a value, and turn a ValueError into a UsageError that names the option."""
    try:
        read_value()
    except ValueError as error:
        raise pytest.UsageError(f"{option}: {error}" if option else str(error)) from None


def _check_report(config: pytest.Config) -> None:
    report = config.getoption("--image-variation-report")
    if report:
        # Find out now rather than after the tests, which may take an hour.
        try:
            if Path(report).is_dir():
                raise IsADirectoryError
            Path(report).parent.mkdir(parents=True, exist_ok=True)
            # Do not touch the file itself: it keeps an earlier report until there is a new one.
            with TemporaryFile(dir=Path(report).parent):
                pass
        except OSError:
            raise pytest.UsageError(
                f"--image-variation-report: cannot write {Path(report).name!r} there. Check that "
                "the folder is writable and that the path is not a folder."
            ) from None
