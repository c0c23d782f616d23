r"""Simpler forms of a text: to compare problems and look for words in them, never to write.

`$x + 1 \leq 3$` and `\( X+1\le 3 \)` both become `x+1\le3`.
"""

import re
import unicodedata

# Before NFKC, which turns x² into x2 and 2½ into 21/2.
_SUPERSCRIPTS = str.maketrans({digit: f"^{value}" for value, digit in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")})
_VULGAR_FRACTION = re.compile(r"(?<=\d)(?=[¼½¾⅐-⅞])")

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("−–—‐", "-"),
        **dict.fromkeys("‘’", "'"),
        **dict.fromkeys("“”", '"'),
        **dict.fromkeys("·⋅", r"\cdot "),
        "×": r"\times ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "√": r"\sqrt ",
        "π": r"\pi ",
        "°": r"^\circ ",
        "⁄": "/",
    }
)
_STYLES = re.compile(
    r"\\(?:text(?:bf|it|rm)?|emph|math(?:rm|bf|it)|mbox|operatorname\*?)\s*\{([^{}]*)\}"
)
_COMMAND = re.compile(r"\\(?:([A-Za-z]+)|([\s\S]))")
_SYNONYMS = {
    **dict.fromkeys(("dfrac", "tfrac"), "frac"),
    **dict.fromkeys(("leq", "leqslant"), "le"),
    **dict.fromkeys(("geq", "geqslant"), "ge"),
    "neq": "ne",
}
_INVISIBLE = frozenset(
    ("left", "right", "big", "Big", "bigg", "bigl", "bigr", "quad", "qquad", "displaystyle")
)
_LAYOUT = re.compile(r"\\[()\[\],;: ]|\\q?quad(?![A-Za-z])|~")
_SIZE = re.compile(r"\\!|\\(?:left|right)(?=[()\[\]])|\$|\*\*")
_BRACKETS = str.maketrans("（）：．，", "():.,")
_NEEDLESS_SPACE = re.compile(r"(?<!\w) | (?!\w)")
_SPACE_AFTER_COMMAND = re.compile(r"(\\[a-z]+) (?=\d)")
_WORD = re.compile(r"[^\W\d_]+|\d+")


def normalise(text: str) -> str:
    r"""Removes from a text the differences that don't change its meaning.

    These are: Unicode forms, case, white space (but for the one between two words or numbers), `$`,
    `\(` and `\[`, LaTeX's spaces, sizes and fonts, and other spellings, such as `\dfrac`, `\leq`
    and `×`. Takes time linear in the length of the text.
    """
    text = _VULGAR_FRACTION.sub(" ", text).translate(_SUPERSCRIPTS)
    text = unicodedata.normalize("NFKC", text).translate(_CHARACTERS)
    text = _COMMAND.sub(_spell_command, unwrap_styles(text))
    text = text.replace("$", " ").replace("~", " ").replace("{,}", ",").casefold()
    text = _NEEDLESS_SPACE.sub("", " ".join(text.split()))
    return _SPACE_AFTER_COMMAND.sub(r"\1", text)


def unwrap_styles(text: str) -> str:
    r"""Replaces `\text{...}`, `\mathrm{...}` and the like in a text by their content."""
    return _STYLES.sub(r"\1", text)


def plain(text: str) -> str:
    r"""Removes dollar signs, fonts, and LaTeX's spaces and delimiters from a text, line by line.

    Within a line there are single blanks only; blank lines are dropped.
    """
    text = _LAYOUT.sub(" ", unwrap_styles(unwrap_styles(text)))
    text = _SIZE.sub("", text).translate(_BRACKETS)
    return "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


def words(text: str) -> list[str]:
    """Returns the words and numbers of a normalised text; LaTeX's commands are words, too."""
    return _WORD.findall(text)


def _spell_command(match: re.Match[str]) -> str:
    name, symbol = match.groups()
    if name is None:
        # With a backslash, brackets are delimiters, and blanks and punctuation are spaces.
        return {"!": "", "%": "%", "{": r"\{", "}": r"\}", "\\": r"\\"}.get(symbol, " ")
    return "" if name in _INVISIBLE else f"\\{_SYNONYMS.get(name, name)} "
