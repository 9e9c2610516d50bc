"""Attention of each row over the pages of its sequence.

Legend: T rows, H query heads, G key heads (H / G queries share one), C and E dimensions of a key
and a value, L positions that a row may see.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lite_llm.kernels.paging import LayerPages


def attend(
    queries_THC: Tensor,
    pages: LayerPages,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """Each row sees its own position and those before it, of ``window`` only the last: [T, H, E].

    ``softcap``: scores s become ``softcap * tanh(s / softcap)``. ``sinks_H``: a score per head that
    takes its share of the softmax and gives nothing (GPT-OSS). Scores, softmax and sums are
    float32. A row's bits depend on its query and on the keys and values it sees, not on pages'
    numbers nor on other rows.
    """
    rows, kv = pages.rows, pages.kv
    out_THE = queries_THC.new_empty(*queries_THC.shape[:2], kv.values_PGBE.shape[-1])
    shared = queries_THC.shape[1] // kv.keys_PGBC.shape[1]
    for row, (sequence, position) in enumerate(
        zip(rows.sequence_T.tolist(), rows.position_T.tolist(), strict=True)
    ):
        begin = 0 if window is None else max(0, position + 1 - window)
        at_L = torch.arange(begin, position + 1)
        page_L = rows.pages_SN[sequence, at_L // kv.page_tokens].long()
        keys_LHC = kv.keys_PGBC[page_L, :, at_L % kv.page_tokens].repeat_interleave(shared, 1)
        values_LHE = kv.values_PGBE[page_L, :, at_L % kv.page_tokens].repeat_interleave(shared, 1)
        scores_HL = (queries_THC[row].float() * keys_LHC.float()).sum(-1).T * scale
        if softcap is not None:
            scores_HL = softcap * (scores_HL / softcap).tanh()
        if sinks_H is not None:
            scores_HL = torch.cat((scores_HL, sinks_H.float()[:, None]), dim=-1)
        weights_HL = scores_HL.softmax(-1)[:, : len(at_L)]
        out_THE[row] = torch.einsum("hl,lhe->he", weights_HL, values_LHE.float()).to(out_THE.dtype)
    return out_THE
