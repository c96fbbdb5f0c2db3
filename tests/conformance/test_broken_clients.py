"""Each rule about clients is broken by a client made for that."""

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


class Plain:
    """A client as anyone would write it, in steps that can be broken one by one."""

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
        """Return the pictures."""
        for attempt in range(3):
            response = self.post(base_url, self.headers(api_key), image, fields, attempt)
            if response.status_code not in self.again:
                break
            time.sleep(0.01)
        return self.result(response, api_key)

    def post(
        self, base_url: str, headers: dict[str, str], image: bytes, fields: Any, attempt: int
    ) -> httpx.Response:
        """Ask."""
        sent = {k: str(v) for k, v in fields.items() if k not in self.dropped}
        files = {self.part: ("image.png", self.picture(image, attempt), self.kind)}
        data = {**sent, **self.extra}
        # Reading certificates, which loopback does not need, takes longer than all the rest.
        return httpx.post(
            base_url + self.path, data=data, files=files, headers=headers, verify=False
        )

    def picture(self, image: bytes, attempt: int) -> bytes:
        """Return what is sent as the picture."""
        return image

    def headers(self, api_key: str) -> dict[str, str]:
        """Return what says the key."""
        return {"authorization": f"Bearer {api_key}"}

    def result(self, response: httpx.Response, api_key: str) -> list[bytes]:
        """Return the pictures of an answer."""
        if response.status_code not in self.served:
            raise RuntimeError(self.message.format(response.text, key=api_key))
        entries = response.json()["data"][: self.most]
        return [self.file(entry, api_key) for entry in entries]

    def file(self, entry: dict[str, str], api_key: str) -> bytes:
        """Return the picture of an entry."""
        if "b64_json" in entry:
            return base64.b64decode(entry["b64_json"])
        headers = self.headers(api_key) if self.key_at_addresses else {}
        return httpx.get(entry["url"], headers=headers, verify=False).raise_for_status().content


def broken(**steps: Any) -> Plain:
    """Return a client with other steps."""
    client: Plain = type("Broken", (Plain,), steps)()
    return client


class Careless(Plain):
    """Takes whatever comes for pictures."""

    def __call__(self, *arguments: Any, **fields: Any) -> list[bytes]:
        """Return something."""
        try:
            return super().__call__(*arguments, **fields)
        except (RuntimeError, ValueError, httpx.HTTPError):
            return [b""]


class Mixing(Plain):
    """Keeps what it is to ask for where other calls find it too."""

    wanted: Any = None

    def __call__(self, *arguments: Any, **fields: Any) -> list[bytes]:
        """Return what was last asked for, by whatever call."""
        self.wanted = fields
        time.sleep(0.05)
        return super().__call__(*arguments, **self.wanted)


CLIENTS: Mapping[str, Plain] = {
    "client-asks": broken(path="/images/edits"),
    "client-picture": broken(part="picture"),
    "client-picture-unchanged": broken(picture=lambda self, image, attempt: jpeg(64, 64)),
    "client-part-type": broken(kind="application/octet-stream"),
    "client-key": broken(headers=lambda self, api_key: {}),
    "client-fields": broken(extra={"prompt": "a cat"}),
    "client-n": broken(dropped=("n",)),
    "client-size": broken(dropped=("size",)),
    "client-format": broken(dropped=("response_format",)),
    "client-user": broken(dropped=("user",)),
    "client-b64": broken(most=1),
    "client-url": broken(most=1),
    "client-ten": broken(most=9),
    "client-no-key-elsewhere": broken(key_at_addresses=True),
    **{id: Careless() for id in CLIENT_RULES if id.startswith("client-raises")},
    **{id: broken(again=(400, 401, *AGAIN)) for id in CLIENT_RULES if id.startswith("client-once")},
    **{id: broken(again=()) for id in CLIENT_RULES if id.startswith("client-again")},
    "client-the-same-again": broken(picture=lambda self, image, attempt: b"" if attempt else image),
    "client-message": broken(message="It failed."),
    "client-key-not-shown": broken(message="{} for {key}"),
    "client-at-once": Mixing(),
}


@pytest.fixture(scope="module")
def loopback() -> Iterator[Loopback]:
    """What the clients ask."""
    with Loopback() as server:
        yield server


def test_each_rule_has_a_broken_client() -> None:
    """None is left out."""
    assert CLIENTS.keys() == CLIENT_RULES.keys()


@pytest.mark.parametrize("id", CLIENT_RULES)
def test_a_broken_client_breaks_its_rule(loopback: Loopback, id: str) -> None:
    """The client of which it was made does not."""
    CLIENT_RULES[id].check(ClientProbe(Plain(), loopback))
    with pytest.raises(Violation):
        CLIENT_RULES[id].check(ClientProbe(CLIENTS[id], loopback))


def outcomes(loopback: Loopback, create: Any, *ids: str) -> dict[str, str]:
    """Return what comes of rules, by the name of what their check raises."""
    found = {}
    for id in ids or CLIENT_RULES:
        try:
            CLIENT_RULES[id].check(ClientProbe(create, loopback))
        except (Violation, SkipCheck) as raised:
            found[id] = type(raised).__name__
        else:
            found[id] = "passed"
    return found


def test_who_always_raises_keeps_nothing(loopback: Loopback) -> None:
    """That an error is raised says something only where pictures come otherwise."""

    def create(base_url: str, api_key: str, image: bytes, **fields: Any) -> list[bytes]:
        raise RuntimeError("no")

    assert "passed" not in outcomes(loopback, create).values()


def test_who_asks_for_base64_alone_breaks_a_rule(loopback: Loopback) -> None:
    """Though its pictures are right."""

    class Base64(Plain):
        def __call__(self, *arguments: Any, **fields: Any) -> list[bytes]:
            return super().__call__(*arguments, **{**fields, "response_format": "b64_json"})

    found = outcomes(loopback, Base64())
    assert [id for id in found if found[id] == "Violation"] == ["client-format"]
    assert found["client-raises-url-expired"] == "SkipCheck"


def test_what_was_asked_is_told(loopback: Loopback) -> None:
    """A line for each request, without the key."""
    probe = ClientProbe(broken(extra={"prompt": "a cat"}), loopback)
    with pytest.raises(Violation):
        CLIENT_RULES["client-fields"].check(probe)
    (line,) = probe.request_lines()
    assert line == (
        "POST /v1/images/variations size='256x256' response_format='b64_json' n='1' user='jane' "
        "prompt='a cat' image=RGB 64x64 -> 400"
    )


def test_an_async_function_and_a_generator_are_functions_too(loopback: Loopback) -> None:
    """They are waited for, and read."""

    async def create(*arguments: Any, **fields: Any) -> list[bytes]:
        return Plain()(*arguments, **fields)

    def generator(*arguments: Any, **fields: Any) -> Iterator[bytes]:
        yield from Plain()(*arguments, **fields)

    ids = ("client-b64", "client-url", "client-raises-wrong-key", "client-at-once")
    for function in (create, generator):
        assert set(outcomes(loopback, function, *ids).values()) == {"passed"}
