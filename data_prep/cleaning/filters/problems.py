"""Rules about the question: one that can be answered, from its text alone, with one answer."""

import re
from collections.abc import Sequence

from data_prep.cleaning.filters.rows import Row, beginning, passage, text
from data_prep.cleaning.normalise import plain
from search_lib.grading.answers import parse_integer

# Requests ---------------------------------------------------------------------------------------

# A request begins a clause: "find x", not "one can find x".
_CLAUSE = r"(?:^|[.!?;:,)\d]\s*|\n|\b(?:and|then|also|please|to|or) )"
_HOW = r"how (?:many|much|long|far|old|fast|large|high|tall|wide|deep|big|heavy|often|likely)\b"
_VALUE_REQUEST = re.compile(
    rf"{_CLAUSE}(?:find|determine|compute|calculate|evaluate|solve|simplify)\b"
    rf"|(?<!matter )\bwhat\b|\b{_HOW}|\?",
    re.IGNORECASE,
)
_REQUEST = re.compile(
    rf"{_CLAUSE}(?:find|determine|compute|calculate|evaluate|solve|simplify|factori[sz]e|expand|"
    r"express|write|draw|sketch|construct|list|state|give|name|estimate|prove|show that|explain|"
    rf"describe|convert|complete)\b|(?<!matter )\bwhat\b|\b{_HOW}|\?",
    re.IGNORECASE,
)
_PROOF_REQUEST = re.compile(
    rf"{_CLAUSE}(?:(?:dis)?prove\b|(?:show|demonstrate|verify|justify|establish),? that\b|"
    r"give a (?:rigorous )?proof\b)",
    re.IGNORECASE,
)


def missing_problem(row: Row) -> str | None:
    """No text, or a single word."""
    problem = text(row, "problem")
    return beginning(problem) if len(problem.split(maxsplit=2)) < 2 else None


def proof(row: Row) -> str | None:
    """Something is to be proved, and no value asked for.

    "Find the least n and prove that it is the least" asks for a value.
    """
    for column in ("question_type", "answer"):
        if text(row, column).casefold() == "proof":
            return f"{column}: proof"
    problem = plain(text(row, "problem"))
    asked = passage(_PROOF_REQUEST, problem)
    return None if asked is None or _VALUE_REQUEST.search(problem) else asked.lstrip(" .,;:!?)")


# Multiple choice ---------------------------------------------------------------------------------

# An option has a label and a text, unlike the events P(A), P(B), or "the points (A), (B) and (C)".
_BRACKETED_OPTION = re.compile(
    r"(?<![\w\\}^])\( ?([A-E]) ?\)[:.]? ?(?![\s,.;:)]|and\b|or\b|is\b|are\b|$)"
)
_OPTIONS = (
    _BRACKETED_OPTION,
    re.compile(r"(?:^|(?<=\s))([A-E])\) ?(?![\s,.;:)]|$)"),
    re.compile(r"(?:^|\n)([A-E])[.、] ?(?=\S)"),
)
_INLINE_OPTION = re.compile(r"(?:^|(?<=[\s;,?]))([A-E])[.:、] ?(?=\S)")
_CHOICE_REQUEST = re.compile(
    r"which (?:one )?(?:of|among) the following|\b(?:choose|select) the\b|\b(?:correct|right|true) "
    r"(?:option|choice|answer|statement)|\bfollowing (?:option|choice|statement)|\( ?\)",
    re.IGNORECASE,
)
_CHOICE_ANSWER = re.compile(r"\(? ?[A-E] ?\)?[.:]?|\( ?[A-E] ?\)[\s\S]*|[A-E][).:] [\s\S]*")


def multiple_choice(row: Row) -> str | None:
    r"""Options A to E: by the column `question_type`, in the text, or in the answer.

    In the text they are `(A) ... (B) ...`, `A) ... B) ...`, or `A. ... B. ...` on lines of their
    own or after "which of the following", however they are typeset (`\textbf{(A)}`).
    """
    if text(row, "question_type").casefold() == "mcq":
        return "question_type: MCQ"
    answer = plain(text(row, "answer"))
    if _CHOICE_ANSWER.fullmatch(answer):
        return f"answer: {beginning(answer)}"
    problem = plain(text(row, "problem"))
    styles = _OPTIONS + ((_INLINE_OPTION,) if _CHOICE_REQUEST.search(problem) else ())
    for style in styles:
        labels = _in_sequence(style, "ABCDE", problem)
        if len(labels) >= 3 or (len(labels) == 2 and style is _BRACKETED_OPTION):
            return beginning(problem[labels[0].start() :])
    return None


# Several questions in one ------------------------------------------------------------------------

_DIGITS = "123456789"
_ROMAN = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii")
_LABEL = r"(?:^|(?<=[\s.;:,?!]))"
_PART_STYLES: tuple[tuple[re.Pattern[str], Sequence[str]], ...] = (
    (re.compile(r"(?<![\w\\}^)])\( ?([a-h]) ?\)"), "abcdefgh"),
    (re.compile(_LABEL + r"([a-h])\)"), "abcdefgh"),
    (re.compile(r"(?:^|\n)([a-h])[.:]\s"), "abcdefgh"),
    (re.compile(_LABEL + r"\( ?([1-9]) ?\)"), _DIGITS),
    (re.compile(_LABEL + r"([1-9])\)"), _DIGITS),
    (re.compile(r"(?:^|\n)([1-9])\.(?!\d)"), _DIGITS),
    (re.compile(_LABEL + r"\(?(i|ii|iii|iv|v|vi|vii|viii)\)"), _ROMAN),
    (re.compile(r"\b(?:Part|Question|Task) ([1-9])\b"), _DIGITS),
    (re.compile(r"\b[Pp]art \(?([a-h])\)?(?=[\s:.])"), "abcdefgh"),
    (re.compile(r"\bP(?:art|ART) \(?([A-E])\)?(?=[\s:.])"), "ABCDE"),
)
# "Find x such that (a) ... (b) ..." numbers conditions, "Solve: (a) ... (b) ..." questions.
_CONDITIONS = re.compile(
    r"\bthat\b|which|whose|both|subject|satisf|with\b|where|\bif\b|when|given|condition|propert|"
    r"rule|system|statement|\bcase|know|suppose|\blet\b|follows|following (?:two|three|four|five)",
    re.IGNORECASE,
)
_LABELLED_ANSWER = re.compile(
    r"(?:part )?\(?(?:a|1|i) ?[).:](?!\d)[\s\S]*?[\s;,.}]\(?(?:part )?(?:b|2|ii) ?[).:](?!\d)",
    re.IGNORECASE,
)
_ASKING = re.compile(
    r"\b(?:what|which|how|who|when|where|find|is|are|can|does|do)\b", re.IGNORECASE
)
_HOW_MANY = re.compile(r"\bhow (?:many|much|old)\b", re.IGNORECASE)


def multi_part(row: Row) -> str | None:
    """Several questions, of which one reference can answer only one.

    Labels such as (a) and (b) mark questions if two of the texts behind them hold a request, or if
    a request stands before them that isn't one for something that meets conditions. Without labels,
    two questions count if the answer is a list. An answer that labels its parts always counts.
    """
    answer = plain(text(row, "answer"))
    labelled = _LABELLED_ANSWER.match(answer)
    if labelled:
        return f"answer: {beginning(answer)}"
    problem = plain(text(row, "problem"))
    for style, sequence in _PART_STYLES:
        labels = _in_sequence(style, sequence, problem)
        if len(labels) < 2:
            continue
        ends = [label.start() for label in labels[1:]] + [len(problem)]
        parts = [problem[label.end() : end] for label, end in zip(labels, ends, strict=True)]
        if sum(_REQUEST.search(part.strip()) is not None for part in parts) >= 2:
            return beginning(problem[labels[0].start() :])
        # A request that the parts share is the last sentence before them.
        requests = list(_REQUEST.finditer(problem, 0, labels[0].start()))
        if requests and not any(_REQUEST.search(part.strip()) for part in parts):
            request = problem[requests[-1].start() : labels[0].start()].strip(" .,;:\n")
            if not re.search(r"[.;]\s", request) and not _CONDITIONS.search(request):
                return beginning(problem[requests[-1].start() :])
    if _is_list(answer):
        asked = [part for part in problem.split("?")[:-1] if _ASKING.search(part)]
        if len(asked) >= 2:
            return beginning(f"{asked[1].strip()}?")
        how_many = list(_HOW_MANY.finditer(problem))
        if len(how_many) >= 2:
            return beginning(problem[how_many[0].start() :])
    return None


def _in_sequence(
    style: re.Pattern[str], sequence: Sequence[str], content: str
) -> list[re.Match[str]]:
    """Returns the labels of a style that follow each other as in the sequence, from its first."""
    labels: list[re.Match[str]] = []
    for match in style.finditer(content):
        if len(labels) == len(sequence):
            break
        # "f(x, a)" and "[0, 1)" close a bracket.
        closing = match[0].rstrip().endswith(")") and "(" not in match[0]
        before = content[max(0, match.start() - 40) : match.start()]
        if closing and max(before.rfind("("), before.rfind("[")) > before.rfind(")"):
            continue
        if match[1] == sequence[len(labels)]:
            labels.append(match)
    return labels


def _is_list(answer: str) -> bool:
    """Returns whether an answer has several parts, outside of brackets."""
    if parse_integer(answer) is not None:
        return False
    depth = 0
    for position, character in enumerate(answer):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and (character in ";," or answer.startswith(" and ", position)):
            return True
    return False


# Links and images --------------------------------------------------------------------------------

_LINK = re.compile(
    r"https?://\S{0,80}|\bwww\.\S{1,80}|\\(?:href|url)\b|<a\s|\[[^\]\[]{1,80}\]\([\w.:-]{0,80}[/\#]\S{0,80}\)"
    r"|\b[\w-]{2,40}\.(?:com|org|net|edu)/\S{1,80}",
    re.IGNORECASE,
)
_IMAGE = re.compile(
    r"!\[|\[img|\[/?asy\]|<img|<svg|<figure|<asy>|\\includegraphics"
    r"|\\begin ?\{(?:asy|tikzpicture|figure)|\b[\w-]{1,80}\.(?:png|jpe?g|gif|svg|bmp)\b",
    re.IGNORECASE,
)
_NOUN = r"(?:figure|diagram|picture|image|illustration|drawing|sketch)s?"
_WHERE = r"(?:following|accompanying|adjacent|adjoining|attached|above|given|next|right|left) "
_PICTURE = re.compile(
    # "in the figure", but not "in the figure formed by two squares", nor "in the image of f"
    rf"\b(?:in|on|from|see|refer to) (?:the|this|these|adjacent) (?:{_WHERE})?{_NOUN}\b"
    r"(?! (?:form|obtain|bound|made|consist|that|which|whose|describ|compos|enclos|defin|of\b|"
    r"is (?:form|bound)))"
    rf"|\b(?:shown|seen|pictured|illustrated|depicted|drawn|indicated|marked|labell?ed|shaded)"
    rf"(?: \w+)? (?:in|on|by|from) (?:the |this )?(?:{_WHERE})?(?:{_NOUN}|fig\b)"
    r"|\b(?:shown|pictured|depicted)(?: \w+)? (?:in|on|by) the (?:following )?(?:graph|chart)\b"
    rf"|\b{_NOUN} (?:below|above|shows?\b|shown|(?:at|on|to) (?:the )?(?:right|left))"
    r"|\b(?:triangle|square|circle|rectangle|quadrilateral|polygon|hexagon|shape|solid|region)s? "
    r"(?:is |are )?(?:shown|pictured|drawn) (?:below|above|here)\b"
    rf"|\b(?:following|accompanying) (?:{_NOUN}|graph|chart)\b(?! of\b)"
    r"|(?<!venn )(?<!tree )\b(?:the|this) diagrams?\b"
    r"|\b(?:graph|chart|curve)s?(?: of [^.?!]{1,60})? (?:is |are )?(?:shown|pictured|depicted)"
    r"(?: below| above| here|[.,])"
    r"|\b(?:graph|chart) (?:below|above|shows)\b"
    r"|\bas (?:is )?(?:shown|pictured|illustrated|depicted)"
    r"(?: (?:below|above|here|(?:at|on|to) (?:the )?(?:right|left)))? ?[.,;)]"
    r"|\b(?:shown|pictured|illustrated) (?:at|on|to) (?:the )?(?:right|left)\b"
    r"|(?<!\ba )\bfig(?:ure)?\.? ?\(?\d"
    rf"|\bsee (?:{_NOUN}|fig)\b",
    re.IGNORECASE,
)


def has_link(row: Row) -> str | None:
    """A web address, or a link in Markdown, LaTeX or HTML."""
    return passage(_LINK, _without_images(text(row, "problem")))


def has_image(row: Row) -> str | None:
    r"""An image, the code of one, or a figure that the text refers to and doesn't hold.

    Figures that the text describes are fine ("the figure formed by two squares"), and so are a Venn
    diagram, the image of a function, and the graphs of graph theory.
    """
    problem = text(row, "problem")
    found = passage(_IMAGE, problem)
    return passage(_PICTURE, " ".join(plain(problem).split())) if found is None else found


def _without_images(problem: str) -> str:
    """Removes the addresses of images from a text: they are no links to follow."""
    return re.sub(r"!\[[^\]\[]{0,200}\]\([^\s()]{0,500}\)|<img[^<>]{0,500}>", " ", problem)


# Whether all of it is there ----------------------------------------------------------------------

_BRACE = re.compile(r"\\[\s\S]|[{}]")
_ENVIRONMENT = re.compile(r"\\(begin|end) ?\{([^{}]{1,40})\}")
_PRICE = re.compile(r"\$\s?\d[\d,]*(?:\.\d+)?(?=[\s.,;:?!)]|$)")
_UNFINISHED = re.compile(
    r"(?:[,(+{]|\w -|\\(?:frac|sqrt|cdot|times|le|ge)|"
    r"\b(?:the|of|and|or|an|that|if|let|where|whose|because))$",
    re.IGNORECASE,
)
_DOTS = re.compile(r"(?:\.\.\.|…)$")
_ENDLESS = re.compile(r"[-+,=\d] ?(?:\.\.\.|…)$")  # "1 + 2 + 3 + ..." is a series, not a torn text
_OTHER_PROBLEM = (
    r"(?:previous|preceding|foregoing) (?:problem|question|exercise|part|task|example)s?"
)
_ELSEWHERE = re.compile(
    rf"\b(?:in|from|see|under|using|to|by) the {_OTHER_PROBLEM}\b"
    rf"|\b(?:conditions?|results?|statement|notation|setting|solution) of the {_OTHER_PROBLEM}\b"
    r"|\b(?:in|from|of|see|by|as|to|use|using) (?:the )?"
    r"(?:problem|exercise|example|theorem|lemma) (?:no\. ?|№ ?|\#)?\d"
    r"|\b(?:problem|question|exercise|text) above\b"
    r"|\babove (?:problem|text|passage|question|exercise)\b"
    r"|\btranslat(?:e|ed|ion)(?: of)? (?:the|this) (?:above |following )?(?:text|passage|problem)",
    re.IGNORECASE,
)
_TABLE = re.compile(
    r"\b(?:shown|given|listed|recorded|summari[sz]ed|displayed) (?:in|by) (?:the |this )?"
    r"(?:following )?(?:table|chart)\b|\b(?:table|chart) (?:below|above|shows)\b"
    r"|\b(?:following|accompanying) (?:table|list)\b|\b(?:according to|see) (?:the )?table\b",
    re.IGNORECASE,
)
_TABULAR = re.compile(r"\||&|\\begin|\t|\\hline|:\s")


def broken_latex(row: Row) -> str | None:
    r"""Braces, environments or dollar signs without their other half.

    The dollar sign of a price needs none: "a pen for $5".
    """
    problem = text(row, "problem")
    open_braces: list[int] = []
    for brace in _BRACE.finditer(problem):
        if brace[0] == "{":
            open_braces.append(brace.start())
        elif brace[0] == "}":
            if not open_braces:
                return beginning(problem[max(0, brace.start() - 40) : brace.end()])
            open_braces.pop()
    if open_braces:
        return beginning(problem[max(0, open_braces[-1] - 10) :])
    environments: list[str] = []
    for kind, name in _ENVIRONMENT.findall(problem):
        if kind == "begin":
            environments.append(name)
        elif not environments or environments.pop() != name:
            return rf"\end{{{name}}}"
    if environments:
        return rf"\begin{{{environments[-1]}}}"
    dollars = problem.replace(r"\$", "").count("$")
    return "an odd number of $" if dollars % 2 and not _PRICE.search(problem) else None


def incomplete_problem(row: Row) -> str | None:
    """The text breaks off, or needs something that isn't there: another problem, a table."""
    problem = plain(text(row, "problem"))
    found = passage(_ELSEWHERE, problem)
    if found is None and not _TABULAR.search(text(row, "problem")):
        found = passage(_TABLE, problem)
    if found is not None:
        return found
    end = problem[-80:]
    torn = _DOTS.search(end) and not _ENDLESS.search(end)
    return end if torn or _UNFINISHED.search(end) else None
