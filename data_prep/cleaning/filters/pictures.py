"""Rules about what is outside of the text: links, images, figures that it refers to."""

import re

from data_prep.cleaning.filters.rows import Row, beginning, passage, text
from data_prep.cleaning.normalise import plain

_LINK = re.compile(
    r"https?://\S{0,80}|\bwww\.\S{1,80}|\\(?:href|url)\b|<a\s+(?:href|class|id|name|rel|target|title)\s*="
    r"|\[[^\]\[]{1,80}\]\((?=[^()\s]{0,80}[A-Za-z]{3})[\w.:-]{0,80}[/\#]\S{0,80}\)"
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
    r"(?! (?:was|were|is|are) not (?:given|included|needed|necessary|part|provided|required)\b)"
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
_ARRAY = re.compile(r"\\begin ?\{(?:array|tabular|[bpvBV]?matrix)")
_PLACE_ONLY = re.compile(r"as |(?:in|on|from) (?:the|this|these) (?:picture|image|drawing|sketch)")
# "The signs alternate every three terms, as shown": in the text itself.
_WRITTEN = re.compile(
    r"\b(?:series|sequence|terms|signs|sums?|digits|expression|equation|formula|list|letters|words?|"
    r"code|calculation|addition|multiplication|subtraction)\b",
    re.IGNORECASE,
)
# Where "in the picture" is part of the story, or of an image of a function.
_PICTURE_OF_THE_STORY = re.compile(
    r"\b(?:an?|each|every|one|two|three|\d+) (?:\w+ )?(?:picture|image|drawing|sketch)"
    r"|\b(?:selfie|photo|camera|paint|portrait|artist|album|puzzle|function|mapping|reflect|rotat|"
    r"translat|dilat|transform)",
    re.IGNORECASE,
)


def has_link(row: Row) -> str | None:
    """A web address, or a link in Markdown, LaTeX or HTML."""
    return passage(_LINK, _without_images(text(row, "problem")))


def has_image(row: Row) -> str | None:
    r"""An image, the code of one, or a figure that the text refers to and doesn't hold.

    Figures that the text describes are fine ("the figure formed by two squares"), and so are a Venn
    diagram, the image of a function, the graphs of graph theory, and what is shown in an array or
    in the sentence itself.
    """
    problem = text(row, "problem")
    found = passage(_IMAGE, problem)
    if found is not None:
        return found
    flat = " ".join(plain(problem).split())
    for reference in _PICTURE.finditer(flat):
        if not _is_in_the_text(reference, flat):
            return beginning(reference[0])
    return None


def _is_in_the_text(reference: re.Match[str], problem: str) -> bool:
    """Returns whether the text itself holds what it refers to."""
    before = problem[max(0, reference.start() - 300) : reference.start()]
    if _ARRAY.search(problem, reference.end(), reference.end() + 200):
        return True
    if not _PLACE_ONLY.match(reference[0].casefold()):
        return False
    if reference[0][0] in "Aa":
        return _WRITTEN.search(re.split(r"[.?!] ", before)[-1]) is not None
    return _PICTURE_OF_THE_STORY.search(before) is not None


def _without_images(problem: str) -> str:
    """Removes the addresses of images from a text: they are no links to follow."""
    return re.sub(r"!\[[^\]\[]{0,200}\]\([^\s()]{0,500}\)|<img[^<>]{0,500}>", " ", problem)
