"""`ToolSettings`: what a developer can set for the tool, whatever the framework."""

import os
from collections.abc import Set
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from langchain_image_variation.agents.arguments import Exposable
from langchain_image_variation.agents.public_url import check_public_url
from langchain_image_variation.agents.uploads import MAX_UPLOADS
from langchain_image_variation.contract import MAX_N, Size
from langchain_image_variation.engines import AsyncVariationEngine, VariationEngine
from langchain_image_variation.engines.checks import check_engine
from langchain_image_variation.exceptions import (
    ContentPolicyError,
    ImageVariationError,
    InvalidRequestError,
    ToolCallError,
)
from langchain_image_variation.source import Fit, check_url_policy

if TYPE_CHECKING:
    from langchain_image_variation.http.url_policy import URLPolicy
else:
    # Importing it takes longer than everything else here, and few tools fetch URLs.
    URLPolicy = Any

__all__ = ["RateLimiter", "ToolSettings"]


@runtime_checkable
class RateLimiter(Protocol):
    """The methods of `langchain_core.rate_limiters.BaseRateLimiter` that a call uses."""

    def acquire(self) -> bool:
        """Wait for permission to make a call. Return False to refuse the call."""
        ...

    async def aacquire(self) -> bool:
        """Do what `acquire` does, without blocking the loop."""
        ...


def _check_engine(engine: Any) -> Any:
    # Names are loaded when a tool is made. Pydantic's own error would list three types.
    if not isinstance(engine, str):
        check_engine(engine)
    return engine


def _check_policy(urls: Any) -> Any:
    check_url_policy(urls)
    return urls


def _check_raise_on(classes: tuple[type[Exception], ...]) -> tuple[type[Exception], ...]:
    for error_class in classes:
        name = error_class.__name__
        if issubclass(error_class, ToolCallError | ContentPolicyError):
            raise InvalidRequestError(
                f"raise_on cannot contain {name}: the model made the mistake, and it gets a text.",
                param="raise_on",
            )
        if not issubclass(error_class, ImageVariationError) and not issubclass(
            ImageVariationError, error_class
        ):
            raise InvalidRequestError(
                f"raise_on cannot contain {name}: the tool raises classes of ImageVariationError "
                "only. An engine's other errors become EngineError.",
                param="raise_on",
            )
    return classes


class ToolSettings(BaseModel):
    """The settings of the tool. A model cannot change or exceed them.

    An assignment checks the value too.

    Raises:
        InvalidRequestError: If `engine` is not an engine, if `urls` does not list any hosts, if
            `public_url` is neither a URL nor an absolute path (see `check_public_url`), or if
            `raise_on` contains a class that the tool never raises.
        pydantic.ValidationError: If a setting does not exist, or has a wrong type or value.
    """

    model_config = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, validate_assignment=True
    )

    engine: Annotated[
        str | VariationEngine | AsyncVariationEngine, BeforeValidator(_check_engine)
    ] = "local"
    """An engine, or the name of an installed one. "auto" means the best one that is usable when
    the tool is made."""
    root_dir: str | os.PathLike[str] = "."
    """The folder with the images that the model may use. The default is the working directory."""
    output_dir: str | os.PathLike[str] = Field(default="variations", repr=False)
    """Where results are saved: a folder inside `root_dir`, relative to it, or a URL of a file
    system that fsspec supports, such as "s3://bucket/prefix" (extra `fsspec`). With a URL, paths in
    artifacts are relative to it, and the URL itself is never shown. Use the location for nothing
    else, and let nobody else write to it."""
    storage_options: dict[str, Any] = Field(default_factory=dict, repr=False)
    """Options for the file system of a URL, such as keys; see fsspec. They are never shown."""
    public_url: Annotated[str, AfterValidator(check_public_url)] | None = None
    """What the URLs of results start with, if you serve `output_dir` to the users of the agent: an
    http or https URL without a user name, query or fragment, such as
    "https://files.example.com/variations", or an absolute path, such as "/mnt/images". The text for
    the model and the artifact then contain the whole URL of each result. The model may also pass
    such a URL as image."""
    max_n: int = Field(default=MAX_N, ge=1, le=MAX_N)
    """The maximum number of variations per call. An engine with a lower `max_n` sets the limit."""
    max_calls: int | None = Field(default=None, ge=1)
    """The maximum number of calls per conversation, counted in its messages: calls whose messages
    were removed, for example by a summary, do not count. The default is no limit."""
    max_results: int | None = Field(default=None, ge=1)
    """The maximum number of results to keep in one folder. The oldest are deleted. By default all
    are kept."""
    max_uploads: int = Field(default=100, ge=0, le=MAX_UPLOADS)
    """The maximum number of uploaded images to keep per conversation, so that they can be varied
    after their messages were removed. Only conversations with their own folder of results keep any.
    The least recently used are deleted first, at the conversation's next call. 0 keeps none."""
    max_upload_bytes: int = Field(default=256 * 1024 * 1024, ge=1)
    """The maximum size of all images that a conversation keeps, in bytes."""
    max_upload_age: timedelta | None = Field(default=None, gt=timedelta(0))
    """How long an uploaded image is kept after it was sent or last varied, once its message is
    gone. The default is no limit."""
    fixed_size: Size | None = None
    """The size of every variation. If it is set, the model cannot choose one."""
    expose: Annotated[Set[Exposable], AfterValidator(frozenset)] = frozenset()
    """Further arguments that the model may set. If it leaves one out, the call behaves as if you
    had not exposed it.

    - "strength": how much to change an image, from 0 to 1. The engine needs
      `with_options(strength=...)`, as `local` has.
    - "prompt": what to make of an image, in up to `MAX_PROMPT_LENGTH` characters. The engine needs
      `with_options(prompt=...)`, as `gpt-image` has.
    - "fit": "crop", "pad" or "keep", instead of the setting `fit`.
    - "name": what the file names of the results begin with."""
    fit: Fit = "crop"
    """What to do with an image that is not a square PNG under 4 MB; see `load_source`. With "keep",
    results have the shape of their source, and the requested size is the longer side."""
    urls: Annotated[URLPolicy | None, AfterValidator(_check_policy)] = None
    """The hosts from which images in messages may be fetched by URL. By default none are fetched.
    A URL that the model writes is never fetched."""
    content: Literal["text", "thumbnail", "blocks"] = "text"
    """What the message of a call contains: "text", which names the results; "thumbnail", which adds
    one small image of the source and its variations; or "blocks", which adds an image block for
    each result, as a JPEG, for user interfaces that show blocks. Images in messages are stored with
    the conversation, and sent to the model again with each of its calls."""
    rate_limiter: RateLimiter | None = None
    """A rate limiter whose `acquire` is called before each engine call. If it returns False, the
    call fails with a `RateLimitError`."""
    raise_on: Annotated[tuple[type[Exception], ...], AfterValidator(_check_raise_on)] = (
        ImageVariationError,
    )
    """The classes of the failures that are raised, so that retries, tracers and the caller of an
    agent see them. About other failures, the model gets a text, and the agent continues. By default
    all are raised, and with () none. This setting never raises mistakes of the model."""
    cache: bool = False
    """Whether to answer a repeated call, from any conversation, with the images of the first one.
    Neither the rate limiter nor the engine is used then. `ResultCache` says which calls count as
    equal, and what conversations can learn from the cache. The engine must be given by name or have
    a `fingerprint`; all engines of this project have one."""
