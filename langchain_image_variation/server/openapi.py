"""The app's OpenAPI 3.1 document, built from the constants of the contract."""

from collections.abc import Sequence
from typing import Any

from langchain_image_variation import __version__
from langchain_image_variation.contract import (
    MAX_N,
    SIZES,
    VARIATIONS_PATH,
    CreateImageVariationRequest,
)
from langchain_image_variation.server.answer_response import FAILED_IMAGES_HEADER
from langchain_image_variation.server.form import MAX_DIGITS
from langchain_image_variation.server.idempotency import MAX_KEY_LENGTH
from langchain_image_variation.server.paths import PATHS

__all__ = ["openapi_document"]

_ERRORS = {
    "400": "A field breaks a rule of the contract. `param` names it.",
    "401": "The API key is missing or incorrect.",
    "403": "The URL of the image has expired or is invalid. Or the server has no key, and the Host "
    "is not one of its names or the request comes from a web page of another origin.",
    "404": "Not found.",
    "405": "Method not allowed.",
    "408": "The body took too long to arrive.",
    "409": "The Idempotency-Key was used for a different request.",
    "413": "The body is longer than any valid request.",
    "416": "The range starts beyond the end of the image.",
    "429": "The queue is full.",
    "500": "The engine or the server failed.",
    "502": "The server of a hosted engine cannot be reached.",
    "503": "The server is shutting down or has no room for images, or the engine is not ready.",
    "504": "The server of a hosted engine did not answer in time.",
}
_WHOLE = {"type": "integer", "minimum": 0}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_TEXT = {"type": "string"}
_ABSENT = ["", "null"]
_TEXT_OR_NULL = {"type": ["string", "null"]}
_OPTIONS: dict[str, dict[str, Any]] = {
    "seed": {
        "anyOf": [{**_WHOLE, "maximum": 10**MAX_DIGITS - 1}, {"const": ""}],
        "description": "Makes the same variations again. Not part of the vendor's API.",
    },
    "strength": {
        "anyOf": [_SHARE, {"const": ""}],
        "description": "How much to change the image, from 0 to 1. Not part of the vendor's API.",
    },
}
"""The schemas of the options that `engines.traits` defines."""


def openapi_document(
    models: Sequence[str] | None, option_names: Sequence[str] = (), *, requires_key: bool
) -> dict[str, Any]:
    """Return the document, without `servers`.

    Args:
        models: The models that requests may name, or None for any.
        option_names: The options of the engine that requests may set.
        requires_key: Whether clients must send an API key.
    """
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Image variations",
            "version": __version__,
            "summary": f"POST /v1{VARIATIONS_PATH} as the vendor's SDKs call it.",
        },
        "paths": _paths(),
        "components": {"schemas": _schemas(models, option_names)},
    }
    if requires_key:
        scheme = {"type": "http", "scheme": "bearer"}
        document["components"]["securitySchemes"] = {"key": scheme}
        for path in PATHS:
            if path.needs_key:
                for operation in document["paths"][path.template].values():
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
        f"/v1{VARIATIONS_PATH}": {"post": _create_variation()},
        "/v1/models": {"get": _get("listModels", "List the models.", _json("ModelList"))},
        "/v1/models/{model}": {
            "get": _get(
                "retrieveModel",
                "Get a model.",
                _json("Model"),
                "404",
                parameters=[_parameter("model", "path", {**_TEXT, "minLength": 1})],
            )
        },
        "/files/{name}": {"get": _file()},
        "/progress/{id}": {
            "get": _get(
                "readProgress",
                "The progress of the running request with this X-Client-Request-Id.",
                _json("Progress"),
                "404",
                parameters=[_parameter("id", "path", {**_TEXT, "minLength": 1})],
            )
        },
        "/healthz": {"get": _health()},
        "/metrics": {
            "get": _get("metrics", "Metrics for Prometheus.", {"text/plain": {"schema": _TEXT}})
        },
        "/openapi.json": {
            "get": _get(
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
        "summary": "Create variations of an image.",
        "parameters": [
            _parameter(
                "Idempotency-Key", "header", {**_TEXT, "maxLength": MAX_KEY_LENGTH}, required=False
            ),
            _parameter("X-Client-Request-Id", "header", _TEXT, required=False),
        ],
        "requestBody": {"required": True, "content": {"multipart/form-data": form}},
        "responses": {
            "200": {
                "description": "The variations.",
                "headers": {
                    "x-request-id": {"schema": _TEXT},
                    "openai-processing-ms": {"schema": _WHOLE},
                    "openai-version": {"schema": _TEXT},
                    FAILED_IMAGES_HEADER: {
                        "schema": {"type": "integer", "minimum": 1},
                        "description": "How many of the n images failed and are not in data.",
                    },
                },
                "content": _json("ImagesResponse"),
            },
            **{code: _error(code) for code in codes},
        },
    }


def _file() -> dict[str, Any]:
    image: dict[str, Any] = {"image/png": {"schema": {}}}
    parameters = [
        _parameter("name", "path", {**_TEXT, "minLength": 1}),
        _parameter("se", "query", _TEXT),
        _parameter("sig", "query", _TEXT),
    ]
    operation = _get("readFile", "Get an image.", image, "404", parameters=parameters)
    operation["responses"] |= {
        "206": {"description": "A part of the image.", "content": image},
        "403": {
            "description": _ERRORS["403"],
            "content": {"application/xml": {"schema": {}}},
        },
        "304": {"description": "The image matches the ETag in the request."},
        "416": _error("416"),
    }
    return operation


def _health() -> dict[str, Any]:
    values = ["ready", "draining", "cannot store images"]
    status = {"application/json": {"schema": _object({"status": {"enum": values}})}}
    operation = _get("health", "The server is ready.", status)
    operation["responses"]["503"] = {
        "description": "The server is shutting down, or has no room for images.",
        "content": status,
    }
    return operation


def _get(
    name: str,
    description: str,
    content: dict[str, Any],
    *codes: str,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    success = {"description": description, "content": content}
    responses = {"200": success, **{code: _error(code) for code in codes}}
    operation = {"operationId": name, "summary": description, "responses": responses}
    return {**operation, "parameters": parameters} if parameters else operation


def _parameter(
    name: str, location: str, schema: dict[str, Any], *, required: bool = True
) -> dict[str, Any]:
    return {"name": name, "in": location, "required": required, "schema": schema}


def _error(code: str) -> dict[str, Any]:
    response: dict[str, Any] = {"description": _ERRORS[code], "content": _json("ErrorResponse")}
    if code == "429":
        response["headers"] = {"Retry-After": {"schema": _WHOLE}}
    if code == "401":
        response["headers"] = {"WWW-Authenticate": {"schema": _TEXT}}
    return response


def _schemas(models: Sequence[str] | None, option_names: Sequence[str]) -> dict[str, Any]:
    model = _object(
        {"id": _TEXT, "object": {"const": "model"}, "created": _WHOLE, "owned_by": _TEXT}
    )
    model_list = {"object": {"const": "list"}, "data": {"type": "array", "items": _schema("Model")}}
    error = {"message": _TEXT, "type": _TEXT, "param": _TEXT_OR_NULL, "code": _TEXT_OR_NULL}
    image: dict[str, Any] = {
        "oneOf": [
            _object({"b64_json": {**_TEXT, "contentEncoding": "base64"}}),
            _object({"url": _TEXT}),
        ]
    }
    images = {"type": "array", "items": _schema("Image"), "minItems": 1, "maxItems": MAX_N}
    return {
        "CreateImageVariationRequest": _request(models, option_names),
        "ImagesResponse": _object({"created": _WHOLE, "data": images}),
        "Image": image,
        "ErrorResponse": _object({"error": _schema("Error")}),
        "Error": _object(error),
        "ModelList": _object(model_list),
        "Model": model,
        "Progress": _object(
            {"finished": _WHOLE, "n": _WHOLE, "share": _SHARE, "activity": _TEXT_OR_NULL}
        ),
    }


def _request(models: Sequence[str] | None, option_names: Sequence[str]) -> dict[str, Any]:
    fields = CreateImageVariationRequest.model_fields
    image = {"type": "string", "contentMediaType": "image/png", "format": "binary"}
    properties: dict[str, dict[str, Any]] = {
        "image": {**image, "description": "A square PNG file of less than 4 MB."},
        # Web forms send empty fields, and SDKs the text "null". Both count as absent.
        "model": {**_TEXT, "enum": [*models, *_ABSENT]} if models else dict(_TEXT),
        "n": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_N}, {"enum": _ABSENT}]},
        "response_format": {**_TEXT, "enum": ["url", "b64_json", *_ABSENT]},
        "size": {**_TEXT, "enum": [*SIZES, *_ABSENT]},
        "user": {**_TEXT, "description": "An ID for the end user."},
    }
    for name, schema in properties.items():
        if not fields[name].is_required() and fields[name].default is not None:
            schema["default"] = fields[name].default
    properties |= {name: _OPTIONS.get(name, _TEXT) for name in option_names}
    return {**_object(properties), "required": ["image"]}


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
