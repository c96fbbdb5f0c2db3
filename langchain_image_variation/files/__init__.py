"""Files and storage: atomic writes, output folders, fsspec."""
