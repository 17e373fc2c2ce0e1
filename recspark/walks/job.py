"""item_graph at one version -> walks: pieces that are kept as they get ready, then one commit.

item_graph {src_idx: 7, dst_idx: [2, 9], score: [.8, .3]}  ->  walks {epoch: 0, shard: 12, start_idx: 7,
                                                                      walk: [7, 2, 9, 7, 2, ...]}
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recspark.config import Run
from recspark.config.schema import WalksConfig
from recspark.contracts import columns as c
from recspark.contracts.stages import stage_key
from recspark.contracts.tables import WALKS, TableSpec
from recspark.faults import fault_point
from recspark.lake.arrow import TableAt, count_rows, count_values, find_commit, find_table, list_markers, table_uri
from recspark.lake.spark import read_table, write_table
from recspark.logs import log
from recspark.memory import free_memory_bytes
from recspark.walks import chunks as ch
from recspark.walks.modes import Replicated, Sharded, WalkMode, shard_plan
from recspark.walks.pieces import Piece, plan_pieces
from recspark.walks.plan import WalkPlan, choose_mode, plan_walks
from recspark.walks.workers import NUM_SHARDS

STAGE = "walks"


@dataclass(frozen=True)
class _Build:
    """One build of walks: what it reads, and where it keeps what is ready."""

    spark: SparkSession
    run: Run
    config: WalksConfig
    inputs: dict[str, int]
    chunks: TableSpec
    earlier: TableAt | None


def build_walks(spark: SparkSession, run: Run) -> None:
    """Runs the stage for the item graph of this run's key, whichever stage made that.

    Raises: DataError when the graph has no edge to walk on or is damaged; SetupError when the disk has no room for the
        workers' copy.
    """
    config = run.config.walks
    assert config is not None, "a run without a walks section has no such stage"
    graph_at = find_table(run.lake, run.producer("item_graph"), "item_graph")
    items_at = find_table(run.lake, run.producer("items"), "items")
    mode, plan = _prepare(spark, run, config, graph_at, items_at)
    log(STAGE, "plan", **plan.facts())
    inputs = {table.name: table.version for table in (graph_at, items_at)}
    chunks = ch.chunk_table(run.stages[STAGE].key, plan.num_parts)
    build = _Build(spark, run, config, inputs, chunks, _find_earlier(run, inputs))
    kept = _walk_pieces(build, mode, plan)
    fault_point("walks.before_marker")
    _publish(build, plan, kept)
    mode.close()


def _prepare(
    spark: SparkSession, run: Run, config: WalksConfig, graph_at: TableAt, items_at: TableAt
) -> tuple[WalkMode, WalkPlan]:
    # Not by Spark, which would open both tables for it, with two jobs each.
    num_items, num_edges = count_rows(items_at), count_values(graph_at, c.DST_IDX)
    cores = spark.sparkContext.defaultParallelism
    chosen = choose_mode(config, num_edges, cores, free_memory_bytes())
    mode: WalkMode
    if chosen.name == "sharded":
        plan = shard_plan(run.lake, run.stages[STAGE].key, graph_at, num_items, chosen.num_shards, config)
        mode = Sharded(spark, graph_at, plan, chosen.num_shards, config, run.seed)
    else:
        mode = Replicated(spark, graph_at, num_items, config, run.seed)
    return mode, plan_walks(mode.size, config, chosen, cores)


def _find_earlier(run: Run, inputs: dict[str, int]) -> TableAt | None:
    """The version of `walks` that has most epochs of the very same walks, None without one."""
    wanted = base_key(run)
    found = [
        record
        for record in list_markers(run.lake, WALKS.name, STAGE)
        if record.facts.get("base_key") == wanted and record.inputs == inputs
    ]
    if not found:
        return None
    best = max(found, key=lambda record: int(record.facts["num_epochs"]))
    commit = find_commit(run.lake, WALKS.name, best.key, best.run_id)
    return commit and TableAt(run.lake, WALKS.name, *commit)


def base_key(run: Run) -> str:
    """What the walks of an epoch hang on: the stage's key but for the number of epochs."""
    stage = run.stages[STAGE]
    walks = {name: value for name, value in stage.sections["walks"].items() if name != "num_epochs"}
    return stage_key(stage.spec, stage.sections | {"walks": walks}, stage.upstream)


def _walk_pieces(build: _Build, mode: WalkMode, plan: WalkPlan) -> list[ch.WalkFile]:
    """Makes what is neither kept nor in an earlier version; the files of all epochs that come from the latter."""
    config, num_parts = build.config, plan.num_parts
    done = ch.find_done_units(build.run.lake, build.chunks, build.inputs)
    files = ch.find_kept_files(build.earlier, config.num_epochs) if build.earlier else []
    reused = {f.epoch for f in files}
    reused -= {epoch for epoch in reused if any(epoch * num_parts + part in done for part in range(num_parts))}
    if done or reused:
        log(STAGE, "going on", units=len(done), epochs=len(reused))
    ready = done | {epoch * num_parts + part for epoch in reused for part in range(num_parts)}
    for piece in plan_pieces(config.num_epochs, plan.epoch_tokens, config.chunk_tokens, ready):
        with mode.walks(piece, plan) as frame:
            _keep(build, piece, frame)
        fault_point("walks.between_pieces")
    return [f for f in files if f.epoch in reused]


def _keep(build: _Build, piece: Piece, frame: DataFrame) -> None:
    """One commit of the chunks' table, which makes the piece's units what they are however often it runs."""
    record = build.run.record(STAGE, is_marker=False, inputs=build.inputs, facts={ch.UNITS: list(piece.units)})
    unit = (F.col(c.EPOCH) * piece.num_parts + piece.part).cast("int")
    replaced = f"{ch.UNIT} in ({', '.join(map(str, piece.units))})"
    write_table(frame.withColumn(ch.UNIT, unit), build.run.lake, build.chunks, record, replaced)


def _publish(build: _Build, plan: WalkPlan, kept: list[ch.WalkFile]) -> None:
    """The marker's commit: all files at once."""
    run, config = build.run, build.config
    reused = {f.epoch for f in kept}
    frames = _rows(build, reused)
    has_made = len(reused) < config.num_epochs
    made = [f for f in ch.list_files(run.lake, build.chunks.name) if f.epoch not in reused] if has_made else []
    counts = _count(frames, plan, config.walk_length)
    counts |= {"num_nodes": plan.size.num_nodes, "num_edges": plan.size.num_edges, "isolated": plan.isolated}
    facts: dict[str, Any] = {"num_items": plan.size.num_nodes, "num_shards": NUM_SHARDS, "mode": plan.mode.name}
    facts |= {"base_key": base_key(run), "num_epochs": config.num_epochs}
    record = run.record(STAGE, is_marker=True, inputs=build.inputs, counts=counts, facts=facts)
    version = ch.commit_files(run.lake, [*kept, *made], build.chunks, record)
    log(STAGE, f"done at version {version}", **counts)


def _rows(build: _Build, reused: set[int]) -> list[DataFrame]:
    """The walks of all epochs, from where each is."""
    frames = []
    if len(reused) < build.config.num_epochs:
        made = build.spark.read.format("delta").load(table_uri(build.run.lake, build.chunks.name))
        frames.append(made.where(~F.col(c.EPOCH).isin(*reused)).select(c.WALK) if reused else made.select(c.WALK))
    if reused and build.earlier:
        frames.append(read_table(build.spark, build.earlier).where(F.col(c.EPOCH).isin(*reused)).select(c.WALK))
    return frames


def _count(frames: list[DataFrame], plan: WalkPlan, walk_length: int) -> dict[str, int]:
    """{num_walks, tokens, dead_ends}: known where all walks are full, else counted over the rows."""
    if not plan.size.has_dead_ends:
        return {"num_walks": plan.total_walks, "tokens": plan.total_walks * walk_length, "dead_ends": 0}
    length = F.size(c.WALK)
    row = reduce(DataFrame.unionAll, frames).agg(
        F.count(F.lit(1)).alias("num_walks"),
        F.sum(length).alias("tokens"),
        F.sum((length < walk_length).cast("int")).alias("dead_ends"),
    ).first()  # fmt: skip
    assert row is not None, "an aggregate without groups has one row"
    return {name: int(row[name] or 0) for name in ("num_walks", "tokens", "dead_ends")}
