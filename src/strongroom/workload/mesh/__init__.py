"""Connect the workers of one job with each other, each to each, over attested channels (spec/3-job.md §10)."""
