from pathlib import Path

import pytest
from catalogue import CatalogueError, fill
from PIL import Image


@pytest.fixture
def photo(tmp_path: Path, square_png: bytes) -> Path:
    """A valid photo."""
    path = tmp_path / "vase.png"
    path.write_bytes(square_png)
    return path


@pytest.mark.image_variation("success_b64_n2_512")
@pytest.mark.usefixtures("image_variation_env")
def test_the_images_are_saved(photo: Path, tmp_path: Path) -> None:
    """Both images have the size that the catalogue needs. No socket is used."""
    files = fill(photo, tmp_path / "catalogue")
    assert [path.name for path in files] == ["vase-1.png", "vase-2.png"]
    for path in files:
        with Image.open(path) as image:
            assert image.size == (512, 512)


@pytest.mark.image_variation("rate_limit", "success_b64_n3_512")
@pytest.mark.usefixtures("image_variation_env")
def test_a_rate_limit_is_waited_out(photo: Path, tmp_path: Path) -> None:
    """After a 429, the SDK retries. A scenario that is not used up would fail the test."""
    assert len(fill(photo, tmp_path / "catalogue", n=3)) == 3


@pytest.mark.image_variation("endpoint_removed")
@pytest.mark.usefixtures("image_variation_env")
def test_the_vendors_own_server(photo: Path, tmp_path: Path) -> None:
    """The vendor's own server answers with an empty 404 today."""
    with pytest.raises(CatalogueError, match="set another"):
        fill(photo, tmp_path)


@pytest.mark.parametrize("sample", ["non_square_png", "oversized_png", "truncated_png", "jpeg"])
@pytest.mark.usefixtures("image_variation_env")
def test_a_refused_photo(request: pytest.FixtureRequest, tmp_path: Path, sample: str) -> None:
    """A photo that breaks a rule is refused, as the server checks every rule."""
    photo = tmp_path / "vase.png"
    photo.write_bytes(request.getfixturevalue(sample))
    with pytest.raises(CatalogueError, match=r"vase\.png was refused"):
        fill(photo, tmp_path)
