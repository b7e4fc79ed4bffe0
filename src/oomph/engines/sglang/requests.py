"""What requests take of SGLang's pools, and how many run at a time.

Source: srt/mem_cache/kv_cache_configurator.py and srt/model_executor/pool_configurator.py of sglang 0.5.23.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from oomph.engines.base import Amount
from oomph.engines.sglang.job import DRAFTED_REQUESTS, SglangJob
from oomph.engines.sglang.pools import Cells
from oomph.ledger import Item

ROW_MORE = 4  # places of a request's row beyond its longest context: get_req_to_token_extra_context_len
PLACE_BYTES, PAGE_BYTES = 4, 8  # of a token's place in a request's row, of a free page's number
LEAST_REQUESTS, MOST_REQUESTS, REQUESTS_PER_CONTEXT = 2048, 4096, 512  # resolve_max_num_reqs
EVICTED_EVERY = 128  # decoded tokens between looks at what fell out of a window: SGLANG_SWA_EVICTION_INTERVAL
IN_FLIGHT = 2  # prompts' steps that may be under way
STATES_ALONE, STATES_CACHED, STATES_OVERLAP, STATES_TRACKED = 1, 3, 2, 1  # of a request: _calculate_mamba_ratio

Needs = Callable[[Amount, Amount], Amount]


@dataclass(frozen=True)
class Requests:
    """What requests take: pages of `page` tokens, `step` tokens of prompts at once, `per_token` bytes of all pools."""

    job: SglangJob
    cell: Cells
    page: int
    step: int
    per_token: float

    def needs(self, context: Amount, concurrency: Amount) -> Amount:
        """Return the bytes that requests take: of two pools in a fixed ratio, the fuller one counts."""
        mine = self._mine(concurrency)
        tokens = self._wide(context, mine)
        if self.cell.swa and self.cell.full:
            tokens = _more(
                tokens, up(up(self._narrow(context, mine), self.job.swa_full_tokens_ratio), self.page) * self.page
            )
        return up(tokens * self.per_token, 1)

    def held(self, context: int, concurrency: int) -> tuple[Item, ...]:
        """Return what requests take as items; what the other pool keeps empty beside them is one too."""
        mine, cell = self._mine(concurrency), self.cell
        wide = self._wide(context, mine) * cell.full
        axes, rule = (("requests", mine), ("tokens", context)), "model_executor/pool_configurator.py"
        items = (
            [Item("keys and values", "kv_cache", wide, axes=axes, evidence=f"{cell.full:,} B per token")]
            if wide
            else []
        )
        if cell.swa:
            narrow = self._narrow(context, mine) * cell.swa
            items.append(Item("keys and values of windows", "kv_cache", narrow, source="rule", evidence=rule))
        rest = int(self.needs(context, concurrency)) - sum(item.n_bytes for item in items)
        if rest > 0:
            name = "room in the other pool" if cell.swa else "keys and values of the draft"
            items.append(Item(name, "kv_cache", rest, source="rule", evidence=rule))
        return tuple(items)

    def _mine(self, concurrency: Amount) -> Amount:
        """Return how many requests the busiest copy of attention has."""
        return up(concurrency, self.job.attention_copies)

    def _wide(self, context: Amount, concurrency: Amount) -> Amount:
        return concurrency * (up(context, self.page) * self.page)

    def _narrow(self, context: Amount, concurrency: Amount) -> Amount:
        """Return the tokens in a pool of windows: of each request a window, and what has not fallen out of it yet."""
        trailing = self.cell.window + EVICTED_EVERY * max(1, self.job.drafted[2]) + 2 * self.page
        kept = _less(context, trailing) * concurrency
        return _less(self._wide(context, concurrency), up(kept + IN_FLIGHT * self.step, self.page) * self.page)


def up(amount: Amount, by: Amount) -> Amount:
    """Return a quotient, rounded up; of arrays, of each number.

    >>> up(7, 2), up(8, 2)
    (4, 4)
    """
    return -(-amount // by)


def _less(one: Amount, other: Amount) -> Amount:
    return one + (other - one) * (other < one)


def _more(one: Amount, other: Amount) -> Amount:
    return one + (other - one) * (other > one)


def running(job: SglangJob, tokens: int, longest: int, states: int | None) -> int:
    """Return how many requests one copy of attention runs at a time (resolve_max_num_reqs).

    >>> running(SglangJob(), 1707904, 40960, None)
    4096
    """
    asked = job.max_running_requests or (DRAFTED_REQUESTS if job.drafted[0] else None)
    estimated = max(LEAST_REQUESTS, min(MOST_REQUESTS, int(tokens / longest * REQUESTS_PER_CONTEXT)))
    most = min(max(1, asked // job.attention_copies) if asked else estimated, tokens // 2)
    return most if states is None else min(most, states // states_each(job))


def states_each(job: SglangJob) -> int:
    """Return how many states one request may hold: its own, those of its cached prefixes, those that are tracked."""
    if job.disable_radix_cache:
        return STATES_ALONE
    return STATES_CACHED + (STATES_TRACKED if job.disable_overlap_schedule else STATES_OVERLAP)


def table_bytes(job: SglangJob, requests: int, longest: int, pages: int) -> int:
    """Return the bytes of the table of where each request's tokens lie, and of the list of free pages.

    >>> round(table_bytes(SglangJob(), 4096, 40960, 1707904) / 2**30, 3)
    0.638
    """
    return (requests + 1) * (longest + ROW_MORE + job.drafted[2]) * PLACE_BYTES + pages * PAGE_BYTES
