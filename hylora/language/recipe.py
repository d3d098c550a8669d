# SPDX-License-Identifier: Apache-2.0
"""The recipe of a language model's run. Defaults are the thesis's (sections 6.3.2 and 6.6.1)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from hylora.attention.config import PRESET_NAMES, PRESETS, SpanConfig, expand_preset
from hylora.language.data.recipe import DataRecipe
from hylora.rope import RopeScaling
from hylora.training.fields import check_choice, check_range, expand_home, refuse_unread
from hylora.training.recipe import EvaluationRecipe, LoopRecipe, Recipe, RecipeError

__all__ = [
    "AdapterRecipe",
    "AttentionRecipe",
    "HeldOutRecipe",
    "LanguageRecipe",
    "ModelRecipe",
    "TrainingRecipe",
]


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """The model to train.

    Args:
        path: hub id or folder of the pre-trained model.
        revision: revision on the hub.
        config: with `from_scratch`, the model's configuration: a mapping with `model_type`, or a JSON file.
        from_scratch: start from random weights instead of pre-trained ones.
        tokenizer: hub id or folder of the tokenizer; the model's own where it is null.
        dtype: type of the weights; `auto` is bfloat16 under an adapter where bf16 is used, else float32. What is
            trained is float32 in any case.
        quantization: load the frozen base of an adapter in fewer bits: `nf4` (QLoRA's four) or `int8` of
            bitsandbytes, or `torchao_int8` (weights only); null for none.
        trust_remote_code: run code that comes with the model.
        freeze: regular expressions; parameters whose name one of them finds are not trained.
        rope: RoPE scaling, for models with rotary positions that are stretched beyond their context.
        use_kernels: let transformers load prebuilt kernels of the Hub for the model's layers (on a GPU, with the
            package `kernels`), for example where mamba-ssm is not installed.
    """

    path: str | None = None
    revision: str | None = None
    config: dict[str, Any] | str | None = None
    from_scratch: bool = False
    tokenizer: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    quantization: Literal["nf4", "int8", "torchao_int8"] | None = None
    trust_remote_code: bool = False
    freeze: tuple[str, ...] = ()
    rope: RopeScaling | None = None
    use_kernels: bool = False

    def __post_init__(self) -> None:
        expand_home(self, "path", "config", "tokenizer")
        check_choice(self, "dtype")
        if self.from_scratch and (self.config is None or self.path is not None):
            raise ValueError("from_scratch=True must come with model.config and without model.path")
        if self.from_scratch and self.tokenizer is None:
            raise ValueError("tokenizer=None must be a folder or a hub id; a model from scratch brings none")
        if not self.from_scratch and self.path is None:
            raise ValueError("path is missing: name a hub id or a folder, or set model.from_scratch and model.config")
        if not self.from_scratch and self.config is not None:
            raise ValueError(
                f"config={self.config!r} must come with model.from_scratch=true; a pre-trained model brings its own"
            )


@dataclass(frozen=True)
class AttentionRecipe(SpanConfig):
    """The attention to train with: its name and the options of `SpanConfig`.

    Args:
        name: `se_attn`, its rivals `sw_attn` and `s2_attn`, or `full`. `se_attn_recall` is read as `se_attn` with
            `preset: recall`.
        preset: `published` or `recall`: options that belong together. When a recipe is read they take the place of
            those it does not give.
    """

    name: Literal["se_attn", "sw_attn", "s2_attn", "full"] = "se_attn"
    preset: Literal["published", "recall"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        # Of one that was not read, or only named beside options that were written out before.
        expand_preset({"preset": self.preset, "selection": self.selection})

    @property
    def span(self) -> SpanConfig:
        """The options alone."""
        return SpanConfig(**{item.name: getattr(self, item.name) for item in dataclasses.fields(SpanConfig)})


@dataclass(frozen=True, kw_only=True)
class AdapterRecipe:
    """What is trained.

    Args:
        variant: `lora` (attention projections), `longlora` (and embeddings and norms), `hylora` (and convolutions), or
            `none` to train every parameter.
        r: rank; the thesis uses 32 for hybrids and 8 for Llama.
        lora_alpha: scale; the thesis uses twice the rank.
        lora_dropout: dropout on the adapter's input.
        target_modules: other LoRA targets than the attention projections: suffixes of module names, one regular
            expression for whole names, or `all-linear`.
        exclude_modules: targets to leave out, given in the same way.
        target_parameters: suffixes of parameter names, for the experts of a mixture, which are no modules; then
            `lora_dropout` must be 0.
        modules_to_save: suffixes of further modules to train in full, such as an untied `lm_head`.
        layers_to_transform: the layers whose targets get LoRA; all where it is null. It needs targets by suffix.
        rank_pattern: other ranks, by the end of a target's name or a regular expression for it.
        alpha_pattern: other scales, likewise.
        use_rslora: scale by `lora_alpha / sqrt(r)` in place of `lora_alpha / r`.
        use_dora: also train the length of each row of a target's weight (DoRA).
        init_lora_weights: `true` (B is zero), `gaussian` (so is B), `orthogonal`, or `false` (B is random).
    """

    variant: Literal["none", "lora", "longlora", "hylora"] = "hylora"
    r: int = 32
    lora_alpha: int = 64
    lora_dropout: float = 0.0
    target_modules: str | tuple[str, ...] | None = None
    exclude_modules: str | tuple[str, ...] | None = None
    target_parameters: tuple[str, ...] | None = None
    modules_to_save: str | tuple[str, ...] = ()
    layers_to_transform: tuple[int, ...] | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: bool | str = True

    def __post_init__(self) -> None:
        check_choice(self, "variant")
        if self.variant == "none":
            read = ("variant", "r", "lora_alpha", "lora_dropout")
            refuse_unread(
                self, *(item.name for item in dataclasses.fields(self) if item.name not in read), choice="variant"
            )
        check_range(self, "r", "lora_alpha", least=1)
        check_range(self, "lora_dropout", least=0, below=1)
        if self.target_parameters and self.lora_dropout:
            raise ValueError(
                f"lora_dropout={self.lora_dropout} must be 0 with target_parameters={list(self.target_parameters)!r}, "
                "whose LoRA is added to weights and sees no inputs"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe(LoopRecipe):
    """The loop, and how it trains language models.

    Args:
        gradient_checkpointing: recompute activations in the backward pass instead of keeping them.
        offload: keep what they are recomputed from, the input of every layer, in the host's memory.
        sequence_length: tokens per sequence.
        loss: `sliced`, or `liger` for Liger's kernel, which needs a GPU and chooses the slices itself.
        loss_slice: positions per slice of the language-model head.
    """

    gradient_checkpointing: bool = True
    offload: bool = False
    sequence_length: int = 8192
    loss: Literal["sliced", "liger"] = "sliced"
    loss_slice: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "sequence_length", least=2)
        check_range(self, "loss_slice", least=1)
        check_choice(self, "loss")
        if self.loss == "liger":
            refuse_unread(self, "loss_slice", choice="loss")
        if self.offload and not self.gradient_checkpointing:
            raise ValueError(
                "offload=True must come with gradient_checkpointing=true, for it is what layers are recomputed from "
                "that leaves the device"
            )


@dataclass(frozen=True, kw_only=True)
class HeldOutRecipe(EvaluationRecipe):
    """Evaluation on the held-out split during training.

    Args:
        at_start: evaluate before the first update as well, and both ends under full attention too, for the end of
            training to show base and tuned perplexity side by side.
        max_sequences: at most so many sequences of the split; null for all.
    """

    at_start: bool = True
    max_sequences: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "max_sequences", least=1)


@dataclass(frozen=True, kw_only=True)
class LanguageRecipe(Recipe):
    """A language model's run.

    Args:
        task: `language`.
        model: the model to train.
        attention: the attention to train with.
        adapter: what is trained.
        data: the text.
        training: the loop.
        evaluation: evaluation on the held-out split during training.

    Raises:
        RecipeError: if sections contradict each other.
    """

    FREE_ON_RESUME: ClassVar[tuple[str, ...]] = (
        *Recipe.FREE_ON_RESUME,
        "training.gradient_checkpointing",
        "training.offload",
        "training.loss_slice",
        "model.use_kernels",
        "data.num_proc",
        "data.cache_dir",
    )

    task: Literal["language"] = "language"
    model: ModelRecipe
    attention: AttentionRecipe = field(default_factory=AttentionRecipe)
    adapter: AdapterRecipe = field(default_factory=AdapterRecipe)
    data: DataRecipe
    training: TrainingRecipe = field(default_factory=TrainingRecipe)
    evaluation: HeldOutRecipe = field(default_factory=HeldOutRecipe)

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> Self:
        """A recipe from nested plain values, of which `attention` may name a preset."""
        section = tree.get("attention")
        if isinstance(section, dict):
            name, preset = section.get("name"), section.get("preset")
            if name in list(PRESET_NAMES) and preset in (None, PRESET_NAMES[name]):
                preset = PRESET_NAMES[name]
                section = {**section, "preset": preset, "name": "se_attn"}
            if preset in list(PRESETS):  # what is no preset is refused with the other values
                section = {**PRESETS[preset], **section}
            tree = {**tree, "attention": section}
        return super().from_tree(tree)

    def __post_init__(self) -> None:
        if self.optimizer.lr is None:
            lr = 2e-5 if self.attention.name == "s2_attn" else 2e-4
            object.__setattr__(self, "optimizer", dataclasses.replace(self.optimizer, lr=lr))
        if self.model.from_scratch and self.adapter.variant != "none":
            raise RecipeError(
                f"adapter.variant={self.adapter.variant!r} must not come with model.from_scratch=true, most of which "
                "would stay at its random weights; set adapter.variant=none"
            )
        if self.model.quantization and self.adapter.variant == "none":
            raise RecipeError(
                f"model.quantization={self.model.quantization!r} must come with an adapter, for quantised weights "
                "cannot be trained; set adapter.variant, or leave model.quantization out"
            )
        if self.evaluation.every and not (self.data.validation or self.data.validation_fraction):
            raise RecipeError(
                f"evaluation.every={self.evaluation.every} must have data to evaluate on; set data.validation, or "
                "data.validation_fraction to a share such as 0.01"
            )
        if self.model.dtype == "bfloat16" and self.adapter.variant == "none":
            raise RecipeError(
                "model.dtype='bfloat16' must not come with adapter.variant='none', which would lose small updates in "
                "bfloat16; leave model.dtype=auto and set training.mixed_precision=bf16"
            )

    def inputs(self) -> dict[str, str]:
        """The model that is fine-tuned, where there is one."""
        return {} if self.model.path is None else {"model.path": self.model.path}

    def depends_on_steps(self) -> bool:
        """Whether an update depends on how many there will be: here only the learning rate may."""
        return self.optimizer.schedule.name != "constant"
