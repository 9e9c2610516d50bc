"""Parts of ``benchmarks/generate.py``: the work, the peers, and the process that each runs in."""
