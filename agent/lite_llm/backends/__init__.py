"""Foreign inference servers behind our own worker's wire: llama.cpp, vLLM, Tokasaurus."""

from lite_llm.backends.interface import Backend, Call, Command, Launch, Piece, Server
from lite_llm.backends.profiles import PROFILES, Profile, profile_for
from lite_llm.backends.registry import BACKENDS, NATIVE, foreign_backend, worker_module

__all__ = [
    "BACKENDS",
    "NATIVE",
    "PROFILES",
    "Backend",
    "Call",
    "Command",
    "Launch",
    "Piece",
    "Profile",
    "Server",
    "foreign_backend",
    "profile_for",
    "worker_module",
]
