"""The compiler of alignc: spec text -> plan -> submission. Knows no torch."""
