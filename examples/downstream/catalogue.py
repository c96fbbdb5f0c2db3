"""A program written for the vendor's endpoint. It makes images for a catalogue."""

import base64
from pathlib import Path

import openai


class CatalogueError(Exception):
    """The images could not be made. The message says what to do."""


def fill(photo: Path, folder: Path, n: int = 2) -> list[Path]:
    """Save `n` variations of a photo in a folder, and return the paths.

    Raises:
        CatalogueError: If the server refuses the photo, or has no such endpoint.
    """
    with openai.OpenAI() as client:
        try:
            response = client.images.create_variation(
                image=photo, n=n, size="512x512", response_format="b64_json"
            )
        except openai.BadRequestError as error:
            raise CatalogueError(f"{photo.name} was refused: {error.message}") from error
        except openai.NotFoundError as error:
            raise CatalogueError("This server has no image variations; set another.") from error
    folder.mkdir(exist_ok=True)
    files = []
    for number, image in enumerate(response.data or [], 1):
        files.append(folder / f"{photo.stem}-{number}.png")
        files[-1].write_bytes(base64.b64decode(image.b64_json or ""))
    return files
