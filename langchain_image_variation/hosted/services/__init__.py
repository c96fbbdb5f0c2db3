"""The services that bill by call: the engines `fal`, `recraft` and `replicate`."""
