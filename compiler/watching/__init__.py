"""Status of an experiment, once or again and again, and its logs."""
