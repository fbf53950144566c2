"""What a plan will cost: rows and tokens through the graph, hours of compute, dollars. See docs/cost.md."""
