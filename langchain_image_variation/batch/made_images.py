"""`SourcePictures`: the variations of one source that are there, and those that are not."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from langchain_image_variation.batch.job import Job
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidImageError,
    OutputError,
)
from langchain_image_variation.files.outputs import Outputs
from langchain_image_variation.images.pixels import as_png, decode_result
from langchain_image_variation.images.png import MAX_PNG_BYTES, SquarePNG
from langchain_image_variation.source import Fit, load_source

__all__ = ["Picture", "SourcePictures"]


@dataclass(frozen=True, slots=True)
class Picture:
    """A variation that is there."""

    output_path: str
    """Its name, relative to the outputs."""
    sha256: str
    """The SHA-256 of its bytes, in hex."""
    milliseconds: float | None
    """The engine's time for it, or None if it was there before."""


class SourcePictures:
    """The variations of one source that are there, and those to make.

    Args:
        data: The bytes of the source.
        name: What it is called in messages.
        job: What is asked for.
        paths: The names of all its variations, relative to the outputs.
        outputs: Where they are.
    """

    def __init__(
        self, data: bytes, name: str, job: Job, paths: Sequence[str], outputs: Outputs
    ) -> None:
        self.there: dict[int, Picture] = {}
        """Those that are there, by their place in `paths`."""
        self.failure: ImageVariationError | None = None
        """The first thing that went wrong with one of them."""
        self._data = data
        self._name = name
        self._job = job
        self._side = int(job.size.partition("x")[0])
        self._paths = paths
        self._outputs = outputs
        self._png: SquarePNG | None = None

    def missing(self) -> list[range]:
        """Look which are there, and return the places of the others, neighbours together.

        Raises:
            OutputError: If one cannot be read.
        """
        found = zip(self._paths, self._outputs.read_all(self._paths), strict=True)
        for at, (path, data) in enumerate(found):
            if data is not None and _is_whole(data, self._side):
                self.there[at] = Picture(path, hashlib.sha256(data).hexdigest(), None)
        return _groups(at for at in range(self._job.n) if at not in self.there)

    def request(self, n: int, *, fit: Fit, model: str | None) -> CreateImageVariationRequest:
        """Return a request for some of them.

        Args:
            n: How many.
            fit: What to do with a source that is no square PNG under 4 MB.
            model: The model, by the engine's own names; None is the default.

        Raises:
            InvalidRequestError: If the source is no picture, or breaks a rule.
        """
        if self._png is None:
            self._png = load_source(self._data, fit=fit, name=self._name).png
        return CreateImageVariationRequest.model_validate(
            {
                "image": self._png,
                "model": model,
                "n": n,
                "response_format": "b64_json",
                "size": self._job.size,
            }
        )

    def keep(self, places: range, answer: ImagesResponse, milliseconds: float) -> None:
        """Write the pictures of an answer; one that cannot be read does not cost the others.

        Args:
            places: Where they stand.
            answer: As many pictures.
            milliseconds: How long the engine took for all of them.

        Raises:
            OutputError: If one cannot be written.
        """
        made: dict[int, bytes] = {}
        for at, image in zip(places, answer.data, strict=True):
            try:
                made[at], _ = as_png(image.read(), self._side)
            except ImageVariationError as error:
                self.failure = self.failure or error
        self._outputs.put({self._paths[at]: data for at, data in made.items()})
        share = round(milliseconds / len(places), 1)
        for at, data in made.items():
            self.there[at] = Picture(self._paths[at], hashlib.sha256(data).hexdigest(), share)


def _is_whole(data: bytes, side: int) -> bool:
    """Say whether a file is an undamaged PNG of this side, in pixels."""
    try:
        return SquarePNG(data).side == side
    except InvalidImageError:
        if len(data) < MAX_PNG_BYTES:
            return False
    try:
        # A result may be larger than a source.
        return decode_result(data).size == (side, side)
    except OutputError:
        return False


def _groups(places: Iterable[int]) -> list[range]:
    """Return the runs of neighbouring places, in order."""
    groups: list[range] = []
    for at in places:
        if groups and groups[-1].stop == at:
            groups[-1] = range(groups[-1].start, at + 1)
        else:
            groups.append(range(at, at + 1))
    return groups
