"""Removes the variations that failed from a response, and describes them to the model."""

from langchain_image_variation.agents.failure_log import log_failure, log_refusal
from langchain_image_variation.agents.failures import text_for_model
from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.engines.failed_images import finished_images
from langchain_image_variation.exceptions import ContentPolicyError

__all__ = ["keep_finished"]


def keep_finished(
    response: ImagesResponse, conversation_folder: str | None, *, is_awaited: bool
) -> tuple[ImagesResponse, str | None]:
    """Return a response without the images that failed, and a sentence for the model about them.

    If no image or every image failed, the response is returned as it is, without a sentence.

    Args:
        response: The response.
        conversation_folder: As for `log_failure`.
        is_awaited: Whether to log the first failure. If nobody waits for the images, the missing
            ones did not fail: they were given up.
    """
    failures = [image.failure for image in response.data if image.failure is not None]
    n = len(response.data)
    if len(failures) in (0, n):
        return response, None
    failure = failures[0]
    if is_awaited and isinstance(failure, ContentPolicyError):
        log_refusal(failure, conversation_folder)
    elif is_awaited:
        log_failure(failure, conversation_folder)
    text = f"{len(failures)} of {n} variations failed: {text_for_model(failure)}"
    return response.model_copy(update={"data": finished_images(response)}), text
