"""The part of a typed form for a moment: date, time and time zone."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from django import forms
from django.conf import settings as django_settings
from django.contrib.admin import widgets as admin_widgets
from django.core.exceptions import ValidationError
from django.forms.utils import from_current_timezone
from django.utils import timezone
from django.utils.translation import gettext as _

from pipeteer_django.admin.valueform.drafts import Draft, Sent
from pipeteer_django.admin.valueform.leaves import refuse
from pipeteer_django.admin.valueform.parts import Misfit, Part, Place, draw, visible

_FIXED_ZONE = re.compile(r"[+-][0-9]{2}:[0-9]{2}(:[0-9]{2})?")


class Moment(Part):
    """`datetime`: date, time and time zone. A plain JSON moment may have any zone, or none; a column's has one."""

    in_json = False

    def __init__(self, *, admin: bool, column: bool) -> None:
        self.column = column
        day: Any = admin_widgets.BaseAdminDateWidget() if admin else forms.DateInput()
        clock: Any = admin_widgets.BaseAdminTimeWidget() if admin else forms.TimeInput()
        self.day, self.clock = forms.DateField(widget=day), forms.TimeField(widget=clock)

    @property
    def media(self) -> forms.Media:
        """The calendar's."""
        media: forms.Media = self.day.widget.media + self.clock.widget.media
        return media

    def zones(self, *more: str) -> list[tuple[str, str]]:
        """The time zones to choose from: submitted values and labels."""
        local, utc, none = ("local", timezone.get_current_timezone_name()), ("UTC", "UTC"), ("none", _("no time zone"))
        if self.column:
            found = [local, utc] if django_settings.USE_TZ else [none]
        else:
            found = [local, utc, none] if django_settings.USE_TZ else [none, utc]
        return found + [(zone, zone) for zone in more if _FIXED_ZONE.fullmatch(zone)]

    def _draft(self, day: str, clock: str, zone: str) -> Draft:
        return Draft(text=(day, clock, zone))

    def blank(self) -> Draft:
        """Empty, in the first of the zones."""
        return self._draft("", "", self.zones()[0][0])

    def is_blank(self, draft: Draft) -> bool:
        """Whatever the zone."""
        return super().is_blank(draft) if draft.json is not None else not any(draft.text[:2])

    def load(self, plain: Any) -> Draft:
        """In the current time zone, if that says when it is; else in its own."""
        try:
            moment = datetime.fromisoformat(plain)
        except (TypeError, ValueError):
            raise Misfit(_("The stored value is none of its type.")) from None
        zone, wall = self._zone(moment)
        clock_format = "%H:%M:%S.%f" if wall.microsecond else "%H:%M:%S"
        day = self.day.widget.format_value(wall.date())
        return self._draft(day, wall.time().strftime(clock_format), zone)

    def _zone(self, moment: datetime) -> tuple[str, datetime]:
        offset = moment.utcoffset()
        if offset is None:
            return "none", moment
        if offset and not self.column:
            return _offset(moment), moment.replace(tzinfo=None)
        if django_settings.USE_TZ:
            try:
                wall = timezone.localtime(moment).replace(tzinfo=None, fold=0)
                if from_current_timezone(wall) == moment:
                    return "local", wall
            except (ValidationError, OverflowError, ValueError):  # an hour that comes twice, or the calendar's end
                pass
        return "UTC", moment.astimezone(UTC).replace(tzinfo=None)

    def take(self, sent: Sent, name: str) -> Draft:
        """Three inputs."""
        day, clock, zone = (sent.text(f"{name}--{part}") or "" for part in ("date", "time", "zone"))
        return self._draft(day, clock, zone or self.zones()[0][0])

    def dump(self, draft: Draft) -> Any:
        """ISO text."""
        day_text, clock_text, zone = draft.text
        problems = filter(None, [refuse(part, long=False) for part in draft.text])
        draft.errors = list(problems)[:1]
        if draft.errors:
            return None
        try:
            if day_text and not clock_text:
                raise ValidationError(_("Enter a time too."))
            moment = datetime.combine(self.day.clean(day_text), self.clock.clean(clock_text))
            return _iso(self._in_zone(moment, zone))
        except ValidationError as error:
            draft.errors = list(error.messages)
        except (ValueError, OverflowError):
            draft.errors = [_("This lies outside the calendar.")]
        return None

    def _in_zone(self, moment: datetime, zone: str) -> datetime:
        if zone not in dict(self.zones(zone)):
            raise ValidationError(_("Choose one of the time zones."))
        if zone == "none":
            return moment
        if zone == "local":
            aware: datetime = from_current_timezone(moment)
            return aware.astimezone(UTC)
        return moment.replace(tzinfo=UTC) if zone == "UTC" else datetime.fromisoformat(moment.isoformat() + zone)

    def draw(self, draft: Draft, place: Place) -> str:
        """Three inputs in a row."""
        day, clock, zone = (visible(part) for part in draft.text)
        zones = self.zones(zone)
        prefix = f"{place.label} " if place.label else ""
        about = {key: value for key, value in place.described(draft).items() if key != "id"}
        controls = [
            field.widget.render(
                f"{place.name}--{part}",
                text,
                {**about, "id": place.id if part == "date" else f"{place.id}--{part}", "aria-label": prefix + label},
                place.renderer,
            )
            for part, label, text, field in (
                ("date", _("date"), day, self.day),
                ("time", _("time"), clock, self.clock),
            )
        ]
        if len(zones) > 1:
            select = forms.Select(choices=zones)
            attrs = {**about, "id": f"{place.id}--zone", "aria-label": prefix + _("time zone")}
            controls.append(select.render(f"{place.name}--zone", zone, attrs, place.renderer))
        return draw("leaf", draft, place, control="", controls=controls, is_box=False)


def _offset(moment: datetime) -> str:
    return moment.isoformat().removeprefix(moment.replace(tzinfo=None).isoformat())


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
