"""What only this room can do wrong."""

from __future__ import annotations

from lite_llm.contracts.errors import Internal


class SequenceReleased(Internal):
    """A sequence was used after its release."""


class NotResident(Internal):
    """A sequence was to be computed without its pages, or room for new ones, on the device."""


class PageLeaked(Internal):
    """Pages are lost, held twice, or counted wrongly."""
