"""Hooks of the documentation's build: images that the site shares with the examples."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

EXAMPLES = Path(__file__).parent.parent / "examples"
SHARED = ("contact-sheet.jpg",)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Publish the images that the README shows, too, as `images/NAME`."""
    for name in SHARED:
        source = str(EXAMPLES / name)
        files.append(File.generated(config, f"images/{name}", abs_src_path=source))
    return files
