r"""Units and nouns that stand behind a number: which ones, and how they are told apart."""

import re

_NOUNS = (
    "apple arrangement atom bag ball bird block book bottle box boy candle car card cat circle "
    "coin color colour column combination cookie cube cup day digit dog edge egg element face "
    "fish flower friend function game girl integer letter marble mark member move number orange "
    "page pair path permutation piece player polynomial round route row sequence set side "
    "solution square step student subset teacher team term ticket tile tree triangle turn value "
    "vertex vote word worker "
)
_SPELLINGS = {
    "m": "meter meters metre metres",
    "cm": "centimeter centimeters centimetre centimetres",
    "mm": "millimeter millimeters millimetre millimetres",
    "km": "kilometer kilometers kilometre kilometres",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard yards yds",
    "mi": "mile miles",
    "s": "sec secs second seconds",
    "min": "mins minute minutes",
    "h": "hr hrs hour hours",
    "day": "days",
    "week": "weeks",
    "month": "months",
    "yr": "yrs year years",
    "g": "gram grams gm",
    "kg": "kilogram kilograms",
    "mg": "milligram milligrams",
    "lb": "lbs pound pounds",
    "oz": "ounce ounces",
    "ton": "tons tonne tonnes",
    "L": "l liter liters litre litres",
    "mL": "ml milliliter milliliters millilitre millilitres",
    "gal": "gallon gallons",
    "degree": "degrees deg",
    "rad": "radian radians",
    "percent": "percents",
    "dollar": "dollars usd USD",
    "cent": "cents",
    "euro": "euros",
    "unit": "units",
    "point": "points",
    "mph": "",
    "K": "kelvin kelvins",
    "J": "joule joules",
    "kJ": "",
    "N": "newton newtons",
    "W": "watt watts",
    "V": "volt volts",
    "A": "ampere amperes amp amps",
    "Hz": "hertz",
    "Pa": "pascal pascals",
    "mol": "mole moles mols",
    "eV": "",
    "keV": "",
    "MeV": "",
    "erg": "ergs",
    "cal": "calorie calories",
    "kcal": "",
    "Å": "angstrom angstroms Angstrom Angstroms",
    "pc": "parsec parsecs",
    "kpc": "",
    "Mpc": "",
    "ly": "lightyear lightyears",
    "arcsec": "arcsecond arcseconds",
    "mas": "milliarcsecond milliarcseconds",
    "micron": "microns",
    "pm": "picometer picometers",
    "photon": "photons",
    "nm": "nanometer nanometers",
    "bit": "bits",
    "byte": "bytes",
    "AU": "",
    "G": "gauss Gauss",
    "person": "people persons",
    "child": "children",
    "man": "men",
    "woman": "women",
    "way": "ways",
    "time": "times",
    "grade": "",
    "year-old": "",
    **{noun: f"{noun}s" for noun in _NOUNS.split()},
    "box": "boxes",
    "vertex": "vertices",
    "candy": "candies",
    "penny": "pennies",
    "pencil": "pencils",
    "pear": "pears",
}

UNITS = {
    spelling: unit for unit, others in _SPELLINGS.items() for spelling in (unit, *others.split())
}
"""The unit or noun of each spelling."""

_CONNECTED = re.compile(r"\b(square|sq|cubic|cu)\b\.?\s*([A-Za-z]+)")
_PART = re.compile(
    r"\s*(?:(?P<per>/|\bper\b)|(?P<times>\\cdot\b|\*|\.)|(?P<word>\\%|[A-Za-zÅ]+)"
    r"(?:\s*\^\s*\{?\s*(?P<power>-?\d)\s*\}?)?)\s*"
)


def read_unit(text: str) -> str | None:
    r"""Returns the normal form of a unit such as `m/s^2` or `\text{kcal m}^{-2}`, or None.

    Every word of it must be known. `\text` and its braces are passed over.
    """
    text = re.sub(r"\\text\s*\{((?:[^{}]|\{[^{}]*\})*)\}", r" \1 ", text)
    text = _CONNECTED.sub(lambda m: f"{m[2]}^{2 if m[1].startswith('sq') else 3}", text)
    powers: dict[str, int] = {}
    position, sign = 0, 1
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            return None
        position = part.end()
        if part["per"]:
            sign = -1
        elif part["word"]:
            word = "percent" if part["word"] == "\\%" else part["word"]
            unit = UNITS.get(word) or UNITS.get(word.lower() if len(word) > 3 else word)
            if unit is None:
                return None
            powers[unit] = powers.get(unit, 0) + sign * int(part["power"] or 1)
    powers.pop("unit", None) if len(powers) > 1 else None
    return " ".join(f"{unit}^{power}" for unit, power in sorted(powers.items())) or None
