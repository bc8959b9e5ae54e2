"""Numbers as a person reads them."""

from __future__ import annotations

import math

# Between a number and its unit, so that they stay on one line.
SPACE = "\u00a0"

ARROWS = {"higher": "\u2191", "lower": "\u2193"}


def number(value: float, unit: str = "") -> str:
    """Four digits that count, and the unit; `n/a` where there is no number.

    Args:
        value: Any number.
        unit: Put behind it; empty: none.
    """
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        text = "\u221e"
    elif value and (abs(value) >= 1e7 or abs(value) < 1e-4):
        mantissa, exponent = f"{abs(value):.2e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    elif abs(value) >= 1e4:
        text = f"{abs(value):,.0f}"
    else:
        text = f"{abs(value):.4g}"
    return ("\u2212" if value < 0 else "") + text + (f"{SPACE}{unit}" if unit else "")


def percent(share: float) -> str:
    """A share as a whole percentage; 0.25 is `25 %`."""
    if not math.isfinite(share):
        return "n/a"
    whole = round(100 * share)
    return ("\u2212" if whole < 0 else "") + f"{abs(whole):,}{SPACE}%"


def count(value: int) -> str:
    """A whole number with thousands separated: `1,234,567`."""
    return f"{value:,}"


def duration(seconds: float) -> str:
    """A length of time in its two largest units: `2 min 14 s`."""
    if not math.isfinite(seconds) or seconds < 0:
        return "n/a"
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def flops(operations: float) -> str:
    """Floating-point operations in powers of 1000, two digits that count: `1.2 T`, `35 G`; empty where nobody counted (0 or NaN)."""
    if not operations > 0:
        return ""
    power = 0
    while operations >= 999.5 and power < 5:
        operations, power = operations / 1000, power + 1
    digits = 1 if power and operations < 9.95 else 0  # above, one would read 10.0
    return f"{operations:.{digits}f} {('', 'k', 'M', 'G', 'T', 'P')[power]}".rstrip()


def size(num_bytes: float) -> str:
    """Memory in powers of 1024: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.3g} {unit}" if unit != "B" else f"{num_bytes:.0f} B"
        num_bytes /= 1024
    return f"{num_bytes:.3g} TiB"


def drawable(text: str) -> str:
    """Words with what the fonts of matplotlib surely have: Latin, Greek, Cyrillic and a few signs; else a question mark."""
    return "".join(c if c == "\n" or (c.isprintable() and ord(c) < 0x500) or c in "\u2191\u2193\u2212\u2013\u2026" else "?" for c in text)
