"""The steps of a client's call: post the request, download the results, convert them to PNG."""

from collections.abc import Callable, Mapping

import httpx

from langchain_image_variation.cancellation import delay_cancellation
from langchain_image_variation.contract import (
    DEFAULT_MODEL,
    VARIATIONS_PATH,
    CreateImageVariationRequest,
    ImagesResponse,
)
from langchain_image_variation.engines.fingerprint import digest
from langchain_image_variation.engines.options import check_switch
from langchain_image_variation.exceptions import InvalidRequestError
from langchain_image_variation.hosted import settings
from langchain_image_variation.hosted.answer_images import normalize_images
from langchain_image_variation.hosted.call_options import CallOptions
from langchain_image_variation.hosted.download import download
from langchain_image_variation.hosted.endpoint import Endpoint
from langchain_image_variation.hosted.parameters import FormFields
from langchain_image_variation.http.flow import Flow, Work
from langchain_image_variation.http.url_policy import URLPolicy
from langchain_image_variation.images.png import SquarePNG

__all__ = ["ClientFlow"]

_FIELDS = tuple(CreateImageVariationRequest.model_fields)


class ClientFlow:
    """The settings of a client and the flow of its calls. See `ImageVariationClient` for each.

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
        self.model = settings.check_model(model)
        self.extra_fields = settings.check_extra_fields(extra_fields, _FIELDS)
        self.normalize = check_switch("normalize", normalize)
        self.result_urls = result_urls or URLPolicy(hosts=None)

    @property
    def fingerprint(self) -> str:
        """A hash of everything that the answers depend on."""
        return digest(
            endpoint=self.endpoint.fingerprint,
            extra_fields=self.extra_fields,
            model=self.model,
            normalize=self.normalize,
        )

    def request(
        self, request: CreateImageVariationRequest, build_request: Callable[..., httpx.Request]
    ) -> Flow[ImagesResponse]:
        """Post a request and download the results that the answer names.

        Args:
            request: The request.
            build_request: `build_request` of the session.

        Raises:
            ImageVariationError: See `ImageVariationClient.create_variation`.
        """
        return self._post(request, self.endpoint, {}, build_request)

    def sdk_call(
        self,
        load_image: Callable[[], SquarePNG],
        fields: Mapping[str, object],
        options: CallOptions,
        build_request: Callable[..., httpx.Request],
    ) -> Flow[ImagesResponse]:
        """Load an image, build a request from it and the other arguments, and post it."""
        image = yield Work(load_image)
        request = CreateImageVariationRequest.model_validate(
            {"image": image, **fields, **options.contract_fields}
        )
        endpoint = options.override(self.endpoint)
        return (yield from self._post(request, endpoint, options.form, build_request))

    def _post(
        self,
        request: CreateImageVariationRequest,
        endpoint: Endpoint,
        extra_form: FormFields,
        build_request: Callable[..., httpx.Request],
    ) -> Flow[ImagesResponse]:
        budget = endpoint.new_budget()
        form = request.to_form()
        if self.model is not None and request.model == DEFAULT_MODEL:
            form["model"] = self.model
        answer = yield from endpoint.post(
            VARIATIONS_PATH,
            {**form, **self.extra_fields, **extra_form},
            request.image.data,
            n=request.n,
            build_request=build_request,
            budget=budget,
        )
        answer.model = None if form["model"] == DEFAULT_MODEL else form["model"]
        with delay_cancellation():
            for image in answer.data:
                yield from download(
                    image,
                    endpoint,
                    policy=self.result_urls,
                    build_request=build_request,
                    budget=budget,
                )
            if self.normalize:
                yield from normalize_images(answer, request.side, budget)
        return answer
