"""The extras that a command needs."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from langchain_image_variation.exceptions import MissingExtraError, install_command

__all__ = ["translate_import_errors"]


@contextmanager
def translate_import_errors(extra: str, engines: Collection[str] = ()) -> Iterator[None]:
    """Name the extras to install if an import in the block fails.

    Args:
        extra: The extra that the block needs.
        engines: The names of the engines that the command runs next. One command installs what they
            need too.

    Raises:
        MissingExtraError: If a package is not installed.
    """
    try:
        yield
    except ImportError as error:
        # Imported here because only errors need it.
        from langchain_image_variation.engines.diffusers.packages import missing_packages

        requirement = f"langchain-image-variation[{extra}]"
        all_requirements = requirement
        if "diffusers" in engines and missing_packages():
            all_requirements = f"langchain-image-variation[{extra},diffusers]"
        if isinstance(error, MissingExtraError):
            error.message = error.message.replace(
                install_command(requirement), install_command(all_requirements)
            )
            raise
        raise MissingExtraError.for_package("This command", error.name, all_requirements) from None
