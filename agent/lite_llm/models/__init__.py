"""Model architectures: their configuration, their weights and their maths on one device."""

from lite_llm.models.architecture import DecoderConfig
from lite_llm.models.decoder import Decoder
from lite_llm.models.families import ARCHITECTURES, parse_config
from lite_llm.models.fields import parse_json
from lite_llm.models.first.config import LlamaConfig, token_ids
from lite_llm.models.first.llama import Llama, SequenceCache
from lite_llm.models.first.loading import load_llama
from lite_llm.models.inventory import Inventory, take_inventory
from lite_llm.models.loading import Progress, arriving_decoder, load_decoder
from lite_llm.models.weights import Weights

__all__ = [
    "ARCHITECTURES",
    "Decoder",
    "DecoderConfig",
    "Inventory",
    "Llama",
    "LlamaConfig",
    "Progress",
    "SequenceCache",
    "Weights",
    "arriving_decoder",
    "load_decoder",
    "load_llama",
    "parse_config",
    "parse_json",
    "take_inventory",
    "token_ids",
]
