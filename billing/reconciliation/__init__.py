"""The ledger beside what a vendor says it served and billed: per day, model and token class, with likely causes.

``exports`` reads vendors' files, ``lines`` sums our own ledger the same way, ``comparison`` puts both side by side,
``causes`` says why they differ.
"""
