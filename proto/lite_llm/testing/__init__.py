"""Real servers, fakes and tiny models for tests. Shipped; no product code may import it."""
