"""The parts of bench.py: speed and memory of the package and of the plain loop."""
