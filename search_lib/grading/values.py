r"""Values of expressions: exact fractions, or sixty digits at chosen points.

A constant is a `Fraction` while it can be, then a tuple of one complex number. What depends on
variables is a tuple of `NUM_POINTS` numbers, its values where each variable has the numbers that
its name stands for. Two expressions are taken for the same when all values agree in forty digits:
no chance for different ones of the size of an answer, and an equivalence by construction.

At the last two points, where variables are negative, values that are not real are left out: there
`\ln\frac{1}{x}` and `-\ln x` differ, but `\sqrt{x^2}` and `x` do too.
"""

import hashlib
import math
from collections.abc import Callable, Hashable
from fractions import Fraction
from typing import Any

import mpmath

from search_lib.grading.limits import TooLarge, Unreadable, spend

NUM_POINTS = 5
_NUM_POSITIVE = 3
_DIGITS = 40
_MAX_BITS = 1 << 15
_MAX_FACTORIAL = 3_000
_MAX_EXPONENT = 1e6  # natural logarithm of the largest number
_SMALL = 10**18  # fractions of smaller integers differ within forty digits

mp = mpmath.MPContext()  # one of our own: its precision is nobody else's
mp.dps = 60
_EPSILON = mp.mpf(10) ** -(_DIGITS + 5)

Value = Fraction | tuple[Any, ...]


def variable(name: str) -> Value:
    """Returns the values that a name stands for: small, below 1, large, negative, of any sign."""
    spend(20)
    digest = hashlib.sha256(name.encode("utf-8", "replace")).digest()
    draws = [int.from_bytes(digest[8 * k : 8 * k + 8], "big") / 2**64 for k in range(4)]
    sign = 1 if digest[0] % 2 else -1
    points = (
        *(1 + 2 * draws[0], 0.1 + 0.9 * draws[1], 20 + 40 * draws[3]),
        *(-0.1 - 2 * draws[2], sign * (0.1 + draws[3])),
    )
    return tuple(mp.mpc(point) for point in points)


def apply(function: Callable[..., Any], *values: Value, work: float = 40) -> Value:
    """Applies a function of numbers point by point.

    Args:
        function: Takes and returns complex numbers of `mp`.
        *values: Its arguments.
        work: Estimated microseconds of one call.

    Raises:
        TooLarge: If a number is too large to compute, or no work is left.
        Unreadable: If it has no value there.
    """
    columns = [numbers(value) for value in values]
    width = max(map(len, columns))
    spend(10 + work * width)
    columns = [column * width if len(column) == 1 else column for column in columns]
    try:
        results = tuple(mp.mpc(function(*row)) for row in zip(*columns, strict=True))
    except (ArithmeticError, ValueError, TypeError, NotImplementedError) as error:
        raise Unreadable(str(error)) from error
    if not all(mp.isfinite(result) for result in results):
        raise Unreadable("not finite")
    return results


def numbers(value: Value) -> tuple[Any, ...]:
    """Returns a value as a tuple of complex numbers."""
    if isinstance(value, Fraction):
        return (mp.mpc(mp.mpf(value.numerator) / value.denominator),)
    return value


def add(left: Value, right: Value) -> Value:
    """Returns the sum; what cancels to nothing is nothing."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        _spend_on(left, right)
        return _bounded(left + right)
    return apply(_add, left, right, work=6)


def _add(left: Any, right: Any) -> Any:
    total = left + right
    return mp.mpc(0) if abs(total) < _EPSILON * abs(left) else total


def multiply(left: Value, right: Value) -> Value:
    """Returns the product."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        _spend_on(left, right)
        return _bounded(left * right)
    return apply(lambda x, y: x * y, left, right, work=6)


def divide(left: Value, right: Value) -> Value:
    """Returns the quotient."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        if not right:
            raise Unreadable("division by zero")
        _spend_on(left, right)
        return _bounded(left / right)
    return apply(lambda x, y: x / y, left, right, work=6)


def power(base: Value, exponent: Value) -> Value:
    """Returns the power, exact where it can be.

    Raises:
        TooLarge: If it has too many digits.
        Unreadable: If it has no value.
    """
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        exact = _exact_power(base, exponent)
        if exact is not None:
            return exact
    return apply(_power, base, exponent)


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if base == 1:
        return base
    if not base:
        if exponent <= 0:
            raise Unreadable("zero to a power that is not positive")
        return base
    if exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length()) - 1
        if abs(base) == 1:
            return base if exponent.numerator % 2 else Fraction(1)
        if abs(exponent) * max(bits, 1) > _MAX_BITS:
            raise TooLarge
        _spend_on(base, bits=float(abs(exponent)) * bits)
        return base**exponent.numerator
    if base > 0 and exponent.denominator <= 64:
        root = exact_root(base, exponent.denominator)
        return None if root is None else _exact_power(root, Fraction(exponent.numerator))
    return None


def _power(base: Any, exponent: Any) -> Any:
    if not base:
        if mp.re(exponent) <= 0:
            raise ValueError("zero to a power that is not positive")
        return base
    if abs(exponent) * (abs(mp.log(base)) + 1) > _MAX_EXPONENT:
        raise TooLarge
    return mp.power(base, exponent)


def exact_root(number: Fraction, degree: int) -> Fraction | None:
    """Returns the root of a positive fraction if it is one too."""
    above, below = (_integer_root(part, degree) for part in number.as_integer_ratio())
    return None if above is None or below is None else Fraction(above, below)


def _integer_root(number: int, degree: int) -> int | None:
    spend((1 if degree == 2 else 60) + number.bit_length() ** 2 / 1e5)
    if degree == 2:
        root = math.isqrt(number)
    elif number.bit_length() > 4096:
        return None
    else:
        with mp.workdps(number.bit_length() // 3 + 20):
            root = int(mp.nint(mp.root(mp.mpf(number), degree)))
    return root if root**degree == number else None


def factorial(value: Value) -> Value:
    """Returns the factorial: of integers exact, of anything else as the gamma function has it."""
    if isinstance(value, Fraction) and value.denominator == 1:
        if value < 0:
            raise Unreadable("factorial of a negative number")
        if value > _MAX_FACTORIAL:
            raise TooLarge
        spend(1 + value.numerator**2 / 5e4)
        return Fraction(math.factorial(value.numerator))
    return apply(lambda x: mp.gamma(bounded(x, 1e4) + 1), value, work=100)


def bounded(number: Any, bound: float) -> Any:
    """Returns the number itself, for functions that take long for large ones.

    Raises:
        TooLarge: If its size is above the bound.
    """
    if abs(number) > bound:
        raise TooLarge
    return number


def floor(value: Value) -> Value:
    """Returns the largest integer not above a real value."""
    if isinstance(value, Fraction):
        return Fraction(math.floor(value))
    return apply(lambda x: mp.floor(_snapped(x)), value, work=10)


def _snapped(number: Any) -> Any:
    near = mp.nint(mp.re(number))
    return near if abs(number - near) < _EPSILON * max(1, abs(near)) else number


def is_constant(value: Value) -> bool:
    """Returns whether a value depends on no variable."""
    return isinstance(value, Fraction) or len(value) == 1


def key(value: Value) -> Hashable:
    """Returns what two values have in common exactly if they are the same.

    Integers and fractions of large integers are compared exactly, all others in forty digits.
    """
    spend(5 if isinstance(value, Fraction) else 10 + 20 * len(value))
    if not isinstance(value, Fraction) and all(
        abs(number - value[0]) <= _EPSILON * abs(number) for number in value
    ):
        value = value[:1]
        near = _snapped(value[0])
        if isinstance(near, mp.mpf) and abs(near) < 10**_DIGITS:
            value = Fraction(int(near))
    if isinstance(value, Fraction):
        if value.denominator == 1 or max(abs(value.numerator), value.denominator) >= _SMALL:
            return value
        value = numbers(value)
    texts = [_digits(number) for number in value]
    for index in range(_NUM_POSITIVE, len(texts)):
        if texts[index][1] != "0":
            texts[index] = ("", "")
    return tuple(texts)


def _digits(number: Any) -> tuple[str, str]:
    size = abs(number)
    return tuple(  # type: ignore[return-value]
        "0" if abs(part) <= _EPSILON * size else mp.nstr(part, _DIGITS)
        for part in (number.real, number.imag)
    )


def ratio_key(value: Value) -> Hashable:
    """Returns the key of a value up to a constant factor: that of both sides' difference."""
    columns = numbers(value)
    if not columns[0]:
        return key(value)
    return ("ratio", key(tuple(number / columns[0] for number in columns)))


def negative(value: Value) -> Value:
    """Returns minus the value."""
    return multiply(Fraction(-1), value)


def linear_root(value: Value, name: str) -> tuple[bool, Value] | None:
    """Returns whether a linear function of a variable rises, and its zero; None for others."""
    points, columns = numbers(variable(name)), numbers(value)
    if len(columns) != len(points):
        return None
    slope = (columns[1] - columns[0]) / (points[1] - points[0])
    if not slope or abs(slope.imag) > _EPSILON * abs(slope):
        return None
    root = points[0] - columns[0] / slope
    for point, column in zip(points, columns, strict=True):
        if abs(column - slope * (point - root)) > _EPSILON * abs(slope) * (abs(point) + abs(root)):
            return None
    if abs(root.imag) > _EPSILON * abs(root):
        return None
    return bool(slope.real > 0), (mp.mpc(root.real),)


def is_positive(value: Value) -> bool:
    """Returns whether the first of the numbers of a value is above zero."""
    return numbers(value)[0].real > 0


def _spend_on(*values: Fraction, bits: float = 0) -> None:
    """Counts the work of an exact operation, which large denominators make quadratic."""
    sizes = [value.numerator.bit_length() + value.denominator.bit_length() for value in values]
    bits = max(bits, *sizes)
    whole = all(value.denominator == 1 for value in values)
    spend(5 + bits**2 / (4e6 if whole else 4e5))


def _bounded(number: Fraction) -> Fraction:
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > 2 * _MAX_BITS:
        raise TooLarge
    return number
