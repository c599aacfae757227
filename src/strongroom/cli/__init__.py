"""The command line: one file per verb, parsing and printing only.

Results go to stdout and talk to stderr; ``docs/reference/errors-and-exit-codes.md`` lists the exit codes. No verb does
anything that the SDK in ``strongroom.parties`` cannot do.
"""

from strongroom.cli.journey import main

__all__ = ["main"]
