"""One command a file. Each takes what it needs as arguments and knows nothing of doors."""
