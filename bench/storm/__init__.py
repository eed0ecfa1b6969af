"""Whether the ledger is right after a bad day: ``python -m bench.storm``.

docs/storm.md says what is done to the gateways and what is compared afterwards.
"""
