"""Opens what a conversation has stored: its results and its uploads."""

from pathlib import Path, PurePath, PurePosixPath

from langchain_image_variation.agents.conversation import Conversation, scope_name
from langchain_image_variation.agents.image_folder import ImageFolder
from langchain_image_variation.agents.message_image import MessageImage
from langchain_image_variation.agents.results import ResultFolder, Results
from langchain_image_variation.agents.settings import ToolSettings
from langchain_image_variation.agents.stored_results import ResultStorage
from langchain_image_variation.agents.uploads import UploadLimits, Uploads
from langchain_image_variation.files.storage_urls import is_url

__all__ = ["delete_conversation", "keep_images", "open_results", "open_uploads"]


def open_results(settings: ToolSettings, conversation: Conversation | None) -> Results:
    """Return the results of a conversation, or all results if there is none.

    Raises:
        ImageVariationError: See `check_settings`.
    """
    image_folder = ImageFolder(Path(settings.root_dir))
    scope = conversation.scope if conversation is not None else None
    max_results = settings.max_results
    if is_url(settings.output_dir):
        url, options = str(settings.output_dir), settings.storage_options
        return ResultStorage(image_folder, url, options, scope=scope, max_results=max_results)
    output_dir = PurePosixPath(PurePath(settings.output_dir).as_posix())
    return ResultFolder(image_folder, output_dir, scope=scope, max_results=max_results)


def open_uploads(settings: ToolSettings, results: Results) -> Uploads | None:
    """Return the uploads of a conversation, or None if it does not have its own folder."""
    limits = UploadLimits(settings.max_uploads, settings.max_upload_bytes, settings.max_upload_age)
    return results.open_uploads(limits)


def delete_conversation(settings: ToolSettings, conversation_id: str) -> None:
    """Delete the results and the uploads of a conversation, and its folders if they are then empty.

    Args:
        settings: The settings of the tool.
        conversation_id: The identity of the conversation, which names its folder.

    Raises:
        OutputError: If a file cannot be deleted, or if a folder of the conversation is a link.
        SourceError: If there is no `root_dir`, or if `output_dir` leads out of it.
    """
    results = open_results(settings, Conversation(scope=scope_name(conversation_id)))
    uploads = open_uploads(settings, results)
    if uploads is not None:
        uploads.delete_all()
    results.delete_all()


def keep_images(settings: ToolSettings, conversation: Conversation) -> None:
    """Keep the images in a conversation's messages, as a call of the tool does.

    Args:
        settings: The settings of the tool.
        conversation: The conversation. Without a scope, nothing is kept.

    Raises:
        ImageVariationError: If the folder for results cannot be opened; see `check_settings`.
    """
    if conversation.scope is None:
        return
    uploads = open_uploads(settings, open_results(settings, conversation))
    if uploads is not None:
        images = [image for image in conversation.images if isinstance(image, MessageImage)]
        uploads.keep(images, used_name=None)
