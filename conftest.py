"""Load the pytest plugins that this project's tests use, if they are installed."""

import argparse
from pathlib import Path

import pytest

# pytest loads no plugin by itself here: those that come with other libraries take seconds to
# import, in each process. The tools of langchain-tests need `benchmark` and `recording`.
_PLUGINS = ("asyncio", "benchmark", "hypothesispytest", "recording", "xdist")


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Load the plugins that are installed, and accept the settings of those that are not."""
    config = pluginmanager.get_plugin("pytestconfig")
    assert isinstance(config, pytest.Config)
    # The settings are those of this project's pyproject.toml. A run of another project may collect
    # the conformance kit from here.
    if config.rootpath != Path(__file__).parent:
        return
    for name in _PLUGINS:
        pluginmanager.load_setuptools_entrypoints("pytest11", name=name)
    if not pluginmanager.has_plugin("xdist"):
        parser.addoption("--dist", help=argparse.SUPPRESS)
    if not pluginmanager.has_plugin("asyncio"):
        for setting in ("asyncio_mode", "asyncio_default_fixture_loop_scope"):
            parser.addini(setting, "Used by pytest-asyncio, which is not installed.")
