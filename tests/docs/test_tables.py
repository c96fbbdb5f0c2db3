"""The tables and figures on the pages match the code."""

import argparse
import re
import subprocess
import sys
from inspect import signature
from pathlib import Path

from langchain_image_variation import ImageVariationClient, URLPolicy
from langchain_image_variation.agents.arguments import MAX_NAME_LENGTH, MAX_PROMPT_LENGTH
from langchain_image_variation.agents.conversation import MAX_LISTED
from langchain_image_variation.agents.image_blocks import MAX_BLOCKS_LENGTH
from langchain_image_variation.agents.settings import ToolSettings
from langchain_image_variation.cli.engine_options import add_engine
from langchain_image_variation.cli.serve import add_serve
from langchain_image_variation.contract import MAX_N
from langchain_image_variation.engines.auto import AUTO
from langchain_image_variation.engines.diffusers.byte_sizes import describe_memory
from langchain_image_variation.engines.diffusers.engine import MAX_REDRAWS
from langchain_image_variation.engines.diffusers.families.family import DrawingSettings
from langchain_image_variation.engines.diffusers.families.guidance import weakened_guidance
from langchain_image_variation.engines.diffusers.placement import Workload
from langchain_image_variation.engines.diffusers.presets import DEFAULT_PRESET, PRESETS
from langchain_image_variation.engines.loading import engine_names, load_engine_class
from langchain_image_variation.engines.traits import is_hosted
from langchain_image_variation.files.storage_policy import STORAGE_KINDS
from langchain_image_variation.hosted.answer import MAX_ERROR_BYTES
from langchain_image_variation.hosted.json_text import MAX_FRAME_BYTES
from langchain_image_variation.hosted.session import MAX_COOKIE_LENGTH, MAX_COOKIES
from langchain_image_variation.images.bounded_file import MAX_REREAD
from langchain_image_variation.images.formats import FORMATS
from langchain_image_variation.images.isobmff import (
    MAX_BOXES,
    MAX_EXIF_BLOCKS,
    MAX_META_BYTES,
    MAX_TRACKS,
    MAX_UNITS,
)
from langchain_image_variation.images.png.chunks import MAX_CHUNKS
from langchain_image_variation.images.tiff import MAX_ENTRIES
from langchain_image_variation.images.work_limits import (
    MAX_EXIF_NUMBERS,
    MAX_EXIF_OVERLAP,
    MAX_HEIF_PIXELS,
    MAX_JPEG_EXIF_SEGMENTS,
    MAX_JPEG_SAMPLES,
    MAX_JPEG_SCANS,
    MAX_JPEG_SEGMENTS,
    MAX_JPEG_TABLE_BYTES,
    MAX_PIXELS,
    MAX_READS,
    MAX_RLE_PIXELS,
    MAX_TIFF_PARTS,
    MAX_TILE_PIXELS,
    MAX_WEBP_CHUNKS,
    MIN_SIDE,
)
from langchain_image_variation.output.contact_sheet import THUMBNAIL_SIDE
from langchain_image_variation.server import create_app
from langchain_image_variation.server.app import PIXELS_PER_WORKER
from langchain_image_variation.server.connection import (
    FREE_CHUNKS,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MIN_MEAN_CHUNK_BYTES,
)
from langchain_image_variation.server.form import MAX_BODY_BYTES
from langchain_image_variation.server.idempotency import MAX_ANSWER_BYTES
from langchain_image_variation.server.multipart import MAX_PREAMBLE_BYTES
from langchain_image_variation.server.run import MAX_CONNECTIONS
from langchain_image_variation.server.store.choice import MIN_SIGNING_KEY_LENGTH
from langchain_image_variation.server.store.url_store import MAX_OPEN_BYTES
from langchain_image_variation.server.upstream import (
    CONNECT_SECONDS,
    MAX_MODELS_BYTES,
    MODELS_SECONDS,
    WRITE_SECONDS,
)
from langchain_image_variation.source import MAX_SOURCE_PIXELS
from langchain_image_variation.source.read import MAX_SOURCE_BYTES
from pytest_image_variation import plugin
from pytest_image_variation.conformance.client_tests import CLIENT_RULES
from pytest_image_variation.conformance.engine_tests import ENGINE_RULES
from pytest_image_variation.conformance.server_tests import SERVER_RULES
from pytest_image_variation.scenarios import SCENARIOS
from tests.docs.pages import find_page, table


def test_the_page_states_the_numbers_of_rules() -> None:
    """The page of the conformance kit says how many rules of each kind there are."""
    text = find_page("docs/conformance.md").text
    numbers = [int(n) for n in re.findall(r"(\d+) rules(?:,| about)", text)]
    assert numbers == [len(rules) for rules in (SERVER_RULES, CLIENT_RULES, ENGINE_RULES)]


def test_the_tables_of_the_plugin_are_complete() -> None:
    """The plugin's tables list each fixture, option and scenario, except the many successes."""
    text = find_page("docs/pytest-plugin.md").text + find_page("docs/conformance.md").text
    fixtures = {name for name, value in vars(plugin).items() if hasattr(value, "_fixture_function")}
    options = re.findall(r'"(--image-variation-[a-z-]+)"', Path(plugin.__file__).read_text())
    scenarios = {name for name in SCENARIOS if not re.match("success_(url|b64)_n", name)}
    for name in {name for name in fixtures if not name.startswith("_")} | scenarios:
        assert f"`{name}`" in text
    assert options
    for option in options:
        assert f"`{option} " in text


def test_the_table_of_settings_is_complete() -> None:
    """The table of settings lists each setting of the tool with its default, and no other."""
    settings = table("docs/langchain.md", "| setting | what it is | default |")
    names = [name for first in settings for name in re.findall(r"`(\w+)`", first)]
    assert sorted(names) == sorted(ToolSettings.model_fields)
    for name in ("engine", "fit", "output_dir"):
        default = ToolSettings.model_fields[name].default
        assert settings[f"`{name}`"].endswith(f'| `"{default}"` |')


def test_the_table_of_stores_is_complete() -> None:
    """The table of stores lists each kind of URL with its package, and no other."""
    rows = table("docs/batch.md", "| kinds of URL | package | the server is |").values()
    kinds = {}
    for names, package, server in (row.strip("| ").split("|") for row in rows):
        for name in re.findall(r"`(\w+)`", names):
            kinds[name] = (package.strip(" `") or None, "named by the URL" in server)
    assert kinds == {
        name: (kind.package, kind.names_server) for name, kind in STORAGE_KINDS.items()
    }


def test_the_limits_of_the_tool_match_the_code() -> None:
    """The page of the tool states each limit with the value in the code."""
    limits = table("docs/langchain.md", "| limit | value | setting |")
    urls = URLPolicy(hosts=["images.example.com"])
    megabytes, seconds = urls.max_bytes // 2**20, f"{urls.timeout:.0f}"
    for limit, value in {
        "bytes of a source": f"{MAX_SOURCE_BYTES // 2**20} MiB,",
        "pixels of a source": f"{MAX_SOURCE_PIXELS:,},",
        "chunks of a PNG": f"{MAX_CHUNKS:,},",
        "variations per call": f"{MAX_N} |",
        "prompt that a model writes": f"none; {MAX_PROMPT_LENGTH:,} characters |",
        "name that a model chooses": f"none; {MAX_NAME_LENGTH} characters, ",
        "uploads kept per conversation": f"{ToolSettings.model_fields['max_uploads'].default} |",
        "bytes of all uploads of a conversation": (
            f"{ToolSettings.model_fields['max_upload_bytes'].default // 2**20} MiB |"
        ),
        "age of an upload whose message is gone": "no limit |",
        "thumbnail": f"none; {THUMBNAIL_SIDE} pixels a side",
        "image blocks of a message, in base64": f"none; {MAX_BLOCKS_LENGTH:,} characters |",
        "images from URLs": (
            f"none; {megabytes} MiB, {seconds} seconds, {urls.max_redirects} redirects"
        ),
    }.items():
        assert limits[limit].startswith(f"| {limit} | {value}")
    assert limits["formats"].upper().startswith(f"| FORMATS | {', '.join(FORMATS)},")
    for setting in re.findall(r"`(\w+)` \|$", "\n".join(limits.values()), re.MULTILINE):
        assert setting in ToolSettings.model_fields


def test_the_limits_of_images_match_the_code() -> None:
    """The page on security states each limit of an image with the value in the code."""
    limits = table("docs/security.md", "| limit | value | why |")
    for limit, value in {
        "formats": ", ".join({"WEBP": "WebP"}.get(name, name) for name in FORMATS),
        "bytes of a source": f"{MAX_SOURCE_BYTES // 2**20} MiB",
        "pixels of an image": (
            f"{MAX_SOURCE_PIXELS:,}, counting a side of fewer than {MIN_SIDE} pixels as {MIN_SIDE}"
        ),
        "reads of a file": f"{MAX_READS:,}, or one per 32 bytes",
        "bytes read from a file": f"{MAX_REREAD} times its length",
        "metadata values": f"{MAX_EXIF_OVERLAP} times the bytes that hold them",
        "metadata numbers": f"{MAX_EXIF_NUMBERS:,}",
        "entries of a metadata directory": f"{MAX_ENTRIES:,}",
        "PNG: chunks": f"{MAX_CHUNKS:,}, or one per 256 bytes",
        "WebP: chunks": f"{MAX_WEBP_CHUNKS:,}, or one per 256 bytes",
        "JPEG: scans": f"{MAX_JPEG_SCANS}",
        "JPEG: samples in all scans": f"{MAX_JPEG_SAMPLES:,}",
        "JPEG: segments": f"{MAX_JPEG_SEGMENTS:,}",
        "JPEG: segments of Exif, or of Photoshop's blocks": f"{MAX_JPEG_EXIF_SEGMENTS} each",
        "JPEG: quantization tables": f"{MAX_JPEG_TABLE_BYTES:,} bytes",
        "TIFF: strips or tiles": f"{MAX_TIFF_PARTS:,}, or one per 1,024 pixels",
        "TIFF: pixels in all tiles": f"{MAX_TILE_PIXELS:,}, or 4 times those of the image",
        "BMP: pixels of a run-length encoded image": f"{MAX_RLE_PIXELS:,}",
        "AVIF, HEIC: pixels of all parts": f"{MAX_HEIF_PIXELS:,}",
        "AVIF, HEIC: boxes in one place": f"{MAX_BOXES:,}",
        "AVIF, HEIC: coded units": f"{MAX_UNITS:,}",
        "AVIF, HEIC: tracks": f"{MAX_TRACKS}",
        "AVIF, HEIC: blocks of Exif": f"{MAX_EXIF_BLOCKS}",
        "AVIF, HEIC: list of parts": f"{MAX_META_BYTES // 2**20} MiB",
    }.items():
        assert limits.pop(limit).startswith(f"| {limit} | {value} |")
    assert not limits
    urls = URLPolicy(hosts=["images.example.com"])
    megabytes, seconds = urls.max_bytes // 2**20, f"{urls.timeout:.0f}"
    sentence = f"{megabytes} MiB, {seconds} seconds and {urls.max_redirects} redirects"
    assert sentence in find_page("docs/security.md").text


def test_the_limits_of_a_conversation_match_the_code() -> None:
    """The page on security states each limit of a conversation with the value and the setting."""
    limits = table("docs/security.md", "| limit of a conversation | value | setting |")
    defaults = {name: field.default for name, field in ToolSettings.model_fields.items()}
    assert defaults["max_upload_age"] is None
    for limit, value in {
        "uploads kept": f"{defaults['max_uploads']} | `max_uploads`",
        "bytes of all uploads": f"{defaults['max_upload_bytes']:,} | `max_upload_bytes`",
        "bytes of one upload": f"{MAX_SOURCE_BYTES // 2**20} MiB, as for a source |",
        "age of an upload whose message is gone": "no limit | `max_upload_age`",
        "names of each kind listed in an error": f"{MAX_LISTED} |",
        "image blocks of a message, in base64": f"none, or {MAX_BLOCKS_LENGTH:,} characters |",
    }.items():
        assert limits.pop(limit).startswith(f"| {limit} | {value}")
    assert not limits


def test_the_limits_of_the_server_match_the_code() -> None:
    """The page on security states each limit of the server with the value in the code."""
    limits = table("docs/security.md", "| limit of the server | value | setting |")
    defaults = {
        name: parameter.default for name, parameter in signature(create_app).parameters.items()
    }
    for limit, value in {
        "bytes of a request's body": f"{MAX_BODY_BYTES:,},",
        "pixels of an uploaded image": f"{defaults['max_pixels']:,} |",
        "pixels of all images in progress": (
            f"{defaults['max_pixels']:,}, or {PIXELS_PER_WORKER:,} per worker if that is more"
        ),
        "bytes of all uploads in progress": f"{defaults['total_upload_bytes']:,};",
        "bytes of all remembered answers in memory": f"{MAX_ANSWER_BYTES:,} |",
        "bytes before the first part of a form": f"{MAX_PREAMBLE_BYTES:,} |",
        "bytes of all images being sent from a store at a URL": f"{MAX_OPEN_BYTES:,} |",
        "shortest signing key of a store at a URL": f"{MIN_SIGNING_KEY_LENGTH} characters |",
        "seconds until a request has arrived": f"{defaults['upload_timeout']:g} |",
        "waiting requests": f"{defaults['queue']} |",
        "connections": f"{MAX_CONNECTIONS:,},",
        "headers of a request": f"{MAX_HEADERS}, with {MAX_HEAD_BYTES:,} bytes in total",
        "smallest average chunk of a body": (
            f"{MIN_MEAN_CHUNK_BYTES} bytes, after the first {FREE_CHUNKS:,} chunks"
        ),
        "seconds to connect to the upstream": f"{CONNECT_SECONDS:g}, or",
        "seconds that the upstream may be silent": f"{defaults['upstream_timeout']:g} |",
        "seconds that the upstream may read nothing of a request": f"{WRITE_SECONDS:g}, or",
        "seconds to get the upstream's list of models": f"{MODELS_SECONDS:g} |",
        "bytes of the upstream's list of models": f"{MAX_MODELS_BYTES:,} |",
    }.items():
        assert limits[limit].startswith(f"| {limit} | {value}")


def test_the_table_of_serve_is_complete() -> None:
    """The table lists each option of `image-variation serve` with its default, and no other."""
    parser = argparse.ArgumentParser()
    add_serve(parser)
    rows = table("docs/server.md", "| option of `serve` | what it does |")
    documented_options = {name for first in rows for name in re.findall(r"`(--[a-z-]+)", first)}
    actions = {action.option_strings[-1]: action for action in parser._actions}
    engine_options = argparse.ArgumentParser()
    add_engine(engine_options)
    options = set(actions) - {each.option_strings[-1] for each in engine_options._actions}
    assert documented_options - {"--engine", "--seed", "--strength"} == options
    defaults = signature(create_app).parameters
    for option, action in actions.items():
        name = action.dest
        if option in options and name in defaults and name != "api_key":
            assert action.default == defaults[name].default
            if type(action.default) is int:
                value = action.default
                sizes = [f"{value // 2**20} MiB", f"{value // 2**30} GiB"]
                texts = sizes if name.endswith("_bytes") else [f"{value:,}"]
                assert any(text in rows[f"`{option}`"] for text in texts)


def test_the_limits_of_answers_match_the_code() -> None:
    """The page on security states each limit of an answer with the value and the setting."""
    limits = table("docs/security.md", "| limit of a call | value | setting |")
    defaults = {
        name: parameter.default
        for name, parameter in signature(ImageVariationClient.__init__).parameters.items()
    }
    urls = URLPolicy(hosts=None)
    for limit, value in {
        "time": f"{defaults['deadline']:.0f} seconds",
        "bytes of the answer and all downloads together": (
            f"{defaults['max_answer_bytes'] // 2**20} MiB | `max_answer_bytes`"
        ),
        "bytes of a download": f"{urls.max_bytes // 2**20} MiB",
        "redirects of a download": f"{urls.max_redirects} |",
        "pixels of a result": f"{MAX_PIXELS:,},",
        "bytes of an answer, not counting its images": f"{MAX_FRAME_BYTES:,} |",
        "bytes of an error that are read": f"{MAX_ERROR_BYTES:,} |",
        "cookies": f"{MAX_COOKIES}, of at most {MAX_COOKIE_LENGTH:,} characters each",
    }.items():
        assert limits[limit].startswith(f"| {limit} | {value}")


def test_the_table_of_create_is_complete() -> None:
    """The table lists each option of `image-variation create`, and no other."""
    rows = table("docs/command-line.md", "| option | what it does | default |")
    documented_options = {name for first in rows for name in re.findall(r"`(--[a-z-]+)", first)}
    command = [sys.executable, "-m", "langchain_image_variation", "create", "--help"]
    help_text = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    heads = re.findall(r"^  (-.+?)(?:  |$)", help_text, re.MULTILINE)
    options = {option for head in heads for option in re.findall(r"--[a-z-]+", head)}
    parts = ("framing", "mirror", "light", "arrange", "safety")
    assert documented_options == options - {"--help"} | {f"--no-{part}" for part in parts}


def test_the_page_of_engines_lists_all() -> None:
    """The comparison of engines has a row for each engine, and says which ones are billed."""
    head = (
        "| engine | makes | prompt | seed | images per billed call | strength | "
        "what leaves your machine | price | license |"
    )
    rows = table("docs/engines.md", head)
    assert sorted(rows) == sorted(f"`{name}`" for name in (AUTO, *engine_names()))
    for name in engine_names():
        if name != "diffusers":
            nothing_leaves = "| nothing |" in rows[f"`{name}`"]
            assert nothing_leaves != is_hosted(load_engine_class(name))


def test_the_page_of_models_lists_the_presets() -> None:
    """The page of the engine `diffusers` states each preset's side, license and gate."""
    head = "| name | what it is | side | license | accept it first? |"
    rows = table("docs/diffusers.md", head)
    assert [*rows] == [f"`{name}`" for name in PRESETS]
    for name, preset in PRESETS.items():
        *_, side, license, gate = rows[f"`{name}`"].strip("| ").split(" | ")
        assert side == str(preset.side)
        assert preset.license in license.replace("\\", "")
        assert ("yes" in gate) == preset.is_gated
    assert ": the default |" in rows[f"`{DEFAULT_PRESET.name}`"]


def test_the_page_of_models_states_the_memory() -> None:
    """The page of the engine `diffusers` states the memory that the engine plans with."""
    head = "| model | GPU, whole model | GPU, one component | GPU, one layer | CPU |"
    rows = table("docs/diffusers.md", head)
    assert [*rows] == [f"`{name}`" for name in PRESETS]
    for name, preset in PRESETS.items():
        halved, full = (Workload.estimate(preset, dtype) for dtype in ("float16", "float32"))
        assert halved is not None and full is not None
        sizes = [halved.required_bytes(offload) for offload in ("none", "model", "sequential")]
        cells = [describe_memory(size) for size in (*sizes, full.required_bytes("none"))]
        assert rows[f"`{name}`"].strip("| ").split(" | ")[-4:] == cells


def test_the_page_of_models_states_what_strength_does() -> None:
    """The page of the engine `diffusers` states how a strength of 0, 0.5 and 1 changes guidance."""
    rows = table("docs/diffusers.md", "| model | what changes | at 0 | at 0.5 | at 1 |")
    scales = [weakened_guidance(DrawingSettings(1, 2.0, strength)) for strength in (0, 0.5, 1)]
    assert scales == [3, 2, 1]
    assert "1.5 times" in rows["`sd-variations`, `kandinsky`"]
    assert rows["`sd-variations`, `kandinsky`"].endswith("| as it is | half of it |")
    assert MAX_REDRAWS == 3
    words = " ".join(find_page("docs/diffusers.md").text.split())
    assert "draws a refused image again, up to three times," in words
