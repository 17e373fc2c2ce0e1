"""`recspark release ...` and `recspark lake ...`: what becomes active in a lake, and what may be removed from it."""

from typing import Annotated

import typer

release_app = typer.Typer(
    help="Makes a built index a release that services read, moves which one is active, and proves it whole.",
    no_args_is_help=True,
)
lake_app = typer.Typer(help="Frees what nobody needs any more.", no_args_is_help=True)

Conf = Annotated[str, typer.Argument(help="YAML file of the run.", metavar="CONF")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Dotted settings such as walks.p=0.5.", metavar="[key=value ...]")
]
Where = Annotated[str, typer.Argument(help="A lake's folder or URI, or a run's YAML file.", metavar="LAKE|CONF")]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        help="A release, by its id or the start of it. With a config: settings such as release.gates.min_recall=0.9.",
        metavar="[RELEASE] [key=value ...]",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(help="With a config: settings such as paths.lake=lake/shop.", metavar="[key=value ...]"),
]
Days = Annotated[float, typer.Option("--days", min=0, help="What is younger stays.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")]


@release_app.command()
def publish(conf: Conf, overrides: Overrides = None) -> None:
    """Publishes the newest finished index of a config, with all versions it was made from. Nothing is active by it."""
    from recspark.pipeline.hints import filled_in
    from recspark.pipeline.release import publish_release

    with filled_in([conf, *(overrides or [])]):
        row = publish_release(conf, overrides or [])
    print(f"release {row.release_id} is {row.state}; make it active by `recspark release activate {conf}`")


@release_app.command()
def activate(
    where: Where,
    words: Words = None,
    force: Annotated[str | None, typer.Option("--force", help="Why refused gates do not count; recorded.")] = None,
) -> None:
    """Makes a release active, by default the newest that is READY, if it is whole and passes the gates.

    The gates are those of the config, where one is given, else those that the release was published with.
    """
    from recspark.pipeline.release import find_lake, find_limits, split_words
    from recspark.releases.activate import activate

    release_id, overrides = split_words(words)
    limits = find_limits(where, overrides)
    print(activate(find_lake(where, overrides), release_id, limits=limits, force=force).describe())


@release_app.command()
def rollback(
    where: Where,
    words: Words = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Recorded with both releases.")] = None,
) -> None:
    """Goes back to the release that was active before, or to the one named: one commit, no gates."""
    from recspark.pipeline.release import find_lake, split_words
    from recspark.releases.activate import rollback

    release_id, overrides = split_words(words)
    print(rollback(find_lake(where, overrides), release_id, reason=reason).describe())


@release_app.command("list")
def list_releases(where: Where, overrides: Settings = None) -> None:
    """One line a release: its state, and why."""
    from recspark.pipeline.release import find_lake
    from recspark.releases.describe import describe_registry
    from recspark.releases.registry import read_registry

    print(describe_registry(read_registry(find_lake(where, overrides or []))))


@release_app.command()
def show(where: Where, words: Words = None) -> None:
    """What a release (by default the active one) was made from, its figures, and how the gates stand."""
    from recspark.pipeline.release import find_lake, find_row, split_words
    from recspark.releases.describe import describe_release

    release_id, overrides = split_words(words)
    registry, row = find_row(find_lake(where, overrides), release_id)
    print(describe_release(registry, row))


@release_app.command()
def verify(where: Where, words: Words = None) -> None:
    """Checks all of a release (by default the active one) again: hashes, versions, counts, canary queries."""
    from recspark.pipeline.release import find_lake, find_row, split_words
    from recspark.releases.verify import verify_release

    release_id, overrides = split_words(words)
    registry, row = find_row(find_lake(where, overrides), release_id)
    checks = verify_release(registry.lake, row)
    print("\n".join(check.describe() for check in checks))
    damaged = sum(check.flaw is not None for check in checks)
    print(f"release {row.release_id}: {len(checks)} checks, {damaged} damaged" if damaged else
          f"release {row.release_id}: {len(checks)} checks, all as it was published")  # fmt: skip
    if damaged:
        raise typer.Exit(2)


@lake_app.command()
def gc(
    where: Where,
    overrides: Settings = None,
    keep: Annotated[int, typer.Option("--keep", min=0, help="Newest published releases that stay.")] = 3,
    days: Days = 30.0,
    dry_run: DryRun = False,
) -> None:
    """Removes releases, indexes and models that nobody needs: not active, not the newest few, not leased by a reader.

    Indexes and models that belong to no release stay until they are so many days old.
    """
    from recspark.pipeline.release import find_lake
    from recspark.releases.garbage import collect_garbage, find_garbage

    lake = find_lake(where, overrides or [])
    found = find_garbage(lake, keep, days) if dry_run else collect_garbage(lake, keep, days)
    print(found.describe(lake, dry_run))


@lake_app.command()
def vacuum(where: Where, overrides: Settings = None, days: Days = 30.0, dry_run: DryRun = False) -> None:
    """Frees data files of table versions replaced so many days ago, never those that a release pins.

    A config whose versions are freed has to build them again.
    """
    from recspark.pipeline.release import find_lake
    from recspark.releases.vacuum import vacuum_tables

    for freed in vacuum_tables(find_lake(where, overrides or []), days, dry_run):
        print(freed.describe(dry_run))
