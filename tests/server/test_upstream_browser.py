"""A real browser: pages of other sites cannot make a server without a key forward requests."""

from pathlib import Path

import pytest

pytest.importorskip("playwright")

from playwright.sync_api import Browser
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from tests.chromium import CHROMIUM
from tests.server.serving import serving
from tests.server.upstreams import forwarding, forwarding_to_vendor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
ATTACK = """
<img src="{url}?how=image"><script src="{url}?how=script"></script>
<link rel="stylesheet" href="{url}?how=style"><iframe src="{url}?how=frame"></iframe>
<form id="form" method="post" enctype="text/plain" action="{url}?how=form" target="popup">
  <input name="a" value="b">
</form>
<script>
  const calls = [];
  for (const mode of ["no-cors", "cors"]) {{
    for (const method of ["GET", "POST"]) {{
      calls.push(fetch(`{url}?how=${{mode}}-${{method}}`, {{ method, mode }}));
    }}
  }}
  const headers = {{ authorization: "Bearer x" }};
  calls.push(fetch("{url}?how=header", {{ method: "POST", headers }}));
  calls.push(fetch("{url}?how=delete", {{ method: "DELETE" }}));
  navigator.sendBeacon("{url}?how=beacon", "x");
  window.open("{url}?how=window");
  document.getElementById("form").submit();
  Promise.allSettled(calls).then(() => setTimeout(() => {{ document.title = "done"; }}, 500));
</script>
"""


@pytest.mark.parametrize("path", ["chat/completions", "models"])
def test_no_page_of_another_site_forwards(browser: Browser, tmp_path: Path, path: str) -> None:
    """Neither links, forms, frames nor scripts of another page reach the upstream."""
    pages: dict[str, str] = {}

    def attack(request: Request) -> Response:
        return HTMLResponse(pages["attack"])

    with (
        forwarding_to_vendor(tmp_path) as (address, vendor),
        serving(Starlette(routes=[Route("/", attack)])) as evil,
    ):
        # A page on another port of this machine is of the same site, but of another origin.
        for site in (evil, evil.replace("127.0.0.1", "localhost")):
            pages["attack"] = ATTACK.format(url=f"{address}/v1/{path}")
            with browser.new_context() as context, context.new_page() as page:
                page.goto(site)
                page.wait_for_function("document.title === 'done'")
        assert vendor.requests == []
        with browser.new_context() as context, context.new_page() as page:
            page.goto(address)
            status = page.evaluate("fetch('/v1/threads').then((answer) => answer.status)")
    assert status == 200
    assert vendor.targets == ["/base/v1/threads"]


def test_a_page_of_the_upstream_is_powerless(browser: Browser, tmp_path: Path) -> None:
    """A page that the upstream answers runs no script, and is of no origin."""
    calls = []

    def page_with_script(request: Request) -> Response:
        calls.append(request.url.path)
        return HTMLResponse("<h1>hello</h1><script>fetch('/v1/stolen')</script>")

    vendor = Starlette(routes=[Route("/{path:path}", page_with_script)])
    with serving(vendor) as upstream, forwarding(tmp_path, f"{upstream}/v1") as address:
        with browser.new_context() as context, context.new_page() as page:
            page.goto(f"{address}/v1/page")
            page.get_by_text("hello").wait_for()
            page.wait_for_timeout(300)
            assert page.evaluate("origin") == "null"
    assert calls == ["/v1/page"]
