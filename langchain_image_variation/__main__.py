"""`python -m langchain_image_variation` is the same program as `image-variation`."""

import sys


def main() -> int:
    """Run the command line and return its exit code, 130 if the user interrupts."""
    try:
        # An interrupt may come while this still imports.
        from langchain_image_variation.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("image-variation: interrupted; no file is half-written.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
