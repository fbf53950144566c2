"""What a plan or an artifact becomes outside: text, pages, descriptions, exports."""
