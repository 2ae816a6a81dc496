"""How transformers loads a compressed folder: `import gossamer`, then any `AutoModel….from_pretrained`.

A folder's config says `model_type: gossamer` with the architecture's own type beside it. transformers without
gossamer does not know that type and refuses, where a foreign quantization method would only be warned about and the
weights left random. With gossamer, reading the config gives the architecture's own config class, so every Auto class
finds its model, and a quantizer puts carriers in place before the weights are read. The weights lie in
`gossamer.safetensors`, which the architecture's own class, called by name without gossamer, does not find either.
"""

from typing import Any

from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from gossamer import expressions
from gossamer.errors import ModelError
from gossamer.expressions import Expression
from gossamer.sites import Carrier

METHOD = "gossamer"
WEIGHTS = "gossamer.safetensors"


@register_quantization_config(METHOD)
class ExpressionsConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """The part of a config that says how each weight is written (`expressions`: site name → tree) and what was done."""

    def __init__(self, expressions: dict[str, Any], history: list[dict[str, Any]], **_: Any) -> None:
        self.quant_method = METHOD
        self.expressions = expressions
        self.history = history

    def to_dict(self) -> dict[str, Any]:
        return {"quant_method": METHOD, "expressions": self.expressions, "history": self.history}


@register_quantizer(METHOD)
class CarrierQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts an empty carrier in the place of every rewritten weight, then lets transformers fill it."""

    def _process_model_before_weight_loading(self, model: nn.Module, **_: Any) -> nn.Module:
        for name, tree in self.quantization_config.expressions.items():
            try:
                module = model.get_submodule(name)
            except AttributeError as error:
                raise ModelError(f"The config rewrites {name}, which {type(model).__name__} does not have.") from error
            bias = getattr(module, "bias", None)
            expression = expressions.read(tree)
            dtype = next(module.parameters()).dtype
            model.set_submodule(name, Carrier(expression.to("meta"), bias).to(dtype))
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        return marked(model, self)

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True

    @property
    def is_compileable(self) -> bool:
        return True


class GossamerConfig(PreTrainedConfig):  # type: ignore[misc]
    """The entry that transformers finds for `model_type: gossamer`; reading it gives the architecture's own config."""

    model_type = METHOD

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        inner = dict(config_dict)
        base = inner.pop("base_model_type", None)
        weights = inner.pop("gossamer_weights", None)
        if base not in CONFIG_MAPPING or "quantization_config" not in inner:
            raise ModelError(f"This folder's config.json says model_type 'gossamer' over {base!r}, which is not known.")
        inner["model_type"] = base
        found = CONFIG_MAPPING[base].from_dict(inner, **kwargs)
        config = found[0] if isinstance(found, tuple) else found
        if weights:
            config.transformers_weights = weights
        return found


AutoConfig.register(METHOD, GossamerConfig)

_marked: dict[type, type] = {}


def _marked_class(base: type[PreTrainedConfig]) -> type[PreTrainedConfig]:
    """A config class that differs from `base` in what it writes: the type that only gossamer can load."""
    if base not in _marked:

        def to_dict(self: PreTrainedConfig) -> dict[str, Any]:
            data = dict(base.to_dict(self))
            return {**data, "model_type": METHOD, "base_model_type": base.model_type}

        _marked[base] = type(base.__name__, (base,), {"to_dict": to_dict, "__module__": base.__module__})
    return _marked[base]


def marked(model: PreTrainedModel, quantizer: CarrierQuantizer) -> PreTrainedModel:
    """The model, changed in place so that whatever saves it writes a folder that only gossamer loads."""
    config = model.config
    if type(config) not in _marked.values():
        config.__class__ = _marked_class(type(config))
    config.quantization_config = quantizer.quantization_config
    model.hf_quantizer = quantizer
    model.is_quantized = True
    model.quantization_method = METHOD
    return model


def mark(model: PreTrainedModel, history: list[dict[str, Any]]) -> PreTrainedModel:
    """`marked` for a model whose carriers were put in by hand, with its history."""
    trees = {name: m.expression.tree() for name, m in model.named_modules() if isinstance(m, Carrier)}
    return marked(model, CarrierQuantizer(ExpressionsConfig(trees, history), pre_quantized=True))


def expressions_of(model: nn.Module) -> dict[str, Expression]:
    """The expressions a model carries, by site name."""
    return {name: m.expression for name, m in model.named_modules() if isinstance(m, Carrier)}


def history_of(model: PreTrainedModel) -> list[dict[str, Any]]:
    """What was done to a compressed model; empty for a dense one."""
    config = getattr(model.config, "quantization_config", None)
    return list(config.history) if isinstance(config, ExpressionsConfig) else []
