"""Text that would like to be more than text, and what of a page it must not change."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from selectolax.lexbor import LexborHTMLParser

XSS = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><img src=x onerror=alert(1)>",
    "'-alert(1)-'",
    '" onfocus="alert(1)" autofocus="',
    "' onmouseover='alert(1)",
    "</textarea><svg onload=alert(1)>",
    "</title></style><svg><script>alert(1)</script>",
    "</pre><iframe src=javascript:alert(1)>",
    "</option></select><input autofocus onfocus=alert(1)>",
    "]]></text></svg><body onload=alert(1)>",
    "<math><mtext><table><mglyph><style><!--</style><img src onerror=alert(1)>",
    "<!--<script>",
    "--><svg/onload=alert(1)>",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "{{ 7*7 }}{% now 'Y' %}${7*7}",
    "%(count)d %s %%",
    "&lt;b&gt;&#60;i&#62;",
    "\\u003cscript\\u003ealert(1)\\x3c/script>",
    "\u202e<style>*{display:none}</style>\u200b",
]

TOGETHER = [
    " ".join(together)
    for together in (
        ("javascript:alert(1)", *XSS[:3]),
        ("data:text/html,<script>alert(1)</script>", *XSS[3:6]),
        XSS[6:10],
        [*XSS[10:12], *XSS[17:20]],
        [*XSS[12:15], *XSS[20:]],
    )
]
"""The same in few: where each costs a hundred pages."""

_ADDRESSES = ("href", "xlink:href", "src", "srcset", "action", "formaction", "data", "poster")


@dataclass(frozen=True)
class Skeleton:
    """What a browser makes of a page, the text left out."""

    elements: Counter[tuple[str, tuple[str, ...]]]
    """Tags with the names of their attributes."""
    addresses: frozenset[str]
    """Where links, forms and scripts lead, as far as that is not on this site."""
    code: tuple[str, ...]
    """What stands in scripts and styles."""

    def differs(self, harmless: Skeleton) -> str:
        """What is more or less than in the harmless page, or ""."""
        more, less = self.elements - harmless.elements, harmless.elements - self.elements
        foreign = self.addresses - harmless.addresses
        return "" if self == harmless else f"more {dict(more)}, less {dict(less)}, {foreign=}, code={self.code}"


def skeleton(html: str) -> Skeleton:
    """Read a page as a browser reads it."""
    tree = LexborHTMLParser(html)
    elements: Counter[tuple[str, tuple[str, ...]]] = Counter()
    addresses, code = set(), []
    for node in tree.root.traverse():  # type: ignore[union-attr]
        attributes = node.attributes
        elements[str(node.tag), tuple(sorted(attributes))] += 1
        addresses |= {value for name in _ADDRESSES if (value := attributes.get(name)) and not _here(value)}
        if node.tag in ("script", "style"):
            code.append(node.text())
    return Skeleton(elements, frozenset(addresses), tuple(code))


def _here(address: str) -> bool:
    """Of this site, whatever browsers strip or skip at the beginning."""
    return address[:1] in ("/", "?", "#") and not address.startswith(("//", "/\\"))
