"""The server: `POST /v1/images/variations` is back, over any engine."""

from langchain_image_variation.server.app import create_app

__all__ = ["create_app"]
