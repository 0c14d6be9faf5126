"""What can be done to many entries at once. First a page says what will happen to how many, then it is done, in chunks.

An action does no more than the QuerySet's verb of the same name, and writes a LogEntry for each entry that it moved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.db import OperationalError, router
from django.db.models import Q, QuerySet
from django.template.response import TemplateResponse
from django.utils.functional import Promise
from django.utils.text import capfirst
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from pipeteer_django.admin.below import open_below, said_of
from pipeteer_django.admin.forms import CompleteForm, RerouteForm
from pipeteer_django.exceptions import PipeteerError
from pipeteer_django.queues import people
from pipeteer_django.queues.chunks import exactly, pages
from pipeteer_django.queues.database import is_contention

COUNTED = 1000
"""A confirmation page counts up to here, and says "more than" beyond."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """One action: whom it is for, what it does, and all its words."""

    name: str
    label: str | Promise
    consequence: str | Promise
    """What will happen to each."""
    others: str | Promise = ""
    """What those are that it is not for."""
    done: Any
    """ngettext_lazy: how many it was done to."""
    verb: Callable[[Any, dict[str, Any]], int]
    """Called with the entries of a chunk and what the form asked for; returns how many it moved."""
    permission: str = "change"
    eligible: Callable[[Any], Any] = field(default=lambda rows: rows)
    form: Callable[[Any, Any], Any] | None = None
    """Called with the ModelAdmin and what was submitted. Its `in_words()` is what the log says of it."""
    takes_children: bool = False
    """Whether entries that a workflow has open go with it."""
    for_workflows: bool = False
    harms: bool = False
    """Whether something is lost by it: its button is red."""

    @property
    def flag(self) -> int:
        """What the log calls it."""
        return DELETION if self.permission == "delete" else CHANGE


def action_of(move: Move) -> Any:
    """The function that a ModelAdmin lists among its `actions`."""

    @admin.action(permissions=[move.permission], description=move.label)  # type: ignore[arg-type]
    def act(model_admin: Any, request: Any, queryset: QuerySet[Any]) -> Any:
        confirmed = request.POST.get("post") == "yes"
        form = move.form(model_admin, request.POST if confirmed else None) if move.form else None
        if not confirmed or (form is not None and not form.is_valid()):
            return _ask(move, model_admin, request, queryset, form)
        return _act(move, model_admin, request, queryset, form)

    act.__name__ = move.name
    act.for_workflows = move.for_workflows  # type: ignore[attr-defined]
    return act


def _ask(move: Move, model_admin: Any, request: Any, queryset: QuerySet[Any], form: Any) -> TemplateResponse:
    """The page between the list and the deed."""
    keys = list(move.eligible(queryset).order_by("pk").values_list("pk", flat=True)[: COUNTED + 1])
    chosen = len(queryset.order_by("pk").values_list("pk", flat=True)[: COUNTED + 1])
    opts = model_admin.opts
    below = open_below(opts.model.pipeline, _alias(model_admin), keys, COUNTED) if move.takes_children else {}
    context = {
        **model_admin.admin_site.each_context(request),
        "title": _name(move),
        "opts": opts,
        "media": model_admin.media + form.media if form is not None else model_admin.media,
        "move": move,
        "form": form,
        "count": len(keys),
        "how_many": how_many(len(keys), opts),
        "others": 0 if len(keys) > COUNTED or chosen > COUNTED else chosen - len(keys),
        "below": said_of(below, COUNTED),
        "bound": model_admin.most_per_action if len(keys) > COUNTED else 0,
        "action_name": move.name,
        "checkbox_name": ACTION_CHECKBOX_NAME,
        "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
        "select_across": request.POST.get("select_across", "0"),
    }
    request.current_app = model_admin.admin_site.name
    return TemplateResponse(request, "admin/pipeteer_django/confirm_action.html", context)


def how_many(count: int, opts: Any) -> str:
    """`count` entries, in words that stay true where nobody counted further."""
    if count > COUNTED:
        return gettext("More than %(count)s %(name)s") % {"count": f"{COUNTED:,}", "name": opts.verbose_name_plural}
    name = opts.verbose_name if count == 1 else opts.verbose_name_plural
    return f"{count:,} {name}"


def _act(move: Move, model_admin: Any, request: Any, queryset: QuerySet[Any], form: Any) -> None:
    using, model, most = _alias(model_admin), model_admin.model, model_admin.most_per_action
    rows = model._default_manager.using(using)
    asked, words = (form.cleaned_data, f" ({form.in_words()})") if form is not None else ({}, "")
    met = moved = 0
    for keys in pages(move.eligible(queryset), most):
        entries = rows.only("pk", model_admin.search_column).in_bulk(keys)

        def verb(some: Any) -> int:
            return move.verb(move.eligible(rows.filter(pk__in=some)), asked)

        def record(some: Any, entries: Any = entries) -> None:
            log(request, [entries[key] for key in some if key in entries], move.flag, f"{_name(move)}{words}")

        try:
            moved += len(exactly(using, keys, verb, record))
        except (PipeteerError, OperationalError) as error:
            said = _("It went no further than this: %(error)s") % {"error": why(error)}
            model_admin.message_user(request, f"{move.done % {'count': moved}} {said}", messages.ERROR)
            return
        met += len(keys)
    _tell(move, model_admin, request, moved, max(met, _expected(request)) - moved, met >= most)


def why(error: Exception) -> Any:
    """What to tell somebody about an error that waiting or looking again may cure; raises what is none of these."""
    if not isinstance(error, OperationalError):
        return error
    if not is_contention(error):
        raise error
    return _("somebody holds a row that this needs. Try again.")


def _name(move: Move) -> str:
    return str(capfirst(str(move.label)))


def log(request: Any, objects: list[Any], flag: int, message: str) -> None:
    """A LogEntry for each, with one statement."""
    if objects:
        LogEntry.objects.log_actions(request.user.pk, objects, flag, message)


def _expected(request: Any) -> int:
    """How many the confirmation page announced, if it counted them all."""
    said = request.POST.get("counted", "")
    count = int(said) if said.isdecimal() and len(said) < 6 else 0
    return count if count <= COUNTED else 0


def _tell(move: Move, model_admin: Any, request: Any, moved: int, left: int, stopped: bool) -> None:
    said = [str(move.done % {"count": moved})]
    if left > 0:
        said.append(
            ngettext(
                "%(count)d had moved on by itself and was left alone.",
                "%(count)d had moved on by themselves and were left alone.",
                left,
            )
            % {"count": left}
        )
    if stopped:
        said.append(
            gettext("One action takes no more than %(most)s: repeat it for the rest.")
            % {"most": f"{model_admin.most_per_action:,}"}
        )
    clean = moved and left <= 0 and not stopped
    model_admin.message_user(request, " ".join(said), messages.SUCCESS if clean else messages.WARNING)


def _alias(model_admin: Any) -> str:
    return router.db_for_write(model_admin.model)


def _remove(rows: Any, asked: dict[str, Any]) -> int:
    """`delete()` of a QuerySet counts related rows, too; what was asked for is counted here."""
    return int(rows.delete()[1].get(rows.model._meta.label, 0))


def _complete(rows: Any, asked: dict[str, Any]) -> int:
    ids = list(rows.values_list("pk", flat=True))
    return people.push_all(rows.model.pipeline, rows.db, ids, asked["value"])


retry = action_of(
    Move(
        name="retry",
        label=_("Retry failed entries"),
        consequence=_("They run again, from a first attempt."),
        others=_("Chosen, but not failed; they stay as they are:"),
        done=ngettext_lazy("%(count)d entry will run again.", "%(count)d entries will run again.", "count"),
        eligible=lambda rows: rows.failed(),
        verb=lambda rows, asked: rows.retry(),
    )
)

run_now = action_of(
    Move(
        name="run_now",
        label=_("Run scheduled entries now"),
        consequence=_(
            "They are due at once, whether they were to run later or wait between two attempts. "
            "The attempts that they have had still count."
        ),
        others=_("Chosen, but not scheduled; they stay as they are:"),
        done=ngettext_lazy("%(count)d entry is due now.", "%(count)d entries are due now.", "count"),
        eligible=lambda rows: rows.scheduled(),
        verb=lambda rows, asked: rows.update(available_at=None),
    )
)

release = action_of(
    Move(
        name="release",
        label=_("Release running entries"),
        consequence=_(
            "They are taken away from their workers, whose results will be refused, and can be claimed again at once. "
            "The attempt does not count. What a worker has already done outside its transaction is not undone."
        ),
        others=_("Chosen, but no worker has them; they stay as they are:"),
        done=ngettext_lazy("%(count)d entry was released.", "%(count)d entries were released.", "count"),
        eligible=lambda rows: rows.filter(~Q(reserved_by="")),
        verb=lambda rows, asked: rows.release(),
    )
)

restart = action_of(
    Move(
        name="restart",
        label=_("Restart from the beginning"),
        consequence=_("They run again from their first line. What they did so far is history, and not undone."),
        done=ngettext_lazy("%(count)d run was restarted.", "%(count)d runs were restarted.", "count"),
        verb=lambda rows, asked: rows.restart(),
        takes_children=True,
        for_workflows=True,
        harms=True,
    )
)

cancel = action_of(
    Move(
        name="cancel",
        label=_("Cancel"),
        consequence=_(
            "Runs that have begun get to clean up, and end; what has not begun, and what has failed, is deleted. "
            "Workflows that called them are told."
        ),
        done=ngettext_lazy("%(count)d run was cancelled.", "%(count)d runs were cancelled.", "count"),
        verb=lambda rows, asked: rows.cancel(),
        takes_children=True,
        for_workflows=True,
        harms=True,
    )
)

reroute = action_of(
    Move(
        name="reroute",
        label=_("Route results to another output"),
        consequence=_(
            "Their results will be found under the new name. Those that are running are released and begin again, the "
            "attempt not counted."
        ),
        others=_("Chosen, but called by a workflow, to which their results go; they stay as they are:"),
        done=ngettext_lazy("%(count)d entry was rerouted.", "%(count)d entries were rerouted.", "count"),
        eligible=lambda rows: rows.filter(caller=""),
        verb=lambda rows, asked: rows.update(output=asked["output"]),
        form=RerouteForm,
    )
)

complete = action_of(
    Move(
        name="complete",
        label=_("Complete by hand"),
        consequence=_(
            "Each gets the result below and leaves its queue, as if its work had come to that. Workflows that called "
            "them go on with it; where the run that asked is gone, nobody hears it. Workers that have one of them will "
            "be refused; what they have already done outside their transaction is not undone."
        ),
        done=ngettext_lazy("%(count)d entry was completed.", "%(count)d entries were completed.", "count"),
        verb=_complete,
        form=CompleteForm,
        takes_children=True,
    )
)

# Named like Django's own, whose confirmation page would load every object, and whose place it takes.
delete_entries = action_of(
    Move(
        name="delete_selected",
        label=_("Delete"),
        permission="delete",
        consequence=_("They leave their queue, and have no result. Workflows that called them get StepFailed."),
        done=ngettext_lazy("%(count)d entry was deleted.", "%(count)d entries were deleted.", "count"),
        verb=_remove,
        takes_children=True,
        harms=True,
    )
)

delete_outputs = action_of(
    Move(
        name="delete_selected",
        label=_("Delete"),
        permission="delete",
        consequence=_("These results are gone, and whoever waits for one learns that its run is gone."),
        done=ngettext_lazy("%(count)d result was deleted.", "%(count)d results were deleted.", "count"),
        verb=_remove,
        harms=True,
    )
)
