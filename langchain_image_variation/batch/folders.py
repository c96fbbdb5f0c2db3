"""The folders below a batch's output folder."""

__all__ = ["BATCH_DIR", "GALLERY_DIR", "IMAGES_DIR"]

IMAGES_DIR = "images"
"""Holds the variations."""

GALLERY_DIR = "gallery"
"""Holds the HTML pages and their thumbnails."""

BATCH_DIR = ".batch"
"""Holds the files that runs keep for themselves: the ledger and the lock or lease."""
