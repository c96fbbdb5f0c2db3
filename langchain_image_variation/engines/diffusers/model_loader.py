"""`ModelLoader`: loads the model that an engine's options describe, and places it on a device."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from langchain_image_variation.engines.context import progress_reporter
from langchain_image_variation.engines.diffusers.devices import choose_device, import_torch
from langchain_image_variation.engines.diffusers.families import load_family
from langchain_image_variation.engines.diffusers.families.family import Family, Pipelines
from langchain_image_variation.engines.diffusers.families.pipeline import quiet_loading
from langchain_image_variation.engines.diffusers.hub_errors import pull_command
from langchain_image_variation.engines.diffusers.load_options import LoadOptions
from langchain_image_variation.engines.diffusers.main_memory import (
    check_main_memory,
    main_memory_hint,
)
from langchain_image_variation.engines.diffusers.models import Model, model_name, read_model
from langchain_image_variation.engines.diffusers.placed_model import PlacedModel, is_out_of_memory
from langchain_image_variation.engines.diffusers.placement import Workload, plan_placement
from langchain_image_variation.engines.diffusers.precision import model_dtype
from langchain_image_variation.engines.diffusers.presets import Part, Preset
from langchain_image_variation.engines.diffusers.repository import find_folders
from langchain_image_variation.engines.diffusers.shared_models import is_forked_child
from langchain_image_variation.engines.diffusers.weight_files import find_corrupt_file
from langchain_image_variation.exceptions import (
    EngineError,
    ImageVariationError,
    InvalidRequestError,
)

__all__ = ["LoadedModel", "ModelLoader"]


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, and how to use it."""

    preset: Preset
    family: Family
    loaded: Pipelines


class ModelLoader:
    """Loads a model: finds its files, reads them, and places it on the device.

    Args:
        options: Which model, and how to load it.
    """

    def __init__(self, options: LoadOptions) -> None:
        self._options = options
        self._model: Model | None = None
        self._folders: Mapping[str, Path] = {}
        self._dtype = ""

    def device_name(self) -> str:
        """Return the device that the model uses, such as "cuda:0".

        Raises:
            InvalidRequestError: If there is no such device.
            MissingExtraError: If torch is not installed.
        """
        return choose_device(self._options.device).name

    def check_options(self, preset: Preset, model: str) -> str:
        """Refuse options that do not fit the device or the model, before anything is downloaded.

        Args:
            preset: How the model works.
            model: The name of the model, for messages.

        Returns:
            The type of the numbers that the model computes with, as torch names it.

        Raises:
            InvalidRequestError: If they do not fit. `param` names the option.
            MissingExtraError: If torch is not installed.
        """
        options = self._options
        dtype = model_dtype(preset, device=options.device, dtype=options.dtype)
        if options.scheduler == "dpm-solver++" and not load_family(preset.family).takes_dpm_solver:
            raise InvalidRequestError(
                f"The model {model!r} cannot draw with the scheduler {options.scheduler!r}. Leave "
                "out the option scheduler.",
                param="scheduler",
            )
        return dtype

    def fetch(self) -> None:
        """Find the files of the model, and download those that are missing if that is allowed.

        Raises:
            InvalidRequestError: See `check_options`.
            ImageVariationError: See `read_model` and `find_folders`.
        """
        model = read_model(self._options.model, self._options.revision, self._find_folders)
        self._dtype = self.check_options(model.preset, model.name)
        folders = (
            self._find_folders(model.parts, float16=self._dtype == "float16") if model.parts else {}
        )
        self._model, self._folders = model, {**model.folders, **folders}

    def load(self) -> PlacedModel[LoadedModel]:
        """Return the model, on its device.

        Raises:
            EngineError: If the files are corrupt, if the memory is too small, or if the call was
                cancelled.
        """
        assert self._model is not None, "fetch comes first"
        torch = import_torch()
        if is_forked_child():
            # If the parent computed with several threads, the child would wait for them forever.
            # https://github.com/pytorch/pytorch/issues/58962
            torch.set_num_threads(1)
        options, preset, dtype = self._options, self._model.preset, self._dtype
        device = choose_device(options.device)
        family = load_family(preset.family)
        hardware = device.hardware
        check_main_memory(
            self._model.name,
            self._folders.values(),
            dtype,
            hardware.free_bytes("cpu") + hardware.free_swap_bytes(),
        )
        try:
            with quiet_loading():
                loaded = family.load(
                    self._folders,
                    getattr(torch, dtype),
                    safety=options.safety,
                    scheduler=options.scheduler,
                )
        except Exception as error:
            if isinstance(error, ImageVariationError) or progress_reporter().listener_failed:
                raise
            raise self._make_error(error, dtype) from error
        workload = Workload.measure(loaded.pipelines, family.side(loaded), dtype)
        placement = plan_placement(
            device,
            workload,
            offload=options.offload,
            batch=options.batch if family.batches else 1,
        )
        return PlacedModel(
            LoadedModel(preset, family, loaded),
            loaded.pipelines,
            placement,
            may_offload=options.offload == "auto",
        )

    def _find_folders(
        self, parts: tuple[Part, ...], *, float16: bool = False
    ) -> Mapping[str, Path]:
        options = self._options
        return find_folders(
            parts,
            model=model_name(options.model),
            cache_dir=options.cache_dir,
            token=options.token,
            revision=options.revision,
            download=options.download,
            float16=float16,
        )

    def _make_error(self, error: Exception, dtype: str) -> EngineError:
        """Return the error for one of diffusers, transformers or torch, without its text.

        Args:
            error: Its error.
            dtype: The type of the model's numbers in memory.
        """
        name = model_name(self._options.model)
        if is_out_of_memory(error):
            return EngineError(
                f"The main memory is too small to load the model {name!r}.",
                hint=main_memory_hint(dtype),
            )
        if isinstance(error, ImportError):
            return EngineError(
                f"The engine 'diffusers' cannot import {error.name or 'a package'}, which is "
                "installed but broken, or too old for the others. Install the extra again."
            )
        assert self._model is not None, "fetch comes first"
        for part, folder in self._folders.items():
            file = find_corrupt_file(folder)
            if file is not None:
                repositories = {part.name: part.repository for part in self._model.parts}
                command = pull_command(name, self._options.revision)
                return _corrupt_file_error(name, file, repositories.get(part), command)
        return EngineError(
            f"The files of the model {name!r} cannot be loaded: {type(error).__name__}. Some "
            "do not fit the others, or are of a kind that is not known. Download or save the model "
            "again."
        )


def _corrupt_file_error(model: str, file: str, repository: str | None, command: str) -> EngineError:
    """Return the error for a corrupt file, which belongs to a repository or to a user's folder."""
    message = f"The file {file!r} of the model {model!r} is missing or corrupt."
    if repository is None:
        return EngineError(message, hint="Save the model again, or copy its folder again.")
    return EngineError(
        message,
        hint=f"Run `hf cache rm model/{repository}`, then `{command}`.",
    )
