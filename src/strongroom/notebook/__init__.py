"""Work from a notebook: SQL cells become signed jobs, results come back as tables, refusals as lists of reasons.

``%load_ext strongroom.notebook`` adds the cell magic ``%%strongroom``. A notebook is the analyst's own machine: what a
cell asks of the data is a job like any other, and nothing that the owners' policies do not permit runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from strongroom.notebook.session import Result, Session, connect

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["Result", "Session", "connect", "load_ipython_extension"]


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Add ``%%strongroom`` to the notebook; IPython calls this."""
    from strongroom.notebook.magic import add_magic

    add_magic(shell)
