"""Whisper's hundred languages by code and English name."""

NAMES = """
en english; zh chinese; de german; es spanish; ru russian; ko korean; fr french; ja japanese; pt
portuguese; tr turkish; pl polish; ca catalan; nl dutch; ar arabic; sv swedish; it italian; id
indonesian; hi hindi; fi finnish; vi vietnamese; he hebrew; uk ukrainian; el greek; ms malay; cs
czech; ro romanian; da danish; hu hungarian; ta tamil; no norwegian; th thai; ur urdu; hr
croatian; bg bulgarian; lt lithuanian; la latin; mi maori; ml malayalam; cy welsh; sk slovak; te
telugu; fa persian; lv latvian; bn bengali; sr serbian; az azerbaijani; sl slovenian; kn
kannada; et estonian; mk macedonian; br breton; eu basque; is icelandic; hy armenian; ne nepali;
mn mongolian; bs bosnian; kk kazakh; sq albanian; sw swahili; gl galician; mr marathi; pa
punjabi; si sinhala; km khmer; sn shona; yo yoruba; so somali; af afrikaans; oc occitan; ka
georgian; be belarusian; tg tajik; sd sindhi; gu gujarati; am amharic; yi yiddish; lo lao; uz
uzbek; fo faroese; ht haitian creole; ps pashto; tk turkmen; nn nynorsk; mt maltese; sa
sanskrit; lb luxembourgish; my myanmar; bo tibetan; tl tagalog; mg malagasy; as assamese; tt
tatar; haw hawaiian; ln lingala; ha hausa; ba bashkir; jw javanese; su sundanese; yue cantonese
"""
OTHER_NAMES = """
my burmese; ca valencian; nl flemish; ht haitian; lb letzeburgesch; ps pushto; pa panjabi; ro
moldavian; ro moldovan; si sinhalese; es castilian; zh mandarin
"""


def _rows(text: str) -> list[tuple[str, str]]:
    """(code, name)."""
    pairs = [row.strip().partition(" ") for row in text.replace("\n", " ").split(";")]
    return [(code, name) for code, _, name in pairs]


BY_CODE = dict(_rows(NAMES))
BY_NAME = {name: code for code, name in [*_rows(NAMES), *_rows(OTHER_NAMES)]}


def name_of(code: str) -> str:
    """
    >>> name_of("de"), name_of("")
    ('german', '')
    """
    return BY_CODE.get(code, code)


def code_of(name: str) -> str:
    """Whisper's code of a language by its code, tag or English name; as it is where it has none.

    >>> code_of("German"), code_of("pt-BR"), code_of("deu"), code_of("auto"), code_of("xx")
    ('de', 'pt', 'de', 'auto', 'xx')
    """
    name = name.strip().lower()
    if name in BY_CODE or len(name) <= 2 or name == "auto":
        return name
    if name in BY_NAME:
        return BY_NAME[name]
    import langcodes  # 30 ms, for tags such as pt-BR and ger

    try:
        code = str(langcodes.Language.get(name).language or name)
    except ValueError:
        return name
    return code if code in BY_CODE else name
