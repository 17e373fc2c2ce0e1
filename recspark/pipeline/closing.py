"""What stands at the end of a run: where everything is, the counted report, the metrics, three worked queries."""

import json
import shlex
from collections.abc import Callable, Sequence

import pyarrow.compute as pc

from recspark.config import Run
from recspark.contracts import columns as c
from recspark.errors import QueryError
from recspark.lake.arrow import find_done, find_table, read_table, table_uri
from recspark.lake.folders import folder_uri
from recspark.lake.storage import join, write_bytes
from recspark.pipeline.hints import fill_in
from recspark.report.html import render_html
from recspark.report.summary import build_report, describe_report
from recspark.retrieval.query import Neighbour, recommend_for_user, similar_items

_NUM_EXAMPLES = 5


def print_closing(run: Run, arguments: Sequence[str]) -> None:
    """Prints report, metrics, places and examples of all that is done, and writes the report beside the tables.

    Raises: LakeError or IndexReadError when a file that the examples read is damaged: the run is not well.
    """
    report = build_report(run.lake, run.stages)
    print(f"\n{describe_report(report)}")
    page = join(run.lake, "reports", f"{run.run_id}.html")
    write_bytes(page, render_html(report, run.config.run.name).encode())
    values = json.dumps({"run_id": run.run_id, **report}, indent=2, default=str)
    write_bytes(page.removesuffix("html") + "json", values.encode())
    print(f"\n{_describe_places(run, page)}")
    if "train" in run.stages and find_done(run.lake, run.stages["train"]):
        print(f"\n{_describe_examples(run, arguments)}")


def describe_item_query(run: Run, item_id: str, k: int) -> str:
    """Text of "items near X"."""
    return "\n".join(
        [f"items near {_name(run, item_id, 'item')}:", *_describe_neighbours(similar_items(run, item_id, k))]
    )


def describe_user_query(run: Run, user_id: str, k: int, at: str | None = None) -> str:
    """Text of "for user Y"; ``at`` is when, now by default."""
    return "\n".join(
        [f"for {_name(run, user_id, 'user')}:", *_describe_neighbours(recommend_for_user(run, user_id, k, at))]
    )


def _name(run: Run, asked: str, noun: str) -> str:
    """What was asked for, unless such ids are hidden: answers are kept in logs."""
    privacy = run.config.source.privacy
    is_hidden = privacy is not None and privacy.hides(noun)
    return f"the {noun} asked for" if is_hidden else asked if noun == "item" else f"{noun} {asked}"


def _describe_neighbours(neighbours: list[Neighbour]) -> list[str]:
    width = max((len(n.item_id) for n in neighbours), default=0)
    lines = []
    for n in neighbours:
        because = f"  because of {', '.join(n.because)}" if n.because else ""
        lines.append(f"  {n.rank:>3}  {n.score:.4f}  {n.item_id:<{width}}  {n.name or ''}{because}".rstrip())
    return lines


def _describe_places(run: Run, report_uri: str) -> str:
    lines = ["where everything is:"]
    for stage in run.stages.values():
        done = find_done(run.lake, stage)
        if done is None:
            continue
        if stage.spec.folder:
            lines.append(f"  {stage.name:<15} {folder_uri(run.lake, stage.spec.folder, stage.id)}")
        else:
            assert stage.spec.marker
            lines.append(f"  {stage.name:<15} {table_uri(run.lake, stage.spec.marker)} at version {done[0]}")
        if stage.name == "release":
            release_id = done[1].facts["release_id"]
            lines.append(f"  {'':<15} {folder_uri(run.lake, 'releases', release_id)}; see `recspark release list`")
        if stage.name == "train":
            lines.append(f"  {'model':<15} {folder_uri(run.lake, 'models', stage.id)}")
    lines.append(f"  {'report':<15} {report_uri}")
    return "\n".join(lines)


def _describe_examples(run: Run, arguments: Sequence[str]) -> str:
    """Two items and a user, asked as `recspark query` would."""
    asked = shlex.join(arguments)
    blocks = ["three queries, as `recspark query` answers them:"]
    items = read_table(find_table(run.lake, run.producer("items"), "items"), [c.ITEM_ID, c.NUM_EVENTS])
    order = pc.sort_indices(items, [(c.NUM_EVENTS, "descending"), (c.ITEM_ID, "ascending")])
    for place in (0, len(order) // 20):
        item_id = items[c.ITEM_ID][order[place].as_py()].as_py()
        blocks.append(f"$ recspark query {asked} --item {shlex.quote(item_id)} -k {_NUM_EXAMPLES}")
        blocks.append(_try(lambda item_id=item_id: describe_item_query(run, item_id, _NUM_EXAMPLES), arguments))  # type: ignore[misc]
    if "users" in {t for s in run.stages.values() for t in s.spec.tables}:
        users = read_table(find_table(run.lake, run.producer("users"), "users"), [c.USER_ID, c.NUM_EVENTS])
        user_id = users[c.USER_ID][
            pc.sort_indices(users, [(c.NUM_EVENTS, "descending")])[len(users) // 10].as_py()
        ].as_py()
        blocks.append(f"$ recspark query {asked} --user {shlex.quote(user_id)} -k {_NUM_EXAMPLES}")
        blocks.append(_try(lambda: describe_user_query(run, user_id, _NUM_EXAMPLES), arguments))
    return "\n".join(blocks)


def _try(describe: Callable[[], str], arguments: Sequence[str]) -> str:
    """An item or user without an answer is no reason to fail a finished run; a damaged index or model is."""
    try:
        return describe()
    except QueryError as error:
        return f"  {fill_in(str(error), arguments)}"
