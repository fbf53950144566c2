"""Results: from a tables description and the store to tables, figures and the report."""

from runtime.results.everything import load_results
from runtime.results.load import load_tables
from runtime.results.text import render_text
from runtime.results.write import Written, write_results

__all__ = ["Written", "load_results", "load_tables", "render_text", "write_results"]
