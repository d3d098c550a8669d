# SPDX-License-Identifier: Apache-2.0
"""A fine-tuning step from tokens to updated weights: mamba2attn with random weights, HyLoRA, gradient checkpointing.

Without mamba-ssm's and causal-conv1d's kernels the state-space layers run plain torch code that nobody trains with.
Then the model's six attention layers alone are stacked, between its embedding and its head, and the result says so.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from .results import Results, describe_error
from .sizes import Sizes
from .timing import Budget, cold_stopwatch, take_turns

ATTENTIONS = ("full", "sw_attn", "s2_attn", "se_attn")
_ATTENTION_LAYERS = 6
_ROUNDS = 2
_LOSS_SLICE = 1024


def missing_kernels() -> list[str]:
    """The packages of state-space kernels that are not installed."""
    return [name for name in ("mamba_ssm", "causal_conv1d") if importlib.util.find_spec(name) is None]


def measure_steps(sizes: Sizes, results: Results, budget: Budget) -> bool:
    """Time steps and count memory under each attention, at all lengths that the budget allows.

    Returns:
        Whether nothing failed.
    """
    section = results.start("step", settings=sizes.to_dict(), points=[])
    device = torch.device(sizes.options.device)
    try:
        import hylora  # noqa: F401  registers the model; needs transformers and peft
    except ImportError as error:
        section.leave_out(describe_error(error))
        return True
    with section.attempt():
        stepper = Stepper(sizes)
        section |= {"model": stepper.description, "trained_parameters": stepper.trained}
        timed = cold_stopwatch(device)
        for place in section.todo(({"length": length} for length in sizes.step_lengths), budget):
            run = lambda name, length=place["length"]: stepper.prepare(name, length)  # noqa: E731
            with section.attempt(**place):
                for point in take_turns(run, ATTENTIONS, place, timed, device, _ROUNDS):
                    tokens = None if point.time is None else place["length"] / point.time.median
                    resident = torch.cuda.memory_allocated(device) if device.type == "cuda" else None
                    section.add("points", {**point.to_dict(), "tokens_per_second": tokens, "resident_bytes": resident})
    return not section.failed


def compare_plans(sizes: Sizes, results: Results, budget: Budget) -> bool:
    """Memory of training steps as `hylora plan` foretells it, against what they take.

    The cases are those of benchmarks/planner.py for this device; for small sizes the first one alone.

    Returns:
        Whether nothing failed.
    """
    section = results.start("planner", results=[])
    device = sizes.options.device
    try:
        import planner
    except ImportError as error:  # the training loop reads documents with `datasets`
        section.leave_out(describe_error(error))
        return True
    if device == "cuda" and (missing := missing_kernels()):
        section.leave_out(f"{' and '.join(missing)} not installed")
        return True
    cases = {case.name: case for case in (planner.cpu_cases()[:1] if sizes.model else planner.gpu_cases())}
    for place in section.todo(({"case": name} for name in cases), budget):
        with section.attempt(**place):
            section.add("results", planner.compare(cases[place["case"]], device))
    return not section.failed


class Stepper:
    """The model and its optimizer.

    Attributes:
        description: of the model, in words.
        trained: how many parameters are trained.
    """

    def __init__(self, sizes: Sizes) -> None:
        from transformers import AutoModelForCausalLM

        from hylora import HyLoraConfig, add_adapter
        from hylora.models.mamba2attn import Mamba2AttnConfig

        options = sizes.options
        self.device = torch.device(options.device)
        self.half = self.device.type == "cuda"
        missing = missing_kernels()
        layers = {}
        if missing or sizes.model:
            layers = {"num_hidden_layers": _ATTENTION_LAYERS, "layer_types": ["hybrid"] * _ATTENTION_LAYERS}
        config = Mamba2AttnConfig(**sizes.model, **layers)
        torch.manual_seed(0)
        with self.device:
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation="sdpa", dtype=torch.bfloat16 if self.half else torch.float32
            )
        self.model = add_adapter(model, HyLoraConfig.for_model(model, r=32, lora_alpha=64)).to(self.device).train()
        base = self.model.get_base_model()
        enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        base.disable_input_require_grads()
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=self.half or None)
        self.options = {**options.span, "window": options.window, "group": options.group}
        self.vocabulary = config.vocab_size
        self.parts = _language("head").decoder_and_head(self.model)
        self.loss = _language("loss").sliced_causal_loss
        self.trained = sum(parameter.numel() for parameter in parameters)
        what = "all 64 layers" if not layers else f"its {_ATTENTION_LAYERS} attention layers alone, embedding and head"
        why = f" ({' and '.join(missing)} not installed)" if missing else ""
        self.description = f"mamba2attn, {config.hidden_size} wide, {what}{why}"

    def prepare(self, attention: str, length: int) -> Callable[[], None]:
        """One step on random tokens under an attention."""
        import hylora

        hylora.set_attention(self.model, attention, **({} if attention == "full" else self.options))
        generator = torch.Generator(self.device).manual_seed(length)
        ids = torch.randint(self.vocabulary, (1, length), generator=generator, device=self.device)

        def step() -> None:
            try:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                    hidden = self.parts.decoder(input_ids=ids, use_cache=False).last_hidden_state
                    total, count = self.loss(hidden, self.parts.weight, ids, slice_length=_LOSS_SLICE)
                (total / count).backward()
                self.optimizer.step()
            finally:
                # Also after running out of memory: the next one must find what this one found.
                self.optimizer.zero_grad(set_to_none=True)

        return step


def _language(name: str) -> ModuleType:
    """A file of `hylora.language` by itself: the package needs `datasets`, these files do not."""
    import hylora

    path = Path(hylora.__file__).parent / f"language/{name}.py"
    specification = importlib.util.spec_from_file_location(f"language_{name}", path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # where dataclasses look for it
    specification.loader.exec_module(module)
    return module
