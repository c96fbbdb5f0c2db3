"""Removes the variations that failed from a response, and describes them to the model."""

from langchain_image_variation.agents.failure_log import log_failure, log_refusal
from langchain_image_variation.agents.failures import text_for_model
from langchain_image_variation.contract import ImagesResponse
from langchain_image_variation.engines.failed_images import finished_images
from langchain_image_variation.exceptions import ContentPolicyError

__all__ = ["keep_finished"]


def keep_finished(response: ImagesResponse) -> tuple[ImagesResponse, str | None]:
    """Return a response without the images that failed, and a sentence for the model about them.

    The first failure is logged. If no image or every image failed, the response is returned as it
    is, without a sentence.
    """
    failures = [image.failure for image in response.data if image.failure is not None]
    n = len(response.data)
    if len(failures) in (0, n):
        return response, None
    failure = failures[0]
    if isinstance(failure, ContentPolicyError):
        log_refusal(failure, None)
    else:
        log_failure(failure, None)
    text = f"{len(failures)} of {n} variations failed: {text_for_model(failure)}"
    return response.model_copy(update={"data": finished_images(response)}), text
