"""Checks that an object is an engine, and that its answer follows the Protocol.

Anyone can write an engine, and type checkers are optional. So each error says what was found and
what to write instead.
"""

from inspect import (
    Parameter,
    Signature,
    isasyncgen,
    isawaitable,
    isfunction,
    isgenerator,
    signature,
)
from pathlib import PurePath
from typing import Any

from langchain_image_variation.contract import CreateImageVariationRequest, Image, ImagesResponse
from langchain_image_variation.engines.failed_images import failed_images
from langchain_image_variation.engines.traits import engine_base_url
from langchain_image_variation.exceptions import (
    EngineError,
    EngineResponseError,
    ImageVariationError,
    InvalidRequestError,
    excerpt,
)
from langchain_image_variation.images.formats import recognize_supported

__all__ = [
    "check_answer",
    "check_engine",
    "check_request",
    "describe_answer",
    "find_engine_fault",
    "find_place_of_error",
]

_MAX_SIGNATURE = 80
"""How many characters of a wrong signature a message shows."""


def check_engine(engine: object) -> None:
    """Refuse an object that is not an engine.

    Raises:
        InvalidRequestError: If it has no method `create_variation` that takes one argument, or is a
            name or a class.
    """
    fault = find_engine_fault(engine)
    if fault is not None:
        raise InvalidRequestError(fault, param="engine")


def check_request(request: object) -> None:
    """Refuse an object that is not a request.

    Raises:
        InvalidRequestError: If it is something else, such as a source.
    """
    if not isinstance(request, CreateImageVariationRequest):
        raise InvalidRequestError(
            f"request must be a CreateImageVariationRequest, got {excerpt(request)}. Pass "
            "CreateImageVariationRequest(image=load_source(photo).png, n=2).",
            param="request",
        )


def find_engine_fault(engine: object) -> str | None:
    """Return why an object is not an engine, and what to pass instead. None if it is one."""
    if isinstance(engine, str):
        return f"engine must be an object, got a name. Pass load_engine({engine[:40]!r})."
    if isinstance(engine, type):
        name = engine.__name__
        return f"engine must be an instance, got the class {name}. Pass {name}()."
    method: Any = getattr(engine, "create_variation", None)
    if not callable(method):
        description = f"an object of type {type(engine).__name__}"
        if engine is None or isfunction(engine):
            description = "None" if engine is None else f"the function {engine.__name__}"
        return f"engine must have the method create_variation(self, request), got {description}."
    try:
        # A decorator may pass further arguments, so the signature of its function counts.
        method_signature = signature(method, follow_wrapped=False)
    except (TypeError, ValueError):
        # Methods that are written in C may have no signature.
        return None
    try:
        method_signature.bind(object())
    except TypeError:
        return (
            f"{_method_name(engine)} takes {_without_types(method_signature)}, but it is called as "
            "create_variation(request). Define it as create_variation(self, request)."
        )
    return None


def _without_types(method_signature: Signature) -> str:
    parameters = method_signature.parameters.values()
    bare_parameters = [parameter.replace(annotation=Parameter.empty) for parameter in parameters]
    return str(Signature(bare_parameters))[:_MAX_SIGNATURE]


def check_answer(
    answer: object, request: CreateImageVariationRequest, engine: object
) -> ImagesResponse:
    """Return an engine's answer if it follows the Protocol.

    Each image must be a PNG of the requested size. Only the first bytes of its file are read. If
    some of the images are wrong, the others can still be read, and reading a wrong one raises the
    error. The images of a hosted engine are not checked, because its server decides what it sends.
    If it sends too few, those are kept, because they may be paid for. Reading one of the others
    raises the error.

    Raises:
        EngineError: If the answer is not an `ImagesResponse`, if it has another number of images
            than requested, or if all its images are wrong.
    """
    method = _method_name(engine)
    if not isinstance(answer, ImagesResponse):
        raise EngineError(f"{method} returned {describe_answer(answer)}.")
    count, is_hosted = len(answer.data), engine_base_url(engine) is not None
    if is_hosted and 0 < count < request.n:
        shortage = EngineResponseError(f"The server returned only {count} of {request.n} images.")
        answer.data += failed_images(request.n - count, shortage)
    elif count != request.n:
        images = "1 image" if count == 1 else f"{count} images"
        raise EngineError(f"{method} returned {images} for n={request.n}; return request.n images.")
    if not is_hosted:
        errors: dict[int, EngineError] = {}
        for index, image in enumerate(answer.data):
            fault = _image_fault(image, request)
            if fault is not None:
                errors[index] = EngineError(
                    f"{method} returned image {index + 1} of {count} {fault}."
                )
        if len(errors) == count:
            raise errors[0]
        for index, error in errors.items():
            answer.data[index].set_failure(error)
    return answer


def _image_fault(image: Image, request: CreateImageVariationRequest) -> str | None:
    """Return what is wrong with an image, or None if it is a PNG file of the requested size."""
    if image.failure is not None:
        # Reading the image raises this error, and the other images are not lost.
        return None
    try:
        head = image.read_head()
    except ImageVariationError:
        return "without its file; return the files: ImagesResponse.from_pngs makes b64_json of them"
    format = recognize_supported(head) or "an unknown kind of file"
    if format != "PNG":
        return f"as {format}, not PNG; encode_png(image) makes a PNG of a Pillow image"
    width, height = int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
    if (width, height) != (request.side, request.side):
        return f"with {width}x{height} pixels for size={request.size}; resize it to request.side"
    return None


def describe_answer(answer: object) -> str:
    """Return what an answer of a wrong type is, and what to return instead."""
    kind = type(answer).__name__
    if answer is None:
        return f"None; {_from_pngs('pngs')}"
    if isawaitable(answer):
        return "a coroutine; await it and return its result"
    if isgenerator(answer) or isasyncgen(answer):
        return f"a generator; collect the files in a list and {_from_pngs('pngs')}"
    if isinstance(answer, list | tuple) and answer:
        return _describe_items(kind, answer[0])
    if isinstance(answer, bytes | bytearray):
        return f"{kind}; {_from_pngs('[png]')}"
    if _is_pillow_image(answer):
        return f"a Pillow image; {_from_pngs('[encode_png(image)]')}"
    if isinstance(answer, dict):
        return "a dict; if it is the JSON of a server, return ImagesResponse.from_content(answer)"
    if hasattr(answer, "model_dump") and hasattr(answer, "data"):
        package = type(answer).__module__.partition(".")[0]
        return f"the {kind} of {package}; return ImagesResponse.from_content(answer.model_dump())"
    return f"a value of type {kind}; {_from_pngs('pngs')}"


def _describe_items(kind: str, item: object) -> str:
    if isinstance(item, bytes | bytearray):
        return f"a {kind} of bytes; {_from_pngs('pngs')}"
    if _is_pillow_image(item):
        return f"a {kind} of Pillow images; {_from_pngs('[encode_png(image) for image in images]')}"
    if isinstance(item, Image):
        return f"a {kind} of Image; return ImagesResponse(created=int(time.time()), data=images)"
    if isawaitable(item):
        return f"a {kind} of coroutines; await each of them, and {_from_pngs('pngs')}"
    return f"a {kind} of {type(item).__name__}; {_from_pngs('pngs')}"


def _from_pngs(files: str) -> str:
    return f"return ImagesResponse.from_pngs({files}, response_format=request.response_format)"


def find_place_of_error(engine: object, error: BaseException) -> str | None:
    """Return the last line of an engine's own module that an error passed, as "file.py:12".

    Args:
        engine: The engine.
        error: An error that it raised.
    """
    place, traceback = None, error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_globals.get("__name__") == type(engine).__module__:
            place = f"{PurePath(frame.f_code.co_filename).name}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


def _is_pillow_image(value: object) -> bool:
    # Imported here because only errors need it.
    from PIL.Image import Image as PillowImage

    return isinstance(value, PillowImage)


def _method_name(engine: object) -> str:
    return f"{type(engine).__name__}.create_variation"
