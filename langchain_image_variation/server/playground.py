"""The page at `/`, to try the server in a browser. It loads nothing from other servers."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files

__all__ = ["playground_page", "sample_image"]

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def playground_page(
    options: Mapping[str, object], *, requires_key: bool
) -> tuple[str, dict[str, str]]:
    """Return the page, and headers that let a browser run only the page's own script.

    Args:
        options: The engine's options that a request may set, with their current values. The page
            has controls for `seed` and `strength`.
        requires_key: Whether clients must send an API key.
    """
    page = files(__package__).joinpath("playground.html").read_text("utf-8")
    settings = json.dumps({"options": dict(options), "requires_key": requires_key})
    page = page.replace("{{settings}}", html.escape(settings))
    sources = {
        f"{kind}-src": base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for kind, text in _INLINE.findall(page)
    }
    policy = [
        "default-src 'none'",
        *(f"{directive} 'sha256-{digest}'" for directive, digest in sources.items()),
        "connect-src 'self'",
        "img-src 'self' blob: data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return page, {
        "cache-control": "no-cache",
        "content-security-policy": "; ".join(policy),
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }


def sample_image() -> bytes:
    """Return a photo to try the page with, as a JPEG file."""
    return files(__package__).joinpath("sample.jpg").read_bytes()
