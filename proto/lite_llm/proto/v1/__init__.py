"""Version 1 of the wire, package ``lite_llm.v1``."""
