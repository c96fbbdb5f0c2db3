"""Downloads models: announces what is downloaded, and shows the progress."""

import logging
import os
import sys

from tqdm import tqdm

from langchain_image_variation.engines.traits import PendingDownload, plan_download
from langchain_image_variation.progress_bar import redraw_regularly, terminal_width

__all__ = ["download_model", "run_download"]


def download_model(engine: object, *, quiet: bool = False) -> None:
    """Download what an engine needs and does not have, if anything.

    Args:
        engine: Any engine.
        quiet: Whether to show neither the announcement nor the progress.

    Raises:
        ImageVariationError: If the download fails.
    """
    download = plan_download(engine)
    if download is not None:
        run_download(download, quiet=quiet)


def run_download(download: PendingDownload, *, quiet: bool) -> None:
    """Say what is about to be downloaded, and download it with a progress bar.

    Args:
        download: What to download.
        quiet: Whether to show neither.

    Raises:
        ImageVariationError: If the download fails.
        KeyboardInterrupt: If the user interrupts it. What has arrived is kept.
    """
    # Imported here because few commands download anything.
    from langchain_image_variation.engines.diffusers.byte_sizes import describe_bytes

    # The library logs each retry, with addresses that are secret for a while.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if download.missing_bytes and not quiet:
        # Another bar may be on the screen.
        with tqdm.external_write_mode(file=sys.stderr):
            print(
                f"Downloading the model {download.model!r}: "
                f"{describe_bytes(download.missing_bytes)} from {' and '.join(download.pages)}. "
                f"License: {download.license}. If you interrupt this, the next run continues.",
                file=sys.stderr,
                flush=True,
            )
    with (
        tqdm(
            desc=download.model,
            file=sys.stderr,
            disable=quiet or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb",
            leave=False,
            ncols=terminal_width(),
            unit="B",
            unit_scale=True,
        ) as bar,
        redraw_regularly(bar),
    ):

        def show(bytes_done: int, total: int) -> None:
            if bar.total is None:
                # Bytes that were here before must not count toward the speed.
                bar.total, bar.initial, bar.n = total, bytes_done, bytes_done
            bar.update(bytes_done - bar.n)

        download.run(show)
