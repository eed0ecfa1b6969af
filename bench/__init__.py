"""What the gateway costs, beside a bare pass-through of the same vendor client: ``python -m bench``.

docs/benchmarks.md says what exactly is measured, and how to read it.
"""
