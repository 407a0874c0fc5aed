"""Whether two heads succeed equally often on the same episodes, judged while episodes are added.

Looking at a p-value after every wave and stopping when it is small finds a difference where there is none far
more often than the p-value says. An e-value may be looked at as often as one likes. Of the episodes that one
head alone solves, without a difference each is as likely to be either's (McNemar, Psychometrika 12, 1947).
With a and b of them, and the chance of the alternative drawn from Jeffreys' Beta(1/2, 1/2) (Robbins, Ann.
Math. Statist. 41, 1970),

    e = 2^(a+b) B(a + 1/2, b + 1/2) / B(1/2, 1/2)

is a martingale without a difference, so it reaches 1 / alpha at any time with probability alpha at most
(Ville, 1939).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

ALPHA = 0.05  # chance that equal heads are ever called different


def paired_evidence(first: Mapping[int, bool], second: Mapping[int, bool]) -> float:
    """Return the e-value against equal rates of success on the episodes that both have.

    Args:
        first: Success of one head by episode seed.
        second: That of another one.
    """
    both = first.keys() & second.keys()
    alone = sum(first[seed] and not second[seed] for seed in both)
    other = sum(second[seed] and not first[seed] for seed in both)
    return math.exp((alone + other) * math.log(2) + _log_beta(alone + 0.5, other + 0.5) - _log_beta(0.5, 0.5))


def is_decided(evidence: float) -> bool:
    """Tell whether an e-value says that the rates differ, at error `ALPHA` over all looks together."""
    return evidence >= 1 / ALPHA


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
