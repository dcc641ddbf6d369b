"""Which views see which, and the diffusers attention processor that acts on it (MVDiffusion++ §4.2).

Axis letters: R views of all objects, N tokens of one view, C = H * D channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from training.nn.attention import attend, attend_packed


@dataclass(frozen=True, eq=False)
class ViewGroups:
    """Self-attention among views, as batched calls.

    Attributes:
        counts: views of each object when every view sees all views of its object; None when `tables` say it.
        tables: per call the rows of views that ask `[n, q]` and of those that are looked at `[n, m]`; every view asks once.
        order: position of each view in the calls' concatenated answers `[R]`.
    """

    counts: tuple[int, ...] | None
    tables: tuple[tuple[Tensor, Tensor], ...] = ()
    order: Tensor | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, backend: str | None) -> Tensor:
        """`[R, N, H, D]` in and out."""
        if self.counts is None:
            return self._attend_by_tables(query, key, value, backend)
        tokens = query.shape[1]
        if len(set(self.counts)) == 1:
            # (b v) n h d -> b h (v n) d
            parts = [t.reshape(len(self.counts), -1, *t.shape[2:]).transpose(1, 2) for t in (query, key, value)]
            joined = attend(parts[0], parts[1], parts[2], backend=backend).transpose(1, 2)
        else:
            rows = [t.flatten(0, 1) for t in (query, key, value)]
            joined = attend_packed(rows[0], rows[1], rows[2], [count * tokens for count in self.counts], backend)
        return joined.reshape(query.shape)

    def _attend_by_tables(self, query: Tensor, key: Tensor, value: Tensor, backend: str | None) -> Tensor:
        assert self.order is not None
        answers = []
        for asking, looked_at in self.tables:
            parts = [t[rows].flatten(1, 2).transpose(1, 2) for t, rows in ((query, asking), (key, looked_at), (value, looked_at))]
            joined = attend(parts[0], parts[1], parts[2], backend=backend).transpose(1, 2)
            answers.append(joined.reshape(-1, *query.shape[1:]))
        return torch.cat(answers)[self.order]


def view_groups(cross_view: str, is_condition: Sequence[Sequence[bool]], device: torch.device) -> ViewGroups:
    """Groups of the objects whose views follow each other in one axis; `is_condition` has one list per object.

    `global`: every view sees all views of its object. `none`, and `caa`, whose exchange happens elsewhere: itself alone.
    `ring`: a generated view sees itself, the generated views before and after it (cyclic, in the given order) and all
    condition views; condition views see each other only, so that they never look at noise [C].
    """
    if cross_view == "global":
        return ViewGroups(tuple(len(flags) for flags in is_condition))
    if cross_view in ("none", "caa"):
        return ViewGroups((1,) * sum(len(flags) for flags in is_condition))
    calls: dict[tuple[int, int], list[tuple[list[int], list[int]]]] = {}
    first = 0
    for flags in is_condition:
        given = [first + i for i, flag in enumerate(flags) if flag]
        made = [first + i for i, flag in enumerate(flags) if not flag]
        if given:
            calls.setdefault((len(given), len(given)), []).append((given, given))
        for i, view in enumerate(made):
            around = dict.fromkeys([view, made[i - 1], made[(i + 1) % len(made)]])  # fewer than three made views: no view twice
            looked_at = [*given, *around]
            calls.setdefault((1, len(looked_at)), []).append(([view], looked_at))
        first += len(flags)
    tables = tuple(
        (torch.tensor([asking for asking, _ in rows], device=device), torch.tensor([seen for _, seen in rows], device=device))
        for rows in calls.values()
    )
    return ViewGroups(None, tables, torch.cat([asking.flatten() for asking, _ in tables]).argsort())


class JointViewAttention:
    """diffusers attention processor: self-attention over the views of an object, per-view cross-attention.

    MVDiffusion++ §4.2: every self-attention keeps its weights and only sees a larger set of tokens. What it sees comes
    through `cross_attention_kwargs`: either `groups`, or `num_views` (equally many per object) with `valid` for padding.

    Attributes:
        backend: as in `attend`; None leaves the choice to the environment.
    """

    def __init__(self, backend: str | None = None) -> None:
        self.backend = backend

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        num_views: int = 1,
        valid: Tensor | None = None,
        groups: ViewGroups | None = None,
    ) -> Tensor:
        """`hidden_states` `[R, N, C]`; `attention_mask` additive `[R, 1, K]` over tokens; `valid` bool `[B, V]`."""
        tokens = hidden_states.shape[1]
        joint = encoder_hidden_states is None
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer(source).unflatten(-1, (attn.heads, -1))
            for layer, source in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        if joint and groups is not None:
            joined = groups.attend(query, key, value, self.backend)
        else:
            bias = None if attention_mask is None else attention_mask[:, None]
            if joint:  # (b v) n h d -> b (v n) h d
                query, key, value = (t.reshape(-1, num_views * tokens, *t.shape[2:]) for t in (query, key, value))
                bias = None if valid is None else valid.repeat_interleave(tokens, 1)[:, None, None, :]
            joined = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), bias, self.backend).transpose(1, 2)
        out = attn.to_out[1](attn.to_out[0](joined.flatten(2)))
        return out.reshape(len(hidden_states), tokens, -1)
