"""Graph -> plan: keys, the store's state, causes, resources, jobs; and questions about nodes."""
