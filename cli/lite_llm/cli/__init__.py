"""The ``lite-llm`` command; stands on top and may import every program, lazily."""
