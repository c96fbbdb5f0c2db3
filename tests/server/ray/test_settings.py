"""The arguments of the application, and the Serve config in `examples/deploy/`."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.server import create_app
from langchain_image_variation.server.ray import Settings, app

pytestmark = pytest.mark.slow
CONFIG = Path(__file__).parents[3] / "examples" / "deploy" / "ray-serve.yaml"


def test_the_config_fits_serve_and_the_application() -> None:
    """The Serve config in the examples is valid, and so are the arguments in it."""
    # Without Ray Serve, the import at the top says what to install.
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(yaml.safe_load(CONFIG.read_text()))
    (application,) = config.applications
    assert application.import_path == f"{app.__module__.rpartition('.')[0]}:{app.__name__}"
    settings = Settings.model_validate(application.args)
    assert settings.store_url is not None
    app(settings)


def test_arguments_are_those_of_the_app() -> None:
    """Every argument of `create_app` but the keys can be set, with the same default."""
    parameters = inspect.signature(create_app).parameters
    secrets = {"api_key", "signing_key", "upstream_api_key"}
    passed = Settings().app_arguments()
    assert passed.keys() == parameters.keys() - secrets - {"engine", "workers"}
    for name, value in passed.items():
        default = parameters[name].default
        assert value == (list(default) if default == () else default), name


def test_texts_are_read_as_yaml() -> None:
    """Lists and mappings may be texts, as `serve run` passes them."""
    settings = Settings.model_validate(
        {"engine_options": "{seed: 7}", "hosts": "[a.example]", "max_replicas": "3"}
    )
    assert settings.engine_options == {"seed": 7}
    assert settings.hosts == ["a.example"]
    assert settings.max_replicas == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"replicas": 2}, "replicas"),
        ({"min_replicas": 3, "max_replicas": 2}, "min_replicas must be at most max_replicas"),
        ({"hosts": "["}, "must be YAML"),
        ({"api_key": "secret"}, "api_key"),
    ],
)
def test_wrong_arguments_are_errors(arguments: dict[str, object], message: str) -> None:
    """An unknown argument or a wrong value is an error that names it."""
    with pytest.raises(ValidationError, match=message):
        Settings.model_validate(arguments)


def test_wrong_options_are_errors_before_anything_starts() -> None:
    """A wrong option of the engine, or a field that requests cannot set, ends the command."""
    with pytest.raises(InvalidRequestError, match="has no option 'sed'"):
        app(Settings(engine_options={"sed": 7}))
    with pytest.raises(InvalidRequestError, match=r"'instant' has these: none\."):
        app(Settings(engine="instant", accept_fields=["strength"]))


def test_without_serve_the_error_says_what_to_install() -> None:
    """If Ray Serve is not installed, importing the application says how to install it."""
    code = "import sys; sys.modules['ray'] = None; import langchain_image_variation.server.ray"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last_line = result.stderr.splitlines()[-1]
    assert "The server on Ray Serve needs the package 'ray', which is not installed" in last_line
    assert "[ray-serve]" in last_line


def test_the_page_lists_every_argument() -> None:
    """The page names every argument, and its config has the arguments of the example."""
    page = (CONFIG.parents[2] / "docs" / "ray-serve.md").read_text("utf-8")
    assert not [name for name in Settings.model_fields if f"`{name}`" not in page]
    shown = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    (application,) = yaml.safe_load(CONFIG.read_text())["applications"]
    (shown_application,) = shown["applications"]
    assert shown_application["args"].items() <= application["args"].items()
