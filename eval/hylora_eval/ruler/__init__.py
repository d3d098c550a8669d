# SPDX-License-Identifier: Apache-2.0
"""RULER: what a model finds, tracks and counts in long contexts (chapter 6, sections 6.3 and 6.6.3).

from hylora_eval import ruler

records = ruler.generate("vt", tokenizer, length=4096, samples=5)
"""

from hylora.lazy import lazy_exports

__all__ = [
    "ALL_TASKS",
    "GROUPS",
    "TASKS",
    "Haystack",
    "LengthResult",
    "Record",
    "Score",
    "Task",
    "TaskResult",
    "evaluate",
    "generate",
    "group_scores",
    "load_haystack",
    "load_records",
    "resolve_tasks",
    "save_records",
    "score_prediction",
    "score_samples",
    "score_task",
]

_EXPORTS = {
    "ALL_TASKS": "hylora_eval.ruler.tasks",
    "GROUPS": "hylora_eval.ruler.tasks",
    "TASKS": "hylora_eval.ruler.tasks",
    "Haystack": "hylora_eval.ruler.haystack",
    "LengthResult": "hylora_eval.ruler.outcome",
    "Record": "hylora_eval.ruler.records",
    "Score": "hylora_eval.ruler.scoring",
    "Task": "hylora_eval.ruler.tasks",
    "TaskResult": "hylora_eval.ruler.outcome",
    "evaluate": "hylora_eval.ruler.evaluation",
    "generate": "hylora_eval.ruler.generation",
    "group_scores": "hylora_eval.ruler.scoring",
    "load_haystack": "hylora_eval.ruler.haystack",
    "load_records": "hylora_eval.ruler.records",
    "resolve_tasks": "hylora_eval.ruler.tasks",
    "save_records": "hylora_eval.ruler.records",
    "score_prediction": "hylora_eval.ruler.scoring",
    "score_samples": "hylora_eval.ruler.scoring",
    "score_task": "hylora_eval.ruler.scoring",
}
__getattr__, __dir__ = lazy_exports(__name__, _EXPORTS)
