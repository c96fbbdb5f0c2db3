"""The arguments of the application, and the Serve config in `examples/deploy/`."""

import inspect
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from langchain_image_variation.engines.loading import resolve_engine
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.server import create_app
from langchain_image_variation.server.ray import Settings, app

pytestmark = pytest.mark.slow
CONFIG = Path(__file__).parents[3] / "examples" / "deploy" / "ray-serve.yaml"

NUMBERS = (
    *("target_ongoing_requests", "upscale_delay", "downscale_delay", "num_cpus", "num_gpus"),
    *("workers", "max_replicas", "server_replicas", "min_replicas"),
)


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


@pytest.mark.parametrize("text", ["a.example", "[a.example]", "['a.example']"])
def test_one_name_needs_no_brackets(text: str) -> None:
    """A list of one name may be the name."""
    assert Settings.model_validate({"hosts": text}).hosts == ["a.example"]


def test_all_origins_need_no_quotes() -> None:
    """A star stands for all origins, although YAML has another meaning for it."""
    assert Settings.model_validate({"cors_origins": "*"}).cors_origins == ["*"]


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
        *(({name: math.inf}, name) for name in NUMBERS),
        *(({name: -1}, name) for name in NUMBERS),
        ({"num_gpus": 1.5}, r"num_gpus\n.*at most 1, or a whole number, got 1\.5"),
        ({"min_replicas": 3, "max_replicas": 2}, "min_replicas must be at most max_replicas"),
        ({"hosts": "["}, "must be YAML"),
    ],
)
def test_wrong_arguments_are_errors(arguments: dict[str, object], message: str) -> None:
    """An unknown argument or a wrong value is an error that names it."""
    with pytest.raises(ValidationError, match=message):
        Settings.model_validate(arguments)


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("api_key", "IMAGE_VARIATION_API_KEY"),
        ("signing_key", "IMAGE_VARIATION_SIGNING_KEY"),
        ("upstream_api_key", "IMAGE_VARIATION_UPSTREAM_API_KEY"),
    ],
)
def test_a_key_is_no_argument(name: str, variable: str) -> None:
    """A key as an argument is an error that names the variable for it."""
    with pytest.raises(ValidationError, match=f"{name} is not an argument. Set {variable} in"):
        Settings.model_validate({name: "sk-secret"})


@pytest.mark.parametrize("name", ["api_key", "api-key", "apikey", "storage_options", "queue"])
def test_errors_show_no_value(name: str) -> None:
    """The value of a wrong argument is not shown, because it may be a key."""
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({name: "sk-secret"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queue": -1}, "queue must be"),
        ({"url_ttl": 0}, "url_ttl must be"),
        ({"upload_timeout": 0}, "upload_timeout must be"),
        ({"upstream_timeout": -1}, "upstream_timeout must be"),
        ({"store_max_bytes": -1}, "store_max_bytes must be"),
        ({"max_pixels": 0}, "max_pixels must be"),
        ({"total_pixels": 1}, "total_pixels must be"),
        ({"total_upload_bytes": 3}, "total_upload_bytes must be"),
        ({"upstream": "ftp://x"}, "upstream must be a URL"),
        ({"public_url": "nope"}, "public_url must be a URL"),
        ({"hosts": ["http://a"]}, "hosts contains 'http://a'"),
        ({"cors_origins": ["x"]}, "cors_origins contains 'x'"),
        ({"store_dir": ""}, "store_dir must not be empty"),
        ({"store_dir": "a", "store_url": "s3://b"}, "exclude each other"),
        ({"store_url": "nope"}, "store_url must be a URL"),
        ({"store_url": "ftp://user:word@host/x"}, "store_url contains a password"),
        ({"storage_options": {"anon": True}}, "storage_options is only for a store_url"),
    ],
)
def test_the_apps_checks_come_before_anything_starts(
    arguments: dict[str, Any], message: str
) -> None:
    """What `create_app` refuses is an error of the command, and not of each replica."""
    with pytest.raises(InvalidRequestError, match=message) as caught:
        app(Settings(**arguments))
    assert caught.value.param in arguments


def test_keys_may_be_on_the_nodes_only() -> None:
    """An argument that needs a key passes, because the command does not know the nodes' keys."""
    app(Settings(store_url="s3://bucket/x", cors_origins=["*"], upstream="https://a.example/v1"))


def test_auto_is_decided_once() -> None:
    """All replicas get the engine that is best where the command runs."""
    bound = app(Settings(engine="auto"))._bound_deployment  # Ray has no public name for it
    (engine_deployment,) = bound.init_args
    assert engine_deployment._bound_deployment.init_args[0] == resolve_engine("auto") != "auto"


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
