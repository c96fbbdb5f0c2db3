"""Batches: variations of many images, made by workers and recorded so that a run can resume.

- `variation_batch` makes the variations of given rows; `output_images` writes them.
- `run` runs a batch from start to end. `inputs` finds its sources. `local_run` passes them to
  `workers`, or `ray` to a cluster. `ledger` records the results, and `manifest` and `gallery`
  present them. `exclusive_access` keeps other runs out.
- Modules named `stored_*` handle URLs; the modules of the same name without it, local folders.
"""
