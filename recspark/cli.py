"""The command line. Engines are imported by the processes it starts, never here.

Exit codes: 0 done, 2 the user's input (one message, no traceback), 1 anything else, a leak of held-out data too.
"""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from recspark import __version__
from recspark.cli_releases import Where, Words, lake_app, release_app
from recspark.cli_releases import verify as verify_release
from recspark.ending import calm_ending
from recspark.errors import RecsparkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recspark.config import Run
    from recspark.pipeline.plan import StageState

app = typer.Typer(
    name="recspark",
    help="Raw user-item events in a lake to embedding retrieval in production.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

verify_app = typer.Typer(help="Proves what a finished run promises.", no_args_is_help=True)
app.add_typer(verify_app, name="verify")
app.add_typer(release_app, name="release")
app.add_typer(lake_app, name="lake")

Conf = Annotated[str, typer.Argument(help="YAML file of the run.", metavar="CONF")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Dotted settings such as walks.p=0.5.", metavar="[key=value ...]")
]
PROJECTOR_HELP = (
    "Files for TensorBoard's projector: the candidate vectors as stored, without the bias of a score and without "
    "query vectors where those differ."
)
VECTORS_HELP = "Parquet of ids and vectors as fixed-size lists, for Milvus, Qdrant, pgvector, LanceDB and the like."
TOWERS_HELP = "The towers by torch.export and ONNX, with the schema of what they take."
FOLD_HELP = "Of --vectors: one more float a vector holds the bias, for engines that add none; compare by inner product."


@app.command()
def run(
    conf: Conf,
    overrides: Overrides = None,
    first: Annotated[str | None, typer.Option("--from", help="First stage to run.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last stage to run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, and why.")] = False,
) -> None:
    """Runs the stages of a config that are not done yet, then prints the counted report and the metrics."""
    from recspark.pipeline.hints import filled_in
    from recspark.pipeline.open_run import open_run

    arguments = [conf, *(overrides or [])]
    with filled_in(arguments):
        _run(_settle(open_run(conf, overrides or []), arguments, last, dry_run), arguments, first, last, dry_run)


def _settle(opened: "Run", arguments: list[str], last: str | None, dry_run: bool) -> "Run":
    """The run with what `model.kind: auto` stands for; its first stages are run for that, unless more is not wanted."""
    from recspark.config.learning import AUTO
    from recspark.contracts.stages import STAGE_NAMES
    from recspark.logs import log
    from recspark.pipeline.open_run import settle_run
    from recspark.pipeline.plan import find_states

    settled, choice = settle_run(opened, arguments[0], arguments[1:])
    is_open = choice is None and settled.config.model.kind == AUTO
    if is_open and not dry_run and (last is None or last in set(STAGE_NAMES) - set(settled.stages)):
        _run_stages(settled, find_states(settled, list(settled.stages)), arguments)
        settled, choice = settle_run(settled, arguments[0], arguments[1:])
    if choice:
        log("model", f"kind auto: {choice.kind}", why=choice.why, settings=" ".join(choice.settings))
    return settled


def _run(opened: "Run", arguments: list[str], first: str | None, last: str | None, dry_run: bool = False) -> None:
    from recspark.pipeline.closing import print_closing
    from recspark.pipeline.launch import describe_training
    from recspark.pipeline.limits import check_catalogue, check_training
    from recspark.pipeline.plan import describe_states, find_states, select_stages
    from recspark.pipeline.verify import audit_unevaluated

    names = select_stages(opened, first, last)
    if "evaluate" in names:
        check_catalogue(opened)
    states = find_states(opened, names)
    check_training(opened, states)
    if dry_run:
        print(describe_states(opened, states))
        print(describe_training(opened, states, arguments), end="")
        return
    _run_stages(opened, states, arguments)
    audited = audit_unevaluated(opened, states)
    print_closing(opened, arguments)
    if audited:
        print(f"\n{audited}")


def _run_stages(opened: "Run", states: "Sequence[StageState]", arguments: list[str]) -> None:
    from recspark.pipeline.launch import StageFailed, run_all

    try:
        run_all(opened, states, arguments)
    except StageFailed as failed:
        print(f"stopped: {failed}", file=sys.stderr)
        raise typer.Exit(failed.exit_code) from failed


@app.command()
def config(
    conf: Conf,
    overrides: Overrides = None,
    explain: Annotated[bool, typer.Option("--explain", help="What each knob means above it, as a comment.")] = False,
) -> None:
    """Prints the config with all defaults, as one YAML."""
    from recspark.config import load_config
    from recspark.config.explain import explain_config

    loaded = load_config(conf, overrides or [])
    text = explain_config(loaded) if explain else yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False)
    print(text, end="")


@app.command()
def doctor(
    conf: Annotated[str | None, typer.Argument(help="Also check this config and its lake.", metavar="[CONF]")] = None,
    overrides: Overrides = None,
) -> None:
    """Checks Java, Spark and Delta, torch, faiss, memory and disk: what is there, what is needed, how to mend it."""
    from recspark.pipeline.doctor import check_machine
    from recspark.pipeline.doctor_check import describe_checks, is_fit

    checks = check_machine(conf, overrides or [])
    print(describe_checks(checks))
    if not is_fit(checks):
        raise typer.Exit(2)


@app.command()
def query(
    conf: Conf,
    overrides: Overrides = None,
    item: Annotated[str | None, typer.Option("--item", help="Items near this item id.")] = None,
    user: Annotated[str | None, typer.Option("--user", help="Items for this user id.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="How many.")] = 10,
    at: Annotated[
        str | None, typer.Option("--at", help="The user as of this ISO time, by what came before it; now by default.")
    ] = None,
) -> None:
    """Asks the trained model: items near an item, or items for a user."""
    from recspark.errors import QueryError
    from recspark.pipeline.closing import describe_item_query, describe_user_query
    from recspark.pipeline.hints import filled_in
    from recspark.pipeline.open_run import open_finished_run

    if (item is None) == (user is None):
        raise QueryError("query: give --item ID or --user ID, one of them")
    if at is not None and user is None:
        raise QueryError("query: --at goes with --user: items are near each other at any time")
    with filled_in([conf, *(overrides or [])]):
        opened = open_finished_run(conf, overrides or [], "train")
        if item is not None:
            print(describe_item_query(opened, item, k))
        elif user is not None:
            print(describe_user_query(opened, user, k, at))


@app.command()
def recommend(conf: Conf, overrides: Overrides = None) -> None:
    """Lists the best unseen items for all users, or for those of recommend.users, in table recommendations.

    Rules, length and users stand in section `recommend`; recommend.release=true takes the active release.
    """
    from recspark.pipeline.hints import filled_in
    from recspark.pipeline.recommend import recommend_users

    with filled_in([conf, *(overrides or [])]):
        version, model_id = recommend_users(conf, overrides or [])
    print(f"recommendations at version {version}: purpose serve, model_id {model_id}")


@app.command()
def evaluate(conf: Conf, overrides: Overrides = None) -> None:
    """Runs the evaluation of a trained config alone and prints its metrics."""
    from recspark.pipeline.hints import filled_in
    from recspark.pipeline.open_run import open_job_run

    with filled_in([conf, *(overrides or [])]):
        opened = open_job_run(conf, overrides or [], "evaluate")
        _run(opened, [conf, *(overrides or [])], first="evaluate", last="evaluate")


@app.command()
def export(
    conf: Conf,
    overrides: Overrides = None,
    projector: Annotated[bool, typer.Option("--projector", help=PROJECTOR_HELP)] = False,
    vectors: Annotated[bool, typer.Option("--vectors", help=VECTORS_HELP)] = False,
    fold_bias: Annotated[bool, typer.Option("--fold-bias", help=FOLD_HELP)] = False,
    towers: Annotated[bool, typer.Option("--towers", help=TOWERS_HELP)] = False,
    to: Annotated[str | None, typer.Option("--to", help="Folder; export/MODEL_ID by default.")] = None,
    max_items: Annotated[
        int, typer.Option("--max-items", min=1, help="Of --projector: most popular items only.")
    ] = 20_000,
) -> None:
    """Writes a trained model in other programs' formats."""
    from pathlib import Path

    from recspark.errors import ConfigError
    from recspark.pipeline.hints import filled_in
    from recspark.pipeline.open_run import open_finished_run

    if not (projector or vectors or towers):
        raise ConfigError("export: say what to write: --projector, --vectors or --towers")
    with filled_in([conf, *(overrides or [])]):
        opened = open_finished_run(conf, overrides or [], "train")
        folder = Path(to or f"export/{opened.stages['train'].id}")
        if projector:
            from recspark.pipeline.projector import write_projector

            num_items = write_projector(opened, folder, max_items)
            print(f"{num_items:,} items in {folder}; look at them with `tensorboard --logdir {folder}`, tab Projector")
        if vectors:
            from recspark.pipeline.export_vectors import write_vectors

            print("\n".join(f"{rows:,} rows in {path}" for path, rows in write_vectors(opened, folder, fold_bias)))
        if towers:
            from recspark.pipeline.towers import write_towers  # loads torch

            print("\n".join(f"{path}: as the trained model" for path in write_towers(opened, folder)))


@verify_app.command()
def release(where: Where, words: Words = None) -> None:
    """The same as `recspark release verify`."""
    verify_release(where, words)


@verify_app.command()
def leak(conf: Conf, overrides: Overrides = None) -> None:
    """Proves from versions, times and counts that nothing held out has reached what was learned."""
    from recspark.pipeline.hints import filled_in
    from recspark.pipeline.verify import verify_leak

    with filled_in([conf, *(overrides or [])]):
        report = verify_leak(conf, overrides or [])
        print(report.describe())
        report.check_clean()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry of the ``recspark`` command; ends the process."""
    with calm_ending():
        _main()


def _main() -> None:
    # delta-rs reads it when it is loaded: without, a store's missing credentials say the same in pages of warnings.
    os.environ.setdefault("RUST_LOG", "warn,aws_config=error")
    try:
        app()
    except RecsparkError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("stopped: interrupted; the next run goes on from the last finished stage or checkpoint", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
