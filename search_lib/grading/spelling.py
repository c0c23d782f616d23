r"""One spelling for answers: Unicode as LaTeX, no marks around, no spacing or size commands.

`clean` only changes how an answer is written. It never drops a word, a number or a letter.
"""

import re
import unicodedata

_GREEK = {
    chr(code): f"\\{unicodedata.name(chr(code)).rpartition(' ')[2].lower()} "
    for code in [*range(0x3B1, 0x3C2), *range(0x3C3, 0x3CA), 0x393, 0x394, 0x398, 0x39B]
}
_GREEK |= {"λ": r"\lambda ", "Λ": r"\Lambda ", "Δ": r"\Delta ", "Γ": r"\Gamma ", "Θ": r"\Theta "}
_GREEK |= {"Σ": r"\Sigma ", "Φ": r"\Phi ", "Ω": r"\Omega ", "Π": r"\Pi ", "Ψ": r"\Psi "}
_SYMBOLS = {
    **dict.fromkeys("−–—‐‑﹣－", "-"),
    **dict.fromkeys("·⋅∙", r"\cdot "),
    **dict.fromkeys("≤⩽", r"\le "),
    **dict.fromkeys("≥⩾", r"\ge "),
    **dict.fromkeys("°º˚", r"^{\circ}"),
    **dict.fromkeys("′’‘", "'"),
    **dict.fromkeys("“”", '"'),
    "″": "''",
    **dict.fromkeys("∅⌀", r"\emptyset "),
    **{"×": r"\times ", "÷": "/", "∞": r"\infty ", "≠": r"\ne ", "±": r"\pm ", "∓": r"\mp "},
    **{"∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "⌊": r"\lfloor ", "⌋": r"\rfloor "},
    **{
        "⟨": "(",
        "⟩": ")",
        "⌈": r"\lceil ",
        "⌉": r"\rceil ",
        "⁄": "/",
        "∕": "/",
        "…": r"\ldots ",
        "％": "%",
    },
    **{"℃": r"^{\circ}\text{C}", "℉": r"^{\circ}\text{F}", "ℝ": r"\mathbb{R}"},
    **{"≈": r"\approx ", "→": r"\to ", "（": "(", "）": ")", "，": ",", "。": "."},
    **_GREEK,
}
_UNSEEN = frozenset("\u200b\u200c\u200d\u2060\ufeff\u200e\u200f")
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎", "0123456789+-()", strict=True))

_SPACES = re.compile(r"(?<!\\)\\(?:[,;:!> ]|quad\b|qquad\b|thinspace\b|hspace\{[^{}]*\})|~|\s+")
_SIZES = re.compile(
    r"\\(?:left|right|big[lrm]?|Big[lrm]?|bigg[lrm]?|Bigg[lrm]?)(?![A-Za-z])\s*\.?"
    r"|\\(?:displaystyle|textstyle|limits|nolimits|rm|bf|it|mathstrut)(?![A-Za-z])"
)
_STYLES = re.compile(
    r"\\(?:textbf|mathbf|boldsymbol|bm|textit|mathit|emph|underline|boxed|fbox|ensuremath|mathsf)"
    r"\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
)
_ALIASES = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\\(?:leq|leqslant|le)(?![A-Za-z])"), r"\\le "),
    (re.compile(r"\\(?:geq|geqslant|geslant|ge)(?![A-Za-z])"), r"\\ge "),
    (re.compile(r"\\(?:neq|ne)(?![A-Za-z])"), r"\\ne "),
    (re.compile(r"<=(?!>)"), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"\\(?:lt)(?![A-Za-z])"), "<"),
    (re.compile(r"\\(?:gt)(?![A-Za-z])"), ">"),
    (re.compile(r"\\(?:varnothing|empty)(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"\\(?:lbrace)(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\(?:lbrack)(?![A-Za-z])"), "["),
    (re.compile(r"\\(?:rbrack)(?![A-Za-z])"), "]"),
    (re.compile(r"\\(?:ast|star|bullet)(?![A-Za-z])"), "*"),
    (re.compile(r"\\div(?![A-Za-z])"), "/"),
    (re.compile(r"\s!=(?!=)"), r" \\ne "),  # without the space, 5!=120 is a factorial
    (re.compile(r"(?<![A-Za-z\\])(?:[Ii]nfinity|infty|inf|oo)(?![A-Za-z])"), r"\\infty "),
    (re.compile(r"\\langle(?![A-Za-z])"), "("),
    (re.compile(r"\\rangle(?![A-Za-z])"), ")"),
    (re.compile(r"\\colon(?![A-Za-z])"), ":"),
    (re.compile(r"\\simeq(?![A-Za-z])"), r"\\approx "),
    (re.compile(r"\\(?:mbox|textrm|mathrm|textnormal|hbox)(?![A-Za-z])"), r"\\text"),
    (re.compile(r"\\operatorname\*?\s*\{([A-Za-z]+)\}"), r"\\\1 "),
    (
        re.compile(r"\^\s*(\{)?\s*(?:\\circ|\\text\s*\{\s*o\s*\})(?![A-Za-z])\s*(?(1)\}|)"),
        r"\\degree ",
    ),
    (re.compile(r"\\(?:degrees?)(?![A-Za-z])"), r"\\degree "),
    (re.compile(r"(?<!\\)%"), r"\\%"),
    (re.compile(r"\\(?:var)(epsilon|theta|phi|rho|sigma|pi)(?![A-Za-z])"), r"\\\1"),
)
_ALIASED = re.compile(r"\\(?!frac|sqrt)|[%<>!^]|inf|Inf|oo")
_ROOT_SIGN = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[A-Za-z])?")
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_EXPLICIT_GROUPS = re.compile(
    r"(?<![\d.,}])\d{1,3}(?:(?:\{,\}|,\\!\s*|\\,)\d{3})+(?!\d|(?:\{,\}|\\,)\d)"
)
_PLAIN_GROUPS = re.compile(
    r"((?:\\\$|[-+€£\s])*)(\d{1,3}(?:(,|\s)\d{3})(?:\3\d{3})*)(?![\d,])(.*)", re.S
)
_INDIAN_GROUPS = re.compile(r"(?<![\d.,])\d{1,2}(?:,\d{2})*,0\d(?:,\d{2})*,\d{3}(?![\d,])")
_APOSTROPHE_GROUPS = re.compile(r"(?<![\d.,])\d{1,3}(?:'\d{3})+(?![\d'])")
_LARGE = re.compile(
    r"(?<=\d)\s*(?P<text>\\text\s*\{\s*)?(?P<word>thousand|million|billion|trillion)(?![A-Za-z])"
    r"(?(text)\s*(?P<end>\})?)"
)
_THOUSANDS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_NO_WORDS = re.compile(  # numbers, or letters of choices
    r"\\text\s*\{([^A-Za-z\\{}]*\d[^A-Za-z\\{}]*|\s*[A-Z](?:\s*(?:[,;]|and|or)\s*[A-Z])+\s*)\}"
)
_TIMES_TEN = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)")
_MAX_MARKS = 10
_FINAL_MARKS = re.compile(r"(?<!\.)(?<!\\)[.,;:]$")


def clean(text: str) -> str:
    r"""Returns an answer in the spelling that the parser reads.

    The rules, in this order: Unicode signs become LaTeX; `1{,}234`, `1\,234`, `1'234'567` and
    `1,00,000` become one number; `x**2` becomes `x^2`; `$`, `\(`, `\[`, bold `**`, size and
    spacing commands go; bold, boxes and the like leave their contents; a final full stop, comma or
    semicolon goes; "million" becomes its power of ten; and a whole answer such as `15,000` or
    `15 000`, with a unit or not, is one number.
    """
    text = _unicode_to_latex(text)
    for grouping in (_EXPLICIT_GROUPS, _APOSTROPHE_GROUPS, _INDIAN_GROUPS):
        text = grouping.sub(lambda match: re.sub(r"\D", "", match[0]), text)
    text = _without_dollars(text)
    if "**" in text and not text.lstrip().startswith("**"):
        text = re.sub(r"(?<=[\w)}\]])\s*\*\*\s*(?=[\w({\\-])", "^", text)
    text = re.sub(r"\\[()\[\]]|\*\*|\\{1,2}$", " ", text)
    text = _SIZES.sub("", text)
    if _ALIASED.search(text):
        for pattern, replacement in _ALIASES:
            text = pattern.sub(replacement, text)
    text = _SPACES.sub(" ", text)
    for _ in range(4):  # \textbf{\boxed{5}} nests
        text, count = _STYLES.subn(r"\1", text)
        if not count:
            break
    text = _without_marks(text)
    text = _LARGE.sub(_power_of_ten, text)
    if in_text := _NO_WORDS.fullmatch(text):
        text = in_text[1]
    text = _TIMES_TEN.sub(r"\\times ", text)
    groups = _PLAIN_GROUPS.fullmatch(text)
    if groups and not re.match(r"\s*[,;/]|\s+\d", groups[4]) and "," not in groups[4]:
        text = groups[1] + re.sub(r"[,\s]", "", groups[2]) + groups[4]
    return " ".join(text.split())


def _power_of_ten(match: re.Match[str]) -> str:
    power = rf" \times 10^{{{_THOUSANDS[match['word']]}}}"
    return power if match["end"] or not match["text"] else power + match["text"]


def _unicode_to_latex(text: str) -> str:
    if text.isascii():
        return text
    text = _ROOT_SIGN.sub(
        lambda match: _ROOTS[match[1]] + (f"{{{match[2]}}}" if match[2] else " "), text
    )
    text = _scripts(_scripts(text, _SUPERSCRIPTS, "^"), _SUBSCRIPTS, "_")
    return "".join(_SYMBOLS.get(char) or _compatible(char) for char in text if char not in _UNSEEN)


def _scripts(text: str, table: dict[str, str], sign: str) -> str:
    run = re.compile(f"[{''.join(table)}]+")
    return run.sub(lambda match: f"{sign}{{{''.join(table[char] for char in match[0])}}}", text)


def _compatible(char: str) -> str:
    r"""A fraction sign as `\frac`, a full-width or styled character as the plain one."""
    plain = unicodedata.normalize("NFKC", char)
    above, slash, below = plain.partition("⁄")
    if slash and above.isdigit() and below.isdigit():
        return f"\\frac{{{above}}}{{{below}}}"
    same = "\uff01" <= char <= "\uff5e" or "\U0001d400" <= char <= "\U0001d7ff" or char == "\xa0"
    return plain if same and plain.isascii() and len(plain) == 1 else char


def _without_dollars(text: str) -> str:
    text = re.sub(r"^\s*\$\s*(?=[^$]*$)", "", text)  # "$5": money or an open formula
    return re.sub(r"(?<!\\)\$", " ", text)


def _without_marks(text: str) -> str:
    for _ in range(_MAX_MARKS):
        text = _FINAL_MARKS.sub("", text.strip())
        if len(text) > 2 and text[0] == text[-1] and text[0] in '*_"`':
            text = text[1:-1]
    return text
