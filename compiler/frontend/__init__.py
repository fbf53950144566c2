"""Spec text -> typed graph: YAML with places, sections, axes, references, warnings."""
