"""The repositories of models: finds their files in the cache, and downloads those that are missing.

Nothing is downloaded unless the caller says so. What is in the cache is used without asking the
Hub, so a model works offline once it is complete.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from langchain_image_variation.engines.diffusers.byte_sizes import describe_bytes
from langchain_image_variation.engines.diffusers.hub_errors import (
    ANOTHER_FOLDER,
    half_precision_error,
    hub_page,
    pull_command,
    translate_hub_errors,
)
from langchain_image_variation.engines.diffusers.model_cache import (
    CacheDir,
    cached_folder,
    check_writable,
    choose_part_files,
    delete_file,
    existing_folder,
    is_here,
    is_whole,
    missing_bytes,
    repository_dir,
)
from langchain_image_variation.engines.diffusers.transfer import (
    ByteCount,
    RemoteFile,
    fetch_blob,
)
from langchain_image_variation.exceptions import (
    EngineConnectionError,
    ModelNotDownloadedError,
    OutputError,
)

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

    from langchain_image_variation.engines.diffusers.presets import Part

__all__ = [
    "Download",
    "DownloadListener",
    "find_folders",
    "plan_download",
]

DownloadListener: TypeAlias = Callable[[int, int], object]
"""Called with the bytes that have been downloaded and with the bytes of the whole download. An
error that it raises stops the download."""


def find_folders(
    parts: Sequence["Part"],
    *,
    model: str,
    cache_dir: CacheDir = None,
    token: str | None = None,
    revision: str | None = None,
    download: bool = False,
    float16: bool = False,
    listener: DownloadListener | None = None,
) -> dict[str, Path]:
    """Return the folder of each part of a model, by the name of the part.

    Args:
        parts: The parts of the model.
        model: Its name, for messages.
        cache_dir: See `CacheDir`.
        token: Identifies the user at the Hub. None means `HF_TOKEN`, or the login of `hf auth`.
        revision: The revision that the user named, if any, for messages.
        download: Whether to download what is missing.
        float16: See `cached_folder`.
        listener: Called with the progress of a download. See `Download.run`.

    Raises:
        ModelNotDownloadedError: If a file is missing, and `download` is False or `HF_HUB_OFFLINE`
            is set.
        ImageVariationError: See `plan_download` and `Download.run`.
    """
    from huggingface_hub import constants

    folders = {part.name: cached_folder(part, cache_dir, float16=float16) for part in parts}
    found_folders = {name: folder for name, folder in folders.items() if folder is not None}
    if len(found_folders) == len(parts):
        return found_folders
    if constants.HF_HUB_OFFLINE or not download:
        if all(cached_folder(part, cache_dir, float16=True) is not None for part in parts):
            raise half_precision_error(model, revision)
    if not download:
        raise ModelNotDownloadedError(
            f"The model {model!r} is not on this machine yet.",
            hint=f"Run `{pull_command(model, revision)}`, or pass download=True.",
        )
    return plan_download(
        parts, model=model, cache_dir=cache_dir, token=token, prefers_float16=lambda: float16
    ).run(listener)


def plan_download(
    parts: Sequence["Part"],
    *,
    model: str,
    cache_dir: CacheDir = None,
    token: str | None = None,
    endpoint: str | None = None,
    license: str = "see its page",
    prefers_float16: Callable[[], bool] = lambda: False,
) -> "Download":
    """Ask the Hub for the files of a model, and return which of them are missing here.

    Args:
        parts: The parts of the model.
        model: Its name, for messages.
        cache_dir: See `CacheDir`.
        token: See `find_folders`.
        endpoint: The Hub's address. None means `HF_ENDPOINT`, or huggingface.co.
        license: The name of the model's license, for the user.
        prefers_float16: Returns whether to choose files in half precision, unless less of the
            others is missing. Called only if a repository has such files.

    Raises:
        AuthenticationError: If the Hub wants a token, or a license to be accepted.
        PermissionDeniedError: If the account of the token may not read a repository.
        ModelNotFoundError: If a repository or its revision does not exist.
        InvalidRequestError: If a repository has no files that may be used.
        RateLimitError: If the Hub gets too many requests.
        EngineConnectionError: If the Hub cannot be reached, or fails.
        ModelNotDownloadedError: If `HF_HUB_OFFLINE` is set.
        OutputError: If something is missing, and the cache cannot be written to.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=endpoint, token=token)
    files: dict[str, list[RemoteFile]] = {}
    for part in parts:
        with translate_hub_errors(model, part.repository, part.revision, endpoint=endpoint):
            if cached_folder(part, cache_dir, float16=True) is None:
                check_writable(cache_dir)
            info = api.model_info(
                part.repository,
                revision=part.revision,
                files_metadata=True,
                timeout=constants.HF_HUB_ETAG_TIMEOUT,
            )
        chosen_files = _remote_files(part, info)
        halved_files = _remote_files(part, info, float16=True)
        if halved_files != chosen_files and prefers_float16():
            # A branch that has moved may still have the files that are here.
            are_here = all(is_here(file, cache_dir) for file in chosen_files)
            halved_bytes = missing_bytes(halved_files, cache_dir)
            if not are_here and halved_bytes <= missing_bytes(chosen_files, cache_dir):
                chosen_files = halved_files
        files[part.name] = chosen_files
    return Download(tuple(parts), files, model, license, cache_dir, token, endpoint)


@dataclass(frozen=True)
class Download:
    """What must be downloaded before a model can be used.

    Attributes:
        parts: The parts of the model.
        files: The files of each part, by the part's name, whether or not they are missing.
        model: The name of the model.
        license: The name of its license.
        cache_dir: See `CacheDir`.
        token: See `find_folders`.
        endpoint: See `plan_download`.
    """

    parts: tuple["Part", ...]
    files: Mapping[str, Sequence[RemoteFile]]
    model: str
    license: str
    cache_dir: CacheDir = None
    token: str | None = field(default=None, repr=False)
    endpoint: str | None = None

    @cached_property
    def missing_bytes(self) -> int:
        """How many bytes are not here yet. What an interrupted download has left is here."""
        return missing_bytes(self._distinct_files, self.cache_dir)

    @property
    def pages(self) -> list[str]:
        """The addresses of the repositories' pages at the Hub."""
        repositories = dict.fromkeys(part.repository for part in self.parts)
        return [hub_page(repository, self.endpoint) for repository in repositories]

    def run(self, listener: DownloadListener | None = None) -> dict[str, Path]:
        """Download what is missing, and return the folder of each part, by the part's name.

        An error or an interruption keeps what has arrived, and the next run continues there.

        Args:
            listener: Called with the progress. None shows a progress bar on a terminal, unless
                `HF_HUB_DISABLE_PROGRESS_BARS` is set.

        Raises:
            OutputError: If the disk has too little space, or the cache cannot be written to.
            ImageVariationError: See `plan_download`.
        """
        self._check_space()
        total = sum(file.size for files in self.files.values() for file in files)
        with _show_bar(self.model, total) if listener is None else nullcontext(listener) as report:
            count = ByteCount(total, report)
            return {part.name: self._fetch(part, count) for part in self.parts}

    def _fetch(self, part: "Part", count: ByteCount) -> Path:
        from huggingface_hub import hf_hub_download, snapshot_download
        from huggingface_hub.file_download import are_symlinks_supported
        from tqdm import tqdm

        class HiddenBar(tqdm):  # type: ignore[type-arg]  # only generic for type checkers
            def __init__(self, *arguments: Any, **settings: Any) -> None:
                super().__init__(*arguments, **{**settings, "disable": True})

        files = self.files[part.name]
        directory = repository_dir(part.repository, self.cache_dir)
        cache_dir = directory.parent
        with translate_hub_errors(
            self.model, part.repository, part.revision, endpoint=self.endpoint
        ):
            cache_dir.mkdir(parents=True, exist_ok=True)
            for file in files:
                path = directory / "snapshots" / file.commit / file.path
                is_present = is_whole(path, file.size)
                if not is_present and path.is_file():
                    delete_file(path)
                # Without links, the library would copy each blob. It downloads these itself.
                if file.sha256 and not is_present and are_symlinks_supported(cache_dir):
                    fetch_blob(
                        file,
                        directory,
                        lock_dir=cache_dir / ".locks" / directory.name,
                        token=self.token,
                        endpoint=self.endpoint,
                        count=count,
                    )
                # Ctrl-C ends this at once. `snapshot_download` would wait for its threads.
                hf_hub_download(
                    part.repository,
                    file.path,
                    revision=file.commit,
                    cache_dir=cache_dir,
                    token=self.token,
                    endpoint=self.endpoint,
                    tqdm_class=HiddenBar,
                )
                count.finish_file(file.size)
            # All files are here. This writes down what the revision means and which files it has.
            snapshot_download(
                part.repository,
                revision=part.revision,
                cache_dir=cache_dir,
                token=self.token,
                endpoint=self.endpoint,
                allow_patterns=[file.path for file in files],
                tqdm_class=HiddenBar,
            )
        folder = cached_folder(part, self.cache_dir, float16=True)
        if folder is None or not all(is_whole(folder / file.path, file.size) for file in files):
            # The library settles for what is in the cache if the Hub fails at the last moment.
            raise EngineConnectionError(
                f"The Hub failed before the model {self.model!r} was complete. A download "
                "continues where it stopped, so try again."
            )
        return folder

    def _check_space(self) -> None:
        free_bytes = shutil.disk_usage(existing_folder(self.cache_dir)).free
        if self.missing_bytes > free_bytes:
            raise OutputError(
                f"The model {self.model!r} needs {describe_bytes(self.missing_bytes)} more, but "
                f"the disk of the folder for models has only {describe_bytes(free_bytes)} free. "
                f"Free some space, or {ANOTHER_FOLDER}."
            )

    @property
    def _distinct_files(self) -> set[RemoteFile]:
        """All files. Parts may share some of them."""
        return {file for files in self.files.values() for file in files}


@contextmanager
def _show_bar(model: str, total: int) -> Iterator[DownloadListener]:
    """Show a bar of the library, which heeds its settings, and yield a listener that moves it."""
    from huggingface_hub.utils import tqdm

    with tqdm(desc=model, total=total, unit="B", unit_scale=True, leave=False, disable=None) as bar:
        yield lambda done, total: bar.update(done - bar.n)


def _remote_files(part: "Part", info: "ModelInfo", *, float16: bool = False) -> list[RemoteFile]:
    """Return the files that a part needs of the revision that `info` describes."""
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    return [
        RemoteFile(
            part.repository,
            str(info.sha),
            path,
            siblings[path].size or 0,
            lfs.sha256 if (lfs := siblings[path].lfs) else None,
        )
        for path in choose_part_files(part, siblings, float16=float16)
    ]
