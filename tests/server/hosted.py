"""An app without a key, for servers that import it.

`STORE` is its folder, `HOSTS` are its names, and `UPSTREAM` is its upstream, if there is one.
"""

import os

from langchain_image_variation.server import create_app

app = create_app(
    "instant",
    hosts=os.environ.get("HOSTS", "").split(),
    store_dir=os.environ["STORE"],
    upstream=os.environ.get("UPSTREAM"),
)
