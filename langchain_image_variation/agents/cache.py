"""`ResultCache`: answers a call with the results of an earlier, equal call.

Two calls are equal if they have the same pixels (8 bits per sample, as the engine receives them),
the same inset to cut the images back to, if any, and the same `n`, `size`, `model` and engine,
including its version and settings (see `engine_fingerprint`) and the `strength` and `prompt` that
the model chose. These do not count: `user`, `response_format`, the name of the image and the one
that the model chose, how its file is compressed, and the conversation.

Without a seed, an engine makes different images at each call. With a cache, equal calls return the
same images, until one of them is deleted or the engine changes. A call with a larger `n` is not
equal.

For a security review:

- All conversations that share an `output_dir` share its cache. If a conversation asks for
  variations that another one already has, it gets copies of those results in its own scope, under
  its own names, as if they had just been made. It never gets the other conversation's names, paths,
  user or messages. To ask, it needs every pixel of the original image, and with those it could make
  the variations itself.
- A cached answer can be recognized: it is faster, it uses no tokens, and both artifact and text say
  so. A conversation can therefore find out that an image it has was varied here before. If you
  cannot accept that, give each tenant a separate `output_dir`, or leave the cache off.
- A record contains the paths of results, which begin with the scope of the conversation that made
  them, their hashes, and the model and the note that the engine gave them. It contains no image,
  key, user or other setting. Its name is a hash that reveals nothing about the call. Records take
  about 1 kB each, and stay until their folder is deleted.
- Records are not trusted. Their paths lead only to results, and an image is used only if its hash
  matches. Anyone who can write to `output_dir` can add both, and so choose the answer to a call. Do
  not let others write to it.
"""

import hashlib
from contextlib import suppress
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from langchain_image_variation.agents.results import Results
from langchain_image_variation.contract import MAX_N, CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.fingerprint import digest
from langchain_image_variation.exceptions import ImageVariationError
from langchain_image_variation.images.inset import Inset
from langchain_image_variation.images.pixels import decode_png, pixel_sha256
from langchain_image_variation.output.placed_images import PlacedImage
from langchain_image_variation.source.read import MAX_SOURCE_BYTES

__all__ = ["ResultCache"]

_VERSION = 1
"""The version of the records. Records of other versions are not found."""


class _CachedImage(BaseModel):
    path: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    seed: int | None


class _Record(BaseModel):
    created: int | None
    images: Annotated[list[_CachedImage], Field(max_length=MAX_N)]
    model: str | None = None
    note: str | None = None


class ResultCache:
    """The results of earlier calls, by request and engine.

    A missing, corrupt or outdated record only costs another engine call. If two equal calls run at
    the same time, both call the engine, and the later record stays.

    Args:
        results: Where results and records are saved.
        fingerprint: The `engine_fingerprint` of the engine.
    """

    def __init__(self, results: Results, fingerprint: str) -> None:
        self._results = results
        self._fingerprint = fingerprint

    def find(
        self, request: CreateImageVariationRequest, inset: Inset | None
    ) -> ImagesResponse | None:
        """Return the response to an earlier, equal request, or None. Its images are cut back.

        Args:
            request: The request.
            inset: The inset of its source.
        """
        try:
            data = self._results.read_record(self._record_name(request, inset))
            record = _Record.model_validate_json(data or b"")
            pngs = [self._read(image) for image in record.images]
        # If the results cannot be read now, the engine can still make new ones.
        except (ImageVariationError, ValidationError, _OutdatedRecordError):
            return None
        if len(pngs) != request.n:
            return None
        seeds = [image.seed for image in record.images if image.seed is not None]
        response = ImagesResponse.from_pngs(
            pngs,
            response_format=request.response_format,
            seeds=seeds if len(seeds) == len(pngs) else None,
            model=record.model or request.named_model,
            note=record.note,
        )
        response.created = record.created
        return response

    def add(
        self,
        request: CreateImageVariationRequest,
        inset: Inset | None,
        saved_images: list[tuple[str, PlacedImage]],
        response: ImagesResponse,
    ) -> None:
        """Record the results of a request. A record that cannot be written is dropped silently.

        Args:
            request: The request.
            inset: The inset of its source.
            saved_images: What `Results.save` returned.
            response: The response that they come from.
        """
        images = [
            _CachedImage(path=path, sha256=image.sha256, seed=image.seed)
            for path, image in saved_images
        ]
        record = _Record(
            created=response.created,
            images=images,
            model=None if response.model == request.named_model else response.model,
            note=response.note,
        ).model_dump_json(exclude_defaults=True)
        # The results are saved already, so nothing is lost without a record.
        with suppress(ImageVariationError):
            self._results.write_record(self._record_name(request, inset), record.encode())

    def _record_name(self, request: CreateImageVariationRequest, inset: Inset | None) -> str:
        key = digest(
            version=_VERSION,
            engine=self._fingerprint,
            image=pixel_sha256(decode_png(request.image)),
            inset=None if inset is None else repr(inset),
            model=request.model,
            n=request.n,
            size=request.size,
        )
        return f"{key}.json"

    def _read(self, image: _CachedImage) -> bytes:
        file = self._results.open(image.path)
        if file is None:
            raise _OutdatedRecordError
        with file:
            data = file.read(MAX_SOURCE_BYTES + 1)
        if hashlib.sha256(data).hexdigest() != image.sha256:
            raise _OutdatedRecordError
        return data


class _OutdatedRecordError(Exception):
    """An image of the record was deleted or changed."""
