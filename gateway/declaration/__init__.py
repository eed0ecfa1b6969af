"""Declarative set-up: a YAML file that says what tenants, providers, models, prices, tokens and members there are.

``apply`` makes the database agree with it. The way of a file: :mod:`document` (YAML with lines), :mod:`shapes`
(which keys there are), :mod:`applying` and :mod:`writing` (rows), :mod:`outcome` (what that changed).
"""

from gateway.declaration.applying import apply
from gateway.declaration.document import Problem
from gateway.declaration.outcome import Change, DeclarationRefused, Difference, NewToken, Outcome

__all__ = ["Change", "DeclarationRefused", "Difference", "NewToken", "Outcome", "Problem", "apply"]
