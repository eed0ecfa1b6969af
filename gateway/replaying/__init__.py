"""Asks banked conversations again every week, and looks whether models answer them as they did.

Two jobs. ``populate`` draws conversations out of those that were judged; ``execute`` has each answered by its model and
by a control, has both judged in the same run, and takes the values into the watches of :mod:`routing.drift`.
"""

from gateway.replaying.bank import populate as populate
from gateway.replaying.weekly import execute as execute
