"""Write a policy as TOML that an owner can read and edit: the template of a new one, and any policy rendered back.

Both are the same lines, so what the template explains is what a rendered policy says (spec/2-policy.md §2).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

from strongroom.policy.document import DataUsePolicy, FileRules, ServingRules, parse_policy_toml
from strongroom.policy.form import DEFAULT_GROUP, DEFAULT_LEASE_SECONDS, ROLES, TCB_STATUSES, TIERS
from strongroom.policy.shapes import when_text
from strongroom.statements import PartyId

_NOTHING: Mapping[str, Sequence[str]] = MappingProxyType({})


def policy_template(
    *,
    dataset: str,
    owner: PartyId,
    analysts: Sequence[PartyId],
    purposes: Sequence[str],
    expires: datetime,
    version: int = 1,
    approved: Sequence[str] = (),
    sql: bool = False,
    allow: Sequence[str] = ("*",),
    withhold: Sequence[str] = (),
    measurements: Mapping[str, Sequence[str]] = _NOTHING,
    recipients: Sequence[PartyId] | None = None,
    minimum_group: int = DEFAULT_GROUP,
    unit: str | None = None,
    lease_seconds: int = DEFAULT_LEASE_SECONDS,
    allow_simulated: bool = False,
) -> str:
    """Return a policy in TOML for an owner to edit; raise DocumentError if what was given makes no valid one.

    What is not given denies: no program, no measurement. The analysts are the recipients unless others are named.
    """
    text = _render(
        _Lines(
            dataset=_text(dataset),
            version=str(version),
            owner=_text(str(owner)),
            purposes=_list(purposes),
            analysts=_list(analysts),
            not_before="# not_before = 2026-01-01T00:00:00Z",
            expires=when_text(expires),
            max_uses="# max_uses = 10",
            lease=str(lease_seconds),
            approved=_list(approved),
            sql=_flag(sql),
            allow=_list(allow),
            withhold=_list(withhold),
            allow_simulated=_flag(allow_simulated),
            tiers=_list(TIERS[:1]),
            tcb=_list(TCB_STATUSES[:1]),
            advisories_accepted="[]",
            measurements="\n".join(f"{role} = {_list(measurements.get(role, ()))}" for role in ROLES),
            recipients=_list(analysts if recipients is None else recipients),
            max_rows="# max_rows = 1000",
            size=str(minimum_group),
            unit='# unit = "customer_id"' if unit is None else f"unit = {_text(unit)}",
            approvals='# [outputs.approvals]\n# needed = 1\n# of = ["name:<32 hex digits>"]',
            files='# [outputs.files]\n# recipients = []\n# owner = "name:<32 hex digits>"\n# max_bytes = 1000000',
            serving="# [serving]\n# callers = []\n# quotas = [{ answers = 1000, seconds = 3600 }]\n"
            '# [serving.answers]\n# kinds = ["labels"]',
        )
    )
    parse_policy_toml(text)
    return text


def render_policy(policy: DataUsePolicy) -> str:
    """Return the policy as TOML; parsing it gives an equal policy with an equal digest."""
    group, rule = policy.outputs.minimum_group, policy.outputs.approvals
    return _render(
        _Lines(
            dataset=_text(policy.dataset),
            version=str(policy.version),
            owner=_text(str(policy.owner)),
            purposes=_list(policy.purposes),
            analysts=_list(policy.analysts),
            not_before=_optional("not_before", None if policy.not_before is None else when_text(policy.not_before)),
            expires=when_text(policy.expires),
            max_uses=_optional("max_uses", policy.max_uses),
            lease=str(int(policy.lease.total_seconds())),
            approved=_list(policy.programs.approved),
            sql=_flag(policy.programs.sql),
            allow=_list(policy.columns.allow),
            withhold=_list(policy.columns.withhold),
            allow_simulated=_flag(policy.tee.allow_simulated),
            tiers=_list(policy.tee.tiers),
            tcb=_list(policy.tee.tcb),
            advisories_accepted=_list(policy.tee.advisories_accepted),
            measurements="\n".join(f"{role} = {_list(policy.tee.measurements.get(role, ()))}" for role in ROLES),
            recipients=_list(policy.outputs.recipients),
            max_rows=_optional("max_rows", policy.outputs.max_rows),
            size=str(group.size),
            unit=_optional("unit", None if group.unit is None else _text(group.unit)),
            approvals=f"[outputs.approvals]\nneeded = {rule.needed}\nof = {_list(rule.of)}"
            if rule.needed
            else "# [outputs.approvals] is not given: outputs need no approval",
            files=_files(policy.outputs.files),
            serving=_serving(policy.serving),
        )
    )


def _files(rules: FileRules | None) -> str:
    if rules is None:
        return "# [outputs.files] is not given: only tables may leave"
    owner = _optional("owner", None if rules.owner is None else _text(str(rules.owner)))
    return f"[outputs.files]\nrecipients = {_list(rules.recipients)}\n{owner}\nmax_bytes = {rules.max_bytes}"


def _serving(rules: ServingRules | None) -> str:
    if rules is None:
        return "# [serving] is not given: no endpoint answers from this dataset"
    quotas = ", ".join(f"{{ answers = {one.answers}, seconds = {one.seconds} }}" for one in rules.quotas)
    return (
        f"[serving]\ncallers = {_list(rules.callers)}\nquotas = [{quotas}]\n"
        f"[serving.answers]\nkinds = {_list(rules.kinds)}\ndigits = {rules.digits}\ntokens = {rules.tokens}\n"
        f"{_optional('top', rules.top)}"
    )


class _Lines(dict[str, str]):
    """The right-hand sides, and the whole lines that may be absent."""


def _render(lines: _Lines) -> str:
    return _TEMPLATE.format_map(lines)


def _optional(key: str, value: object) -> str:
    return f"# {key} is not given" if value is None else f"{key} = {value}"


def _text(text: str) -> str:
    """Return a TOML basic string; JSON's escapes are TOML's, and shapes admit printable characters only."""
    return json.dumps(text, ensure_ascii=False)


def _list(values: Iterable[object]) -> str:
    texts = [_text(str(value)) for value in values]
    if not texts:
        return "[]"
    return f"[{texts[0]}]" if len(texts) == 1 else "[\n  " + ",\n  ".join(texts) + ",\n]"


def _flag(value: bool) -> str:
    return "true" if value else "false"


_TEMPLATE = """\
# Data-use policy (spec/2-policy.md). What it does not name, it denies; an empty list denies.
dataset = {dataset}
version = {version}          # a changed policy needs a higher version
owner = {owner}
purposes = {purposes}
analysts = {analysts}
{not_before}
expires = {expires}
{max_uses}
lease = {lease}  # seconds a released key may be held before the broker is asked again; bounds how fast revocation acts

[programs]
approved = {approved}  # sha256sum of programs you have read
sql = {sql}            # true: any SQL query that passes the checks of minimum_group, unread

[columns]
allow = {allow}
withhold = {withhold}

[tee]
allow_simulated = {allow_simulated}  # true accepts a TEE that protects nothing
tiers = {tiers}
tcb = {tcb}
advisories_accepted = {advisories_accepted}

[tee.measurements]  # what `strongroom measure` prints for the release you have checked
{measurements}

[outputs]
recipients = {recipients}
{max_rows}

# Behind every row of a SQL result stand at least `size` rows of this dataset, or `size` different values of `unit`.
# It does not stop somebody who may ask many overlapping questions: bound those with max_uses or approvals.
[outputs.minimum_group]
size = {size}
{unit}

{approvals}

# Models and other files: who may take them out, and whose dataset they become if they stay inside.
{files}

# A model that answers from an endpoint: who may ask, how often, and what an answer may hold.
{serving}
"""
