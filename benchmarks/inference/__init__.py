"""The fast engine and its peers side by side: `python -m benchmarks.inference --help`."""
