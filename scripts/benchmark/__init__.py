"""The parts of bench.py: speed, memory and profile of the package and of the plain loop."""
