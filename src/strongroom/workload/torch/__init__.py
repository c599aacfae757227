"""Let PyTorch programs learn on attested workers: collectives over the mesh, data, checkpoints (spec/3-job.md §10)."""
