"""What benchmarks/experts.py measures: a model, its work, and other engines' ways to do it."""
