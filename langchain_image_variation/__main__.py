"""Runs the `image-variation` program with `python -m langchain_image_variation`."""

import atexit
import gc
import sys


def main() -> int:
    """Run the command line and return its exit code. It is 130 if the user interrupts."""
    # At its end, Python looks for garbage among all objects. With torch, this takes over a second.
    atexit.register(gc.freeze)
    try:
        # Imported here so that an interrupt during the imports is caught too.
        from langchain_image_variation.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("image-variation: interrupted; no file is half-written.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
