"""The runtime of alignc: carries out one job and seals its output. Knows nothing of the compiler."""

__version__ = "0.1.0"
