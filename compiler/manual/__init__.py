"""What is generated for readers and editors: reference, schemas, error pages, starters."""
