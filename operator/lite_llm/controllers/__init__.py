"""The operator: mirrors custom resources into the metadata store and tells what became of them."""

from lite_llm.controllers.leading import LeaseSettings
from lite_llm.controllers.probes import Health
from lite_llm.controllers.running import release_all, running
from lite_llm.controllers.settings import OperatorSettings

__all__ = ["Health", "LeaseSettings", "OperatorSettings", "release_all", "running"]
