"""Model output as HTML: whatever it holds, nothing runs and nothing is fetched."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.web import markdown
from onecard.web.markdown import render

ALLOWED = {
    "a": {"href", "title", "rel", "target"},
    "code": {"class"},
    "ol": {"start"},
    "td": {"align"},
    "th": {"align"},
}


class Reader(HTMLParser):
    """Elements with their attributes, and the text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self.open = [], "", []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, text):
        self.text += text

    def handle_comment(self, text):
        raise AssertionError("a comment")


def check(html):
    """Raises AssertionError for HTML that could do anything."""
    reader = Reader(html)
    assert not reader.open
    for tag, attributes in reader.elements:
        assert tag in markdown.TAGS, tag
        assert set(attributes) <= ALLOWED.get(tag, set()), (tag, attributes)
        if tag == "a":
            href = attributes.get("href")
            assert href is None or re.match(r"(https?://|mailto:)", href, re.I), href
            assert attributes["rel"] == "noopener noreferrer nofollow"
            assert attributes["target"] == "_blank"
        if "class" in attributes:
            assert re.fullmatch(r"language-[\w+#.-]{1,30}", attributes["class"])
    return reader


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](https://evil.example/pixel.png)",
    "![x](javascript:alert(1))",
    "[![x](https://evil.example/a.png)](https://evil.example)",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\nscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](\\javascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:x)",
    "[x](file:///etc/passwd)",
    "[x](//evil.example/x)",
    "[x](/api/jobs)",
    "[x](https://)",
    "<https://a.b/><javascript:alert(1)>",
    "[x]: javascript:alert(1)\n\n[x]",
    "<svg onload=alert(1)><animate/></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=a>'>",
    "<iframe srcdoc='<script>1</script>'></iframe>",
    "<style>*{background:url(https://evil.example)}</style>",
    "<a href='https://a.b' style='position:fixed' onclick=x id=q class=menu>x</a>",
    "<a href='javascript:alert(1)'>x</a><a href='data:text/html,x'>y</a><a href='//e.v'>z</a>",
    "<form action=/api/jobs><button>x</button></form>",
    "<base href=https://evil.example><link rel=stylesheet href=x><meta http-equiv=refresh>",
    "```html\n<script>alert(1)</script>\n```",
    '```"><script>alert(1)</script>\nx\n```',
    "```js onload=alert(1) class=menu\nx\n```",
    "````\n```\nnested\n```\n````",
    "```\nnot closed <script>",
    '[x](https://a.b "\\"><script>alert(1)</script>")',
    '[x](https://a.b "onmouseover=alert(1)")',
    "| a |\n|:-:|\n| <img src=x> |",
    "<div", "<scr<script>ipt>", "<!-- x", "<![CDATA[x", "<?php x", "&lt;script&gt;",
    "`<script>`", "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "\0<script\0>", "\ud800", "\u202e<b>", "<x:y>", "x" * 1_000_000, "[" * 100_000,
    "> " * 50_000, "- " * 50_000, "*_" * 50_000, "<" * 100_000, "`" * 100_001,
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_runs_and_nothing_is_fetched(text):
    check(render(text))


PIECES = st.sampled_from(
    [
        *(text for text in HOSTILE if len(text) < 300),
        "\n",
        "\n\n",
        "    ",
        "**",
        "](",
        "|",
        "> ",
        "1. ",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=12).map("".join))
def test_junk_of_all_of_it_does_nothing(text):
    check(render(text))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="<>/=\"'!-&;:#[]()`*_|\\ \n\tabsvgtyle", max_size=80))
def test_the_second_wall_stands_alone(text):
    """Whatever HTML comes out of the first one."""
    check(markdown.sanitize(text))


@pytest.mark.parametrize("text", [text for text in HOSTILE if len(text) < 300])
def test_the_second_wall_stops_what_the_first_lets_through(text):
    check(markdown.sanitize(text))


def test_every_beginning_of_an_answer_is_safe():
    """As a stream shows it: half a tag, half a fence, half a link."""
    text = "".join(text + "\n\n" for text in HOSTILE if 3 < len(text) < 120)[:2500]
    for end in range(0, len(text), 7):
        check(render(text[:end]))


def test_a_picture_is_its_description_and_its_address():
    reader = check(render("before ![a cat](https://x.example/cat.png) after"))
    assert reader.text.strip() == "before a cat (https://x.example/cat.png) after"


def test_a_link_keeps_its_text():
    reader = check(render("[the paper](https://arxiv.org/abs/1 'T')"))
    assert reader.text.strip() == "the paper"
    assert ("a", "https://arxiv.org/abs/1") in [(t, a.get("href")) for t, a in reader.elements]


def test_tables_lists_and_code():
    text = "|a|b|\n|:-|-:|\n|1|2|\n\n3. x\n4. y\n\n```c++\nint a;\n```\n\n~~s~~ **b** `c`"
    html = render(text)
    check(html)
    for part in (
        '<td align="right">2</td>',
        '<ol start="3">',
        '<code class="language-c++">int a;\n</code>',
        "<s>s</s>",
        "<strong>b</strong>",
    ):
        assert part in html


def test_maths_stays_text():
    assert Reader(render("so $a_i < b$ and \\(x\\)")).text.strip() == "so $a_i < b$ and (x)"


def test_html_in_the_text_is_shown_as_text():
    assert Reader(render("use <b>bold</b>")).text.strip() == "use <b>bold</b>"


def test_a_very_long_text_is_shown_as_it_is():
    text = "**word** " * 20_000
    assert render(text).startswith("<pre><code>**word** ")
    assert render("a\n" + "b " * 15_000).startswith("<pre><code>a\nb")
