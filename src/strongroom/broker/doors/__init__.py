"""The broker's doors: for everybody, for owners, for analysts and for attested workloads (spec/4-release.md §4-§9)."""
