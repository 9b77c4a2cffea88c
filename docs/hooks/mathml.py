"""MkDocs hook: formulas become MathML when the site is built, so that pages need no script."""

from __future__ import annotations

import html
import re
from itertools import pairwise
from typing import Any, Literal
from xml.etree import ElementTree as ET

from latex2mathml.converter import convert_to_element

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
_TAG = re.compile(r"\\tag\{(\d+)\}")
#: A single upright letter, such as the d of a derivative, which the converter would set italic.
_UPRIGHT = re.compile(r"\\mathrm\{(\w)\}")
#: A space (a backslash and a blank) at the end of a line, which the converter does not know.
_SPACE = re.compile(r"(?<!\\)\\\n")
_OVERLINE = "\u2015"


def on_page_content(content: str, **_: Any) -> str:
    """Replace what arithmatex marked."""
    return _BLOCK.sub(_block, _INLINE.sub(_inline, content))


def _inline(match: re.Match[str]) -> str:
    return _convert(match[1], "inline")


def _block(match: re.Match[str]) -> str:
    tag = _TAG.search(match[1])
    number = f'<span class="number">({tag[1]})</span>' if tag else ""
    anchor = f' id="eq-{tag[1]}"' if tag else ""
    drawn = _convert(_TAG.sub("", match[1]), "block")
    return f'<div class="formula"{anchor}>{drawn}{number}</div>'


def _convert(formula: str, display: Literal["inline", "block"]) -> str:
    latex = _UPRIGHT.sub(r"\\text{\1}", html.unescape(formula))
    latex = _SPACE.sub(r"\\ ", latex.replace("{aligned}", "{split}"))  # the converter's name
    root = convert_to_element(latex, display=display)
    for node in root.iter():
        node.text = html.unescape(node.text) if node.text else None
    for node in list(root.iter()):
        _mend(node)
    return ET.tostring(root, encoding="unicode")


def _mend(node: ET.Element) -> None:
    """Mend what the converter leaves: space around bars and brackets, escapes, overlines."""
    if node.tag == "mo" and node.text == "|":
        node.attrib = {"stretchy": "false", "lspace": "0", "rspace": "0"}
    if node.tag == "mtext" and node.text:
        node.text = node.text.replace("\\_", "_")
    for name, bracket in pairwise(node):
        if name.tag == "mo" and (name.text or "").isalpha() and bracket.text == "(":
            name.tag = "mi"
    if node.tag == "mover" and node[1].text == _OVERLINE:
        # Few fonts have a line that stretches: the style sheet draws it.
        node.remove(node[1])
        node.tag = "mrow"
        node.set("class", "overline")
