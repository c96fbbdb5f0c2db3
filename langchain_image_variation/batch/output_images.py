"""`OutputImages`: finds the variations of one source that exist, and writes the missing ones."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from langchain_image_variation.batch.job import Job
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidImageError,
    MissingExtraError,
    SourceError,
)
from langchain_image_variation.files.outputs import Outputs
from langchain_image_variation.images.pixels import as_png
from langchain_image_variation.images.png import chunks
from langchain_image_variation.output import cut_back
from langchain_image_variation.source import Fit, Source, load_source

__all__ = ["OutputImage", "OutputImages"]


@dataclass(frozen=True, slots=True)
class OutputImage:
    """A variation in the outputs."""

    output_path: str
    """Its path, relative to the outputs."""
    sha256: str
    """The SHA-256 of its bytes, in hex."""
    milliseconds: float | None
    """The engine's time for it, or None if an earlier run made it."""
    model: str | None = None
    """The model that made it, if the engine names it and this run made it."""
    note: str | None = None
    """What the engine says about it, if this run made it."""


class OutputImages:
    """The variations of one source: those that exist and those still to make.

    Args:
        data: The bytes of the source.
        name: The name of the source in error messages.
        job: The settings for the source.
        paths: The paths of all its variations, relative to the outputs.
        outputs: Where the variations are written.
        fit: How to handle a source that is not a square PNG under 4 MB.
    """

    def __init__(
        self, data: bytes, name: str, job: Job, paths: Sequence[str], outputs: Outputs, *, fit: Fit
    ) -> None:
        self.images: dict[int, OutputImage] = {}
        """The variations that exist, by their position in `paths`."""
        self.error: ImageVariationError | None = None
        """The first error, if a variation could not be made."""
        self._data = data
        self._name = name
        self._job = job
        self._side = int(job.size.partition("x")[0])
        self._paths = paths
        self._outputs = outputs
        self._fit = fit
        self._source: Source | None = None

    def find_missing(self) -> list[range]:
        """Find the variations that exist, and return the positions of the missing ones.

        Returns:
            The ranges of consecutive missing positions, in order.

        Raises:
            OutputError: If an existing file cannot be read.
        """
        files = zip(self._paths, self._outputs.read_all(self._paths), strict=True)
        for position, (path, data) in enumerate(files):
            if data is not None and _is_intact(data, self._side, is_cut=self._fit == "keep"):
                digest = hashlib.sha256(data).hexdigest()
                self.images[position] = OutputImage(path, digest, None)
        return _group(position for position in range(self._job.n) if position not in self.images)

    def make_request(self, n: int, *, model: str | None) -> CreateImageVariationRequest:
        """Return a request for some of the variations.

        Args:
            n: The number of variations.
            model: One of the engine's models. None means the default.

        Raises:
            InvalidRequestError: If the source is not an image, violates the contract, or needs a
                package that is not installed.
        """
        return CreateImageVariationRequest.model_validate(
            {
                "image": self._load_source().png,
                "model": model,
                "n": n,
                "response_format": "b64_json",
                "size": self._job.size,
            }
        )

    def write(self, positions: range, response: ImagesResponse, milliseconds: float) -> None:
        """Write the images of a response. An image that cannot be read is skipped.

        Args:
            positions: The positions of the images.
            response: The response, with one image for each position.
            milliseconds: The engine's time for all of them.

        Raises:
            OutputError: If an image cannot be written.
        """
        source = self._load_source()
        size = (self._side, self._side)
        if source.inset is not None:
            size = source.inset.size(self._side)
        pngs: dict[int, bytes] = {}
        images = cut_back(response, source).data
        for position, image in zip(positions, images, strict=True):
            try:
                pngs[position], _ = as_png(image.read(), size)
            except ImageVariationError as error:
                self.error = self.error or error
        self._outputs.write_all({self._paths[position]: png for position, png in pngs.items()})
        share = round(milliseconds / len(positions), 1)
        for position, png in pngs.items():
            digest = hashlib.sha256(png).hexdigest()
            self.images[position] = OutputImage(
                self._paths[position], digest, share, response.model, response.note
            )

    def _load_source(self) -> Source:
        """Return the source. The first call converts it.

        Raises:
            InvalidRequestError: If the source is not an image, violates the contract, or needs a
                package that is not installed.
        """
        if self._source is None:
            try:
                self._source = load_source(self._data, fit=self._fit, name=self._name)
            except MissingExtraError as error:
                # Other sources may not need the package, so the run goes on.
                raise SourceError(error.message) from None
        return self._source


def _is_intact(data: bytes, side: int, *, is_cut: bool) -> bool:
    """Return whether a file is an intact PNG whose longer side has `side` pixels.

    Args:
        data: The bytes of the file.
        side: The longer side. If the file was not cut, the other side has the same length.
        is_cut: Whether the file may have been cut back to the shape of its source.
    """
    if not data.startswith(chunks.SIGNATURE):
        return False
    try:
        header, _ = chunks.check_order(chunks.read_chunks(data))
    except InvalidImageError:
        return False
    return max(header.width, header.height) == side and (is_cut or header.width == header.height)


def _group(positions: Iterable[int]) -> list[range]:
    """Return the ranges of consecutive positions, in order."""
    groups: list[range] = []
    for position in positions:
        if groups and groups[-1].stop == position:
            groups[-1] = range(groups[-1].start, position + 1)
        else:
            groups.append(range(position, position + 1))
    return groups
