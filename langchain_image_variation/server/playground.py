"""The page at `/`, to try the server in a browser. It is one file and loads nothing else."""

import base64
import hashlib
import re
from importlib.resources import files

__all__ = ["playground_page"]

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def playground_page() -> tuple[str, dict[str, str]]:
    """Return the page, and headers with which a browser runs only the page's own script."""
    page = files(__package__).joinpath("playground.html").read_text("utf-8")
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
