"""Who asks, what they may ask for, how much of it, and whose turn it is."""

from lite_llm.tenants.admission import Admission
from lite_llm.tenants.keyfile import Keys, open_keys
from lite_llm.tenants.tenant import ANYBODY, Tenant

__all__ = ["ANYBODY", "Admission", "Keys", "Tenant", "open_keys"]
