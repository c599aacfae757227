"""What an owner permits with its data, evaluated on verified facts, and fused to the strictest over all owners.

Start at ``parse_policy_toml`` and ``evaluate``; several policies go through ``fuse``. ``strongroom.policy.query`` holds
SQL to a fused policy; it stands apart because it loads a SQL parser. See spec/2-policy.md.
"""

from strongroom.policy.document import (
    ApprovalRule,
    Columns,
    DataUsePolicy,
    FileRules,
    MinimumGroup,
    OutputRules,
    PolicyFormError,
    PolicyOwnerError,
    Programs,
    Quota,
    ServingRules,
    TeeRequirements,
    parse_policy_toml,
    policy_digest,
    policy_document,
    read_policy,
    sign_policy,
    verify_policy,
)
from strongroom.policy.evaluate import Grant, Refusal, evaluate, hold_until
from strongroom.policy.facts import JOB_KINDS, Facts
from strongroom.policy.fusion import DatasetRules, FusedPolicy, FusionError, fuse
from strongroom.policy.problems import DocumentError, Problem
from strongroom.policy.template import policy_template, render_policy

__all__ = [
    "JOB_KINDS",
    "ApprovalRule",
    "Columns",
    "DataUsePolicy",
    "DatasetRules",
    "DocumentError",
    "Facts",
    "FileRules",
    "FusedPolicy",
    "FusionError",
    "Grant",
    "MinimumGroup",
    "OutputRules",
    "PolicyFormError",
    "PolicyOwnerError",
    "Problem",
    "Programs",
    "Quota",
    "Refusal",
    "ServingRules",
    "TeeRequirements",
    "evaluate",
    "fuse",
    "hold_until",
    "parse_policy_toml",
    "policy_digest",
    "policy_document",
    "policy_template",
    "read_policy",
    "render_policy",
    "sign_policy",
    "verify_policy",
]
