"""What differs between two configs, in few words: the reason that a dry run gives for building a stage again."""

from typing import Any

from recspark.config.section import show


def find_differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """``a.b 1 -> 2`` for each leaf that differs; of a list of sections only those that do, with the fields they set."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [d for k in keys for d in find_differences(old.get(k), new.get(k), f"{prefix}.{k}" if prefix else k)]
    if old == new:
        return []
    if _is_sections(old) and _is_sections(new):
        gone, come = [one for one in old if one not in new], [one for one in new if one not in old]
        if gone or come:
            old, new = gone, come
        elif len(old) == len(new):
            return [f"{prefix} in another order"]
    return [f"{prefix} {_show(old)} -> {_show(new)}"]


def _is_sections(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _show(value: Any) -> str:
    """A value without the fields that are not set."""
    return show(_without_unset(value))


def _without_unset(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_unset(v) for k, v in value.items() if v is not None}
    return [_without_unset(one) for one in value] if isinstance(value, list) else value
