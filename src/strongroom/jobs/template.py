"""Write a job as TOML for an analyst to edit (spec/3-job.md §2)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from strongroom.jobs.form import JobForm
from strongroom.jobs.spec import JobInput
from strongroom.policy.problems import parse_toml, read_form
from strongroom.statements import PartyId


def job_template(
    *,
    name: str,
    kind: str,
    purpose: str,
    program: str,
    inputs: Mapping[str, JobInput],
    recipients: Sequence[PartyId],
    output: str = "result",
    workers: int = 1,
) -> str:
    """Return a job in TOML with one output; raise DocumentError if what was given makes no valid one."""
    tables = "\n".join(
        f"[inputs.{_text(dataset)}]\n"
        f"owner = {_text(str(given.owner))}\n"
        f"columns = {_list(given.columns)}\n"
        f"location = {_text(given.location)}\n"
        for dataset, given in inputs.items()
    )
    text = f"""\
# A job (spec/3-job.md). Every policy of every input must permit all of it.
name = {_text(name)}
kind = {_text(kind)}  # sql: one SELECT; spark, python: one file whose digest every owner has approved
purpose = {_text(purpose)}  # in the words of the owners' policies
program = {_text(program)}  # relative to this file

# One table for each dataset; its name is the table's name in SQL. Ask for the columns you need: each has its own key.
{tables}
[outputs.{_text(output)}]
recipients = {_list([str(party) for party in recipients])}

[cluster]
workers = {workers}
worker_memory = "2g"
worker_cores = 1
tee = "any"  # any, sgx or tdx
"""
    read_form(JobForm, parse_toml(text, what="the job"), what="the job")
    return text


def _text(text: str) -> str:
    """Return a TOML basic string; JSON's escapes are TOML's."""
    return json.dumps(text, ensure_ascii=False)


def _list(texts: Sequence[str]) -> str:
    return "[" + ", ".join(_text(text) for text in texts) + "]"
