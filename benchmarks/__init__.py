"""Measure what confidentiality costs: every benchmark runs the same work encrypted and plain, and reports the ratio.

``scripts/bench`` lists them. A benchmark is a module of this package with a ``run(options) -> Report``; its first
docstring line is its description.
"""
