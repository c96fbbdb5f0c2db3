"""An engine with the options that a model may choose."""

from langchain_image_variation.engines.instant import InstantEngine
from langchain_image_variation.exceptions import InvalidRequestError


class DialEngine(InstantEngine):
    """An engine whose images depend on strength and prompt. Its fingerprint leaves both out."""

    def __init__(self, strength: float = 0.5, prompt: str = "") -> None:
        super().__init__(seed=round(strength * 100) + 1000 * len(prompt))
        self.strength = strength
        self.prompt = prompt

    @property
    def fingerprint(self) -> str:
        """The same for all options."""
        return "dial"

    def with_options(self, *, strength: float = 0.5, prompt: str = "") -> "DialEngine":
        """Return a copy with other options."""
        if "forbidden" in prompt:
            raise InvalidRequestError("SECRET", param="prompt")
        return DialEngine(strength, prompt)
