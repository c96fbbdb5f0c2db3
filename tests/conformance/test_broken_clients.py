"""A client with a fault for each rule about clients."""

import base64
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from pytest_image_variation.conformance.client_probe import ClientProbe
from pytest_image_variation.conformance.client_tests import CLIENT_RULES
from pytest_image_variation.conformance.rule import SkipCheck, Violation
from pytest_image_variation.loopback import Loopback
from pytest_image_variation.samples import jpeg

AGAIN = (429, 500, 503)


class PlainClient:
    """A simple client, in steps that can be broken one by one."""

    path = "/images/variations"
    part = "image"
    kind = "image/png"
    again: tuple[int, ...] = AGAIN
    extra: Mapping[str, str] = {}
    dropped: tuple[str, ...] = ()
    most = 10
    served = (200,)
    message = "{}"
    key_at_addresses = False

    def __call__(self, base_url: str, api_key: str, image: bytes, **fields: Any) -> list[bytes]:
        """Request the variations."""
        for attempt in range(3):
            response = self.post(base_url, self.headers(api_key), image, fields, attempt)
            if response.status_code not in self.again:
                break
            time.sleep(0.01)
        return self.result(response, api_key)

    def post(
        self, base_url: str, headers: dict[str, str], image: bytes, fields: Any, attempt: int
    ) -> httpx.Response:
        """Send the request."""
        fields_sent = {k: str(v) for k, v in fields.items() if k not in self.dropped}
        files = {self.part: ("image.png", self.image_to_send(image, attempt), self.kind)}
        data = {**fields_sent, **self.extra}
        # Loading certificates would take longer than the rest, and loopback needs none.
        return httpx.post(
            base_url + self.path, data=data, files=files, headers=headers, verify=False
        )

    def image_to_send(self, image: bytes, attempt: int) -> bytes:
        """Return the image to send."""
        return image

    def headers(self, api_key: str) -> dict[str, str]:
        """Return the headers with the key."""
        return {"authorization": f"Bearer {api_key}"}

    def result(self, response: httpx.Response, api_key: str) -> list[bytes]:
        """Return the images of a response."""
        if response.status_code not in self.served:
            raise RuntimeError(self.message.format(response.text, key=api_key))
        entries = response.json()["data"][: self.most]
        return [self.file(entry, api_key) for entry in entries]

    def file(self, entry: dict[str, str], api_key: str) -> bytes:
        """Return the image of an entry."""
        if "b64_json" in entry:
            return base64.b64decode(entry["b64_json"])
        headers = self.headers(api_key) if self.key_at_addresses else {}
        return httpx.get(entry["url"], headers=headers, verify=False).raise_for_status().content


def break_client(**steps: Any) -> PlainClient:
    """Return a client with other steps."""
    client: PlainClient = type("Broken", (PlainClient,), steps)()
    return client


class CarelessClient(PlainClient):
    """Returns something even if the request fails."""

    def __call__(self, *arguments: Any, **fields: Any) -> list[bytes]:
        """Return something even if the request fails."""
        try:
            return super().__call__(*arguments, **fields)
        except (RuntimeError, ValueError, httpx.HTTPError):
            return [b""]


class MixingClient(PlainClient):
    """Keeps the fields of a call where concurrent calls overwrite them."""

    fields: Any = None

    def __call__(self, *arguments: Any, **fields: Any) -> list[bytes]:
        """Request the fields of whichever call came last."""
        self.fields = fields
        time.sleep(0.05)
        return super().__call__(*arguments, **self.fields)


CLIENTS: Mapping[str, PlainClient] = {
    "client-asks": break_client(path="/images/edits"),
    "client-picture": break_client(part="picture"),
    "client-picture-unchanged": break_client(
        image_to_send=lambda self, image, attempt: jpeg(64, 64)
    ),
    "client-part-type": break_client(kind="application/octet-stream"),
    "client-key": break_client(headers=lambda self, api_key: {}),
    "client-fields": break_client(extra={"prompt": "a cat"}),
    "client-n": break_client(dropped=("n",)),
    "client-size": break_client(dropped=("size",)),
    "client-format": break_client(dropped=("response_format",)),
    "client-user": break_client(dropped=("user",)),
    "client-b64": break_client(most=1),
    "client-url": break_client(most=1),
    "client-ten": break_client(most=9),
    "client-no-key-elsewhere": break_client(key_at_addresses=True),
    **{id: CarelessClient() for id in CLIENT_RULES if id.startswith("client-raises")},
    **{
        id: break_client(again=(400, 401, *AGAIN))
        for id in CLIENT_RULES
        if id.startswith("client-once")
    },
    **{id: break_client(again=()) for id in CLIENT_RULES if id.startswith("client-again")},
    "client-the-same-again": break_client(
        image_to_send=lambda self, image, attempt: b"" if attempt else image
    ),
    "client-message": break_client(message="It failed."),
    "client-key-not-shown": break_client(message="{} for {key}"),
    "client-at-once": MixingClient(),
}


@pytest.fixture(scope="module")
def loopback() -> Iterator[Loopback]:
    """The server that the clients use."""
    with Loopback() as server:
        yield server


def test_each_rule_has_a_broken_client() -> None:
    """Each rule about clients has a broken client."""
    assert CLIENTS.keys() == CLIENT_RULES.keys()


@pytest.mark.parametrize("id", CLIENT_RULES)
def test_broken_client_breaks_its_rule(loopback: Loopback, id: str) -> None:
    """A broken client breaks its rule, and the client without the fault does not."""
    CLIENT_RULES[id].check(ClientProbe(PlainClient(), loopback))
    with pytest.raises(Violation):
        CLIENT_RULES[id].check(ClientProbe(CLIENTS[id], loopback))


def outcomes(loopback: Loopback, create: Any, *ids: str) -> dict[str, str]:
    """Return the outcome of each rule: "passed", or the name of the exception."""
    outcome_by_id = {}
    for id in ids or CLIENT_RULES:
        try:
            CLIENT_RULES[id].check(ClientProbe(create, loopback))
        except (Violation, SkipCheck) as raised:
            outcome_by_id[id] = type(raised).__name__
        else:
            outcome_by_id[id] = "passed"
    return outcome_by_id


def test_client_that_always_raises_passes_nothing(loopback: Loopback) -> None:
    """A client that always raises passes no rule, not even those about errors."""

    def create(base_url: str, api_key: str, image: bytes, **fields: Any) -> list[bytes]:
        raise RuntimeError("no")

    assert "passed" not in outcomes(loopback, create).values()


def test_client_that_ignores_response_format(loopback: Loopback) -> None:
    """A client that ignores `response_format` breaks one rule, although its images are right."""

    class Base64(PlainClient):
        def __call__(self, *arguments: Any, **fields: Any) -> list[bytes]:
            return super().__call__(*arguments, **{**fields, "response_format": "b64_json"})

    outcome_by_id = outcomes(loopback, Base64())
    assert [id for id in outcome_by_id if outcome_by_id[id] == "Violation"] == ["client-format"]
    assert outcome_by_id["client-raises-url-expired"] == "SkipCheck"


def test_violation_lists_the_requests(loopback: Loopback) -> None:
    """A violation has a line for each request, without the key."""
    probe = ClientProbe(break_client(extra={"prompt": "a cat"}), loopback)
    with pytest.raises(Violation):
        CLIENT_RULES["client-fields"].check(probe)
    (line,) = probe.request_lines()
    assert line == (
        "POST /v1/images/variations size='256x256' response_format='b64_json' n='1' user='jane' "
        "prompt='a cat' image=RGB 64x64 -> 400"
    )


def test_async_functions_and_generators(loopback: Loopback) -> None:
    """Async functions are awaited, and generators are read to the end."""

    async def create(*arguments: Any, **fields: Any) -> list[bytes]:
        return PlainClient()(*arguments, **fields)

    def generator(*arguments: Any, **fields: Any) -> Iterator[bytes]:
        yield from PlainClient()(*arguments, **fields)

    ids = ("client-b64", "client-url", "client-raises-wrong-key", "client-at-once")
    for function in (create, generator):
        assert set(outcomes(loopback, function, *ids).values()) == {"passed"}
