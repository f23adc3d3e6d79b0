"""What `benchmarks/run.py` measures, and how."""
