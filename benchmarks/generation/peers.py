"""Other engines, each behind one function: prompts in, greedy token ids out."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from generation.gguf_file import written
from generation.work import NEW_TOKENS, PROMPT_TOKENS, Work

Run = Callable[[list[list[int]], int], list[list[int]]]
"""Prompts and the number of new tokens to the new tokens of each."""


def transformers_generate(work: Work) -> Run:
    """``generate`` with its dynamic cache and scaled-dot-product attention."""
    import torch

    model = _hugging_face(work)

    @torch.inference_mode()
    def run(prompts: list[list[int]], num_new: int) -> list[list[int]]:
        ids = torch.tensor(prompts)
        answer = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False,
            min_new_tokens=num_new, max_new_tokens=num_new, pad_token_id=2,
        )  # fmt: skip
        return answer[:, ids.shape[1] :].tolist()  # type: ignore[no-any-return]

    return run


def transformers_batching(work: Work) -> Run:
    """Its continuous batching over a paged cache, kept warm between runs."""
    import transformers
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    page = 32
    model = _hugging_face(work)
    settings: Any = transformers.GenerationConfig
    manager = model.init_continuous_batching(
        generation_config=settings(
            do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=-1, pad_token_id=2
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=page,
            num_blocks=work.most * ((PROMPT_TOKENS + NEW_TOKENS) // page + 2) + 8,
            max_batch_tokens=max(512, work.most * PROMPT_TOKENS),
            max_requests_per_batch=max(64, work.most),
            allow_block_sharing=False,
            use_cuda_graph=False,
            use_async_batching=False,
        ),
    )
    manager.start()

    def run(prompts: list[list[int]], num_new: int) -> list[list[int]]:
        names = manager.add_requests(prompts, max_new_tokens=num_new)
        answers: dict[str, list[int]] = {}
        while len(answers) < len(names):
            result = manager.get_result(timeout=120)
            if result is None or result.error:
                raise RuntimeError(f"no answer: {result and result.error}")
            if result.is_finished():
                answers[result.request_id] = list(result.generated_tokens)
        return [answers[name] for name in names]

    return run


def vllm(work: Work) -> Run:
    """Engine and worker in one process: busy loops of several cost most on a small machine."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{work.threads - 1}")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found,unused-ignore]

    engine = LLM(
        model=work.directory, dtype=work.dtype, max_model_len=2048, max_num_seqs=work.most,
        max_num_batched_tokens=max(2048, work.most * PROMPT_TOKENS), seed=0,
        enable_prefix_caching=False, disable_log_stats=True, distributed_executor_backend="uni",
    )  # fmt: skip

    def run(prompts: list[list[int]], num_new: int) -> list[list[int]]:
        sampling = SamplingParams(
            temperature=0.0, max_tokens=num_new, min_tokens=num_new, ignore_eos=True,
            detokenize=False,
        )  # fmt: skip
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        answers = engine.generate(inputs, sampling, use_tqdm=False)
        return [list(answer.outputs[0].token_ids) for answer in answers]

    return run


def llama_cpp(work: Work) -> Run:
    """libllama through its C interface: one batch of tokens of all sequences a step."""
    import ctypes

    import llama_cpp as c  # type: ignore[import-not-found,unused-ignore]
    import numpy as np

    c.llama_backend_init()
    silent = c.llama_log_callback(lambda level, text, data: None)
    c.llama_log_set(silent, ctypes.c_void_p(0))
    path = str(written(work))
    model = c.llama_model_load_from_file(path.encode(), c.llama_model_default_params())
    vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))
    contexts: dict[int, Any] = {}

    def context_for(batch: int) -> Any:
        if batch not in contexts:
            for old in contexts.values():
                c.llama_free(old)
            contexts.clear()
            wanted = c.llama_context_default_params()
            wanted.n_ctx = batch * (PROMPT_TOKENS + NEW_TOKENS + 8)
            wanted.n_batch, wanted.n_ubatch = batch * PROMPT_TOKENS, 512
            wanted.n_seq_max = batch
            wanted.n_threads = wanted.n_threads_batch = work.threads
            if hasattr(wanted, "kv_unified"):
                wanted.kv_unified = False
            contexts[batch] = c.llama_init_from_model(model, wanted)
        return contexts[batch]

    def step(context: Any, batch: Any, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        batch.n_tokens = len(rows)
        for index, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
            batch.logits[index] = wanted
        if c.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")
        return [
            int(
                np.ctypeslib.as_array(
                    c.llama_get_logits_ith(context, index), shape=(vocabulary,)
                ).argmax()
            )
            for index, row in enumerate(rows)
            if row[3]
        ]

    def run(prompts: list[list[int]], num_new: int) -> list[list[int]]:
        context = context_for(len(prompts))
        c.llama_memory_clear(c.llama_get_memory(context), True)
        batch = c.llama_batch_init(sum(map(len, prompts)), 0, 1)
        last = step(
            context, batch,
            [
                (token, position, sequence, position == len(prompt) - 1)
                for sequence, prompt in enumerate(prompts)
                for position, token in enumerate(prompt)
            ],
        )  # fmt: skip
        answers = [[token] for token in last]
        for index in range(num_new - 1):
            rows = [
                (token, len(prompts[sequence]) + index, sequence, True)
                for sequence, token in enumerate(last)
            ]
            last = step(context, batch, rows)
            for answer, token in zip(answers, last, strict=True):
                answer.append(token)
        c.llama_batch_free(batch)
        return answers

    run.__dict__["kept alive"] = silent
    return run


def _hugging_face(work: Work) -> Any:
    import torch
    import transformers

    torch.set_num_threads(work.threads)
    auto: Any = transformers.AutoModelForCausalLM
    return auto.from_pretrained(
        work.directory, dtype=getattr(torch, work.dtype), attn_implementation="sdpa"
    ).eval()
