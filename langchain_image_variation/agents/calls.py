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
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self, TypeAlias, runtime_checkable

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from langchain_image_variation.agents.arguments import ImageVariationArguments
from langchain_image_variation.agents.cache import ResultCache
from langchain_image_variation.agents.conversation import Conversation, announcement
from langchain_image_variation.agents.image_folder import PictureFolder
from langchain_image_variation.agents.reachable import Gallery
from langchain_image_variation.agents.results import ResultFolder, Results
from langchain_image_variation.agents.stored_results import ResultStorage
from langchain_image_variation.agents.usage import usage_metadata
from langchain_image_variation.contract import (
    MAX_N,
    CreateImageVariationRequest,
    ImagesResponse,
    Size,
)
from langchain_image_variation.engines import AsyncVariationEngine, VariationEngine
from langchain_image_variation.engines.call import call_engine, call_engine_async
from langchain_image_variation.engines.context import Progress, ProgressListener
from langchain_image_variation.engines.fingerprint import engine_fingerprint
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.engines.traits import engine_base_url
from langchain_image_variation.exceptions import InvalidRequestError, RateLimitError
from langchain_image_variation.files.file_system import is_url
from langchain_image_variation.images.pixels import on_white
from langchain_image_variation.output import ContactSheet
from langchain_image_variation.source import Fit, Source

if TYPE_CHECKING:
    from langchain_image_variation.http.url_policy import URLPolicy
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
        """Wait until a call may be made, and say whether it may."""
        ...

    async def aacquire(self) -> bool:
        """Wait until a call may be made, without blocking the loop, and say whether it may."""
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
    results: Results
    cache: ResultCache | None
    found: ImagesResponse | None
    """The answer, if the cache has it."""


def _is_policy(value: Any) -> Any:
    if value is not None and getattr(value, "hosts", None) is None:
        raise InvalidRequestError("urls must be a URLPolicy that lists hosts.", param="urls")
    return value


class CallSettings(BaseModel):
    """The settings of the tool. They bound what a model can do with it, whatever it asks for.

    Raises:
        ImageVariationError: If the engine cannot be loaded, there is no folder `root_dir`,
            `output_dir` leads out of it, or its file system is not known or cannot be opened.
        MissingExtraError: If `output_dir` is a URL, and fsspec or a package that it needs for such
            a URL is not installed.
        InvalidRequestError: If `engine` is a class, `urls` lists no hosts, or `cache` is on and the
            engine does not say what its pictures depend on.
        pydantic.ValidationError: If a setting is unknown, or of a wrong type or value.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    engine: str | VariationEngine | AsyncVariationEngine = "local"
    """An engine, or the name of one."""
    root_dir: str | os.PathLike[str] = "."
    """The folder whose pictures the model may use; by default the working directory."""
    output_dir: str | os.PathLike[str] = Field(default="variations", repr=False)
    """Where variations are kept: a folder inside `root_dir`, relative to it; or the URL of a file
    system that fsspec knows, such as "s3://bucket/prefix" (extra `fsspec`). The paths in artifacts
    are then relative to the URL, and the URL itself is shown nowhere. It should be used for nothing
    else, and be no place that others may write to."""
    storage_options: dict[str, Any] = Field(default_factory=dict, repr=False)
    """What the file system of a URL is made with, such as keys; see fsspec. Shown nowhere."""
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
    """What a call waits for before it asks the engine. One that says False refuses the call; what
    it raises is passed on as it is."""
    cache: bool = False
    """Whether a call that was made before, in any conversation, is answered with the pictures made
    then; `ResultCache` says which calls are the same, and what others may learn from it. Neither
    the rate limiter nor the engine is then asked. The engine must be given by name, or have a
    `fingerprint`, as all of this project's have."""

    _loaded: tuple[object, VariationEngine | AsyncVariationEngine] | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _found_now(self) -> Self:
        """Find mistakes in the settings now rather than in a conversation."""
        results = self._results(None)
        self._load()
        if self.cache and self._cache(results) is None:
            raise InvalidRequestError(
                f"cache needs an engine that is given by name or has a fingerprint of its own, got "
                f"a {type(self.engine).__name__}; without one, leave cache out.",
                param="cache",
            )
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
        progress = _each_image(finished)
        response = ready.found
        if response is None:
            if self.rate_limiter is not None:
                _let_through(self.rate_limiter.acquire())
            response = call_engine(self._load(), ready.request, progress=progress)
        else:
            _report_all(progress, ready.request.n)
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
        with _each_image_on_loop(finished) as progress:
            response = ready.found
            if response is None:
                if self.rate_limiter is not None:
                    _let_through(await self.rate_limiter.aacquire())
                response = await call_engine_async(self._load(), ready.request, progress=progress)
            else:
                _report_all(progress, ready.request.n)
            return await asyncio.to_thread(self._result, ready, response)

    def _load(self) -> VariationEngine | AsyncVariationEngine:
        """Return the engine of the `engine` field, which a copy of these may have changed."""
        # Read once each: another thread may change the engine meanwhile.
        chosen, loaded = self.engine, self._loaded
        if loaded is not None and loaded[0] is chosen:
            return loaded[1]
        if isinstance(chosen, type):
            name = chosen.__name__
            raise InvalidRequestError(
                f"engine must be an engine, got the class {name}; pass {name}().",
                param="engine",
            )
        engine = load_engine(chosen) if isinstance(chosen, str) else chosen
        self._loaded = chosen, engine
        return engine

    def _results(self, conversation: Conversation | None) -> Results:
        pictures = PictureFolder(Path(self.root_dir))
        scope = conversation.scope if conversation is not None else None
        if is_url(self.output_dir):
            url, options = str(self.output_dir), self.storage_options
            return ResultStorage(pictures, url, options, scope=scope, most=self.max_results)
        output_dir = PurePosixPath(PurePath(self.output_dir).as_posix())
        return ResultFolder(pictures, output_dir, scope=scope, most=self.max_results)

    def _cache(self, results: Results) -> ResultCache | None:
        """Return the cache, if it is on and the engine says what its pictures depend on."""
        if not self.cache:
            return None
        by_name = isinstance(self.engine, str)
        engine = engine_fingerprint(self._load(), by_name=by_name)
        return None if engine is None else ResultCache(results, engine)

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
        if engine_base_url(self._load()) is not None:
            # A model may drop the alpha that a person sees the picture through.
            source = replace(source, png=on_white(source.png))
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
        cache = self._cache(results)
        found = cache.find(request) if cache is not None else None
        return _Ready(asked, label, source, request, results, cache, found)

    def _result(self, ready: _Ready, response: ImagesResponse) -> CallResult:
        """Keep an answer and describe it."""
        results, request, source = ready.results, ready.request, ready.source
        kept = results.save(response, name=source.name)
        cached = ready.found is not None
        if ready.cache is not None and not cached:
            ready.cache.keep(request, kept, response.created)
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
        if cached:
            parts.append("They are those that the same call made before.")
        if ready.asked.n > self.max_n:
            parts.append(f"This tool makes at most {self.max_n} a call.")
        if source.note:
            parts.append(source.note)
        usage = usage_metadata(response)
        artifact: dict[str, Any] = {"images": images}
        if usage is not None:
            artifact["usage_metadata"] = usage
        if cached:
            artifact["cached"] = True
        thumbnail = ContactSheet.thumbnail(source.png, response) if self.thumbnail else None
        return CallResult(" ".join(parts), artifact, thumbnail)


def _let_through(acquired: bool) -> None:
    # By LangChain's limiters it is always True; others may give up waiting.
    if acquired is False:
        raise RateLimitError("The rate limiter lets no call through now; try again later.")


def _report_all(listener: ProgressListener | None, n: int) -> None:
    """Report images that the cache has, as if they were made now."""
    if listener is not None:
        for finished in range(1, n + 1):
            listener(Progress(finished, n, finished / n))


def _each_image(finished: Finished | None) -> ProgressListener | None:
    """Return a listener that passes on each newly finished image, and no other progress."""
    if finished is None:
        return None
    latest = 0

    def listen(progress: Progress) -> None:
        nonlocal latest
        if progress.finished > latest:
            latest = progress.finished
            finished(progress.finished, progress.n)

    return listen


@contextlib.contextmanager
def _each_image_on_loop(finished: Finished | None) -> Iterator[ProgressListener | None]:
    """Yield a listener that reports each image on the loop, in order, from whichever thread."""
    if finished is None:
        yield None
        return
    loop, context, listening = asyncio.get_running_loop(), contextvars.copy_context(), True

    def report(done: int, n: int) -> None:
        if listening:
            finished(done, n)

    def schedule(done: int, n: int) -> None:
        # The loop may be closed when an engine that was cancelled finishes an image after all.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(report, done, n, context=context)

    try:
        yield _each_image(schedule)
    finally:
        listening = False
