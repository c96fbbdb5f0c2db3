"""Repairs PNG files that every viewer opens although they break a rule of the specification.

Bad ancillary chunks are left out, and a missing end is added. libpng does the same, so viewers show
the repaired image. The pixels must be complete and intact.
"""

from collections.abc import Iterator
from typing import NamedTuple

from langchain_image_variation.images.png.chunks import (
    APPEARANCE,
    INDEXED,
    PIXELS,
    Chunk,
    Order,
    corrupt_png_error,
    join_chunks,
    read_header,
    scan_chunks,
)

__all__ = ["Repair", "repair"]

_MAX_NAMED = 3
"""The maximum number of bad chunks that the description names."""


class Repair(NamedTuple):
    """A repaired PNG file."""

    data: bytes
    """The file. `check_order` accepts it once its metadata is removed."""
    steps: list[str]
    """The repairs, as parts of a sentence. They do not mention bytes after the end."""
    is_cut_off: bool
    """Whether the file has no valid end. Its pixels may be incomplete: see `complete_pixels`."""


def repair(data: bytes) -> Repair:
    """Leave out bad ancillary chunks and bytes after the end, and add a missing end.

    A chunk is bad if its checksum or length is wrong, or if it occurs twice or in the wrong place.
    If a chunk may occur only once, the first valid one stays. The order and length of chunks that
    do not affect the pixels are not checked.

    Args:
        data: The bytes of a file that begins with the signature.

    Raises:
        InvalidImageError: If a chunk that cannot be left out breaks a rule, or if there are too
            many chunks.
    """
    chunks = scan_chunks(data)
    first_chunk = next(chunks)
    if first_chunk.problem is not None:
        raise corrupt_png_error(first_chunk.problem)
    if first_chunk.name != b"IHDR":
        raise corrupt_png_error("its first chunk is not IHDR")
    repairer = _Repairer(first_chunk)
    for chunk in chunks:
        if chunk.name == b"IEND" or not chunk.is_whole:
            repairer.end(chunk)
        else:
            repairer.add(chunk)
    # `scan_chunks` yields the end last.
    is_intact = not repairer.problems and not repairer.is_cut_off and chunk.end == len(data)
    return Repair(
        data if is_intact else join_chunks([*repairer.chunks, (b"IEND", b"")]),
        list(repairer.describe()),
        repairer.is_cut_off,
    )


class _Repairer:
    """Collects the chunks to keep, and the problems of those left out."""

    def __init__(self, header_chunk: Chunk) -> None:
        self.chunks = [(header_chunk.name, header_chunk.body)]
        self.problems: list[str] = []
        self.is_cut_off = False
        self._order = Order(read_header(header_chunk.body))

    def add(self, chunk: Chunk) -> None:
        """Keep a chunk or leave it out."""
        name = chunk.name
        is_visible = name in PIXELS or name in APPEARANCE or name[:1].isupper()
        problem = chunk.problem
        if problem is None and is_visible:
            problem = self._find_problem(chunk)
        if problem is None:
            self.chunks.append((name, chunk.body))
            if is_visible:
                self._order.add(name, chunk.body)
        elif self._may_be_left_out(chunk):
            self.problems.append(problem)
            # Pixels may not continue after it.
            if is_visible:
                self._order.previous_name = name
        else:
            raise corrupt_png_error(problem)

    def end(self, chunk: Chunk) -> None:
        """Take the last chunk, which is IEND or cut off.

        Raises:
            InvalidImageError: If the file ends before its pixels.
        """
        if chunk.name == b"IDAT":
            if problem := self._order.find_problem(chunk.name, chunk.body):
                raise corrupt_png_error(problem)
            self.chunks.append((chunk.name, chunk.body))
        elif b"IDAT" not in self._order.names:
            raise corrupt_png_error(chunk.problem or "it has no IDAT chunk and therefore no pixels")
        self.is_cut_off = chunk.problem is not None or len(chunk.body) > 0

    def describe(self) -> Iterator[str]:
        """Yield the repairs, as parts of a sentence."""
        if self.problems:
            # A file may have thousands of bad chunks.
            names = ", ".join(self.problems[:_MAX_NAMED])
            rest = len(self.problems) - _MAX_NAMED
            yield f"left out bad chunks ({names}{f' and {rest:,} more' if rest > 0 else ''})"
        if self.is_cut_off:
            yield "added the missing end of the file"

    def _find_problem(self, chunk: Chunk) -> str | None:
        names = self._order.names
        if chunk.name != b"PLTE" or b"tRNS" not in names:
            return self._order.find_problem(chunk.name, chunk.body)
        # A valid palette discards transparency before it, and no second palette can follow.
        names.remove(b"tRNS")
        problem = self._order.find_problem(chunk.name, chunk.body)
        names.add(b"tRNS")
        if problem is None:
            self.chunks = [(name, body) for name, body in self.chunks if name != b"tRNS"]
            self.problems.append("tRNS comes before PLTE")
        return problem

    def _may_be_left_out(self, chunk: Chunk) -> bool:
        if chunk.name[:1].islower():
            return True
        # Unless the image is indexed, a palette only suggests colors.
        is_suggestion = chunk.name == b"PLTE" and self._order.header.color_type != INDEXED
        return is_suggestion and chunk.problem is None and b"PLTE" not in self._order.names
