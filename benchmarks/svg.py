"""Charts as SVG text: panels side by side, legible in light and dark mode, no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 500, 340, 68, 36, 88, 56
"""Of one panel, with its margins."""

COLOURS = {  # by look: light, dark, dashes
    "one": ("#0969da", "#58a6ff", ""),
    "two": ("#bc4c00", "#f0883e", "7 3"),
    "three": ("#1a7f37", "#3fb950", "2 3"),
    "plain": ("#57606a", "#9aa4af", "10 3 2 3"),
}


@dataclass(frozen=True)
class Series:
    """A line of points (x, median, lowest, highest), or of samples for a histogram (x alone)."""

    name: str
    look: str
    points: Sequence[tuple[float, ...]]


@dataclass(frozen=True)
class Panel:
    """One chart: a title, and what is drawn in it."""

    title: str
    series: Sequence[Series]


@dataclass(frozen=True)
class Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies; beyond the ends is at the ends."""
        low, high, value = (math.log10(each) if self.log else each for each in (self.low, self.high, value))
        share = min(max((value - low) / (high - low), 0), 1)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Round values between the ends."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            return [10.0**power for power in powers]
        step = nice((self.high - self.low) / 5)
        return [self.low + step * number for number in range(round((self.high - self.low) / step) + 1)]


def nice(value: float) -> float:
    """The next round number: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value * 0.999)


def roof(value: float) -> float:
    """The end of an axis from 0 that has room for a value: a whole number of ticks."""
    step = nice(value / 5)
    return step * math.ceil(round(value / step, 6))


def number(value: float) -> str:
    """As an axis shows it."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"


def lines(title: str, panels: Sequence[Panel], x_label: str, y_label: str, *, log: bool = False) -> str:
    """Medians joined by lines, each with a whisker from lowest to highest. All panels have the same axes."""
    points = [point for panel in panels for series in panel.series for point in series.points]
    xs = [point[0] for point in points]
    x = Scale(min(xs) if log else 0, max(xs), LEFT, WIDTH - RIGHT, log)
    if x.low == x.high:
        x = Scale(x.low * 0.5, x.high * 2, LEFT, WIDTH - RIGHT, log)
    y = Scale(0, roof(max(point[3] for point in points)), HEIGHT - BOTTOM, TOP)
    drawn = [
        _axes(panel, x, y, x_label, y_label) + [part for each in panel.series for part in _line(each, x, y)]
        for panel in panels
    ]
    return _page(title, drawn)


def _line(series: Series, x: Scale, y: Scale) -> list[str]:
    at = [(x.at(point[0]), y.at(point[1]), y.at(point[2]), y.at(point[3])) for point in sorted(series.points)]
    path = " ".join(f"{left},{middle}" for left, middle, _, _ in at)
    parts = [f'<polyline class="line {series.look}" points="{path}"/>']
    for left, middle, low, high in at:
        parts.append(f'<line class="whisker {series.look}" x1="{left}" x2="{left}" y1="{low}" y2="{high}"/>')
        parts.append(f'<circle class="dot {series.look}" cx="{left}" cy="{middle}" r="3.5"/>')
    return parts


def histogram(title: str, panels: Sequence[Panel], x_label: str, y_label: str, *, bins: int = 40) -> str:
    """Shares of the samples in bins of the same width; the last has whatever is beyond the 99th percentile of all."""
    longest = max(sorted(s)[len(s) * 99 // 100] for panel in panels for s in map(_samples, panel.series))
    x = Scale(0, roof(longest), LEFT, WIDTH - RIGHT)
    width = x.high / bins
    shares = {id(series): _shares(_samples(series), width, bins) for panel in panels for series in panel.series}
    y = Scale(0, roof(max(map(max, shares.values()))), HEIGHT - BOTTOM, TOP)
    drawn = []
    for panel in panels:
        parts = _axes(panel, x, y, f"{x_label}; the last bar: and more", y_label)
        for series in panel.series:
            parts += _bars(series.look, shares[id(series)], width, x, y)
        drawn.append(parts)
    return _page(title, drawn)


def _samples(series: Series) -> list[float]:
    return [point[0] for point in series.points]


def _shares(samples: list[float], width: float, bins: int) -> list[float]:
    counts = [0] * bins
    for sample in samples:
        counts[min(int(sample / width), bins - 1)] += 1
    return [100 * count / len(samples) for count in counts]


def _bars(look: str, shares: list[float], width: float, x: Scale, y: Scale) -> list[str]:
    return [
        f'<rect class="bar {look}" x="{x.at(place * width)}" y="{y.at(share)}" '
        f'width="{x.at((place + 1) * width) - x.at(place * width):.1f}" height="{y.start - y.at(share):.1f}"/>'
        for place, share in enumerate(shares)
        if share
    ]


def _axes(panel: Panel, x: Scale, y: Scale, x_label: str, y_label: str) -> list[str]:
    parts = [f'<text class="head" x="{LEFT}" y="24">{escape(panel.title)}</text>']
    left = LEFT
    for series in panel.series:
        parts.append(f'<line class="line {series.look}" x1="{left}" x2="{left + 26}" y1="44" y2="44"/>')
        parts.append(f'<text x="{left + 32}" y="48">{escape(series.name)}</text>')
        left += 48 + 7 * len(series.name)
    parts.append(f'<text x="{LEFT}" y="{TOP - 14}">{escape(y_label)}</text>')
    for tick in y.ticks():
        parts.append(f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{y.at(tick)}" y2="{y.at(tick)}"/>')
        parts.append(f'<text class="left" x="{x.start - 8}" y="{y.at(tick) + 4}">{number(tick)}</text>')
    for tick in x.ticks():
        parts.append(f'<line class="axis" x1="{x.at(tick)}" x2="{x.at(tick)}" y1="{y.start}" y2="{y.start + 5}"/>')
        parts.append(f'<text class="middle" x="{x.at(tick)}" y="{y.start + 20}">{number(tick)}</text>')
    parts.append(f'<line class="axis" x1="{x.start}" x2="{x.end}" y1="{y.start}" y2="{y.start}"/>')
    parts.append(f'<text class="middle" x="{(x.start + x.end) / 2}" y="{y.start + 42}">{escape(x_label)}</text>')
    return parts


def _page(title: str, panels: Sequence[list[str]]) -> str:
    width = WIDTH * len(panels)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}" '
        f'role="img" aria-label="{escape(title)}">\n<title>{escape(title)}</title>\n<style>\n{_style()}</style>\n'
        f'<rect class="back" width="{width}" height="{HEIGHT}"/>\n'
    )
    groups = [
        f'<g transform="translate({WIDTH * place} 0)">\n' + "\n".join(parts) + "\n</g>\n"
        for place, parts in enumerate(panels)
    ]
    return head + "".join(groups) + "</svg>\n"


def _style() -> str:
    rules = [
        "text { font: 13px system-ui, sans-serif; fill: #1f2328 } .head { font-weight: 600; font-size: 15px }",
        ".left { text-anchor: end } .middle { text-anchor: middle } .back { fill: #ffffff }",
        ".grid { stroke: #d8dee4 } .axis { stroke: #57606a } .line { fill: none; stroke-width: 2.5 }",
        ".whisker { stroke-width: 1.5 } .bar { fill-opacity: .5 }",
    ]
    dark = ["text { fill: #e6edf3 } .back { fill: #0d1117 } .grid { stroke: #30363d } .axis { stroke: #9aa4af }"]
    for look, (light, night, dashes) in COLOURS.items():
        rules.append(f".{look} {{ stroke: {light} }} .dot.{look}, .bar.{look} {{ fill: {light} }}")
        rules.append(f".line.{look} {{ stroke-dasharray: {dashes or 'none'} }}")
        dark.append(f".{look} {{ stroke: {night} }} .dot.{look}, .bar.{look} {{ fill: {night} }}")
    return "\n".join([*rules, "@media (prefers-color-scheme: dark) {", *dark, "}"]) + "\n"
