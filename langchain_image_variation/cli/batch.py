"""`image-variation batch`: makes variations of many images."""

import argparse
import sys
from typing import TYPE_CHECKING

from langchain_image_variation.batch.variation_batch import VariationBatch
from langchain_image_variation.batch.workers import DEFAULT_CALLS
from langchain_image_variation.cli.download import download_model
from langchain_image_variation.cli.engine_options import (
    add_engine,
    collect_engine_options,
    requested_model,
    resolve_auto,
)
from langchain_image_variation.cli.exit_codes import SOME_FAILED, exit_after_signal, signal_code
from langchain_image_variation.cli.interrupts import Interrupts
from langchain_image_variation.cli.messages import name_options
from langchain_image_variation.cli.options import (
    add_fit,
    add_n,
    add_quiet,
    add_size,
    number,
    whole_number,
)
from langchain_image_variation.cli.output_dir import OUTPUT_DIR, add_output_dir, make_output_folder
from langchain_image_variation.cli.photo import STREAM
from langchain_image_variation.engines.loading import load_engine_class, make_engine
from langchain_image_variation.engines.traits import close_engine, loads_model
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    MissingExtraError,
    install_command,
)
from langchain_image_variation.files.outputs import OutputFolder
from langchain_image_variation.files.storage_policy import names_server
from langchain_image_variation.numbers import check_whole_number

if TYPE_CHECKING:
    from langchain_image_variation.batch.progress import RunSummary
    from langchain_image_variation.batch.ray.cluster import Cluster

__all__ = ["add_batch"]

_EXAMPLES = """\
examples:
  image-variation batch photos -n 4 --gallery
  image-variation batch "photos/**/*.jpg" list.csv -o varied --jsonl
"""


def add_batch(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `batch`."""
    parser.description = """\
Make variations of many images, with a manifest. If a run is interrupted, the same command makes
only what is missing."""
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "photos",
        nargs="+",
        metavar="PHOTOS",
        help="images, folders, glob patterns, or manifests (JSON Lines, CSV or Parquet with a "
        "column of paths and, optionally, n, size, seed and strength); or URLs of these, such as "
        "s3://bucket/photos",
    )
    add_n(parser)
    add_size(parser)
    add_engine(parser)
    add_fit(parser)
    add_output_dir(
        parser,
        "a folder, or the URL of a store, such as s3://bucket/out; an unfinished batch in it is "
        f"continued (default: {OUTPUT_DIR})",
        default=OUTPUT_DIR,
    )
    add(
        "--allow-storage",
        action="append",
        default=[],
        metavar="STORE",
        help="another kind of URL to allow, such as lakefs, or a server that manifests may name, "
        "such as sftp://nas.example; repeatable",
    )
    add(
        "--column",
        default="path",
        help="the column of a manifest that has the paths (default: path)",
    )
    add(
        "--jsonl",
        action="store_true",
        help="also write the manifest as JSON Lines, which is the default without pyarrow",
    )
    add(
        "--workers",
        type=whole_number,
        metavar="N",
        help="number of processes (default: the number of cores or, for an engine that computes on "
        "GPUs, of GPUs) or, for a hosted engine, of concurrent calls "
        f"(default: {DEFAULT_CALLS})",
    )
    add(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="run on a Ray cluster that shares these folders or can read these URLs (default: "
        "RAY_ADDRESS, or the cluster of this machine); --workers is then the number of Ray "
        "workers (default: its cores, or GPUs)",
    )
    add(
        "--gpus",
        type=number,
        metavar="G",
        help="GPUs for each Ray worker (default: 1 for an engine that computes on GPUs, if the "
        "cluster has any; otherwise 0)",
    )
    add(
        "--max-failures",
        type=whole_number,
        metavar="N",
        help="stop after this many images have failed",
    )
    add("--gallery", action="store_true", help="also write HTML pages with thumbnails")
    add_quiet(parser, "print only file names, failures and errors, without progress or summary")
    parser.set_defaults(run=_run_batch, parser=parser)


def _run_batch(arguments: argparse.Namespace) -> int:
    # Imported here because the other commands do not need these modules.
    from langchain_image_variation.batch.gallery import INDEX
    from langchain_image_variation.batch.inputs import Inputs
    from langchain_image_variation.batch.manifest import FAILED_SOURCES
    from langchain_image_variation.batch.progress import RunSummary
    from langchain_image_variation.batch.run import run_batch

    batch = _make_batch(arguments)
    manifests = _choose_manifests(arguments, batch)
    inputs = Inputs(
        arguments.photos,
        outputs=batch.outputs,
        column=arguments.column,
        policy=batch.storage_policy,
    )
    if isinstance(batch.outputs, OutputFolder):
        make_output_folder(batch.outputs.display_path(""))
    if arguments.ray is None:
        _download_model(arguments)
    interrupts = Interrupts()
    summary = RunSummary()
    with exit_after_signal(interrupts):
        try:
            with interrupts.handle_signals():
                run_batch(
                    inputs,
                    batch,
                    workers=_workers(arguments, batch),
                    manifests=manifests,
                    gallery=arguments.gallery,
                    max_failures=_check_at_least_1("max-failures", arguments.max_failures),
                    is_stopped=lambda: interrupts.signal is not None,
                    quiet=arguments.quiet,
                    summary=summary,
                )
        except ImageVariationError:
            # The images of this run may be paid for, and the error alone would not mention them.
            if not summary.is_empty:
                summary.is_complete = False
                _print_summary(summary, arguments)
            raise
        if summary.failures or not summary.is_complete or not arguments.quiet:
            _print_summary(summary, arguments)
        names = [*manifests, FAILED_SOURCES] if summary.failures else manifests
        if arguments.gallery and summary.is_complete:
            names = [*names, INDEX]
        print(*(batch.outputs.display_path(name) for name in names), sep="\n", flush=True)
    if interrupts.signal is not None:
        return signal_code(interrupts.signal)
    return SOME_FAILED if summary.failures else 0


def _make_batch(arguments: argparse.Namespace) -> VariationBatch:
    """Return the settings of the batch, and print why `auto` chose the engine.

    Raises:
        InvalidRequestError: If a setting is not valid.
        ImageVariationError: See `VariationBatch`.
    """
    if arguments.output_dir == STREAM:
        raise InvalidRequestError(
            "batch writes files; pass a folder or a URL to -o. `image-variation create` can write "
            "one image to standard output."
        )
    note = resolve_auto(arguments)
    if note and not arguments.quiet:
        print(note, file=sys.stderr)
    return VariationBatch(
        arguments.output_dir,
        engine=arguments.engine,
        options=collect_engine_options(arguments),
        n=arguments.n,
        size=arguments.size,
        fit=arguments.fit,
        model=requested_model(arguments),
        # If an input of the command names a server, rows may name it too.
        allow_storage=[*arguments.allow_storage, *filter(names_server, arguments.photos)],
    )


def _choose_manifests(arguments: argparse.Namespace, batch: VariationBatch) -> list[str]:
    """Return the names of the manifests to write.

    Raises:
        MissingExtraError: If an earlier run wrote a Parquet manifest, and pyarrow is not installed.
        OutputError: If the outputs cannot be read.
    """
    # Imported here because the other commands do not need it.
    from langchain_image_variation.batch.manifest import JSON_LINES, PARQUET, parquet_is_available

    manifests = [PARQUET] if parquet_is_available() else []
    # An existing JSON Lines manifest would otherwise become outdated.
    if arguments.jsonl or batch.outputs.has(JSON_LINES):
        manifests.append(JSON_LINES)
    if manifests:
        return manifests
    if batch.outputs.has(PARQUET):
        raise MissingExtraError(
            f"The output folder has a {PARQUET}, which needs the package 'pyarrow' to be kept up "
            "to date. It is not installed. Pass --jsonl for JSON Lines instead, or run: "
            f"{install_command('langchain-image-variation[batch]')}"
        )
    if not arguments.quiet:
        print(
            f"Writing {JSON_LINES} instead of {PARQUET}, because pyarrow is not installed.",
            file=sys.stderr,
        )
    return [JSON_LINES]


def _download_model(arguments: argparse.Namespace) -> None:
    """Download the engine's model before the workers start, if it loads one."""
    engine_class = load_engine_class(arguments.engine)
    if loads_model(engine_class):
        engine = make_engine(arguments.engine, engine_class, collect_engine_options(arguments))
        try:
            download_model(engine, quiet=arguments.quiet)
        finally:
            close_engine(engine)


def _print_summary(summary: "RunSummary", arguments: argparse.Namespace) -> None:
    lines = [
        f"{summary.images_made} made, {summary.images_kept} already there, "
        f"{summary.failures.total()} failed.",
        *(f"  {name_options(failure, arguments)}" for failure in summary.named_failures),
    ]
    if unnamed_count := summary.failures.total() - len(summary.named_failures):
        kinds = ", ".join(f"{kind} {count}" for kind, count in summary.failures.most_common())
        lines.append(f"  and {unnamed_count} more. All failures by kind: {kinds}.")
    if not summary.is_complete:
        lines.append("The batch is not complete. Run the same command again to continue.")
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def _workers(arguments: argparse.Namespace, batch: VariationBatch) -> "int | Cluster":
    workers = _check_at_least_1("workers", arguments.workers)
    if arguments.ray is not None:
        from langchain_image_variation.batch.ray.cluster import Cluster

        return Cluster(arguments.ray or None, workers, arguments.gpus)
    if arguments.gpus:
        raise InvalidRequestError("--gpus sets the GPUs of each Ray worker; add --ray.")
    if workers is not None:
        return workers
    from langchain_image_variation.batch.workers import default_worker_count

    return default_worker_count(batch.engine, batch.options)


def _check_at_least_1(name: str, value: int | None) -> int | None:
    return None if value is None else check_whole_number(f"--{name}", value, 1)
