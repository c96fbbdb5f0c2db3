"""The empty prompt: encoded once, so that its text encoders can be dropped."""

from typing import Any

__all__ = ["encode_empty_prompt"]


def encode_empty_prompt(pipeline: Any, *names: str) -> dict[str, Any]:
    """Return the embeddings of an empty prompt, and drop the pipeline's text encoders.

    They take up to two gigabytes, and every image has the same prompt.

    Args:
        pipeline: A pipeline of Stable Diffusion, in the main memory.
        *names: The parameters of the pipeline that take the values of its `encode_prompt`.
    """
    import torch

    with torch.no_grad():
        values = pipeline.encode_prompt(
            prompt="",
            device=pipeline.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
        )
    components = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    present = [name for name in components if name in pipeline.components]
    pipeline.register_modules(**dict.fromkeys(present))
    return dict(zip(names, values, strict=True))
