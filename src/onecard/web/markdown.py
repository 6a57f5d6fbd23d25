"""Markdown of a model as HTML that can do nothing: no scripts, no requests, no styles.

Two walls. markdown-it renders with HTML switched off, pictures as text and links of three kinds
only; nh3 then lets pass only the elements and attributes named here, whatever the first one did.
"""

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.token import Token

MAX_CHARS = 120_000
"""Longer texts are shown as they are: an answer of 30,000 tokens is rendered in half a second."""
MAX_LINE = 20_000
"""A text with a longer line too: some lines cost the square of their length."""
SCHEMES = {"http", "https", "mailto"}
TAGS = {
    *("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "strong", "em", "s", "code", "pre"),
    *("blockquote", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "a"),
}
ATTRIBUTES = {
    "a": {"href", "title"},
    "code": {"class"},
    "ol": {"start"},
    "td": {"align"},
    "th": {"align"},
}
LANGUAGE = re.compile(r"language-[\w+#.-]{1,30}")
ALIGN = re.compile(r"text-align:(left|right|center)")


def render(text: str) -> str:
    """Safe HTML of a Markdown text. Maths stays text."""
    if len(text) > MAX_CHARS or _longest_line(text) > MAX_LINE:
        return f"<pre><code>{escapeHtml(_printable(text))}</code></pre>"
    return sanitize(_MARKDOWN.render(_printable(text)))


def sanitize(html: str) -> str:
    """Only TAGS with ATTRIBUTES; links leave the page without telling where they come from."""
    return nh3.clean(
        _printable(html),
        tags=TAGS,
        clean_content_tags={"script", "style"},
        attributes=ATTRIBUTES,
        attribute_filter=_allowed,
        strip_comments=True,
        link_rel="noopener noreferrer nofollow",
        generic_attribute_prefixes=None,
        url_schemes=SCHEMES,
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )


def _allowed(tag: str, name: str, value: str) -> str | None:
    if name == "class":
        return value if LANGUAGE.fullmatch(value) else None
    if name == "align":
        return value if value in ("left", "right", "center") else None
    if name == "start":
        return value if value.isdigit() and len(value) < 10 else None
    if name == "href":
        return value if is_link(value) else None
    return value


def is_link(url: str) -> bool:
    """Whether it leads to the web or to a mail: never a script, a file or this server."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return False
    if parts.scheme.lower() not in SCHEMES:
        return False
    return parts.scheme.lower() == "mailto" or bool(parts.netloc)


def _printable(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _longest_line(text: str) -> int:
    return max(map(len, text.split("\n")), default=0)


def _image(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    """Never loaded: its description, and its address as text."""
    token = tokens[i]
    source = str(token.attrGet("src") or "")
    if len(source) > 200:
        source = f"{source[:200]}…"
    words = " ".join(filter(None, [token.content, f"({source})" if source else ""]))
    return escapeHtml(words)


def _cell(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    """A table's cell: its alignment as an attribute, since styles are not let through."""
    token = tokens[i]
    match = ALIGN.fullmatch(str(token.attrs.pop("style", "")))
    if match:
        token.attrSet("align", match[1])
    return str(self.renderToken(tokens, i, options, env))


def _fence(self: Any, tokens: Sequence[Token], i: int, options: Any, env: Any) -> str:
    token = tokens[i]
    word = token.info.strip().split()[:1]
    name = re.sub(r"[^\w+#.-]", "", word[0])[:30] if word else ""
    mark = f' class="language-{escapeHtml(name)}"' if name else ""
    return f"<pre><code{mark}>{escapeHtml(token.content)}</code></pre>\n"


def _markdown() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False, "maxNesting": 20})
    markdown.enable(["table", "strikethrough"])
    markdown.disable(["html_block", "html_inline"])
    markdown.validateLink = is_link  # type: ignore[method-assign]
    markdown.add_render_rule("image", _image)
    markdown.add_render_rule("fence", _fence)
    markdown.add_render_rule("th_open", _cell)
    markdown.add_render_rule("td_open", _cell)
    return markdown


_MARKDOWN = _markdown()
