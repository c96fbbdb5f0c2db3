"""`CallInterrupt`: an interrupt that keeps the images of the call that it ended."""

from langchain_image_variation.contract import ImagesResponse

__all__ = ["CallInterrupt"]


class CallInterrupt(KeyboardInterrupt):
    """Raised by a billed engine instead of `KeyboardInterrupt` if some images are finished.

    Attributes:
        response: The images that are finished. Reading one of the others raises its error, as after
            a call that failed in part.
    """

    def __init__(self, response: ImagesResponse) -> None:
        super().__init__("The finished images are in the attribute `response`.")
        self.response = response
