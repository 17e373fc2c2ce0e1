"""One line of the doctor, and how its lines are told.

FAIL  java         none usable  (needed: 17 or 21 or 25)
                   -> no usable Java: ...
"""

from collections.abc import Sequence
from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "FAIL"


@dataclass(frozen=True)
class Check:
    """One line of the doctor: ``status`` is ok, warn (a part is missing that not everyone needs) or FAIL."""

    name: str
    status: str
    found: str
    needed: str
    mend: str = ""


def is_fit(checks: Sequence[Check]) -> bool:
    """Whether the whole chain can run."""
    return all(check.status != FAIL for check in checks)


def describe_checks(checks: Sequence[Check]) -> str:
    """One line a check; what to do stands below those that are not ok."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.status:<4}  {check.name:<{width}}  {check.found}  (needed: {check.needed})")
        if check.status != OK and check.mend:
            indent = " " * (width + 8)
            lines.append(f"{indent}-> " + check.mend.replace("\n", f"\n{indent}   "))
    verdict = "the chain can run" if is_fit(checks) else "the chain cannot run until every FAIL is mended"
    return "\n".join([*lines, verdict])
