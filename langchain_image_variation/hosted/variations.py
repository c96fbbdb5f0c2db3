"""The flow of a call for variations: post, download, make PNG."""

import time
from collections.abc import Callable, Mapping

import httpx

from langchain_image_variation.contract import (
    DEFAULT_MODEL,
    CreateImageVariationRequest,
    ImagesResponse,
)
from langchain_image_variation.engines.fingerprint import digest
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.hosted import settings
from langchain_image_variation.hosted.answer_images import download, normalize
from langchain_image_variation.hosted.endpoint import Endpoint
from langchain_image_variation.http.flow import Flow, Work
from langchain_image_variation.http.url_policy import URLPolicy
from langchain_image_variation.images.png import SquarePNG

__all__ = ["Variations"]

_PATH = "/images/variations"
_FIELDS = tuple(CreateImageVariationRequest.model_fields)


class Variations:
    """The settings of a client, and its flows. See `ImageVariationClient` for each setting.

    Raises:
        InvalidRequestError: If a setting is out of range; `param` names it.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        model: str | None,
        extra_fields: Mapping[str, settings.FormValue] | None,
        normalize: bool,
        result_urls: URLPolicy | None,
    ) -> None:
        if result_urls is not None and not isinstance(result_urls, URLPolicy):
            raise InvalidRequestError("result_urls must be a URLPolicy.", param="result_urls")
        self.endpoint = endpoint
        self._model = settings.model_name(model)
        self._extra_fields = settings.form_fields(extra_fields, _FIELDS)
        self._normalize = settings.flag("normalize", normalize)
        self._result_urls = result_urls or URLPolicy(hosts=None)

    @property
    def fingerprint(self) -> str:
        """A hash of what the answers depend on."""
        return digest(
            endpoint=self.endpoint.fingerprint,
            extra_fields=self._extra_fields,
            model=self._model,
            normalize=self._normalize,
        )

    def flow(
        self, request: CreateImageVariationRequest, build: Callable[..., httpx.Request]
    ) -> Flow[ImagesResponse]:
        """Post a request, download what its answer names, and return the answer.

        Raises:
            ImageVariationError: As `ImageVariationClient.create_variation`.
        """
        deadline = time.monotonic() + self.endpoint.deadline
        form = request.to_form()
        if self._model is not None and request.model == DEFAULT_MODEL:
            form["model"] = self._model
        picture = request.image.data
        answer = yield from self.endpoint.post(
            _PATH, form | self._extra_fields, picture, build=build, deadline=deadline
        )
        for image in answer.data:
            yield from download(
                image, self.endpoint, policy=self._result_urls, build=build, deadline=deadline
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
