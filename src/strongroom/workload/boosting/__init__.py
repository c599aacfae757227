"""Let XGBoost and LightGBM learn on several attested workers: their traffic over the mesh (spec/3-job.md §10)."""
