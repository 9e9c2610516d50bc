"""Which tiers of experts a request may use: what a TierSet grants, where it leaves enough experts.

A model that nobody declared a TierSet for has the tiers built into its checkpoint, and answers with
all of them unless a request asks for less.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from lite_llm.contracts import Tier, TierMode, TierSet
from lite_llm.contracts.errors import InvalidRequest, InvalidSettings
from lite_llm.engine.declared import check_fits
from lite_llm.engine.model import Model
from lite_llm.experts import TierMasks, TooFewExperts
from lite_llm.models.moe import check_masks
from lite_llm.proto.v1.generate_pb2 import TierSelection
from lite_llm.wire.values import mode_from_proto

FIELD = "lite_llm.tier_set"
_KNOWN = 64  # selections whose check is remembered; few deployments have more in use


@dataclass(frozen=True)
class Grant:
    """The tiers of one request."""

    names: tuple[str, ...] = ()
    """In the order of their ids; none where the model has no experts."""
    ids: frozenset[int] | None = None
    """None: all that the model has."""

    @property
    def salt(self) -> bytes:
        """Other experts leave other keys and values: what one grant computed is no use to another.

        Consists of digits and commas, or a star.
        """
        return b"*" if self.ids is None else ",".join(map(str, sorted(self.ids))).encode()


class TierGrants:
    """Of one model; any thread may ask."""

    def __init__(self, model: Model, declared: TierSet | None = None) -> None:
        """Raises :class:`InvalidSettings` where ``declared`` does not fit the checkpoint.

        Nor may its default mode leave a token without enough experts.
        """
        built_in = model.manifest.tiers
        self._masks = tier_masks(model)
        self._config = model.decoder.config
        self._all = frozenset(tier.id for tier in built_in)
        self._check = lru_cache(_KNOWN)(self._check_enough)
        self._tier_set = declared
        if declared is not None:
            check_fits(declared, model.manifest)
            self._check_default(declared)
        elif built_in:
            self._tier_set = TierSet(tiers=built_in, default_mode=TierMode.MAX)

    def grant(self, selection: TierSelection) -> Grant:
        """What a request gets. A mode means nothing to a model without experts, and is no fault.

        Raises :class:`InvalidRequest` for tiers that there are not, or too few to answer with, and
        :class:`Forbidden` for those beyond the TierSet's ``max_mode``.
        """
        if self._tier_set is not None:
            mode = mode_from_proto(selection.mode)
            return self._granted(self._tier_set.select(mode, selection.tiers))
        if selection.tiers:
            raise InvalidRequest(
                f"there is no tier {selection.tiers[0]!r}",
                where=FIELD,
                remedy="leave it out: this model has no tiers",
            )
        return Grant()

    def _granted(self, tiers: tuple[Tier, ...]) -> Grant:
        names = tuple(tier.name for tier in tiers)
        ids = frozenset(tier.id for tier in tiers)
        if ids == self._all:
            return Grant(names)
        try:
            self._check(ids)
        except TooFewExperts as error:
            raise TooFewExperts(
                f"of tier {' and '.join(names)} alone no token can be computed: {error.message}",
                where=FIELD,
                remedy=self._remedy(),
            ) from error
        return Grant(names, ids)

    def _check_enough(self, ids: frozenset[int]) -> None:
        if (masks := self._masks.of([ids])) is not None:
            check_masks(self._config, masks)

    def _check_default(self, declared: TierSet) -> None:
        try:
            self._granted(declared.select())
        except TooFewExperts as error:
            raise InvalidSettings(
                f"the default mode {declared.default_mode} is too small: {error.message}",
                where="tierSet.defaultMode",
                remedy="declare a larger one",
            ) from error

    def _remedy(self) -> str:
        assert self._tier_set is not None
        enough = []
        for mode in TierMode:
            tiers = self._tier_set.select(mode)
            try:
                self._check(frozenset(tier.id for tier in tiers))
            except TooFewExperts:
                continue
            enough.append(str(mode))
        return f"choose more tiers, or mode {' or '.join(enough)}"


def tier_masks(model: Model) -> TierMasks:
    """Which expert of ``model`` is of which tier; none are, where it has no experts."""
    return TierMasks(model.manifest.experts, len(model.decoder.config.layers))
