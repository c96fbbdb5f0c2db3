"""One run of `image-variation create`: it varies each image, and prints what it saved."""

import argparse
import json
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_image_variation.batch.variation_batch import FATAL_ERRORS
from langchain_image_variation.cancellation import stop_when
from langchain_image_variation.cli.download import download_model
from langchain_image_variation.cli.engine_options import (
    collect_engine_options,
    requested_model,
    resolve_auto,
)
from langchain_image_variation.cli.interrupts import Interrupts
from langchain_image_variation.cli.messages import display_name, name_options
from langchain_image_variation.cli.output_dir import OUTPUT_DIR, make_output_folder
from langchain_image_variation.cli.photo import STREAM, load_photo, name_photo, url_policy
from langchain_image_variation.cli.progress import ProgressBar
from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.engines.auto import AUTO
from langchain_image_variation.engines.call import call_engine
from langchain_image_variation.engines.context import ProgressListener
from langchain_image_variation.engines.loading import load_engine_class, make_engine
from langchain_image_variation.engines.traits import (
    close_engine,
    engine_base_url,
    engine_options,
    has_costly_seeds,
)
from langchain_image_variation.exceptions import (
    ImageVariationError,
    InvalidRequestError,
    OutputError,
)
from langchain_image_variation.output import cut_back, save_images
from langchain_image_variation.output.contact_sheet import ContactSheet
from langchain_image_variation.output.file_format import FileFormat
from langchain_image_variation.output.names import NameTemplate
from langchain_image_variation.source import Source

if TYPE_CHECKING:
    from langchain_image_variation.engines import VariationEngine
    from langchain_image_variation.http.url_policy import URLPolicy

__all__ = ["CreateRun"]

_SEED_BITS = 31


class CreateRun:
    """One run of `create`. Its images share the engine, the folder and the progress bar.

    Args:
        arguments: The arguments of the command, checked.
        bar: Shows the progress of the run.
        interrupts: Handles signals during calls of hosted engines.
    """

    def __init__(
        self, arguments: argparse.Namespace, bar: ProgressBar, interrupts: Interrupts
    ) -> None:
        self.files_to_open: list[Path] = []
        self._arguments = arguments
        self._photos: list[str] = arguments.photos
        self._bar = bar
        self._seed: int | None = None
        self._is_auto = arguments.engine == AUTO
        self._model: str | None = None
        self._engine_note: str | None = None
        self._has_results = False
        self._interrupts = interrupts

    def vary_all(self) -> int:
        """Vary each image and print its results. Return for how many images some or all failed.

        If a signal comes during a call of a hosted engine, the variations that are finished or
        paid for are kept, and the other images are not varied.

        Raises:
            ImageVariationError: If the only image fails, or an error would repeat for each image.
        """
        urls = url_policy(self._arguments.allow_host)
        failures = 0
        try:
            for photo in self._photos:
                failures += not self._vary_photo(photo, urls)
                if self._interrupts.signal is not None:
                    break
            return failures
        finally:
            # Also if the run ends early, because the images so far may be paid for.
            if self._has_results:
                self._print_final_notes()

    def _vary_photo(self, photo: str, urls: "URLPolicy | None") -> bool:
        """Vary an image and print its results, or its error. Return whether all of it succeeded.

        Raises:
            ImageVariationError: See `vary_all`.
        """
        is_only_one = len(self._photos) == 1
        listener = self._bar.start()
        failure: ImageVariationError | None
        try:
            source = load_photo(photo, fit=self._arguments.fit, urls=urls)
        except ImageVariationError as error:
            error.message = name_photo(error.message, photo)
            self._name_in_message(error, photo)
            if is_only_one:
                raise
            failure = error
        else:
            # Created now, so that a wrong option causes one error instead of one per image.
            engine, folder = self._engine, self._folder
            try:
                with self._keep_paid_images(engine):
                    failure = self._vary(source, engine, folder, listener)
                self._has_results = True
            except FATAL_ERRORS:
                raise
            except ImageVariationError as error:
                if is_only_one and self._interrupts.signal is None:
                    raise
                failure = error
            if failure is not None and not is_only_one:
                self._name_in_message(failure, photo)
        if failure is not None:
            with self._bar.hide():
                message = name_options(failure.message, self._arguments)
                print(f"image-variation: {message}", file=sys.stderr)
        self._bar.finish()
        return failure is None

    @contextmanager
    def _keep_paid_images(self, engine: "VariationEngine") -> Iterator[None]:
        """Let a signal stop the engine's call, if it is billed, instead of ending the program."""
        if engine_base_url(engine) is None:
            yield
            return
        interrupts = self._interrupts
        with interrupts.handle_signals(), stop_when(lambda: interrupts.signal is not None):
            yield

    def _print_final_notes(self) -> None:
        """Print which model made the images, and how to make them again."""
        if self._model not in (None, self._arguments.engine):
            self._print_note(f"Made by {self._arguments.engine} with the model {self._model}.")
        if self._seed is not None and self._arguments.seed is None:
            # Tomorrow, another engine may be the best one.
            options = f"--engine {self._arguments.engine} " if self._is_auto else ""
            self._print_note(f"Make these again with {options}--seed {self._seed}.")

    def _name_in_message(self, error: ImageVariationError, photo: str) -> None:
        """Begin the message of an error with its image, unless it names the image already."""
        name = display_name(photo)
        message = name_options(error.message, self._arguments)
        quoted_name = name if name.startswith(("'", '"')) else repr(name)
        is_named = quoted_name in message or message.startswith("Standard input ")
        error.message = message if is_named else f"{name}: {message}"

    def close(self) -> None:
        """Close the engine, if it was needed."""
        if "_engine" in vars(self):
            close_engine(self._engine)

    @cached_property
    def _engine(self) -> "VariationEngine":
        arguments = self._arguments
        if note := resolve_auto(arguments):
            self._print_note(note)
        engine_class = load_engine_class(arguments.engine)
        has_seeds = "seed" in engine_options(engine_class)
        options = collect_engine_options(arguments)
        if arguments.api_key is not None:
            options["api_key"] = arguments.api_key
        names_seeds = "seed" in NameTemplate(arguments.name).fields
        if names_seeds and not has_seeds:
            raise InvalidRequestError(
                f"--name has {{seed}}, but the engine {arguments.engine!r} has no seeds."
            )
        is_drawn = len(self._photos) > 1 and not has_costly_seeds(engine_class)
        if has_seeds and "seed" not in options and (names_seeds or is_drawn):
            # With one seed for all images, one command makes all of them again.
            self._seed = options["seed"] = secrets.randbits(_SEED_BITS)
        engine = make_engine(arguments.engine, engine_class, options)
        download_model(engine, quiet=arguments.quiet)
        return engine

    @cached_property
    def _folder(self) -> Path | None:
        directory: str | None = self._arguments.output_dir
        if directory == STREAM or (directory is None and self._arguments.json):
            return None
        return make_output_folder(OUTPUT_DIR if directory is None else directory)

    def _vary(
        self,
        source: Source,
        engine: "VariationEngine",
        folder: Path | None,
        listener: ProgressListener,
    ) -> ImageVariationError | None:
        """Vary an image and print its results. Return the error if some of them failed.

        Raises:
            ImageVariationError: If there are no results.
        """
        arguments = self._arguments
        model: Any = requested_model(arguments)
        request = CreateImageVariationRequest(
            image=source.png,
            model=model,
            n=arguments.n,
            response_format=arguments.response_format,
            size=arguments.size,
            user=arguments.user,
        )
        response = cut_back(call_engine(engine, request, progress=listener), source)
        self._model = response.model
        self._seed = _first_seed(response) if self._seed is None else self._seed
        images = [image for image in response.data if image.url or image.b64_json]
        failures = [image.failure for image in response.data if not (image.url or image.b64_json)]
        failure = next(filter(None, failures), None)
        if failure is not None and not images:
            raise failure
        paths: list[Path] = []
        try:
            # Saved before anything is printed, because the images may be paid for.
            if folder is not None:
                self._save(source, response, folder, paths)
        except OutputError as error:
            if not (paths or arguments.json):
                raise
            failure = error
        finally:
            # Also after Ctrl-C, because these files exist.
            self._print_notes(source, response)
            if not arguments.json:
                self._print_paths(paths)
        if arguments.json:
            self._print_response(response.model_copy(update={"data": images}))
        elif folder is None:
            self._print_image(response)
        return failure

    def _print_notes(self, source: Source, response: ImagesResponse) -> None:
        """Print the notes of the source and the engine, unless they are printed already."""
        if source.note:
            self._print_note(source.note)
        if response.note and response.note != self._engine_note:
            # It is usually the same for all images. If it is not, it is about this one.
            is_about_one = self._engine_note is not None
            self._print_note(f"{source.name}: {response.note}" if is_about_one else response.note)
            self._engine_note = response.note

    def _print_response(self, response: ImagesResponse) -> None:
        """Print the response in the chosen style."""
        with self._bar.hide():
            print(self._text(response), flush=True)

    def _print_paths(self, paths: Sequence[Path]) -> None:
        """Print the paths of saved files."""
        with self._bar.hide():
            for path in paths:
                print(path, flush=True)

    def _print_image(self, response: ImagesResponse) -> None:
        """Write the only image to standard output."""
        data, _ = self._file_format.convert(response.data[0].read())
        with self._bar.hide():
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    def _text(self, response: ImagesResponse) -> str:
        """Return the response as text, with what does not go on the wire unless it is raw."""
        style = self._arguments.response_style
        if style == "raw":
            return response.to_json().rstrip("\n")
        facts = {
            "engine": self._arguments.engine,
            "model": response.model,
            "note": response.note,
        }
        named_facts = {name: value for name, value in facts.items() if value is not None}
        content = json.loads(response.to_json()) | named_facts
        if style == "yaml":
            # Imported here because few runs need it.
            import yaml

            text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
            return text.rstrip("\n")
        return json.dumps(content, indent=None if style == "jsonl" else 2)

    def _save(
        self, source: Source, response: ImagesResponse, folder: Path, paths: list[Path]
    ) -> None:
        """Save the images, and a contact sheet if there is one of each.

        Args:
            source: The source of the images.
            response: The response.
            folder: The folder for the files.
            paths: Gets the path of each file that was written, even if a later one fails.

        Raises:
            OutputError: If an image cannot be read or saved.
        """
        arguments = self._arguments
        style: dict[str, Any] = {
            "name": source.name,
            "template": arguments.name,
            "format": arguments.format,
            "quality": arguments.quality,
        }
        has_sheet = False
        try:
            save_images(response, folder, **style, report=lambda image: paths.append(image.path))
            if not arguments.no_sheet:
                paths.append(ContactSheet(source, response).save(folder, **style))
                has_sheet = True
        finally:
            self.files_to_open += paths[-1:] if has_sheet else paths

    @property
    def _file_format(self) -> FileFormat:
        return FileFormat(self._arguments.format, self._arguments.quality)

    def _print_note(self, note: str) -> None:
        if not self._arguments.quiet:
            with self._bar.hide():
                print(note, file=sys.stderr)


def _first_seed(response: ImagesResponse) -> int | None:
    """Return the seed of the first image, even if that image failed. None if there are no seeds."""
    # Image i of a seed is image 1 of the seed + i - 1.
    seeds = (image.seed - i for i, image in enumerate(response.data) if image.seed is not None)
    return next(seeds, None)
