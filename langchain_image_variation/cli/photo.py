"""The argument PHOTO of `create`: a file, a URL, or standard input."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_image_variation.cli.messages import name_path
from langchain_image_variation.exceptions import SourceError
from langchain_image_variation.source import Fit, Source, load_source

if TYPE_CHECKING:
    from langchain_image_variation.http.url_policy import URLPolicy

__all__ = ["STREAM", "load_photo", "name_photo", "photo_stem", "url_policy"]

STREAM = "-"
"""Stands for standard input as an image, and for standard output as the output folder."""


def photo_stem(photo: str) -> str:
    """Return what the names of the results begin with."""
    return "stdin" if photo == STREAM else Path(photo).stem


def load_photo(photo: str, *, fit: Fit, urls: "URLPolicy | None") -> Source:
    """Load the image that the argument names: a file, a URL, or standard input.

    Raises:
        ImageVariationError: See `load_source`.
    """
    if photo == STREAM:
        if sys.stdin is None or sys.stdin.isatty():
            raise SourceError(
                "- reads an image from standard input; pipe or redirect a file into it."
            )
        return load_source(sys.stdin.buffer, fit=fit, name="stdin")
    if os.path.isdir(photo):
        raise SourceError(
            f"{photo!r} is a folder. Pass images, or use `image-variation batch`, which varies "
            "whole folders."
        )
    return load_source(photo, fit=fit, urls=urls)


def name_photo(message: str, photo: str) -> str:
    """Return a message about a source with the image as the user named it."""
    if photo == STREAM:
        return message.replace("The source", "Standard input", 1)
    return name_path(message, photo)


def url_policy(hosts: list[str] | None) -> "URLPolicy | None":
    """Return the policy that allows images from these hosts, or None if none are allowed."""
    if hosts is None:
        return None
    # Imported here because few runs need it, and httpx is slow to import.
    from langchain_image_variation.http.url_policy import URLPolicy

    return URLPolicy(hosts=hosts)
