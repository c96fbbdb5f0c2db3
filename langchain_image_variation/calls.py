"""`CallSettings`: what a developer sets of the tool, and a call of it, whatever the framework.

A call finds the picture that a model named, asks the engine, keeps the results and describes them.
The LangChain tool and the LlamaIndex one only translate: arguments and conversation in, text and
artifact out.
"""

import asyncio
import contextlib
import contextvars
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self, TypeAlias, runtime_checkable

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from langchain_image_variation.arguments import ImageVariationArguments
from langchain_image_variation.contract import (
    MAX_N,
    CreateImageVariationRequest,
    ImagesResponse,
    Size,
)
from langchain_image_variation.conversation import Conversation, announcement
from langchain_image_variation.engines import (
    AsyncVariationEngine,
    VariationEngine,
    call_engine,
    call_engine_async,
    load_engine,
)
from langchain_image_variation.exceptions import InvalidRequestError, RateLimitError
from langchain_image_variation.folder import PictureFolder
from langchain_image_variation.gallery import Gallery
from langchain_image_variation.output import ContactSheet
from langchain_image_variation.results import ResultFolder
from langchain_image_variation.source import Fit, Source
from langchain_image_variation.usage import usage_metadata

if TYPE_CHECKING:
    from langchain_image_variation.http.fetch import URLPolicy
else:
    # Importing it takes longer than all the rest, and few tools fetch anything.
    URLPolicy = Any

__all__ = ["CallResult", "CallSettings", "Finished", "RateLimiter"]


Finished: TypeAlias = Callable[[int, int], None]
"""Called with the number of finished pictures and that of all, by `CallSettings.call` from any
thread; must not raise."""


@runtime_checkable
class RateLimiter(Protocol):
    """What `langchain_core.rate_limiters.BaseRateLimiter` is."""

    def acquire(self) -> bool:
        """Wait until a call may be made."""
        ...

    async def aacquire(self) -> bool:
        """Wait until a call may be made, without blocking the loop."""
        ...


@dataclass(frozen=True, slots=True)
class CallResult:
    """What a call gives back."""

    content: str
    """Text for the model: the handles of the new pictures, and what it should know."""
    artifact: dict[str, Any]
    """Plain JSON for programs, as `ImageVariationTool` describes it."""
    thumbnail: bytes | None
    """A JPEG of at most 512 pixels a side that shows the results, if the settings ask for it."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A call whose arguments are right and whose picture was read."""

    asked: ImageVariationArguments
    label: str
    source: Source
    request: CreateImageVariationRequest
    results: ResultFolder


def _is_policy(value: Any) -> Any:
    if value is not None and getattr(value, "hosts", None) is None:
        raise InvalidRequestError("urls must be a URLPolicy that lists hosts.", param="urls")
    return value


class CallSettings(BaseModel):
    """The settings of the tool. They bound what a model can do with it, whatever it asks for.

    Raises:
        ImageVariationError: If the engine cannot be loaded, there is no folder `root_dir`, or
            `output_dir` leads out of it.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    engine: str | VariationEngine | AsyncVariationEngine = "local"
    """An engine, or the name of one."""
    root_dir: str | os.PathLike[str] = "."
    """The folder whose pictures the model may use; by default the working directory."""
    output_dir: str | os.PathLike[str] = "variations"
    """Where variations are kept: a folder inside `root_dir`, relative to it."""
    max_n: int = Field(default=MAX_N, ge=1, le=MAX_N)
    """The most variations a call makes, whatever the model asks for."""
    max_calls: int | None = Field(default=None, ge=1)
    """The most calls in one conversation, by its messages; by default any number."""
    max_results: int | None = Field(default=None, ge=1)
    """The most results kept in one folder of results; the oldest are deleted. By default all are
    kept."""
    fixed_size: Size | None = None
    """The size of every variation, whatever the model asks for."""
    fit: Fit = "crop"
    """What to do with a picture that is no square PNG under 4 MB; see `load_source`."""
    urls: Annotated[URLPolicy | None, AfterValidator(_is_policy)] = None
    """From where pictures are fetched that messages bring as URLs; by default from nowhere. URLs
    that a model writes are never fetched."""
    thumbnail: bool = False
    """Whether a small picture of the results goes to the model with the text."""
    rate_limiter: RateLimiter | None = None
    """What a call waits for before it asks the engine."""

    _loaded: tuple[object, VariationEngine | AsyncVariationEngine] | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _found_now(self) -> Self:
        """Find mistakes in the settings now rather than in a conversation."""
        self._results(None)
        self._load()
        return self

    def call(
        self,
        asked: ImageVariationArguments,
        conversation: Conversation | None = None,
        *,
        fields: Mapping[str, Any] | None = None,
        finished: Finished | None = None,
    ) -> CallResult:
        """Make variations and keep them.

        Args:
            asked: What the model asks for.
            conversation: The conversation that the call belongs to. Without one, all results under
                `output_dir` may be used.
            fields: Further fields of the contract: `model`, `response_format`, `user`.
            finished: Told of each finished picture.

        Raises:
            ImageVariationError: If anything fails. Its message is fit for the model: it says what
                to do, and what may be used.
        """
        ready = self._ready(asked, conversation, fields or {})
        if self.rate_limiter is not None:
            self.rate_limiter.acquire()
        told = _told(finished, ready.request.n)
        response = call_engine(self._load(), ready.request, finished=told)
        return self._result(ready, response)

    async def acall(
        self,
        asked: ImageVariationArguments,
        conversation: Conversation | None = None,
        *,
        fields: Mapping[str, Any] | None = None,
        finished: Finished | None = None,
    ) -> CallResult:
        """Do what `call` does, without blocking the loop, on which `finished` is called.

        Raises:
            ImageVariationError: As `call`.
        """
        ready = await asyncio.to_thread(self._ready, asked, conversation, fields or {})
        if self.rate_limiter is not None:
            await self.rate_limiter.aacquire()
        with _told_on_loop(finished, ready.request.n) as told:
            response = await call_engine_async(self._load(), ready.request, finished=told)
            return await asyncio.to_thread(self._result, ready, response)

    def _load(self) -> VariationEngine | AsyncVariationEngine:
        """Return the engine of the `engine` field, which a copy of these may have changed."""
        if self._loaded is None or self._loaded[0] is not self.engine:
            if isinstance(self.engine, type):
                name = self.engine.__name__
                raise InvalidRequestError(
                    f"engine must be an engine, got the class {name}; pass {name}().",
                    param="engine",
                )
            engine = load_engine(self.engine) if isinstance(self.engine, str) else self.engine
            self._loaded = self.engine, engine
        return self._loaded[1]

    def _results(self, conversation: Conversation | None) -> ResultFolder:
        return ResultFolder(
            PictureFolder(Path(self.root_dir)),
            PurePosixPath(PurePath(self.output_dir).as_posix()),
            scope=conversation.scope if conversation is not None else None,
            most=self.max_results,
        )

    def _ready(
        self,
        asked: ImageVariationArguments,
        conversation: Conversation | None,
        fields: Mapping[str, Any],
    ) -> _Ready:
        if conversation and self.max_calls is not None and conversation.calls >= self.max_calls:
            raise RateLimitError(
                f"This conversation has had all its {self.max_calls} calls of this tool; "
                "use the pictures there are."
            )
        results = self._results(conversation)
        gallery = Gallery(results, conversation)
        label, source = gallery.load(asked.image, fit=self.fit, urls=self.urls)
        # Before the work, so that none is lost.
        results.make()
        given = {name: value for name, value in fields.items() if value is not None}
        request = CreateImageVariationRequest(
            **{
                "image": source.png,
                "n": min(asked.n, self.max_n),
                "size": self.fixed_size or asked.size,
                "response_format": "b64_json",
                **given,
            }
        )
        return _Ready(asked, label, source, request, results)

    def _result(self, ready: _Ready, response: ImagesResponse) -> CallResult:
        """Keep an answer and describe it."""
        results, request, source = ready.results, ready.request, ready.source
        kept = results.save(response, name=source.name)
        engine = self.engine if isinstance(self.engine, str) else type(self.engine).__name__
        images = [
            {
                "handle": PurePosixPath(path).stem,
                "path": path,
                "sha256": image.sha256,
                "width": image.width,
                "height": image.height,
                "seed": image.seed,
                "engine": engine,
                "created": response.created,
            }
            for path, image in kept
        ]
        handles = [str(image["handle"]) for image in images]
        said = {"label": ready.label, "size": request.size, "place": results.place}
        parts = [announcement(handles, **said)]
        if ready.asked.n > self.max_n:
            parts.append(f"This tool makes at most {self.max_n} a call.")
        if source.note:
            parts.append(source.note)
        usage = usage_metadata(response)
        artifact = {"images": images} | ({} if usage is None else {"usage_metadata": usage})
        thumbnail = ContactSheet.thumbnail(source.png, response) if self.thumbnail else None
        return CallResult(" ".join(parts), artifact, thumbnail)


def _told(finished: Finished | None, n: int) -> Callable[[int], None] | None:
    return None if finished is None else lambda done: finished(done, n)


@contextlib.contextmanager
def _told_on_loop(finished: Finished | None, n: int) -> Iterator[Callable[[int], None] | None]:
    """Have each finished picture told on the loop, in order, from whichever thread it comes."""
    if finished is None:
        yield None
        return
    loop, context, listening = asyncio.get_running_loop(), contextvars.copy_context(), True

    def tell(done: int) -> None:
        if listening:
            finished(done, n)

    def told(done: int) -> None:
        # The loop may be closed when an engine that was cancelled finishes a picture after all.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(tell, done, context=context)

    try:
        yield told
    finally:
        listening = False
