"""Look at an analyst's query at home, before a use of anybody's data is spent on it (spec/3-job.md)."""

from __future__ import annotations

from strongroom.errors import RefusedError
from strongroom.jobs.spec import JobDraft
from strongroom.policy.query import QueryError, check_draft


def refuse_query(draft: JobDraft, *, engine: str) -> None:
    """Raise RefusedError if ``draft`` is a query that would be refused whatever the owners permit; else return.

    ``engine`` is what would run it. Nothing is decided here: the driver checks every query against every policy.
    """
    if draft.kind != "sql":
        return
    try:
        check_draft(
            draft.program.decode(errors="replace"),
            {name: one.columns for name, one in draft.inputs.items()},
            dialect="spark" if engine == "spark" else "duckdb",
        )
    except QueryError as error:
        raise RefusedError(
            "no policy could let this query run, so it was not submitted",
            reasons=error.reasons,
            hint="change the query, or the columns that the job asks for",
        ) from error
