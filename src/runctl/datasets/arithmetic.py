"""Figures that can be shown with their arithmetic: a term is a formula over factors, each with its source."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from decimal import ROUND_CEILING, ROUND_UP, Decimal
from functools import cache
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import ast

_PLACES = {"USD": Decimal("0.000001"), "s": Decimal("0.001"), "MB/s": Decimal("0.001")}


class Factor(msgspec.Struct, frozen=True):
    """One figure of a formula; a value of None is unknown."""

    symbol: str
    name: str
    value: Decimal | None
    unit: str
    source: str


class Term(msgspec.Struct, frozen=True):
    """What a formula over its factors comes to, rounded up; None where a factor is unknown, never 0."""

    name: str
    unit: str
    formula: str
    factors: tuple[Factor, ...]
    value: Decimal | None

    def factor(self, symbol: str) -> Factor:
        """This term as a factor of another one."""
        return Factor(symbol, self.name, self.value, self.unit, "from above")


def term(name: str, unit: str, formula: str, *factors: Factor) -> Term:
    """Calculate a formula; what it says is what is done. Raises KeyError for a symbol that has no factor."""
    values = {factor.symbol: factor.value for factor in factors if factor.value is not None}
    if len(values) < len(factors):
        return Term(name, unit, formula, factors, None)
    value = _evaluate(_parsed(formula), values)
    places = _PLACES.get(unit)
    # What is not 0 is not shown as 0.
    return Term(name, unit, formula, factors, value.quantize(places, ROUND_UP) if places else value)


def total(terms: Iterable[Term]) -> Decimal | None:
    """The sum of terms; None where one is unknown."""
    values = [item.value for item in terms]
    known = [value for value in values if value is not None]
    return sum(known, Decimal(0)) if len(known) == len(values) else None


def rounded_up(value: Decimal) -> Decimal:
    return value.to_integral_value(ROUND_CEILING)


_OPERATORS: Mapping[str, Callable[[Decimal, Decimal], Decimal]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mult": operator.mul,
    "Div": operator.truediv,
    "FloorDiv": operator.floordiv,
}
_FUNCTIONS: Mapping[str, Callable[..., Decimal]] = {"max": max, "min": min, "ceil": rounded_up}


@cache
def _parsed(formula: str) -> ast.expr:
    import ast

    return ast.parse(formula, mode="eval").body


def _evaluate(node: ast.expr, values: Mapping[str, Decimal]) -> Decimal:
    import ast

    match node:
        case ast.Constant(value=int() | float() as number):
            return Decimal(str(number))
        case ast.Name(id=symbol):
            return values[symbol]
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op).__name__](_evaluate(left, values), _evaluate(right, values))
        case ast.Call(func=ast.Name(id=function), args=arguments):
            return _FUNCTIONS[function](*(_evaluate(argument, values) for argument in arguments))
        case _:
            raise ValueError(f"no part of a formula: {ast.unparse(node)}")
