"""Enqueueing from a view, and looking at a queue: both are ordinary ORM."""

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from example_project.arithmetic.pipelines import quad


class NumberForm(forms.Form):
    """Four times anything in here still fits an integer column."""

    number = forms.IntegerField(min_value=-(10**9), max_value=10**9, initial=1)


def index(request: HttpRequest) -> HttpResponse:
    """Enqueue a number; show what waits and what came out."""
    form = NumberForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        quad.enqueue(form.cleaned_data["number"])
        messages.success(request, f"Enqueued quad({form.cleaned_data['number']}).")
        return redirect("arithmetic:index")
    waiting = quad.Input.objects.order_by("-id")
    context = {
        "form": form,
        "waiting": waiting[:20],
        "waiting_count": waiting.count(),
        "outputs": quad.Output.everything.order_by("-id")[:20],
    }
    return render(request, "arithmetic/index.html", context)
