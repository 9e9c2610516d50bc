"""Attention of each row over the pages of its sequence.

Legend: T rows, H query heads, G key heads (H / G queries share one), C and E dimensions of a key
and a value, L positions that a row may see.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lite_llm.kernels import paged_attention
from lite_llm.kernels.cuda_tensors import on_gpu
from lite_llm.kernels.mode import is_fast
from lite_llm.kernels.paging import TILE_ROWS, LayerPages
from lite_llm.kernels.threads import float_bits, get_threads, layout, scratch, table_of
from lite_llm.kernels.vector import KINDS


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
    keys, values = kv.keys_PGBC, kv.values_PGBE
    if on_gpu(queries_THC, keys, values):
        from lite_llm.kernels import triton_paged

        return triton_paged.attend(queries_THC, pages, scale, window, softcap, sinks_H)
    if not (queries_THC.is_cpu and queries_THC.dtype in KINDS and keys.dtype in KINDS):
        return _reference(queries_THC, pages, scale, window, softcap, sinks_H)
    if is_fast() and softcap is None and sinks_H is None:
        return _fast(queries_THC, pages, scale, window)
    length, heads, key_size = queries_THC.shape
    groups, value_size = keys.shape[1], values.shape[-1]
    out_THE = queries_THC.new_empty((length, heads, value_size))
    if length == 0:
        return out_THE
    if queries_THC.stride(-1) != 1:
        queries_THC = queries_THC.contiguous()
    sinks_H = None if sinks_H is None else sinks_H.contiguous()
    shared = heads // groups
    tiles = rows.tiles_X2
    tile_rows = 1 if length == len(tiles) else TILE_ROWS
    chunk_heads = min(shared, paged_attention.MAX_LINES // tile_rows)
    # Heads that share keys are parted where there would be too few tasks to share out.
    while chunk_heads > 3 and len(tiles) * groups * -(-shared // chunk_heads) < 2 * get_threads():
        chunk_heads = -(-chunk_heads // 2)
    chunks, lines = -(-shared // chunk_heads), chunk_heads * tile_rows
    nbytes = paged_attention.scratch_bytes(lines, key_size, value_size)
    keys_at, values_at = kv.layouts
    table = table_of(
        [
            *keys_at,
            *values_at,
            *rows.layout,
            *layout(queries_THC, 0, 1),
            KINDS[queries_THC.dtype],
            *layout(out_THE, 0, 1),
            groups,
            chunks,
            chunk_heads,
            shared,
            float_bits(scale),
            float_bits(softcap or 0.0),
            window or 0,
            0 if sinks_H is None else sinks_H.data_ptr(),
            0 if sinks_H is None else KINDS[sinks_H.dtype],
            scratch(nbytes),
            nbytes,
            keys_at[0] == values_at[0],
        ]
    )
    seen = rows.pages_SN.shape[1] * kv.page_tokens
    work = length * heads * seen * (key_size + value_size)
    paged_attention.attend.run(len(tiles) * groups * chunks, work, table)
    return out_THE


def _fast(queries_THC: Tensor, pages: LayerPages, scale: float, window: int | None) -> Tensor:
    """By torch's own attention, one sequence after the other."""
    rows, kv = pages.rows, pages.kv
    counts = torch.unique_consecutive(rows.sequence_T, return_counts=True)[1].tolist()
    parts, first = [], 0
    for count in counts:
        position_T = rows.position_T[first : first + count, None]
        last = int(position_T[-1])
        begin = 0 if window is None else max(0, int(position_T[0]) + 1 - window)
        at_L = torch.arange(begin, last + 1)
        page_L = rows.pages_SN[int(rows.sequence_T[first]), at_L // kv.page_tokens].long()
        keys, values = (
            pool[page_L, :, at_L % kv.page_tokens].transpose(0, 1)
            for pool in (kv.keys_PGBC, kv.values_PGBE)
        )
        seen_TL = at_L <= position_T
        if window is not None:
            seen_TL &= at_L > position_T - window
        mixed_HTE = functional.scaled_dot_product_attention(
            queries_THC[first : first + count].transpose(0, 1),
            keys,
            values,
            attn_mask=seen_TL,
            scale=scale,
            enable_gqa=True,
        )
        parts.append(mixed_HTE.transpose(0, 1))
        first += count
    return torch.cat(parts)


def _reference(
    queries_THC: Tensor,
    pages: LayerPages,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks_H: Tensor | None,
) -> Tensor:
    """For tensors that no compiled kernel takes."""
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
