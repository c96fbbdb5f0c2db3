"""Options of engines: checks of those that several engines have, and values of others."""

from langchain_image_variation.exceptions import InvalidRequestError, excerpt
from langchain_image_variation.numbers import check_number, check_whole_number

__all__ = ["DTYPES", "check_seed", "check_strength", "check_switch"]

DTYPES = ("auto", "float32", "float16", "bfloat16")
"""The values of the option `dtype` of the engine `diffusers`. They are here, and not in the package
of that engine, because the command line shows them without importing that package."""


def check_seed(seed: int) -> int:
    """Return a seed if it is valid.

    Raises:
        InvalidRequestError: If it is not a whole number of at least 0.
    """
    return check_whole_number("seed", seed, 0, hint="; leave it out for a random one")


def check_strength(strength: float) -> float:
    """Return a strength if it is valid.

    Raises:
        InvalidRequestError: If it is not a number from 0 to 1.
    """
    return check_number("strength", strength, 0, 1, hint="; the default is 0.5")


def check_switch(name: str, value: bool) -> bool:
    """Return an option that is on or off if it is valid.

    Raises:
        InvalidRequestError: If it is not a boolean; the string "no" would count as True.
    """
    if isinstance(value, bool):
        return value
    raise InvalidRequestError(f"{name} must be True or False, got {excerpt(value)}.", param=name)
