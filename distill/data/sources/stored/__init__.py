"""Photos that lie in object storage."""
