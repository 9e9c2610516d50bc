"""Model architectures: their configuration, their weights and their maths on one device."""

from lite_llm.models.architecture import DecoderConfig
from lite_llm.models.decoder import Decoder
from lite_llm.models.families import ARCHITECTURES, parse_config
from lite_llm.models.fields import parse_json
from lite_llm.models.inventory import Inventory, take_inventory
from lite_llm.models.loading import Progress, arriving_decoder, load_decoder, open_expert_cache
from lite_llm.models.weights import Weights

__all__ = [
    "ARCHITECTURES",
    "Decoder",
    "DecoderConfig",
    "Inventory",
    "Progress",
    "Weights",
    "arriving_decoder",
    "load_decoder",
    "open_expert_cache",
    "parse_config",
    "parse_json",
    "take_inventory",
]
