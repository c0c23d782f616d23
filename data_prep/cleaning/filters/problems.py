"""Rules about the question: one that can be answered, from its text alone, with one answer."""

import re
from collections.abc import Sequence

from data_prep.cleaning.filters.rows import Row, beginning, passage, text
from data_prep.cleaning.normalise import plain
from search_lib.benchmark_rows import read_text
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


def not_text(row: Row) -> str | None:
    """The problem or the answer is a list of several texts: which one is it?"""
    for column in ("problem", "answer"):
        try:
            read_text(row, column)
        except ValueError as error:
            return str(error)
    return None


def missing_problem(row: Row) -> str | None:
    """No text, or a single word.

    `$1+1=?$` has no blank and is a question.
    """
    problem = text(row, "problem")
    is_word = len(problem.split(maxsplit=2)) < 2 and not re.search("[=?]", problem)
    return beginning(problem) if is_word else None


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
_BARE_OPTION = re.compile(r"(?:^|(?<=\s))([A-E])(?:[.:、] ?| )(?=[-+\\(√\d])")
_NO_OPTION = re.compile(r"(?<![\\A-Za-z])[a-z]{3,}|[?,;]$")
_CHOICE_REQUEST = re.compile(
    r"which (?:one )?(?:of|among) the following|\b(?:choose|select) the\b|\b(?:correct|right|true) "
    r"(?:option|choice|answer|statement)|\bfollowing (?:option|choice|statement)|\( ?\)",
    re.IGNORECASE,
)
_CHOICE_ANSWER = re.compile(
    r"\(? ?[A-E] ?\)?[.:]?|\( ?[A-E] ?\)[\s\S]*|[A-E][).:] [\s\S]*|[A-E] -?\d[\d.,/]*"
)


def multiple_choice(row: Row) -> str | None:
    r"""Options A to E: by the column `question_type`, in the text, or in the answer.

    In the text they are `(A) ... (B) ...`, `A) ... B) ...`, or `A. ... B. ...` on lines of their
    own or after "which of the following", however they are typeset (`\textbf{(A)}`). Numbers at
    the end need no brackets: `A 42 B 468`.
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
    labels = _in_sequence(_BARE_OPTION, "ABCDE", problem)
    if len(labels) >= 2 and not any(
        _NO_OPTION.search(option.strip()) for option in _texts_behind(labels, problem)
    ):
        return beginning(problem[labels[0].start() :])
    return None


def _texts_behind(labels: Sequence[re.Match[str]], content: str) -> list[str]:
    """Returns what stands behind each label, up to the next one or the end."""
    ends = [*(label.start() for label in labels[1:]), len(content)]
    return [content[label.end() : end] for label, end in zip(labels, ends, strict=True)]


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
# "Compute $d(6)$, $d(16)$, and $d(72)$", "the values of a, h and k", but not "x such that f and g".
_QUANTITY = (
    r"(?:\$[^$]{1,120}\$|\\\([^()]{1,120}\\\)|[A-Za-z](?:_\{?\w\}?|\([\w/]{1,9}\))?(?![\w'’$(]))"
)
_VERB = r"\b(?:find|determine|compute|calculate|evaluate|solve for|give|what (?:is|are))"
_NO_ENUMERATION = (
    "such|that|if|for|where|when|with|in|so|as|on|by|to|from|between|through|under|and|both|common|"
    "intersections?|distance|sum|difference|product|ratio|roots?|zeros|divisors?|factors?|multiples?"
)
_ENUMERATION = re.compile(
    rf"{_VERB}(?P<words>(?: (?!(?:{_NO_ENUMERATION})\b)[A-Za-z]+){{0,6}}?) "
    rf"(?P<quantities>{_QUANTITY}(?:, ?{_QUANTITY}){{0,9}},? and (?:the |of )?{_QUANTITY})",
    re.IGNORECASE,
)
# "the center and the radius", "the mean, median and mode"
_NOUNS = re.compile(
    rf"{_VERB} (?:both )?(?P<nouns>the [A-Za-z-]+(?: of [a-z]+)?(?:, (?:the )?[A-Za-z-]+)*"
    r",? and (?:the )?[A-Za-z-]+)",
    re.IGNORECASE,
)
_SYSTEM = re.compile(
    r"\bsolve (?:the |this |following |simultaneous |linear )*(?:system|equations\b)"
    r"(?! of inequal)",
    re.IGNORECASE,
)
_DEMAND = re.compile(
    rf"{_CLAUSE}(?:find|determine|compute|calculate|evaluate|express(?! (?:your|the) answer))\b"
    rf"|\bwhat (?:is|are)\b|\b{_HOW}",
    re.IGNORECASE,
)
_MANY = re.compile(
    r"\b(?:all|every|any|possible|solutions?|roots|values|pairs?|answers?)\b", re.IGNORECASE
)


def multi_part(row: Row) -> str | None:
    """Several questions, of which one reference can answer only one.

    Labels such as (a) and (b) mark questions if two of the texts behind them hold a request, or if
    a request stands before them that isn't one for something that meets conditions. Without labels,
    two questions count if the answer is a list without names (`x=3`), and so does a request for as
    many quantities as the list has: it is compared without order. "Find all" has one answer, a set.
    An answer that labels its parts always counts.
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
        parts = _texts_behind(labels, problem)
        if sum(_REQUEST.search(part.strip()) is not None for part in parts) >= 2:
            return beginning(problem[labels[0].start() :])
        # A request that the parts share is the last sentence before them.
        requests = list(_REQUEST.finditer(problem, 0, labels[0].start()))
        if requests and not any(_REQUEST.search(part.strip()) for part in parts):
            request = problem[requests[-1].start() : labels[0].start()].strip(" .,;:\n")
            if not re.search(r"[.;]\s", request) and not _CONDITIONS.search(request):
                return beginning(problem[requests[-1].start() :])
    items = _list_items(answer)
    if len(items) < 2 or any("=" in item for item in items):
        return None
    return _unlabelled_questions(problem, items) or _named_quantities(row, items)


def _unlabelled_questions(problem: str, items: Sequence[str]) -> str | None:
    """Returns the second of two questions, or the whole of a system of equations."""
    asked = [part for part in problem.split("?")[:-1] if _ASKING.search(part)]
    if len(asked) >= 2:
        return beginning(f"{asked[1].strip()}?")
    how_many = list(_HOW_MANY.finditer(problem))
    if len(how_many) >= 2:
        return beginning(problem[how_many[0].start() :])
    demands = []
    for demand in _DEMAND.finditer(problem):
        sentence = re.split(
            r"[.?!](?:\s|$)", problem[demand.end() : demand.end() + 300], maxsplit=1
        )
        if not _MANY.search(sentence[0]):
            demands.append(demand)
    if len(demands) >= 2:
        return beginning(problem[demands[1].start() :].lstrip(" .,;:!?)"))
    return None if any(item[0] in "([" for item in items) else passage(_SYSTEM, problem)


def _named_quantities(row: Row, items: Sequence[str]) -> str | None:
    """Returns a request for as many quantities as the answer has, in some order."""
    problem = " ".join(text(row, "problem").split())
    has_points = any(item[0] in "([" for item in items)
    for request in _ENUMERATION.finditer(problem):
        quantities = re.split(r",? and (?:the |of )?|, ?", request["quantities"].replace("$", ""))
        asks_all = _MANY.search(request["words"]) is not None
        if len(quantities) == len(items) and not (asks_all and has_points):
            return beginning(request[0])
    for request in _NOUNS.finditer(problem):
        if len(re.split(r",? and |, ", request["nouns"])) == len(items):
            return beginning(request[0])
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


def _list_items(answer: str) -> list[str]:
    """Returns the parts of an answer between commas, semicolons and "and" outside of brackets."""
    if parse_integer(answer) is not None:
        return [answer]
    depth, start, items = 0, 0, []
    for position, character in enumerate(answer):
        depth += (character in "([{") - (character in ")]}")
        is_and = answer.startswith(" and ", position)
        if depth == 0 and (character in ";," or is_and):
            items.append(answer[start:position])
            start = position + (len(" and ") if is_and else 1)
    items.append(answer[start:])
    return [item.strip() for item in items if item.strip()]


# Whether all of it is there ----------------------------------------------------------------------

_BRACE = re.compile(r"\\[\s\S]|[{}]")
_ENVIRONMENT = re.compile(r"\\(begin|end) ?\{([^{}]{1,40})\}")
_PRICE = re.compile(
    r"\$\s?\d[\d,]*(?:\.\d+)?(?=[.,;:?!)\"'’”]|/[a-z]{2}|[-–]\$?\d|\s(?![-+*/^=<>\\])|k\b|$)"
)
_PRICE_ALONE = re.compile(r"-?(?:\$ ?-?\d[\d,.]*|\d[\d,.]* ?\$)(?:[\s/][^$]*)?")
_PRICE_BEHIND = re.compile(r"(?<![^\s(])\d[\d,.]*\$(?=[\s.,;:?!)]|$)")
_UNFINISHED = re.compile(
    r"(?:[(+{]|\w -|\\(?:frac|sqrt|cdot|times|le|ge)|"
    r"\b(?:the|of|and|or|an|that|if|let|where|whose|because|then))$",
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
    r"""Braces, environments or dollar signs without their other half, in the problem or the answer.

    The dollar sign of a price needs none: "a pen for $5", "a pen for 5$".
    """
    problem, answer = text(row, "problem"), text(row, "answer")
    found = _unpaired(problem)
    if found is not None:
        return found
    if _has_odd_dollars(problem) and not _has_prices(problem):
        return "an odd number of $"
    is_odd = _has_odd_dollars(answer) and not _PRICE_ALONE.fullmatch(answer)
    return f"answer: {beginning(answer)}" if is_odd or _unpaired(answer) is not None else None


def _has_prices(problem: str) -> bool:
    """Returns whether a price may explain an odd dollar sign."""
    behind_numbers_alone = "$" not in _PRICE_BEHIND.sub("", problem.replace(r"\$", ""))
    return behind_numbers_alone or _PRICE.search(problem) is not None


def _has_odd_dollars(content: str) -> bool:
    return content.replace(r"\$", "").count("$") % 2 == 1


def _unpaired(content: str) -> str | None:
    """Returns the passage of a brace or an environment without its other half."""
    open_braces: list[int] = []
    for brace in _BRACE.finditer(content):
        if brace[0] == "{":
            open_braces.append(brace.start())
        elif brace[0] == "}":
            if not open_braces:
                return beginning(content[max(0, brace.start() - 40) : brace.end()])
            open_braces.pop()
    if open_braces:
        return beginning(content[max(0, open_braces[-1] - 10) :])
    environments: list[str] = []
    for kind, name in _ENVIRONMENT.findall(content):
        if kind == "begin":
            environments.append(name)
        elif not environments or environments.pop() != name:
            return rf"\end{{{name}}}"
    if environments:
        return rf"\begin{{{environments[-1]}}}"
    return None


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
    torn = torn or (end.endswith(",") and not _REQUEST.search(problem))
    return end if torn or _UNFINISHED.search(end) else None


# Notes of a translator ---------------------------------------------------------------------------

_EAST_ASIAN = "\u3040-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_EAST_ASIAN_LETTER = re.compile(f"[{_EAST_ASIAN}]")
_EAST_ASIAN_TEXT = re.compile(
    f"[{_EAST_ASIAN}][{_EAST_ASIAN}\\s\u3000-\u303f\uff00-\uff65]{{3,80}}|[译訳譯]|[注解答]案?[:：]"
)
_NOTE = re.compile(
    r"翻译|翻譯|翻訳|译文|\btranslation (?:result )?(?:is )?(?:as follows|below)\b"
    r"|\bhere(?:'s| is) the translat\w+|\btranslated (?:text|version|result)\b"
    r"|\b(?:original|source) text(?:'s)? (?:line|format)",
    re.IGNORECASE,
)


def translation_note(row: Row) -> str | None:
    """A note of a translator, or Chinese, Japanese or Korean text in another language's problem.

    A problem that is in such a language as a whole is fine, and so is a single word of it.
    """
    problem = text(row, "problem")
    found = passage(_NOTE, problem)
    if found is not None:
        return found
    num_letters = sum(map(str.isalpha, problem))
    if 2 * len(_EAST_ASIAN_LETTER.findall(problem)) > num_letters:
        return None
    return passage(_EAST_ASIAN_TEXT, problem)
