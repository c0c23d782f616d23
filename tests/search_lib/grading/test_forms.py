"""Normal forms: what is the same without any worker, what differs, and what has no form."""

import itertools
import random

import pytest

from search_lib.grading.forms import has_words, read, same

SAME = {
    "numbers": [
        *[("5 million", "5000000"), (r"\$1.5\text{ million}", "1.5e6"), ("4 0/9", "4")],
        *[("1'234'567", "1234567"), ("12\u2009345", "12345"), ("10,00,000", "1000000")],
        *[("x**2+1", "x^2+1"), ("**12**", "12"), (r"\text{42.0}", "42"), ("185\\", "185")],
        *[(r"\frac13 \approx 0.33", "1/3"), (r"x \approx 11", "11"), (r"\approx 11", "11")],
        *[("2.5e-4", "0.00025"), ("6e23", r"6 \times 10^{23}"), ("1e+21", "10^{21}")],
        *[("7 3/4", "7.75"), (r"2\frac13", r"\frac{7}{3}"), ("-1 1/2", "-1.5")],
        *[("12,345", "12345"), (r"12{,}345", r"12\,345"), ("1 000 000", "10^6")],
        *[("0.5", ".5"), ("3.50", "7/2"), ("-0", "0"), ("+3", "3"), (r"0.\overline{36}", "4/11")],
        *[("12%", "12"), (r"2.5\%", "2.5"), (r"\frac12", r"\dfrac{1}{2}"), (r"\frac 59", "5/9")],
        *[(r"\frac{1}{5!}", "1/120"), (r"\binom{5}{2}", "10"), (r"\lfloor 3.7 \rfloor", "3")],
        (r"\sqrt[3]{-8}", "-2"),
    ],
    "expressions": [
        *[("(a+b)^2", "a^2+2ab+b^2"), (r"\frac{1}{\sqrt3}", r"\frac{\sqrt3}{3}")],
        *[(r"\sin 2x", r"2\sin x\cos x"), (r"\ln \frac{1}{x}", r"-\ln x"), ("e^{i\\pi}", "-1")],
        *[
            ("x_{1}+x_2", "x_2+x_1"),
            (r"\tfrac{m}{2}", r"\frac12 m"),
            (r"\sin^{-1} x", r"\arcsin x"),
        ],
        *[("3n+m", "m+3n"), ("sqrt(2)/2", r"\frac{\sqrt{2}}{2}"), (r"\log_{2} 8", "3")],
        *[(r"\left|x\right|", "|x|"), (r"\sqrt{3}5", r"5\sqrt3")],
    ],
    "Unicode": [
        *[("√5", r"\sqrt5"), ("x³", "x^3"), ("45°", r"45^\circ"), ("¾", "0.75"), ("−2", "-2")],
        *[("2π", r"2\pi"), ("3×4", "12"), ("[1,∞)", r"[1,+\infty)"), ("a₁", "a_{1}")],
    ],
    "wrappings": [
        *[(r"\textbf{(007)}", "7"), ("**42**", "42"), (r"\[ 6 \]", "6"), (r"\(6\)", "6.")],
        *[("$2\\sqrt{3}$.", r"2\sqrt{3}"), (r"\boxed{9}", "9"), (r"\text{(B)}", "B"), ("(D)", "D")],
        (r"\mathbf{x+1}", "1+x"),
        *[(r"\text{A, C}", "A,C"), (r"\text{B and D}", "D, B"), (r"3\colon 4", "3 : 4")],
    ],
    "units": [
        *[(r"5\text{ F}", "5 farads"), (r"5\text{ mF}", "5 millifarads"), ("5€", "5 euros")],
        *[(r"5\mathrm{\mu F}", "5 microfarad"), (r"5\,\mathrm{k\Omega}", "5 kiloohms")],
        *[("28 pct", "28%"), ("28 percentage", r"28\%"), (r"US\$5", "5 dollars"), ("3 in", "3")],
        *[(r"\frac{900^\circ}{11}", r"\frac{900}{11}"), ("37℃", r"37^\circ\text{C}"), ("9℉", "9")],
        *[(r"5\text{ cm and }6\text{ cm}", r"5\text{ cm}, 6\text{ cm}"), (r"\text{5 cm}", "5")],
        *[(r"5\text{ ft }6\text{ in}", "5 feet 6 inches"), ("2 hr and 5 min", "2 hours 5 minutes")],
        *[(r"\text{5 and 6}", "5,6"), (r"\text{x = 5}", "5"), ("5\u200b", "5")],
        *[("30^\\circ 15'", "30.25"), ("30°15′36″", r"30.26^\circ"), ("-1°30'", "-1.5")],
        *[("5 cm", "5"), (r"5\text{ cm}^2", "5"), (r"\$7.50", "7.5"), ("7.50 dollars", "7.5")],
        *[(r"21^{\text{st}}", "21"), (r"9 \text{ m/s}^2", r"9\,\mathrm{m\,s^{-2}}")],
        *[
            ("3 hours", r"3\text{ h}"),
            (r"8\mathrm{~kg}", "8 kilograms"),
            ("12 apples", "12"),
            ("2 Å", "2"),
        ],
    ],
    "lists and sets": [
        *[(r"\{1,3\}\cup\{2\}", "1,2,3"), (r"x\in\{1,2\}", "2,1"), ("1 \\text{ or } 2", "1,2")],
        *[("(1;2)", "(1,2)"), (r"\langle 1,2\rangle", "(1,2)"), ("⟨1,2⟩", "(1,2)")],
        *[("1,2", "2,1"), ("1,2", r"\{2,1\}"), (r"1 \text{ and } 2", "2, 1"), ("1 or 2", "1,2")],
        *[("3,3", "(3,3)"), (r"\{1,1,2\}", r"\{1,2\}"), (r"2\pm\sqrt3", r"2+\sqrt3, 2-\sqrt3")],
        *[("(1,2),(3,4)", "(3,4),(1,2)"), (r"\emptyset", r"\varnothing"), (r"\{\}", "∅")],
        *[("x=1, x=2", "1,2"), ("x=1,y=2", "y=2,x=1"), ("a=4, b=4", "4,4")],
    ],
    "intervals": [
        *[("|x|<2", "-2<x<2"), (r"\left|x-1\right| \le 2", "[-1,3]"), ("3>|t|", "(-3,3)")],
        *[(r"|x|\ge 3", r"(-\infty,-3]\cup[3,\infty)"), ("-x>-1", "x<1"), ("2<2x<6", "(1,3)")],
        *[("1 < 2x", "x>1/2"), ("(-infinity, 5)", "x<5"), ("x != 3", r"x\ne 3")],
        *[
            ("x >= 5", r"x\ge 5"),
            ("x<=2", "(-\\infty,2]"),
            (r"\mathbb{R}", r"(-\infty,\infty)"),
            ("3x+y<6", "6x+2y<12"),
        ],
        *[("0<x<1", "(0,1)"), (r"x\ge 2", r"[2,\infty)"), (r"\{x \mid x<3\}", r"(-\infty,3)")],
        (r"x<0 \text{ or } x>1", r"(-\infty,0)\cup(1,\infty)"),
        (r"\{x \mid x<2 \text{ or } x>5\}", r"(-\infty,2)\cup(5,\infty)"),
        (r"\{x\in\mathbb{R} : x>2\}", r"(2,\infty)"),
        *[("1>t", "t<1"), (r"x\in[0,1)", "[0,1)"), (r"(0,1)\cup(2,3)", r"(2,3) \cup (0,1)")],
    ],
    "equations": [
        *[("x=5", "5"), ("f(x)=x+1", "1+x"), ("y=2x+3", "2x-y+3=0"), ("2x+4y=6", "x+2y=3")],
        *[("f^{-1}(x)=2x", "2x"), ("x1+x2", "x_2+x_1"), (r"\frac a2", "a/2")],
        *[("5=x", "5"), (r"(a,b)=(1,2)", "(1,2)"), (r"(a,b)\in\{(1,2),(2,1)\}", "(2,1),(1,2)")],
        *[(r"\overline{CD}=5", "5"), ("CD=5", r"\overline{CD}=5"), ("P(X=1)=0.5", "1/2")],
        *[(r"3 \pmod{7}", "3"), (r"x\equiv 3\pmod 7", r"3 \pmod{7}"), ("3 (mod 7)", "3")],
        *[("5", "x=2+3=5"), ("MR = MC", "MC=MR"), ("AB=5", "5"), (r"T(12)=3", "3")],
    ],
    "words": [
        *[
            (r"\text{No solution}", "no solution"),
            (r"\text{4:30 p.m.}", "4:30 pm"),
            ("Yes.", "yes"),
        ],
        *[(r"7 \text{ a.m.}", "7 AM"), ("10:00 pm", r"10\text{ p.m.}"), ("09:05 am", "9:05 AM")],
        *[("2020-05-06", "2020/5/6")],
        *[(r"T_{\text{max}}", r"T_{max}")],
    ],
    "matrices": [
        (
            r"\left[\begin{array}{cc}1&2\\3&4\end{array}\right]",
            r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
        ),
        (r"\begin{pmatrix}1/2\\3\end{pmatrix}", r"\begin{bmatrix}\frac12 \\ 3\end{bmatrix}"),
    ],
}
DIFFERENT = {
    "numbers": [
        *[("12,34,567", "1234567"), ("5!=120", r"5 \ne 120"), (r"\frac13 \approx 0.33", "0.33")],
        *[
            ("2024-01-02", "2024-02-01"),
            ("5 million", "5 billion"),
            ("1'23", "123"),
            ("30^\\circ 15'", "30.15"),
        ],
        *[
            ("0.0000003", "0.0000004"),
            ("1/3", "0.3333333333"),
            (r"\frac{1}{99!}", r"\frac{1}{98!}"),
        ],
        *[
            ("10^{50}", "10^{50}+1"),
            (r"\frac{12345}{12346}", r"\frac{12344}{12345}"),
            ("2^{999}", "0"),
        ],
        *[("11 5/6", "8/3"), ("0.25", r"25\%"), (r"\pi", "3.141592653589793"), ("1010_2", "10")],
        *[("12e3", "12e4"), ("1,234", "1.234"), ("10^{99999}", "10^{99998}")],
    ],
    "letters": [
        *[("7t", "7"), ("3ab", "3"), ("2s", "2g"), (r"2\mathrm{e}", "2"), (r"3\pi m", r"3\pi")],
        *[("2mg", "2"), (r"2\,nm", "2"), ("3 pc", "3"), ("2hr", "2"), ("5 F", "5"), ("3kT", "3")],
        *[("4+2t", "4+2"), ("C", "c"), ("|x|", "x"), (r"\sqrt{x^2}", "x"), ("x", "x'")],
        *[(r"\frac{dy}{dx}", r"\frac{y}{x}"), (r"\lfloor n/2 \rfloor", r"\lfloor n/3 \rfloor")],
        *[("f(2)=3", "f(3)=3"), (r"\vec a\cdot\vec b", r"\vec a\times\vec b")],
        *[("2x1", "2x"), ("3x4", "4x3"), (r"\text{5 red}", "5")],
        *[("A1", "1A"), ("x1", "x"), ("f^{-1}(x)=2x", "f(x)=2x"), ("x^{-1}=2", "2")],
        *[("I(0)", "0"), ("P(3)", "3P"), (r"5\text{pm}", "5"), (r"5\text{ pm}", r"5\text{ am}")],
        *[("f(2)", "2f"), ("east", "seat"), ("AB", "BA"), (r"\vec{a}", "a")],
    ],
    "text": [
        *[(r"T_{\text{max}}", r"T_{\text{min}}"), (r"7\text{am}", r"7\text{pm}")],
        *[(r"40 \text{ pens}, 60 \text{ cups}", r"40 \text{ pens}, 50 \text{ cups}")],
        *[(r"3 \text{ hours and } 20 \text{ minutes}", r"3 \text{ hours}")],
        *[(r"\text{at least } 5", "5"), (r"5 \text{ or more}", "5"), ("5 cm", "5 km")],
        *[
            ("7 am", "7 pm"),
            ("7 AM", "7"),
            (r"20^\circ C", r"20^\circ F"),
            ("2020/05/06", "2020/06/05"),
        ],
        *[
            ("2020-5-6", "2009"),
            ("2 hours 5 minutes", "2 hours 6 minutes"),
            ("5 ft 6 in", "5 in 6 ft"),
        ],
        *[(r"\$5", "5 cents"), ("12 apples", "12 pears"), (r"30^\circ", "30 cm")],
        *[(r"\text{Monday}", r"\text{Tuesday}"), ("no", "yes"), ("5", r"\text{five}")],
    ],
    "structure": [
        *[("1,1,2", "1,2,2"), ("1,1,2", "1,2"), ("(1,2)", "(2,1)"), ("(1,2)", "[1,2]")],
        *[("(1,2)", r"\{1,2\}"), ("5", "5,6"), ("x=1,y=2", "x=2,y=1"), (r"\pm 3", "3")],
        *[
            ("3y+z=1", "1"),
            ("7=11a+c", "11a+c"),
            ("x=3", "y=3"),
            ("x^2=4", "2"),
            ("x>1, x<0", "x>1"),
            ("x<3", "x>3"),
        ],
        *[
            (r"\{x\in\mathbb{Z}:2<x<5\}", "(2,5)"),
            (r"\{n\in\mathbb N:n>2\}", r"\{n\in\mathbb Z:n>2\}"),
        ],
        *[("(a,b)=(1,2)", "(b,a)=(1,2)"), ("P(A)=0.5", "P(B)=0.5"), ("P(X=1)=0.5", "P(X=2)=0.5")],
        *[(r"3 \pmod 7", r"3 \pmod 5"), (r"3 \pmod 7", r"4 \pmod 7"), ("AB=5", r"\overline{CD}=5")],
        *[("|x|<2", "x<2"), ("|x|<-2", "(2,-2)"), ("|x|>2", "x>2"), ("-x>-1", "x>1")],
        *[("|x|<y", "-y<x<y"), ("x^2<4", "x<4"), ("x+y<1", "x<1"), (r"|x|\le 2", "|x|<2")],
        *[(r"\{1\}\cup[2,3]", r"\{1\}\cup(2,3)"), ("[1;2)", "[1,2]"), ("2<2x<6", "[1,3]")],
        (r"\left|\begin{array}{c}1\end{array}\right|", r"\begin{pmatrix}1\end{pmatrix}"),
        *[("x<3", r"x\le 3"), (r"(0,1)\cup(2,3)", r"(0,1)\cap(2,3)"), ("a<b", "b<a")],
        *[(r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}")],
        *[("3:4", "3/4"), (r"\infty", r"-\infty"), (r"0,1,\ldots,9", r"0,1,\ldots,8")],
    ],
}


@pytest.mark.parametrize(("left", "right"), itertools.chain(*SAME.values()), ids=str)
def test_same(left: str, right: str) -> None:
    forms = read(left), read(right)
    assert None not in forms
    assert same(*forms)
    assert same(*forms[::-1])


@pytest.mark.parametrize(("left", "right"), itertools.chain(*DIFFERENT.values()), ids=str)
def test_different(left: str, right: str) -> None:
    forms = read(left), read(right)
    assert left != right
    assert None in forms or not (same(*forms) or same(*forms[::-1]))


@pytest.mark.parametrize(
    "text", ["", r"\frac{1}{", "1) 3; 2) 5", "foo^ 7 bar_", "答案", "①③", "2 3"]
)
def test_no_form(text: str) -> None:
    assert read(text) is None


def test_equal_keys_are_an_equivalence() -> None:
    """Without units and names, which may be missing, sameness is equality of keys."""
    texts = sorted(
        {text for pairs in (SAME, DIFFERENT) for pair in pairs.values() for text in sum(pair, ())}
    )
    forms = [form for form in map(read, texts) if form and not (form.unit or form.name)]
    for left, right in itertools.combinations(forms, 2):
        if left.equation is None and right.equation is None:
            assert same(left, right) == (left.key == right.key)


@pytest.mark.parametrize(
    "text",
    [
        *["9^{9^9}", "10^(10^6)", "10000!", r"\sin(10^{99999})", "1000!!!!", "1e99999"],
        *[r"\binom{10^6}{5*10^5}", r"\binom{10^9}{10^8}", r"e^{e^{e^{e^e}}}", "1.1^{1000000}"],
        *["2^{30000}" + r"\cdot 3^{9999}" * 100, r"7^{9000}/3^{9000}+" * 90 + "1"],
        *["x+" + "2900!+" * 300 + "1", "x=" + r"\pm 2900!," * 190 + "1", "a!" * 900],
        *[r"\sqrt[7]{3}+" * 160 + "1", "x^{1.5}=" * 240 + "1", r"\sin(x+y)," * 180 + "1"],
        *[r"\frac" * 300, r"\sqrt{" * 250 + "2", "(" * 900 + "1" + ")" * 900, "{" * 1_900],
        *["√" * 1_900, "x²" * 900, r"\ln" * 600],  # these get longer as LaTeX
    ],
    ids=lambda text: text[:16],
)
def test_what_takes_too_much_work_is_compared_as_written(text: str) -> None:
    form = read(text)
    assert form is not None
    assert form.key[0] == "as written"
    assert not same(form, read(text.replace("9", "8") + "+1"))


def test_the_longest_answers_of_models_are_read() -> None:
    points = [f"({number}, {number * 31})" for number in range(120)]
    forms = [read(", ".join(order)) for order in (points, points[::-1])]
    assert same(*forms)
    assert forms[0].key[0] == "list"


def test_a_refused_answer_leaves_the_work_of_the_next_one() -> None:
    assert read("x+" + "2900!+" * 301 + "1").key[0] == "as written"
    assert same(read("(y+1)^2"), read("y^2+2y+1"))


@pytest.mark.parametrize(
    "text",
    [
        "\ud800",
        "1\x00",
        "\x07" * 9,
        "1\u202e2",
        "𝟏" * 100,
        "1" * 1_000_000,
        "," * 1_999,
        r"\in" * 600,
    ],
    ids=ascii,
)
def test_odd_characters_and_lengths_do_not_crash(text: str) -> None:
    read(text)
    assert not has_words(text)


def test_random_texts_never_raise() -> None:
    draw = random.Random(0)
    pieces = [
        *"12x+-*/^_{}()[],|=<>!'.%$ ",
        *[r"\frac", r"\sqrt", r"\text{", r"\pm", r"\cup", r"\{"],
    ]
    pieces += [
        r"\}",
        r"\in",
        r"\le",
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        "&",
        r"\\",
        "and",
        " cm",
    ]
    pieces += [r"\infty", r"\sin", "°", "½", r"\$", r"\boxed{", r"\overline", "e", "i", "1/2"]
    for _ in range(3_000):
        read("".join(draw.choices(pieces, k=draw.randint(1, 14))))
