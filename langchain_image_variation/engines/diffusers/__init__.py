"""New images from open models on your own hardware, with the library `diffusers`."""
