"""The flow of a call for variations: post, download, make PNG."""

import time
from collections.abc import Callable, Mapping

import httpx

from langchain_image_variation.contract import CreateImageVariationRequest, ImagesResponse
from langchain_image_variation.exceptions import InvalidRequestError, shown
from langchain_image_variation.http.endpoint import Endpoint
from langchain_image_variation.http.fetch import URLPolicy
from langchain_image_variation.http.flow import Flow, Work
from langchain_image_variation.http.results import download, normalize
from langchain_image_variation.png import SquarePNG

__all__ = ["FormValue", "Variations", "form_fields"]

FormValue = str | int | float | bool

_PATH = "/images/variations"
_FIELDS = tuple(CreateImageVariationRequest.model_fields)
_DEFAULT_MODEL = CreateImageVariationRequest.model_fields["model"].default


class Variations:
    """The settings of a client, and its flows. See `ImageVariationClient` for each setting.

    Raises:
        InvalidRequestError: If `extra_fields` holds a field of the contract, or no plain value.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        model: str | None,
        extra_fields: Mapping[str, FormValue] | None,
        normalize: bool,
        urls: URLPolicy | None,
    ) -> None:
        self.endpoint = endpoint
        self._model = model
        self._extra_fields = form_fields(extra_fields or {}, _FIELDS)
        self._normalize = normalize
        self._urls = urls or URLPolicy(hosts=None)

    def flow(
        self, request: CreateImageVariationRequest, build: Callable[..., httpx.Request]
    ) -> Flow[ImagesResponse]:
        """Post a request, download what its answer names, and return the answer.

        Raises:
            ImageVariationError: As `ImageVariationClient.create_variation`.
        """
        deadline = time.monotonic() + self.endpoint.deadline
        form = request.to_form()
        if self._model is not None and request.model == _DEFAULT_MODEL:
            form["model"] = self._model
        picture = request.image.data
        answer = yield from self.endpoint.post(
            _PATH, form | self._extra_fields, picture, build=build, deadline=deadline
        )
        for image in answer.data:
            yield from download(
                image, self.endpoint, policy=self._urls, build=build, deadline=deadline
            )
        if self._normalize:
            yield Work(lambda: normalize(answer, request.side))
        return answer

    def sdk_flow(
        self,
        load: Callable[[], SquarePNG],
        fields: Mapping[str, object],
        build: Callable[..., httpx.Request],
    ) -> Flow[ImagesResponse]:
        """Load a picture, make a request of it and the other fields, and post it."""
        image = yield Work(load)
        request = CreateImageVariationRequest.model_validate({"image": image, **fields})
        return (yield from self.flow(request, build))


def form_fields(values: Mapping[str, FormValue], taken: tuple[str, ...]) -> dict[str, str]:
    """Write a server's own fields as a form carries them.

    Args:
        values: The fields.
        taken: The names that are set otherwise.

    Raises:
        InvalidRequestError: If a name is taken, or a value is no string, number or boolean.
    """
    form = {}
    for name, value in values.items():
        if name in taken:
            raise InvalidRequestError(
                f"extra_fields must not hold {name!r}, which is set otherwise.",
                param="extra_fields",
            )
        if not isinstance(value, str | int | float):
            raise InvalidRequestError(
                f"extra_fields must hold strings, numbers and booleans, got {shown(value)} as "
                f"{shown(name)}.",
                param="extra_fields",
            )
        form[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return form
