"""MkDocs hook: formulas become MathML when the site is built, so that pages need no script."""

import html
import re

from latex2mathml.converter import convert

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
_TAG = re.compile(r"\\tag\{(\d+)\}")


def on_page_content(content, **_):
    """Replace what arithmatex marked."""
    return _BLOCK.sub(_block, _INLINE.sub(_inline, content))


def _inline(match):
    return convert(html.unescape(match[1]))


def _block(match):
    formula = html.unescape(match[1])
    tag = _TAG.search(formula)
    number = f'<span class="number">({tag[1]})</span>' if tag else ""
    return f'<div class="formula">{convert(_TAG.sub("", formula), display="block")}{number}</div>'
