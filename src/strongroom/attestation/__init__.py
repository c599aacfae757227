"""Evidence in, attestation result out; the channel bound to it; the simulated TEE (spec/4-release.md §1-§3)."""
