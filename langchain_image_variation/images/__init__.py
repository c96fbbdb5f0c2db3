"""Image formats and pixels: PNG rules, decoding limits, color, and fitting into a square."""
