"""The engine `diffusers`: new images by generative models on this machine."""
