import re
import shutil
from pathlib import Path

import pytest

from langchain_image_variation.engines.call import call_engine
from langchain_image_variation.engines.context import Progress
from langchain_image_variation.engines.diffusers.engine import MAX_REDRAWS
from langchain_image_variation.engines.diffusers.families.seeds import noise_seed
from langchain_image_variation.exceptions import ContentPolicyError, EngineError
from tests.engines.diffusers.calls import make_engine, make_request, open_images
from tests.engines.diffusers.conftest import MakeTinyModel

CHECKED = pytest.mark.parametrize("preset", ["sd-variations", "ip-adapter"])


def with_checker(model: Path, folder: Path, threshold: float) -> Path:
    """Return a copy of a tiny model with a safety checker."""
    from tests.engines.diffusers.tiny import add_safety_checker

    shutil.copytree(model, folder)
    add_safety_checker(folder, threshold)
    return folder


def middle_threshold(model: Path, folder: Path, *, n: int, draws: int = 1) -> float:
    """Return a threshold that refuses every draw of some of `n` images, and not of all.

    Args:
        model: The tiny model.
        folder: Where to copy it.
        n: How many images there are. The seed of the first is 100.
        draws: How often each is drawn.
    """
    import torch
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    with_checker(model, folder, 2)
    seeds = [noise_seed(seed, redraw) for seed in range(100, 100 + n) for redraw in range(draws)]
    engine = make_engine(folder)
    images = [
        image.resize((16, 16))
        for seed in seeds
        for image in open_images(engine.with_options(seed=seed).create_variation(make_request()))
    ]
    engine.close()
    checker = StableDiffusionSafetyChecker.from_pretrained(folder / "safety_checker")
    processor = CLIPImageProcessor.from_pretrained(folder / "feature_extractor")
    pixels = processor(images, return_tensors="pt").pixel_values
    with torch.no_grad():
        embedding = checker.visual_projection(checker.vision_model(pixels)[1])
    scores = torch.nn.functional.cosine_similarity(embedding, torch.ones_like(embedding))
    return float(scores.reshape(-1, draws).amin(dim=1).median())


@CHECKED
def test_refuses_what_is_refused_every_time(
    preset: str, tiny_model: MakeTinyModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An image that the checker refuses every time is an error that names it and the option.

    Nothing is printed. The pipeline itself says that it returns a black image, which it is not.
    """
    engine = make_engine(with_checker(tiny_model(preset), tmp_path / "mine", -2))
    reports: list[Progress] = []
    capfd.readouterr()
    with pytest.raises(ContentPolicyError, match="refused images 1 and 2 of 2, and 3 redraws of"):
        call_engine(engine, make_request(n=2), progress=reports.append)
    with pytest.raises(
        ContentPolicyError, match=r"refused image 1 of 1, and 3 redraws\."
    ) as caught:
        engine.create_variation(make_request())
    assert caught.value.hint is not None
    assert "safety=False" in caught.value.hint
    assert {report.finished for report in reports} == {0}
    assert capfd.readouterr() == ("", "")
    engine.close()


@CHECKED
def test_without_safety_no_checker_is_loaded(
    preset: str, tiny_model: MakeTinyModel, tmp_path: Path
) -> None:
    """With safety=False, the checker is neither loaded nor needed."""
    folder = with_checker(tiny_model(preset), tmp_path / "mine", -2)
    shutil.rmtree(folder / "safety_checker")
    engine = make_engine(folder, safety=False)
    assert len(open_images(engine.create_variation(make_request(n=2)))) == 2
    engine.close()
    engine = make_engine(folder)
    with pytest.raises(EngineError, match="cannot be loaded"):
        engine.create_variation(make_request())
    engine.close()


@CHECKED
def test_a_checker_that_refuses_nothing_changes_nothing(
    preset: str, tiny_model: MakeTinyModel, tmp_path: Path
) -> None:
    """Images that the checker lets pass are those that are drawn without it."""
    folder = with_checker(tiny_model(preset), tmp_path / "mine", 2)
    images = []
    for safety in (True, False):
        engine = make_engine(folder, safety=safety)
        response = engine.create_variation(make_request(n=2))
        images.append([image.read() for image in response.data])
        engine.close()
    assert images[0] == images[1]


def test_a_refused_image_is_drawn_again(tiny_model: MakeTinyModel, tmp_path: Path) -> None:
    """A refused image is replaced by one from other noise, which depends on its seed alone."""
    model = tiny_model("sd-variations")
    folder = with_checker(model, tmp_path / "mine", middle_threshold(model, tmp_path / "any", n=8))
    engine = make_engine(folder, seed=100)
    plain = make_engine(folder, seed=100, safety=False)
    request = make_request(n=8)
    checked = [image.read() for image in engine.create_variation(request).data]
    unchecked = [image.read() for image in plain.create_variation(request).data]
    different = [index for index in range(8) if checked[index] != unchecked[index]]
    assert 0 < len(different) < 8
    assert all(image.getbbox() for image in open_images(engine.create_variation(request)))
    index = different[0]
    alone = engine.with_options(seed=100 + index).create_variation(make_request())
    assert alone.data[0].read() == checked[index]
    assert alone.data[0].seed == 100 + index
    for used in (engine, plain):
        used.close()


@pytest.mark.slow
def test_other_images_outlive_a_refused_one(tiny_model: MakeTinyModel, tmp_path: Path) -> None:
    """If the checker refuses some images every time, the others keep their places and seeds."""
    model = tiny_model("sd-variations")
    n = 4
    threshold = middle_threshold(model, tmp_path / "any", n=n, draws=1 + MAX_REDRAWS)
    engine = make_engine(with_checker(model, tmp_path / "mine", threshold), seed=100)
    response = call_engine(engine, make_request(n=n))
    assert [image.seed for image in response.data] == [100, 101, 102, 103]
    refused = [number for number, image in enumerate(response.data, 1) if image.failure]
    assert 0 < len(refused) < n
    for number, image in enumerate(response.data, 1):
        alone = engine.with_options(seed=99 + number)
        if number in refused:
            with pytest.raises(ContentPolicyError) as caught:
                image.read()
            numbers = " and ".join(map(str, refused))
            assert re.search(rf"refused images? {numbers} of {n}, ", caught.value.message)
            with pytest.raises(ContentPolicyError):
                alone.create_variation(make_request())
        else:
            assert image.read() == alone.create_variation(make_request()).data[0].read()
    engine.close()
