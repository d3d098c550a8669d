# SPDX-License-Identifier: Apache-2.0
import pytest

from hylora.planning.context import longest_context, longest_tried

LONGEST = 2**18

MEMORY = {
    "line": lambda tokens: 5_000_000 + 300 * tokens,
    "square": lambda tokens: 5_000_000 + 20 * tokens + tokens**2 // 500,
    "flat, then a line": lambda tokens: max(20_000_000, 900 * tokens),
    "steps": lambda tokens: 5_000_000 + 1_200_000 * -(-tokens // 4096),
}


@pytest.mark.parametrize("start", [1024, 7000, 65536, 500_000])
@pytest.mark.parametrize("memory", MEMORY.values(), ids=MEMORY)
def test_the_longest_context_fits_and_little_more_does_not(memory, start):
    calls = []

    def counted(tokens):
        calls.append(tokens)
        return memory(tokens)

    limit = 40_000_000
    found = longest_context(counted, memory(0), limit, start, 2**20)
    assert memory(found) <= limit < memory(found + max(2 * 4096, found // 16))
    assert len(calls) == len(set(calls)) < 12


def test_where_nothing_fits_there_is_no_context():
    assert longest_context(lambda tokens: 10 + tokens, 8, 9, 4096, LONGEST) == 0


def test_where_everything_fits_the_search_ends():
    assert longest_context(lambda tokens: tokens, 0, 10 * LONGEST, 4096, LONGEST) == LONGEST


@pytest.mark.parametrize(("planned", "tried"), [(256, 4096), (65536, LONGEST), (LONGEST + 1, LONGEST + 1)])
def test_a_search_ends_within_reach_of_the_planned_context(planned, tried):
    assert longest_tried(planned) == tried
