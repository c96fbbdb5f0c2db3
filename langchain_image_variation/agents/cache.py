"""`ResultCache`: answers a call with the pictures that the same call made before.

Two calls are the same if they share the pixels that the engine gets (8 bits a sample), `n`, `size`,
`model`, and the engine with its version and its settings, see `engine_fingerprint`. What does not
count: `user`, `response_format`, the image's name, how its file is compressed, and the
conversation.

An engine that is not given a seed makes new pictures at each call; with a cache, the same call
gives the same pictures, until one of them is removed or the engine changes. A larger `n` is another
call.

For a review of security:

- The cache is one for all conversations that share a place of results. Whoever asks for variations
  of a picture that another conversation had varied, with the same arguments, gets copies of those
  results in its own scope, under names of its own, as if they had been made now: never the other
  conversation's names, paths, user or messages. To ask, one needs the picture itself, every pixel
  of it, and then one could have had the same made.
- A hit can be told from a miss: it is faster, uses nothing, and the artifact and the text say so.
  So a conversation can find out that a picture which it has was varied here before. Where that must
  not be known, give each tenant an `output_dir` of its own, or leave the cache off.
- A record holds the paths of results, which begin with the scope of the conversation that had them
  made, and their hashes; never a picture, a setting, a key or a user. Its name is a hash from which
  nothing of the call can be read. Records stay, about 1 kB each, until their folder is deleted.
- Records are not trusted: paths lead to results only, and a picture whose hash is not that of its
  record is not used. Whoever can write to the place of results can plant both, and so choose what
  the same call is answered with; let nobody else write there.
"""

import hashlib
from contextlib import suppress
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from langchain_image_variation.agents.results import Results
from langchain_image_variation.contract import MAX_N, CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.fingerprint import digest
from langchain_image_variation.exceptions import ImageVariationError
from langchain_image_variation.images.pixels import decode, pixel_sha256
from langchain_image_variation.output import PlacedImage
from langchain_image_variation.source import MAX_SOURCE_BYTES

__all__ = ["ResultCache"]

_FORM = 1
"""Of the records; another one finds none of the older."""


class _Picture(BaseModel):
    path: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    seed: int | None


class _Record(BaseModel):
    created: int | None
    pictures: Annotated[list[_Picture], Field(max_length=MAX_N)]


class ResultCache:
    """Results of earlier calls, by what was asked of which engine.

    It only ever saves work: a record that is missing, broken or out of date is a miss, and the call
    is made again. Two calls that are made at the same moment are both made; the later record stays.

    Args:
        results: Where results and records are kept.
        engine: The `engine_fingerprint` of the engine.
    """

    def __init__(self, results: Results, engine: str) -> None:
        self._results = results
        self._engine = engine

    def find(self, request: CreateImageVariationRequest) -> ImagesResponse | None:
        """Return the answer to an earlier request of the same kind, or None if there is none."""
        try:
            record = _Record.model_validate_json(self._results.record(self._name(request)) or b"")
            pngs = [self._read(picture) for picture in record.pictures]
        # A place that cannot be read now is no reason not to make them.
        except (ImageVariationError, ValidationError, _GoneError):
            return None
        if len(pngs) != request.n:
            return None
        seeds = [picture.seed for picture in record.pictures if picture.seed is not None]
        answer = ImagesResponse.from_pngs(
            pngs,
            response_format=request.response_format,
            seeds=seeds if len(seeds) == len(pngs) else None,
        )
        answer.created = record.created
        return answer

    def keep(
        self,
        request: CreateImageVariationRequest,
        kept: list[tuple[str, PlacedImage]],
        created: int | None,
    ) -> None:
        """Remember results, if that can be done.

        Args:
            request: What was asked.
            kept: What `Results.save` returned.
            created: When the answer was made, in seconds since 1970.
        """
        pictures = [
            _Picture(path=path, sha256=image.sha256, seed=image.seed) for path, image in kept
        ]
        record = _Record(created=created, pictures=pictures).model_dump_json()
        # The pictures are there, so nothing is lost.
        with suppress(ImageVariationError):
            self._results.keep_record(self._name(request), record.encode())

    def _name(self, request: CreateImageVariationRequest) -> str:
        key = digest(
            form=_FORM,
            engine=self._engine,
            image=pixel_sha256(decode(request.image)),
            model=request.model,
            n=request.n,
            size=request.size,
        )
        return f"{key}.json"

    def _read(self, picture: _Picture) -> bytes:
        file = self._results.open(picture.path)
        if file is None:
            raise _GoneError
        with file:
            data = file.read(MAX_SOURCE_BYTES + 1)
        if hashlib.sha256(data).hexdigest() != picture.sha256:
            raise _GoneError
        return data


class _GoneError(Exception):
    """A picture is not there any more, or is another one."""
