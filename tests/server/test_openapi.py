import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from langchain_image_variation.contract import CreateImageVariationRequest
from langchain_image_variation.engines.loading import load_engine
from langchain_image_variation.server import create_app
from langchain_image_variation.server.paths import PATHS
from tests.server.serving import serving

CASES = 2000
"""The fewest requests that schemathesis must generate."""
KEY = "sk-right"


@pytest.mark.parametrize("api_key", [None, KEY])
async def test_the_document_is_valid(tmp_path: Path, api_key: str | None) -> None:
    """The document has every path, the contract's fields, and a key only if one is required."""
    # Imported here because each worker collects this file, and one of them runs the test.
    from openapi_spec_validator import OpenAPIV31SpecValidator

    app = create_app("instant", store_dir=tmp_path, api_key=api_key)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        document = (await client.get("/openapi.json")).json()
    OpenAPIV31SpecValidator(document).validate()
    # Every route is declared in `server.paths`, from which metrics and the document take it.
    routes = {route.path.replace(":path", "") for route in app.routes}  # type: ignore[attr-defined]  # all of them are routes
    assert routes == {path.template for path in PATHS}
    assert set(document["paths"]) == routes - {"/", "/sample.jpg"}
    schemas = document["components"]["schemas"]
    fields = schemas["CreateImageVariationRequest"]["properties"]
    assert list(fields) == list(CreateImageVariationRequest.model_fields)
    assert ("securitySchemes" in document["components"]) == (api_key is not None)
    assert (KEY in json.dumps(document)) is False


async def test_a_path_asks_for_the_key_if_the_document_says_so(tmp_path: Path) -> None:
    """Without the key, exactly the operations that the document secures are refused."""
    app = create_app("instant", store_dir=tmp_path, api_key=KEY)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        document = (await client.get("/openapi.json")).json()
        secured, refused = set(), set()
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if "security" in operation:
                    secured.add((method, path))
                response = await client.request(method, re.sub(r"\{\w+\}", "x", path))
                if response.status_code == 401:
                    refused.add((method, path))
    assert secured == refused
    assert ("post", "/v1/images/variations") in secured
    assert ("get", "/healthz") not in secured


async def test_the_models_are_those_of_the_engine(tmp_path: Path) -> None:
    """The document lists the engine's models. Without a list, a generated client may send any."""
    hosted_engine = load_engine("variations", base_url="http://127.0.0.1:1/v1")
    engines: tuple[Any, ...] = ("instant", hosted_engine)
    for engine, models in zip(engines, (["dall-e-2", "instant", "", "null"], None), strict=True):
        transport = httpx.ASGITransport(create_app(engine, store_dir=tmp_path))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            document = (await client.get("/openapi.json")).json()
        schema = document["components"]["schemas"]["CreateImageVariationRequest"]
        assert schema["properties"]["model"].get("enum") == models


@pytest.mark.slow
@pytest.mark.parametrize("api_key", [None, KEY])
def test_schemathesis_finds_no_failure(tmp_path: Path, api_key: str | None) -> None:
    """Every answer matches the document, and none is a 5xx."""
    command = [
        str(Path(sys.executable).with_name("st")),
        "--no-color",
        "run",
        "--checks=all",
        f"--max-examples={CASES // 8}",
        "--seed=1",
        "--generation-database=none",
    ]
    if api_key is not None:
        command.append(f"--header=Authorization: Bearer {api_key}")
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "SCHEMATHESIS_HOOKS": "tests.server.schemathesis_hooks",
    }
    with serving(create_app("instant", store_dir=tmp_path / "store", api_key=api_key)) as address:
        process = subprocess.run(
            [*command, f"{address}/openapi.json"],
            # It writes a folder into the current directory.
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert process.returncode == 0, process.stdout[-5000:] + process.stderr[-1000:]
    match = re.search(r"(\d+) generated", process.stdout)
    assert match is not None
    assert int(match[1]) >= CASES
