"""exp, tanh, erf and log from fixed polynomials: the same bits on every processor and for every
lane, which no mathematical library promises. Errors are a few units in the last place."""

from __future__ import annotations

import math
from typing import Any

from lite_llm.kernels.lanes import (
    absolute,
    fma,
    greater,
    smaller,
    spread,
    times_power,
    where_less,
    with_sign,
)
from lite_llm.kernels.vector import inlined

# Cephes (Moshier), single precision: exp, tanh, erf on [-1, 1], erfc on [1, 2] and beyond.
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
_TANH = (
    -5.70498872745e-3,
    2.06390887954e-2,
    -5.37397155531e-2,
    1.33314422036e-1,
    -3.33332819422e-1,
)
_ERF = (
    7.853861353153693e-5,
    -8.010193625184903e-4,
    5.188327685732524e-3,
    -2.685381193529856e-2,
    1.128358514861418e-1,
    -3.761262582423300e-1,
    1.128379165726710,
)
_ERFC_NEAR = (
    2.326819970068386e-2,
    -1.387039388740657e-1,
    3.687424674597105e-1,
    -5.824733027278666e-1,
    6.210004621745983e-1,
    -4.944515323274145e-1,
    3.404879937665872e-1,
    -2.741127028184656e-1,
    5.638259427386472e-1,
)
_ERFC_FAR = (
    -1.047766399936249e1,
    1.297719955372516e1,
    -7.495518717768503,
    2.921019019210786,
    -1.015265279202700,
    4.218463358204948e-1,
    -2.820767439740514e-1,
    5.641895067754075e-1,
)


@inlined
def _polynomial(x: Any, coefficients: Any) -> Any:
    """Horner's scheme, highest power first."""
    result = spread(coefficients[0])
    for coefficient in coefficients[1:]:
        result = fma(result, x, spread(coefficient))
    return result


@inlined
def exp(x: Any) -> Any:
    """e to the power of x."""
    x = smaller(greater(x, spread(-104.0)), spread(89.0))
    origin = spread(12582912.0)
    shifted = fma(x, spread(1.44269504088896341), origin)
    turns = shifted - origin
    rest = fma(turns, spread(-0.693359375), x)
    rest = fma(turns, spread(2.12194440e-4), rest)
    tail = fma(_polynomial(rest, _EXP), rest * rest, rest)
    return times_power(tail + spread(1.0), shifted)


@inlined
def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    size = absolute(x)
    far = spread(1.0) - spread(2.0) / (exp(size + size) + spread(1.0))
    square = x * x
    near = fma(_polynomial(square, _TANH) * square, x, x)
    return where_less(size, spread(0.625), near, with_sign(far, x))


@inlined
def erf(x: Any) -> Any:
    """Gauss's error function."""
    size = absolute(x)
    square = x * x
    near = x * _polynomial(square, _ERF)
    inverse = spread(1.0) / size
    inverse_square = inverse * inverse
    tail = where_less(
        size,
        spread(2.0),
        _polynomial(inverse_square, _ERFC_NEAR),
        _polynomial(inverse_square, _ERFC_FAR),
    )
    far = spread(1.0) - exp(spread(0.0) - square) * inverse * tail
    return where_less(size, spread(1.0), near, with_sign(far, x))


@inlined
def log(x: Any) -> Any:
    """The natural logarithm of one finite float32 of at least 1; others give NaN."""
    if not 1.0 <= x < math.inf:
        return x - x + math.nan
    turns = 0
    rest = float(x)
    while rest >= 1.5:
        rest *= 0.5
        turns += 1
    # log(rest) = 2 artanh(ratio), and ratio is at most a fifth: 13 terms exhaust float64.
    ratio = (rest - 1.0) / (rest + 1.0)
    square = ratio * ratio
    series = 0.0
    for power in range(25, 0, -2):
        series = series * square + 1.0 / power
    return turns * 0.6931471805599453 + 2.0 * ratio * series
