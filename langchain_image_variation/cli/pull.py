"""`image-variation pull`: downloads a model ahead of its first use."""

import argparse
import shlex
import sys

from langchain_image_variation.cli.download import run_download
from langchain_image_variation.cli.engine_options import add_revision
from langchain_image_variation.cli.extras import translate_import_errors
from langchain_image_variation.cli.options import add_quiet
from langchain_image_variation.engines.options import DTYPES

__all__ = ["add_pull"]


def add_pull(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pull`."""
    parser.description = (
        "Download a model for the engine diffusers, or bring it up to date. The files go to the "
        "cache that all programs of Hugging Face share. HF_HUB_CACHE can move it."
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a preset, which `image-variation engines` lists, or a repository of the Hugging Face "
        "Hub as OWNER/NAME",
    )
    add_revision(parser)
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="download the files for this precision; float16 uses half-size files where the model "
        "has them (default: auto, by the device of this machine)",
    )
    add_quiet(parser, "print only errors")
    parser.set_defaults(run=_run_pull, parser=parser)


def _run_pull(arguments: argparse.Namespace) -> None:
    # Imported here because the other commands do not need it.
    from langchain_image_variation.engines.diffusers.model_download import plan_model_download

    with translate_import_errors("diffusers"):
        download = plan_model_download(arguments.model, arguments.revision, dtype=arguments.dtype)
        is_complete = not download.missing_bytes
        run_download(download, quiet=arguments.quiet)
    if not arguments.quiet:
        words = ["image-variation", "create", "PHOTO", "--engine", "diffusers"]
        words += ["--model", arguments.model]
        if arguments.revision is not None:
            words += ["--revision", arguments.revision]
        state = "was already here and is up to date" if is_complete else "is complete"
        print(
            f"The model {download.model!r} {state}. To use it: {shlex.join(words)}",
            file=sys.stderr,
        )
