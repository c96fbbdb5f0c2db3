"""The arguments of the application, as `serve run` and a Serve config pass them."""

from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from langchain_image_variation.images.png import MAX_PNG_SIDE
from langchain_image_variation.numbers import MAX_SECONDS
from langchain_image_variation.server.upload_memory import DEFAULT_TOTAL_UPLOAD_BYTES

__all__ = ["Settings"]


def _parse_yaml(value: object) -> object:
    """Return what a text means in YAML: `serve run` passes lists and mappings as texts."""
    if not isinstance(value, str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError("must be YAML, such as '{seed: 7}' or '[strength]'") from None


def _parse_names(value: object) -> object:
    """Return a list of names from a list in YAML, or from one name as it is."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return [value]
    return _parse_yaml(value)


_Names = Annotated[list[str], BeforeValidator(_parse_names)]
_Options = Annotated[dict[str, Any], BeforeValidator(_parse_yaml)]
_Seconds = Annotated[float, Field(ge=0, lt=MAX_SECONDS)]
_Quantity = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_KEYS = {
    "api_key": "IMAGE_VARIATION_API_KEY",
    "signing_key": "IMAGE_VARIATION_SIGNING_KEY",
    "upstream_api_key": "IMAGE_VARIATION_UPSTREAM_API_KEY",
}
"""The variables for the arguments of `create_app` that are secret."""


class Settings(BaseModel):
    """The arguments of the application.

    Those that are not described here mean the same as for `create_app`. Keys are not among them,
    because the dashboard shows arguments. Set `IMAGE_VARIATION_API_KEY`,
    `IMAGE_VARIATION_SIGNING_KEY` and `IMAGE_VARIATION_UPSTREAM_API_KEY` in the environment of the
    nodes.
    """

    # A misspelled argument may be a key, and Serve logs errors.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    engine: str = "local"
    """The name of the engine."""
    engine_options: _Options = {}
    """The options of the engine."""
    min_replicas: int = Field(default=1, ge=0)
    """The minimum number of replicas of the engine. With 0, the first request after a pause waits
    until one has started."""
    max_replicas: int = Field(default=4, ge=1)
    """The maximum number of replicas of the engine."""
    workers: int = Field(default=1, ge=1)
    """The maximum number of concurrent calls in one replica. More than 1 is for hosted engines."""
    target_ongoing_requests: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The target number of requests per replica, running and waiting. Serve adds replicas above it
    and removes them below it. By default, `workers`."""
    upscale_delay: _Seconds = 30.0
    """How many seconds the load must stay above the target before Serve starts a replica."""
    downscale_delay: _Seconds = 600.0
    """How many seconds the load must stay below the target before Serve stops a replica."""
    num_cpus: _Quantity = 1.0
    """The processors that Ray reserves for a replica. An engine with the option `threads` gets as
    many threads, unless `engine_options` says otherwise."""
    num_gpus: _Quantity | None = None
    """The GPUs that Ray reserves for a replica, or the part of one. By default, 1 if the engine
    computes on a device and the cluster has a GPU, otherwise 0."""
    server_replicas: int = Field(default=1, ge=1)
    """The number of replicas of the server. Each has its own queue. On several nodes, they
    need a `store_url`."""

    url_ttl: float = 3600.0
    public_url: str | None = None
    hosts: _Names = []
    cors_origins: _Names = []
    queue: int = 16
    store_dir: str | None = None
    store_url: str | None = None
    storage_options: Annotated[dict[str, Any] | None, BeforeValidator(_parse_yaml)] = None
    store_max_bytes: int = 1024**3
    upload_timeout: float = 60.0
    max_pixels: int = MAX_PNG_SIDE**2
    total_pixels: int | None = None
    total_upload_bytes: int = DEFAULT_TOTAL_UPLOAD_BYTES
    accept_fields: _Names = []
    upstream: str | None = None
    upstream_timeout: float = 600.0

    @model_validator(mode="before")
    @classmethod
    def _refuse_keys(cls, arguments: object) -> object:
        for name, variable in _KEYS.items():
            if isinstance(arguments, dict) and name in arguments:
                raise ValueError(
                    f"{name} is not an argument. Set {variable} in the environment of the nodes."
                )
        return arguments

    @field_validator("num_gpus")
    @classmethod
    def _check_gpus(cls, num_gpus: float | None) -> float | None:
        # Ray cannot give a replica one and a half GPUs, and would wait for them forever.
        if num_gpus is not None and num_gpus > 1 and not num_gpus.is_integer():
            raise ValueError(f"must be at most 1, or a whole number, got {num_gpus:g}")
        return num_gpus

    @model_validator(mode="after")
    def _check_replicas(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas must be at most max_replicas, got {self.min_replicas} and "
                f"{self.max_replicas}"
            )
        return self

    def app_arguments(self) -> dict[str, Any]:
        """Return the arguments that are passed on to `create_app`."""
        return self.model_dump(exclude=_OWN_FIELDS)


_OWN_FIELDS = {
    *("engine", "engine_options", "min_replicas", "max_replicas", "workers"),
    *("target_ongoing_requests", "upscale_delay", "downscale_delay"),
    *("num_cpus", "num_gpus", "server_replicas"),
}
"""The arguments that `create_app` does not have, or that mean something else there."""
