"""Lite LLM's own engine, without a server: the same loop that a worker runs."""
