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
    "percent": "percents percentage pct",
    "dollar": "dollars usd USD",
    "cent": "cents",
    "euro": "euros € EUR",
    "sterling": "£ GBP",
    "yen": "¥ JPY",
    "rupee": "rupees ₹ INR",
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
    "ohm": "ohms Ω",
    "bar": "bars",
    "atm": "atmosphere atmospheres",
    "ha": "hectare hectares",
    "ac": "acre acres",
    "dB": "decibel decibels",
    "kWh": "",
    "Å": "angstrom angstroms Angstrom Angstroms",
    "pc": "parsec parsecs",
    "kpc": "",
    "Mpc": "",
    "ly": "lightyear lightyears",
    "arcsec": "arcsecond arcseconds",
    "mas": "milliarcsecond milliarcseconds",
    "micron": "microns",
    "photon": "photons",
    "nm": "nanometer nanometers",
    "bit": "bits",
    "B": "byte bytes",
    "KB": "",
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

_PREFIXES = {
    **{"f": "femto", "p": "pico", "n": "nano", "m": "milli", "c": "centi", "d": "deci"},
    **{"h": "hecto", "k": "kilo", "M": "mega", "G": "giga", "T": "tera"},
}
_PREFIXED = {
    **{"m": "meter metre", "g": "gram", "s": "second", "A": "ampere amp", "K": "kelvin"},
    **{"mol": "mole", "J": "joule", "N": "newton", "W": "watt", "V": "volt", "Hz": "hertz"},
    **{"Pa": "pascal", "C": "coulomb", "F": "farad", "H": "henry", "T": "tesla", "S": "siemens"},
    **{"Wb": "weber", "ohm": "ohm", "L": "liter litre", "eV": "electronvolt", "cal": "calorie"},
    **{"bar": "bar", "pc": "parsec", "bit": "bit", "B": "byte", "Bq": "becquerel", "Gy": "gray"},
    **{"Sv": "sievert", "lm": "lumen", "lx": "lux", "cd": "candela", "kat": "katal", "t": "ton"},
}


def _units() -> dict[str, str]:
    """Returns the unit or noun of each spelling; those of `_SPELLINGS` win over composed ones."""
    units: dict[str, str] = {}
    for symbol, names in _PREFIXED.items():
        prefixes = {"": ("", ""), **{prefix: (prefix, long) for prefix, long in _PREFIXES.items()}}
        prefixes |= {"u": ("u", "micro"), r"\mu": ("u", "micro")}
        for written, (prefix, long) in prefixes.items():
            names_of = [f"{long}{name}{plural}" for name in names.split() for plural in ("", "s")]
            units |= dict.fromkeys((f"{written}{symbol}", *names_of), f"{prefix}{symbol}")
    for unit, others in _SPELLINGS.items():
        units |= dict.fromkeys((unit, *others.split()), unit)
    del units["pm"]  # an hour in the afternoon far more often than picometers
    return units


UNITS = _units()
"""The unit or noun of each spelling."""

_SHORT_WORDS = frozenset(["day", "way", "man", "men", "per", *_NOUNS.split()])
_SHORT = (
    "cm mm km kg ft yd mph kJ kPa kW kWh Hz kHz MHz GHz eV keV MeV GeV Pa mol kcal cal erg lb lbs "
    "oz sec min hrs yrs gal USD EUR deg pct rad Mpc kpc mas dB"
)
_SHORT_AFTER_SPACE = f"{_SHORT} in mi hr yr ml mL kN kV mV mA ton bar atm"
_BARE, _BARE_AFTER_SPACE = frozenset(_SHORT.split()), frozenset(_SHORT_AFTER_SPACE.split())

_SIGNS = {r"\%": "percent", r"\$": "dollar"}
_CONNECTED = re.compile(r"\b(square|sq|cubic|cu)\b\.?\s*([A-Za-z]+)")
_PART = re.compile(
    r"\s*(?:(?P<per>/|\bper\b)|(?P<times>\\cdot\b|\*|\.)"
    r"|(?P<word>\\[%$]|\\mu\s*[A-Za-z]+|[A-Za-zÅ€£¥₹]+)"
    r"(?:\s*\^\s*\{?\s*(?P<power>-?\d)\s*\}?)?)\s*"
)


def is_bare_unit(word: str, after_space: bool) -> bool:
    r"""Returns whether a word is a unit without `\text` around it, and no product of letters.

    Longer words are; of the short ones those that formulas don't have: `2mg` is a force.
    """
    if len(word) > 3 or not word.isascii() or word in _SHORT_WORDS:
        return True
    return word in (_BARE_AFTER_SPACE if after_space else _BARE)


def read_unit(text: str) -> str | None:
    r"""Returns the normal form of a unit such as `m/s^2` or `\text{kcal m}^{-2}`, or None.

    Every word of it must be known. `\text` and its braces are passed over.
    """
    text = re.sub(r"\\text\s*\{((?:[^{}]|\{[^{}]*\})*)\}", r" \1 ", text)
    text = re.sub(r"\\Omega(?![A-Za-z])", "ohm", text)
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
            word = _SIGNS.get(part["word"]) or re.sub(r"\s", "", part["word"])
            unit = UNITS.get(word) or UNITS.get(word.lower() if len(word) > 3 else word)
            if unit is None:
                return None
            powers[unit] = powers.get(unit, 0) + sign * int(part["power"] or 1)
    powers.pop("unit", None) if len(powers) > 1 else None
    return " ".join(f"{unit}^{power}" for unit, power in sorted(powers.items())) or None
