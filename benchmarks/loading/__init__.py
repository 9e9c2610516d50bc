"""What `benchmarks/load.py` measures: inputs, contestants, and one function a row."""
