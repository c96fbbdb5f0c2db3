"""`python -m langchain_image_variation` is the same program as `image-variation`."""

import sys

from langchain_image_variation.cli import main

if __name__ == "__main__":
    sys.exit(main())
