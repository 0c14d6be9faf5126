"""Whether settings, database and migrations are as the code wants them. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from django.apps import apps
from django.core.checks import CheckMessage, run_checks
from django.db import connections
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.exceptions import BadMigrationError, InconsistentMigrationHistory, NodeNotFoundError
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.questioner import MigrationQuestioner
from django.db.migrations.state import ProjectState

from pipeteer_django.checking.findings import Finding
from pipeteer_django.deploychecks import check_servers

_BROKEN = (BadMigrationError, InconsistentMigrationHistory, NodeNotFoundError)


def system_checks(aliases: Iterable[str]) -> Iterator[Finding]:
    """All errors that Django's system checks find, those of the databases included, and our own warnings.

    Also how the servers are run, which Django asks with `check --deploy` only.
    """
    databases = sorted(aliases)
    for message in [*run_checks(databases=databases), *check_servers(databases=databases)]:
        if not message.is_silenced() and (message.is_serious() or str(message.id).startswith("pipeteer.")):
            yield Finding(kind="check", text=_shown(message), warning=not message.is_serious())


def _shown(message: CheckMessage) -> str:
    return " ".join(str(part) for part in (message.msg, message.hint, message.id and f"({message.id})") if part)


def unapplied(using: str, labels: Iterable[str]) -> Iterator[Finding]:
    """Migrations of these apps, and what they depend on, that have not run: what `migrate --check` looks at."""
    try:
        executor = MigrationExecutor(connections[using])
        executor.loader.check_consistent_history(connections[using])
        targets = [node for label in sorted(labels) for node in executor.loader.graph.leaf_nodes(label)]
        plan = executor.migration_plan(targets)
    except _BROKEN as error:
        yield Finding(kind="migration", text=str(error))
        return
    for migration, _ in plan:
        yield Finding(kind="migration", text=f"{migration.app_label}.{migration.name} has not run.")


def unwritten(labels: Iterable[str]) -> Iterator[Finding]:
    """Changes of these apps' models that no migration makes: what `makemigrations --check` looks at."""
    wanted = set(labels)
    try:
        loader = MigrationLoader(None)
        for label, names in sorted(loader.detect_conflicts().items()):
            if label in wanted:
                text = f"{label} has several latest migrations: {', '.join(sorted(names))}. Run makemigrations --merge."
                yield Finding(kind="migration", text=text)
                wanted.remove(label)
        # Not the questioner of `makemigrations --noinput`: asked for a default, that one ends the process.
        questioner = MigrationQuestioner(specified_apps=wanted, dry_run=True)
        detector = MigrationAutodetector(loader.project_state(), ProjectState.from_apps(apps), questioner)
        changes = detector.changes(graph=loader.graph, trim_to_apps=wanted)
    except _BROKEN as error:
        yield Finding(kind="migration", text=str(error))
        return
    for label in sorted(wanted & set(changes)):
        for operation in (operation for migration in changes[label] for operation in migration.operations):
            yield Finding(kind="migration", text=f"{label} has no migration for this: {operation.describe()}")
