"""Durable execution for Django with nothing hidden.

    import pipeteer_django as pipeteer

Names are imported when first used, so that having the app in INSTALLED_APPS costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeteer_django.exceptions import (
        BrokenAtomicity,
        DefinitionError,
        DuplicateKey,
        EngineColumn,
        EntryChanged,
        ImpureWorkflow,
        InvalidValue,
        LateRegistration,
        LeaseLost,
        LostTransaction,
        NotDurable,
        NotInTransaction,
        NotReady,
        PipeteerError,
        RunFailed,
        RunGone,
        StepFailed,
    )
    from pipeteer_django.hearing import notify, wait
    from pipeteer_django.pipelines.activity import Activity, activity
    from pipeteer_django.pipelines.context import Context
    from pipeteer_django.pipelines.multitask import Multitask, multitask
    from pipeteer_django.pipelines.task import InputT, Push, Task, task
    from pipeteer_django.pipelines.workflow import Workflow, workflow
    from pipeteer_django.pipelines.workflowcontext import WorkflowContext
    from pipeteer_django.previewing import Preview, preview

_PLACES = {
    "exceptions": (
        "BrokenAtomicity DefinitionError DuplicateKey EngineColumn EntryChanged ImpureWorkflow InvalidValue "
        "LateRegistration LeaseLost LostTransaction NotDurable NotInTransaction NotReady PipeteerError RunFailed "
        "RunGone StepFailed"
    ),
    "hearing": "notify wait",
    "pipelines.activity": "Activity activity",
    "pipelines.context": "Context",
    "pipelines.multitask": "Multitask multitask",
    "pipelines.workflowcontext": "WorkflowContext",
    "pipelines.task": "InputT Push Task task",
    "pipelines.workflow": "Workflow workflow",
    "previewing": "Preview preview",
}
_NAMES = {name: module for module, names in _PLACES.items() for name in names.split()}

__all__ = [
    "Activity", "BrokenAtomicity", "Context", "DefinitionError", "DuplicateKey", "EngineColumn", "EntryChanged",
    "ImpureWorkflow", "InputT", "InvalidValue", "LateRegistration", "LeaseLost", "LostTransaction", "Multitask",
    "NotDurable", "NotInTransaction", "NotReady", "PipeteerError", "Preview", "Push", "RunFailed", "RunGone",
    "StepFailed", "Task", "Workflow", "WorkflowContext", "activity", "multitask", "notify", "preview", "task", "wait",
    "workflow",
]  # fmt: skip

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
