"""The exit codes of the commands, besides 0 (success) and 130 (interrupted)."""

__all__ = ["FAILED", "INVALID", "SOME_FAILED"]

FAILED = 1
"""An engine failed, or a result could not be written."""

INVALID = 2
"""The input or the usage is invalid. argparse uses the same code."""

SOME_FAILED = 3
"""Some of several images failed, or some of the variations of an image."""
