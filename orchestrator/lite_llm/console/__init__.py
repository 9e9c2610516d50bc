"""A page for people, and the fleet as JSON: what the page reads, and any other client may."""

from lite_llm.console.routes import add_console

__all__ = ["add_console"]
