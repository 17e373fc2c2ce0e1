"""The table of metrics: the trained model beside the baselines, on the same users, and what the figures come to."""

from collections.abc import Mapping
from typing import Any

Report = dict[str, Any]

SHOWN_METRICS = ("recall", "ndcg", "hr", "mrr", "coverage")
PREFERRED_K = 20
POPULARITY, ITEM_KNN, ORACLE = "popularity", "item_knn", "oracle"


def build_metrics_report(counts: Mapping[str, Any], facts: Mapping[str, Any]) -> Report:
    """The evaluation from the counts and facts of the stage's record."""
    metrics: dict[str, dict[str, float]] = {label: facts["metrics"][label] for label in facts["models"]}
    k = choose_k(next(iter(metrics.values())))
    return {
        **{name: facts[name] for name in ("trained", "split", "history", "mask_seen", "search", "model_ids")},
        "k": k,
        "users": dict(counts),
        "columns": [f"{name}@{k}" for name in SHOWN_METRICS],
        "metrics": metrics,
        "findings": list_findings(metrics, facts["trained"], k),
    }


def choose_k(labels: Mapping[str, float]) -> int:
    """The cut-off that tables show: 20 where it was measured, else the largest one."""
    ks = {int(label.rpartition("@")[2]) for label in labels}
    return PREFERRED_K if PREFERRED_K in ks else max(ks)


def list_findings(metrics: Mapping[str, Mapping[str, float]], trained: str, k: int) -> list[str]:
    """Sentences that set the trained model's recall against the others'."""
    label = f"recall@{k}"
    own = metrics[trained][label]
    found = []
    if ORACLE in metrics and metrics[ORACLE][label] > 0:
        share = own / metrics[ORACLE][label]
        found.append(f"{trained} reaches {share:.0%} of the planted oracle's {label}")
    # The two that everybody knows come first.
    others = sorted(metrics, key=lambda name: (name != POPULARITY, name != ITEM_KNN))
    for other in others:
        if other not in (trained, ORACLE) and metrics[other][label] > 0:
            found.append(f"{trained} has {own / metrics[other][label]:.2f} x the {label} of {other}")
    return found


def describe_metrics(evaluation: Report) -> str:
    """Setting, aligned table and findings as text."""
    columns, metrics = evaluation["columns"], evaluation["metrics"]
    width = max(len(name) for name in (*metrics, "model"))
    lines = [describe_setting(evaluation), "", f"  {'model':<{width}}" + "".join(f"  {c:>12}" for c in columns)]
    for name, values in metrics.items():
        lines.append(f"  {name:<{width}}" + "".join(f"  {values[c]:>12.4f}" for c in columns))
    return "\n".join([*lines, "", *(f"  {finding}" for finding in evaluation["findings"])]).rstrip()


def describe_setting(evaluation: Report) -> str:
    """What was measured on whom, with the denominators."""
    users = evaluation["users"]
    seen = "seen items left out" if evaluation["mask_seen"] else "seen items listed too"
    return (
        f"evaluation on split {evaluation['split']}, history {evaluation['history']} + context, "
        f"search {evaluation['search']}, {seen}:\n"
        f"  {users['users']:,} users of {users['users_eligible']:,} eligible ({users['users_warm']:,} warm, "
        f"{users['users_cold']:,} cold), {users['relevant_items']:,} relevant items "
        f"({users['relevant_items_unknown']:,} unknown to every model, counted as misses)\n"
        f"  not scored: {users['users_without_held_out_items']:,} users without {evaluation['split']} items, "
        f"{users['users_without_history']:,} without history, "
        f"{users['users_with_all_relevant_seen']:,} with nothing relevant that is unseen"
    )
