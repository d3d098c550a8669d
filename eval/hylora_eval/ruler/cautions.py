# SPDX-License-Identifier: Apache-2.0
"""What keeps scores from meaning what they should: answers without room, and lists of nothing but answers."""

from __future__ import annotations

from statistics import fmean

from transformers import PreTrainedTokenizerBase

from hylora_eval.ruler.material import Material
from hylora_eval.ruler.scoring import score_prediction
from hylora_eval.ruler.streams import SampleStreams
from hylora_eval.ruler.variables import ExampleChain

__all__ = ["cautions"]

# Samples that are looked at; each is as small as can be.
LOOKED_AT = 10


def cautions(material: Material, tokenizer: PreTrainedTokenizerBase, samples: int) -> list[str]:
    """Sentences on what to beware of in a task's scores, from a few small samples of it.

    Args:
        material: what its samples are made from.
        tokenizer: of the model.
        samples: how many there are.
    """
    task, length = material.task, material.length
    family = material.family(lambda: ExampleChain().draw(ExampleChain.smallest, SampleStreams(task.name)))
    streams = [SampleStreams(task.name, index) for index in range(min(samples, LOOKED_AT))]
    found, kept = [], task.tokens_to_generate
    scores, tokens = [], []
    for one in streams:
        outputs = family.draw(family.smallest, one).outputs
        ids = tokenizer(" ".join(outputs), add_special_tokens=False)["input_ids"]
        tokens.append(len(ids))
        scores.append(100 * score_prediction(task.name, tokenizer.decode(ids[:kept]), outputs))
    if max(tokens) > kept and min(scores) < 100:
        found.append(
            f"{task.name}: with this tokenizer an answer has up to {max(tokens)} tokens and {kept} are generated, so "
            f"a perfect model scores about {fmean(scores):.0f}"
        )
    if family.useful is not None:
        needed = kept + max(material.counter.whole(family.draw(family.useful, one).prompt) for one in streams)
        if needed > length:
            found.append(
                f"{task.name} at {length} tokens: there is room for the answers and hardly a {family.unit} more, so "
                f"guessing scores well; ask for at least {needed}"
            )
    return found
