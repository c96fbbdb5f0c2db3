"""The app described: an OpenAPI 3.1 document, from the contract's own constants."""

from collections.abc import Sequence
from typing import Any

from langchain_image_variation import __version__
from langchain_image_variation.contract import MAX_N, SIZES, CreateImageVariationRequest
from langchain_image_variation.server.replay import MAX_KEY_LENGTH

__all__ = ["openapi_document"]

_ERRORS = {
    "400": "A rule of the contract is broken; `param` names the field.",
    "401": "The key is missing or wrong.",
    "403": "The address has expired or was never given out. Without a key: the Host is not "
    "one of the server's names, or a page of another origin calls.",
    "404": "There is no such thing here.",
    "405": "The method is not allowed at this address.",
    "408": "The body took too long to come in.",
    "409": "The Idempotency-Key was used for another request.",
    "413": "The body is longer than any legal request.",
    "416": "The result has no such part.",
    "429": "As many requests wait as may.",
    "500": "The engine or the server failed.",
    "502": "The engine's server cannot be reached.",
    "503": "The server is shutting down, or the engine is not ready.",
    "504": "The engine's server did not answer in time.",
}
_WHOLE = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}


def openapi_document(models: Sequence[str] | None, *, with_key: bool) -> dict[str, Any]:
    """Return the description of the app.

    Args:
        models: The names that a request may give, or None for any.
        with_key: Whether clients must send a key.
    """
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Image variations",
            "version": __version__,
            "summary": "POST /v1/images/variations as the vendor's SDKs call it.",
        },
        "paths": _paths(),
        "components": {"schemas": _schemas(models)},
    }
    if with_key:
        scheme = {"type": "http", "scheme": "bearer"}
        document["components"]["securitySchemes"] = {"key": scheme}
        for path, operations in document["paths"].items():
            if path.startswith("/v1/"):
                for operation in operations.values():
                    operation["security"] = [{"key": []}]
                    operation["responses"]["401"] = _error("401")
        return document
    for operations in document["paths"].values():
        for operation in operations.values():
            refusal = operation["responses"].setdefault("403", _error("403"))
            refusal["content"] |= _error("403")["content"]
    return document


def _paths() -> dict[str, Any]:
    return {
        "/v1/images/variations": {"post": _create_variation()},
        "/v1/models": {"get": _read("listModels", "The models.", _json("ModelList"))},
        "/v1/models/{model}": {
            "get": _read(
                "retrieveModel",
                "A model.",
                _json("Model"),
                "404",
                parameters=[_parameter("model", "path", {**_TEXT, "minLength": 1})],
            )
        },
        "/files/{name}": {"get": _file()},
        "/healthz": {"get": _health()},
        "/metrics": {
            "get": _read("metrics", "Figures for Prometheus.", {"text/plain": {"schema": _TEXT}})
        },
        "/openapi.json": {
            "get": _read(
                "describe", "This document.", {"application/json": {"schema": {"type": "object"}}}
            )
        },
    }


def _create_variation() -> dict[str, Any]:
    form = {
        "schema": _schema("CreateImageVariationRequest"),
        "encoding": {"image": {"contentType": "image/png"}},
    }
    codes = ("400", "403", "408", "409", "413", "429", "500", "502", "503", "504")
    return {
        "operationId": "createImageVariation",
        "summary": "Make variations of a picture.",
        "parameters": [
            _parameter(
                "Idempotency-Key", "header", {**_TEXT, "maxLength": MAX_KEY_LENGTH}, required=False
            )
        ],
        "requestBody": {"required": True, "content": {"multipart/form-data": form}},
        "responses": {
            "200": {
                "description": "The variations.",
                "headers": {
                    "x-request-id": {"schema": _TEXT},
                    "openai-processing-ms": {"schema": _WHOLE},
                    "openai-version": {"schema": _TEXT},
                },
                "content": _json("ImagesResponse"),
            },
            **{code: _error(code) for code in codes},
        },
    }


def _file() -> dict[str, Any]:
    picture: dict[str, Any] = {"image/png": {"schema": {}}}
    parameters = [
        _parameter("name", "path", {**_TEXT, "minLength": 1}),
        _parameter("se", "query", _TEXT),
        _parameter("sig", "query", _TEXT),
    ]
    operation = _read("readFile", "A result.", picture, "404", parameters=parameters)
    operation["responses"] |= {
        "206": {"description": "Part of a result.", "content": picture},
        "403": {
            "description": _ERRORS["403"],
            "content": {"application/xml": {"schema": {}}},
        },
        "304": {"description": "The result is the one whose ETag was sent."},
        "416": _error("416"),
    }
    return operation


def _health() -> dict[str, Any]:
    status = {"application/json": {"schema": _object({"status": {"enum": ["ready", "draining"]}})}}
    operation = _read("health", "It is ready.", status)
    operation["responses"]["503"] = {"description": "It is shutting down.", "content": status}
    return operation


def _read(
    name: str,
    about: str,
    content: dict[str, Any],
    *codes: str,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    success = {"description": about, "content": content}
    responses = {"200": success, **{code: _error(code) for code in codes}}
    operation = {"operationId": name, "summary": about, "responses": responses}
    return {**operation, "parameters": parameters} if parameters else operation


def _parameter(
    name: str, where: str, schema: dict[str, Any], *, required: bool = True
) -> dict[str, Any]:
    return {"name": name, "in": where, "required": required, "schema": schema}


def _error(code: str) -> dict[str, Any]:
    response: dict[str, Any] = {"description": _ERRORS[code], "content": _json("ErrorResponse")}
    if code == "429":
        response["headers"] = {"Retry-After": {"schema": _WHOLE}}
    if code == "401":
        response["headers"] = {"WWW-Authenticate": {"schema": _TEXT}}
    return response


def _schemas(models: Sequence[str] | None) -> dict[str, Any]:
    model = _object(
        {"id": _TEXT, "object": {"const": "model"}, "created": _WHOLE, "owned_by": _TEXT}
    )
    listed = {"object": {"const": "list"}, "data": {"type": "array", "items": _schema("Model")}}
    error = {"message": _TEXT, "type": _TEXT, "param": _TEXT_OR_NULL, "code": _TEXT_OR_NULL}
    image: dict[str, Any] = {
        "oneOf": [
            _object({"b64_json": {**_TEXT, "contentEncoding": "base64"}}),
            _object({"url": _TEXT}),
        ]
    }
    images = {"type": "array", "items": _schema("Image"), "minItems": 1, "maxItems": MAX_N}
    return {
        "CreateImageVariationRequest": _request(models),
        "ImagesResponse": _object({"created": _WHOLE, "data": images}),
        "Image": image,
        "ErrorResponse": _object({"error": _schema("Error")}),
        "Error": _object(error),
        "ModelList": _object(listed),
        "Model": model,
    }


def _request(models: Sequence[str] | None) -> dict[str, Any]:
    fields = CreateImageVariationRequest.model_fields
    image = {"type": "string", "contentMediaType": "image/png", "format": "binary"}
    about: dict[str, dict[str, Any]] = {
        "image": {**image, "description": "A square PNG file of less than 4 MB."},
        # Web forms send empty fields, and those count as absent.
        "model": {**_TEXT, "enum": [*models, ""]} if models else dict(_TEXT),
        "n": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_N}, {"const": ""}]},
        "response_format": {**_TEXT, "enum": ["url", "b64_json", ""]},
        "size": {**_TEXT, "enum": [*SIZES, ""]},
        "user": {**_TEXT, "description": "An identifier of the end user."},
    }
    for name, schema in about.items():
        if not fields[name].is_required() and fields[name].default is not None:
            schema["default"] = fields[name].default
    return {**_object(about), "required": ["image"]}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": _schema(name)}}


def _schema(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
