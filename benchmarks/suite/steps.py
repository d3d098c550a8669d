# SPDX-License-Identifier: Apache-2.0
"""A fine-tuning step from tokens to updated weights: mamba2attn with random weights, HyLoRA, gradient checkpointing.

Without mamba-ssm's and causal-conv1d's kernels the state-space layers run plain torch code that nobody trains with.
Then the model's six attention layers alone are stacked, between its embedding and its head, and the result says so.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch

from hylora_eval.runtime.rounds import measure

from .checks import describe_error
from .results import Results
from .sizes import Sizes
from .timing import Budget, cold_stopwatch

ATTENTIONS = ("full", "sw_attn", "s2_attn", "se_attn")
_ATTENTION_LAYERS = 6
_ROUNDS = 2
_LOSS_SLICE = 1024


def missing_kernels() -> list[str]:
    """The packages of state-space kernels that are not installed."""
    return [name for name in ("mamba_ssm", "causal_conv1d") if importlib.util.find_spec(name) is None]


def measure_steps(sizes: Sizes, results: Results, budget: Budget) -> None:
    """Time steps and count memory under each attention, at all lengths that the budget allows."""
    section = results.start("step", {"settings": sizes.to_dict(), "points": [], "left_out": []})
    try:
        import hylora  # noqa: F401  registers the model; needs transformers and peft
    except ImportError as error:
        section["left_out"].append({"reason": describe_error(error)})
        results.save()
        return
    device = torch.device(sizes.options.device)
    stepper = Stepper(sizes)
    section |= {"model": stepper.description, "trained_parameters": stepper.trained}
    timed = cold_stopwatch(device)
    for length in sizes.step_lengths:
        if budget.spent:
            section["left_out"].append({"length": length, "reason": "no time left"})
            continue
        for point in measure(
            stepper.prepare, ATTENTIONS, length, device=device, rounds=_ROUNDS, baseline="full", timed=timed
        ):
            tokens = None if point.time is None else length / point.time.median
            resident = torch.cuda.memory_allocated(device) if device.type == "cuda" else None
            section["points"].append({**point.to_dict(), "tokens_per_second": tokens, "resident_bytes": resident})
            print(
                f"step {length} {point.contender} {tokens and round(tokens)} tokens/s {point.error or ''}", flush=True
            )
        results.save()
    results.save()


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
        self.span = {name: value for name, value in options.span.items() if name != "query_group"}
        self.rivals = {"window": options.window, "group": options.group}
        self.vocabulary = config.vocab_size
        self.loss = _sliced_loss()
        self.trained = sum(parameter.numel() for parameter in parameters)
        what = "all 64 layers" if not layers else f"its {_ATTENTION_LAYERS} attention layers alone, embedding and head"
        self.description = f"mamba2attn, {config.hidden_size} wide, {what}" + (
            f" ({' and '.join(missing)} not installed)" if missing else ""
        )

    def prepare(self, attention: str, length: int) -> Callable[[], None]:
        """One step on random tokens under an attention."""
        import hylora
        from hylora.language.head import decoder_and_head

        options = {} if attention == "full" else {**self.span, **self.rivals}
        hylora.set_attention(self.model, attention, **options)
        parts = decoder_and_head(self.model)
        generator = torch.Generator(self.device).manual_seed(length)
        ids = torch.randint(self.vocabulary, (1, length), generator=generator, device=self.device)

        def step() -> None:
            try:
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                    hidden = parts.decoder(input_ids=ids, use_cache=False).last_hidden_state
                    total, count = self.loss(hidden, parts.weight, ids, slice_length=_LOSS_SLICE)
                (total / count).backward()
                self.optimizer.step()
            finally:
                # Also after running out of memory: the next one must find what this one found.
                self.optimizer.zero_grad(set_to_none=True)

        return step


def _sliced_loss() -> Callable:
    """The loss of language models. Its package needs `datasets`, which the file itself does not."""
    import hylora

    path = Path(hylora.__file__).parent / "language/loss.py"
    specification = importlib.util.spec_from_file_location("sliced_loss", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.sliced_causal_loss
