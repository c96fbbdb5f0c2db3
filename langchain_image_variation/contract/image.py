"""`Image`: one variation in a response, and its bytes."""

import base64
import binascii
import copy

from pydantic import Field, PrivateAttr, field_validator

from langchain_image_variation.contract.lenient_body import LenientBody, OptionalText
from langchain_image_variation.exceptions import ImageVariationError, OutputError

__all__ = ["Image", "data_url"]


class Image(LenientBody):
    """One variation, in exactly one of two forms: `b64_json` or `url`."""

    b64_json: str | None = Field(default=None, repr=False)
    """The file's bytes in base64."""
    url: str | None = Field(default=None, repr=False)
    """Where the file is: an https URL, or a `data:` URL from an engine without a server."""
    revised_prompt: OptionalText = None
    """The prompt that a prompted model used. Variations have none."""

    @field_validator("b64_json", "url", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    _seed: int | None = PrivateAttr(default=None)
    _downloaded: bytes | None = PrivateAttr(default=None)
    _failure: ImageVariationError | None = PrivateAttr(default=None)

    @property
    def seed(self) -> int | None:
        """The seed that made this image, if the engine has seeds. It never goes on the wire."""
        return self._seed

    def set_seed(self, seed: int) -> None:
        """Keep the seed that made this image."""
        self._seed = seed

    @property
    def failure(self) -> ImageVariationError | None:
        """The error that `read` raises because the file could not be fetched, or None."""
        return self._failure

    def set_downloaded(self, data: bytes) -> None:
        """Keep the bytes of the file at `url`, so that `read` returns them."""
        self._downloaded = data

    def set_failure(self, error: ImageVariationError) -> None:
        """Make `read` raise an error, without the traceback that it has now."""
        # A traceback keeps the buffers of the failed download alive.
        self._failure = error.with_traceback(None)

    def set_png(self, png: bytes) -> None:
        """Replace the file and keep its form: downloaded, `b64_json` or a `data:` URL."""
        if self._downloaded is not None:
            self._downloaded = png
        elif self.b64_json:
            self.b64_json = base64.b64encode(png).decode("ascii")
        else:
            self.url = data_url(png)

    def use_data_url(self) -> None:
        """Turn the image into its other form: the file as a `data:` URL in `url`.

        Raises:
            ImageVariationError: See `read`.
        """
        self.url, self.b64_json = data_url(self.read()), None

    def use_base64(self) -> None:
        """Put the file into `b64_json`, whatever the form of the image was.

        Raises:
            ImageVariationError: See `read`.
        """
        self.b64_json, self.url = base64.b64encode(self.read()).decode("ascii"), None
        self._downloaded = None

    def read(self) -> bytes:
        """Return the bytes of the image file. This never sends a request.

        The bytes come from `b64_json`, from a `data:` URL, or from the download that the client
        made when it received the response, because URLs of results soon expire.

        Raises:
            OutputError: If there are no bytes, or they are not valid base64.
            DownloadError: If `url` could not be downloaded; `ExpiredURLError` if it had expired.
            EngineResponseError: If the server sent something other than an image.
        """
        if self._failure is not None:
            # Raising adds a traceback to an exception, so each reader gets a copy.
            raise copy.copy(self._failure)
        if self._downloaded is not None:
            return self._downloaded
        return _decode_base64(self._encoded())

    def read_head(self) -> bytes:
        """Return at least the first 24 bytes of the image file, without decoding all of it.

        The width and height of a PNG file are in these 24 bytes.

        Raises:
            ImageVariationError: See `read`.
        """
        if self._failure is not None or self._downloaded is not None:
            return self.read()
        head = "".join(self._encoded(_HEAD).split())
        return _decode_base64(head[: len(head) // 4 * 4])

    def _encoded(self, length: int | None = None) -> str:
        """Return the base64 in the first `length` characters of `b64_json` or of a `data:` URL."""
        encoded = (self.b64_json or self.url or "")[:length]
        if encoded.startswith("data:"):
            # Some gateways put a whole data: URL into b64_json.
            head, _, encoded = encoded.partition(",")
            if not head.endswith(";base64"):
                raise OutputError("The data: URL of the result is not in base64.")
        elif not self.b64_json:
            encoded = ""
        if not encoded:
            raise OutputError("The result has no image; request response_format 'b64_json'.")
        return encoded


_WHITE_SPACE = "\n\r\t "

_HEAD = 256
"""The number of characters of `b64_json` or `url` that `Image.read_head` reads."""


def _decode_base64(encoded: str) -> bytes:
    try:
        # Some servers wrap base64 in lines. Only then is it worth copying megabytes.
        if not any(blank in encoded for blank in _WHITE_SPACE):
            return base64.b64decode(encoded, validate=True)
        text = encoded.encode("ascii").translate(None, _WHITE_SPACE.encode("ascii"))
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise OutputError("The result is not valid base64.") from None


def data_url(png: bytes) -> str:
    """Return a PNG file as a `data:` URL."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
