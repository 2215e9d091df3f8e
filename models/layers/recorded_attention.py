"""What one head of one layer of a `transformers` backbone asks for and finds, so that it can be taught where to look.

The networks compute attention as ever (torch's scaled dot product); inside `record` the queries and keys of the first
head of a layer are kept besides.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

from torch import Tensor

RECORDED = "recorded_sdpa"
"""The `attn_implementation` that a backbone must have, once it is registered."""


@dataclass
class HeadRecord:
    """Rows are as the backbone was given them."""

    layer: int
    query: Tensor | None = None
    """(R, P, head_size), scaled, so that its products with the keys are the logits of the softmax"""
    key: Tensor | None = None
    """(R, P, head_size)"""


_record: ContextVar[HeadRecord | None] = ContextVar("record", default=None)


@contextmanager
def record(layer: int) -> Iterator[HeadRecord]:
    """While it is open, every pass through a backbone fills the record with what its layer `layer` (from 0) does."""
    head = HeadRecord(layer)
    token = _record.set(head)
    try:
        yield head
    finally:
        _record.reset(token)


@cache
def register() -> None:
    """Makes the attention of this name known to `transformers`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attention(module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options):
        """query (R, heads, P, head_size), key and value (R, key-value heads, P, head_size)."""
        head = _record.get()
        if head is not None and module.layer_idx == head.layer:
            head.query, head.key = query[:, 0] * module.scaling, key[:, 0]
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)

    AttentionInterface.register(RECORDED, attention)
    AttentionMaskInterface.register(RECORDED, sdpa_mask)
