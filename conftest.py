"""Load the pytest plugins that the tests of this project use, as far as they are installed."""

import argparse
from pathlib import Path

import pytest

# pyproject.toml turns off plugin autoloading, because the plugins of some libraries take seconds to
# import in each process. langchain-tests needs `benchmark` and `recording` for its tool tests.
_PLUGINS = ("asyncio", "benchmark", "hypothesispytest", "recording", "xdist")


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Load the installed plugins, and accept the settings of the others."""
    config = pluginmanager.get_plugin("pytestconfig")
    assert isinstance(config, pytest.Config)
    # The settings are in this project's pyproject.toml. Another project has its own, even if it
    # collects the conformance kit from this checkout.
    if config.rootpath != Path(__file__).parent:
        return
    for name in _PLUGINS:
        pluginmanager.load_setuptools_entrypoints("pytest11", name=name)
    if not pluginmanager.has_plugin("xdist"):
        parser.addoption("--dist", help=argparse.SUPPRESS)
    if not pluginmanager.has_plugin("asyncio"):
        for setting in ("asyncio_mode", "asyncio_default_fixture_loop_scope"):
            parser.addini(setting, "Used by pytest-asyncio, which is not installed.")
