"""Files and storage: atomic writes, output folders, and the file systems that fsspec knows."""
