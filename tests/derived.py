"""Values of types derived from Python's own, as the libraries for TOML, YAML and HTML
give them, and numpy. msgspec refuses to encode them."""

from __future__ import annotations


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class Dollars(float):
    """A sum with one is another."""

    def __add__(self, other: float) -> Dollars:
        return Dollars(float(self) + float(other))

    __radd__ = __add__


class Count(int):
    """Likewise."""

    def __add__(self, other: int) -> Count:
        return Count(int(self) + int(other))

    __radd__ = __add__
