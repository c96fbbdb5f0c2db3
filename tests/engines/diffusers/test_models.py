import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from langchain_image_variation.engines.diffusers.models import (
    fingerprint_folder,
    model_name,
    read_model,
)
from langchain_image_variation.engines.diffusers.presets import PRESETS, Part
from langchain_image_variation.exceptions import (
    EngineError,
    InvalidRequestError,
    ModelNotDownloadedError,
)


def find_nothing(parts: tuple[Part, ...]) -> Mapping[str, Path]:
    """Fail: presets and folders need no index from a repository."""
    raise AssertionError(parts)


def write_index(folder: Path, content: object) -> Path:
    """Write the index of a model without files, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_read_without_files(name: str) -> None:
    """The name of a preset means its parts, and `revision` replaces that of the pipeline."""
    model = read_model(name, None, find_nothing)
    assert (model.name, model.preset, model.parts) == (name, PRESETS[name], PRESETS[name].parts)
    pipeline, *others = read_model(name, "abc", find_nothing).parts
    assert pipeline.revision == "abc"
    assert tuple(others) == PRESETS[name].parts[1:]


def test_a_repository_is_read_from_its_index(tmp_path: Path) -> None:
    """A repository of a supported class is used as the preset of that class."""
    asked = []

    def find(parts: tuple[Part, ...]) -> Mapping[str, Path]:
        asked.append(parts)
        return {"pipeline": write_index(tmp_path, {"_class_name": "StableDiffusionPipeline"})}

    model = read_model("me/mine", "v3", find)
    assert asked == [(Part("pipeline", "me/mine", "v3", ("model_index.json",)),)]
    assert model.name == "me/mine"
    preset = PRESETS["ip-adapter"]
    assert model.parts == (
        Part("pipeline", "me/mine", "v3", preset.parts[0].patterns),
        preset.parts[1],
    )
    assert (model.preset.family, model.preset.steps) == (preset.family, preset.steps)
    assert preset.license not in model.preset.license


def test_a_folder_may_bring_its_other_parts(tmp_path: Path) -> None:
    """A part that is not in a subfolder of the model's folder is that of the preset."""
    folder = write_index(tmp_path / "mine", {"_class_name": "KandinskyV22Pipeline"})
    model = read_model(folder, None, find_nothing)
    assert model.folders == {"pipeline": folder}
    assert model.parts == PRESETS["kandinsky"].parts[1:]
    (folder / "encoder").mkdir()
    model = read_model(folder, None, find_nothing)
    assert model.folders == {"pipeline": folder, "encoder": folder / "encoder"}
    assert model.parts == ()


def test_some_strings_are_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A string that is absolute or starts with a dot is a folder, whose name the model gets."""
    folder = write_index(tmp_path / "mine", {"_class_name": "KandinskyV22Pipeline"})
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    for model in (str(folder), ".", "../mine", f"{folder}/", "~/mine", folder):
        assert model_name(model) == "mine"
        assert read_model(model, None, find_nothing).preset.family == "kandinsky"


@pytest.mark.parametrize(
    "model",
    [
        *("", "sd", "a/b/c", "owner/", "/", "a b/c", "a/..", "x" * 99, 7, None, b"unclip"),
        *("~nobody-of-this-name/x", "./\0", "./" + "x" * 5000, ".", "\udc80/x", "./\udc80"),
    ],
    ids=ascii,
)
def test_refuses_what_is_not_a_model(model: object) -> None:
    """What is neither a preset, nor a repository, nor a folder of a model is refused."""
    with pytest.raises(InvalidRequestError, match=r"model") as caught:
        read_model(model, None, find_nothing)  # type: ignore[arg-type]  # not a model
    assert caught.value.param == "model"
    assert len(caught.value.message) < 300


def test_refuses_an_unsupported_class(tmp_path: Path) -> None:
    """A model of a class without variations is refused, and the message lists those with."""
    folder = write_index(tmp_path / "mine", {"_class_name": "StableCascadePipeline"})
    with pytest.raises(InvalidRequestError, match="StableCascadePipeline") as caught:
        read_model(folder, None, find_nothing)
    for preset in PRESETS.values():
        assert preset.pipeline_class in caught.value.message


@pytest.mark.parametrize("content", [[], {}, {"_class_name": 7}, "text", None])
def test_a_corrupt_index_is_an_error(tmp_path: Path, content: object) -> None:
    """An index that names no class is an error that names the model, and not its path."""
    folder = write_index(tmp_path / "mine", content)
    with pytest.raises(EngineError, match=r"'mine' is corrupt") as caught:
        read_model(folder, None, find_nothing)
    assert str(tmp_path) not in caught.value.message
    (folder / "model_index.json").write_bytes(b"\xff{")
    with pytest.raises(EngineError, match="corrupt"):
        read_model(folder, None, find_nothing)


def test_messages_about_folders_lead_on(tmp_path: Path) -> None:
    """A missing folder, one without an index and a revision of one are refused."""
    with pytest.raises(InvalidRequestError, match="no folder 'none'"):
        read_model(tmp_path / "none", None, find_nothing)
    with pytest.raises(InvalidRequestError, match=r"no model_index\.json"):
        read_model(tmp_path, None, find_nothing)
    folder = write_index(tmp_path / "mine", {"_class_name": "KandinskyV22Pipeline"})
    with pytest.raises(InvalidRequestError) as caught:
        read_model(folder, "main", find_nothing)
    assert caught.value.param == "revision"


def test_a_message_names_a_model_nearby(tmp_path: Path) -> None:
    """The message about a misspelled folder, a file, or a folder above or below names the model."""
    write_index(tmp_path / "mine", {"_class_name": "KandinskyV22Pipeline"})
    (tmp_path / "mine" / "unet").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "mine.safetensors").touch()
    convert = (
        "If you have a single weight file, first convert it to a folder with diffusers: "
        "from_single_file(FILE).save_pretrained(FOLDER)."
    )
    endings = {
        "mien": "no folder 'mien' for the model. Did you mean 'mine', next to it?",
        "othre": "no folder 'othre' for the model. Pass the folder that contains model_index.json.",
        "mine.safetensors": (
            "The model 'mine.safetensors' is a file. Pass the folder that contains "
            f"model_index.json. {convert}"
        ),
        "mine/unet": "so it is not a diffusers model. Its parent folder is one. Pass that.",
        ".": "not a diffusers model. It contains models. Pass one of them, such as 'mine'.",
        "other": convert,
        "missing/mine": "Pass the folder that contains model_index.json.",
    }
    for name, ending in endings.items():
        with pytest.raises(InvalidRequestError) as caught:
            read_model(tmp_path / name, None, find_nothing)
        assert caught.value.message.endswith(ending)
        assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("start", ["https://huggingface.co/", "huggingface.co/", "https://hf.co/"])
@pytest.mark.parametrize("end", ["", "/", "/tree/main", "?not-for-all-audiences=true"])
def test_a_page_of_the_hub_is_suggested_as_a_repository(start: str, end: str) -> None:
    """The address of a repository's page gets the suggestion to pass the repository."""
    with pytest.raises(InvalidRequestError, match=r"Did you mean 'owner/a-name'\?$"):
        model_name(f"{start}owner/a-name{end}")


def test_a_single_file_must_be_converted() -> None:
    """The name of a file of weights is refused, and the message says why."""
    with pytest.raises(
        InvalidRequestError, match="If you have a single weight file, first convert it"
    ):
        model_name("v1-5-pruned.safetensors")


def test_the_repository_of_a_preset_is_that_preset() -> None:
    """Without a revision, the repository of a preset's pipeline is used as the preset uses it."""
    preset = PRESETS["sd-variations"]
    repository = preset.parts[0].repository
    model = read_model(repository, None, find_nothing)
    assert (model.name, model.preset, model.parts) == (repository, preset, preset.parts)


def test_a_folder_may_be_meant_by_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a repository cannot be read and a folder has its name, the error says how to pass that."""

    def fail(parts: tuple[Part, ...]) -> Mapping[str, Path]:
        raise ModelNotDownloadedError("The model is not here.", hint="Pull it.")

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotDownloadedError, match=r"^The model is not here\. Pull it\.$"):
        read_model("models/mine", None, fail)
    write_index(tmp_path / "models" / "mine", {"_class_name": "KandinskyV22Pipeline"})
    with pytest.raises(ModelNotDownloadedError) as caught:
        read_model("models/mine", None, fail)
    assert caught.value.message == (
        "The model is not here. If you mean the folder of that name, pass model='./models/mine'."
    )


def test_a_missing_component_is_named(tmp_path: Path) -> None:
    """A folder without a component that its index names is refused, whatever else it has."""
    index = {
        "_class_name": "KandinskyV22Pipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "movq": ["diffusers", "VQModel"],
        "extra": ["mine", "Unused"],
        "scheduler": [None, None],
    }
    folder = write_index(tmp_path / "mine", index)
    (folder / "movq").mkdir()
    with pytest.raises(InvalidRequestError, match=r"'mine' is incomplete.*'unet'"):
        read_model(folder, None, find_nothing)


def test_the_fingerprint_covers_the_files(tmp_path: Path) -> None:
    """A folder's fingerprint changes with its files, and not with its path."""
    index = {"_class_name": "KandinskyV22Pipeline"}
    folder = write_index(tmp_path / "mine", index)
    first = fingerprint_folder(read_model(folder, None, find_nothing))
    moved = folder.rename(tmp_path / "moved")
    assert fingerprint_folder(read_model(moved, None, find_nothing)) == first
    (moved / "gone").symlink_to("nothing")
    assert fingerprint_folder(read_model(moved, None, find_nothing)) == first
    (moved / "more").write_text("x")
    assert fingerprint_folder(read_model(moved, None, find_nothing)) != first
    assert fingerprint_folder(read_model("unclip", None, find_nothing)) is None


def test_a_misspelled_preset_is_suggested() -> None:
    """A name that is close to a preset's gets a suggestion, and any other name none."""
    for model in ("sd-variation", "SD-Variations"):
        with pytest.raises(InvalidRequestError, match=r"\. Did you mean 'sd-variations'\?$"):
            model_name(model)
    with pytest.raises(InvalidRequestError) as caught:
        model_name("magic")
    assert "mean" not in caught.value.message


def test_a_folder_without_its_dot_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a model's folder gets the suggestion to start with "./", and other names none."""
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "sd-variation", "a/b/c"):
        write_index(tmp_path / name, {"_class_name": "KandinskyV22Pipeline"})
        with pytest.raises(InvalidRequestError) as caught:
            model_name(name)
        assert caught.value.message.endswith(f"got {name!r}. Did you mean './{name}'?")
        assert model_name(f"./{name}") == Path(name).name
    (tmp_path / "empty").mkdir()
    write_index(tmp_path, {"_class_name": "KandinskyV22Pipeline"})
    for name in ("empty", "", "mine\0"):
        with pytest.raises(InvalidRequestError) as caught:
            read_model(name, None, find_nothing)
        assert "mean" not in caught.value.message
