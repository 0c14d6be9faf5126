"""The forms of the admin. They write users' columns only, and only over the row that was shown."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.utils.translation import gettext_lazy as _

from pipeteer_django.admin.inbox.rows import in_short
from pipeteer_django.admin.valueform.field import ValueField

CHANGED_MEANWHILE = _(
    "It changed meanwhile: a worker claimed or settled it, or somebody edited it. Nothing was written. "
    "Load the page again to see it as it is now."
)


class InputForm(forms.ModelForm):  # type: ignore[type-arg]
    """The form of an entry. Its hidden `loaded_epoch` is the page's: if the row has moved, nothing is saved."""

    loaded_epoch = forms.IntegerField(required=False, widget=forms.HiddenInput)

    class Meta:
        help_texts: ClassVar[Any] = {
            "key": _("Its name in this queue, where no other entry may have it."),
            "output": _("The name under which its result can be found."),
            "priority": _("-100 to 100; higher first."),
            "available_at": _("Not to be run before. Empty: now."),
            "state_label": _(
                "Ready: can be claimed now. Running: a worker has it. Waiting: asleep until a result, a message or a "
                "timer comes. Scheduled: due later. Failed: given up until somebody acts."
            ),
            "attempt": _("Tries since it last made progress. A try that was taken away does not count."),
            "crashes": _("Tries in a row that ended with their worker's death."),
            "worker": _("The process that has it, and until when that is granted; it is renewed while it runs."),
            "epoch": _("Counts the moves of this row. Who holds an older one can change nothing any more."),
            "called_by": _("The workflow that waits for the result."),
            "error": _("The traceback of the last failure."),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.instance._state.adding:
            self.initial["loaded_epoch"] = self.instance.epoch

    def clean(self) -> Any:
        """Hold the page against the row, and let `save()` do it once more under the same epoch."""
        cleaned: Any = super().clean()
        if not self.instance._state.adding:
            loaded = self.cleaned_data.get("loaded_epoch")
            if loaded is None or loaded != self.instance.epoch:
                raise forms.ValidationError(CHANGED_MEANWHILE, code="changed")
            self.instance.epoch = loaded
            self.instance.remember()
        return cleaned


class RerouteForm(forms.Form):
    """Asks for the name of an output."""

    def __init__(self, model_admin: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._column = model_admin.opts.get_field("output")
        self.fields["output"] = self._column.formfield(label=_("New output"), initial="")

    def clean_output(self) -> str:
        """The rules of the column."""
        name: str = self._column.clean(self.cleaned_data["output"], None)
        return name

    def in_words(self) -> str:
        """What was asked for, for the log."""
        return str(self.cleaned_data["output"])


class CompleteForm(forms.Form):
    """Asks for a result: a form made from the type of the pipeline's output."""

    def __init__(self, model_admin: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._output = model_admin.model.pipeline.output
        self.fields["value"] = ValueField(self._output, admin_site=model_admin.admin_site, label=_("Result"))

    def in_words(self) -> str:
        """The result in short, for the log."""
        return in_short(self._output, self.cleaned_data["value"])
