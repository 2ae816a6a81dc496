"""How transformers loads a compressed folder: `import gossamer`, then any `AutoModel….from_pretrained`.

A folder's config says `model_type: gossamer` with the architecture's own type beside it. transformers without
gossamer does not know that type and refuses, where a foreign quantization method would only be warned about and the
weights left random. With gossamer, reading the config gives the architecture's own config class, so every Auto class
finds its model, and a quantizer puts carriers in place before the weights are read. The architecture's own class,
called by name without gossamer, looks for the weights under the name of a file that does not exist, and fails too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from gossamer import discover, expressions, sites
from gossamer.checkpoints.saving import CHECKSUMS
from gossamer.checkpoints.store import file_checksum, read_json
from gossamer.errors import ModelError
from gossamer.expressions import PINNED, Expression, Pinned
from gossamer.sites import Carrier, Host, Layout, lay, layout_of, tie

METHOD = "gossamer"
DECOY = "import-gossamer-to-load-this-model.safetensors"
"""The file that a config names for its weights to those who read it without gossamer; it never exists."""

AMPLE = 4
TABLES = 2**20
"""A form that is refused before it takes memory holds more numbers than `AMPLE` for each entry of the dense weight and
`TABLES` beside, which a tiny layer's tables may be. What compression writes has fewer than the weight."""


@register_quantization_config(METHOD)
class ExpressionsConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """The part of a config that says how each weight is written (`expressions`: site name → tree) and what was done.

    `shared` names the factors that are also another expression's, and are saved as its (parameter → parameter).
    `stream` is the layout of a residual stream that is narrower than the architecture says.
    """

    def __init__(
        self,
        expressions: dict[str, Any],
        history: list[dict[str, Any]],
        shared: dict[str, str] | None = None,
        stream: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        self.quant_method = METHOD
        self.expressions = expressions
        self.shared = shared or {}
        self.history = history
        self.stream = stream

    def to_dict(self) -> dict[str, Any]:
        found = {"quant_method": METHOD, "expressions": self.expressions, "history": self.history}
        beside = {"shared": self.shared, "stream": self.stream}
        return found | {key: value for key, value in beside.items() if value}


@register_quantizer(METHOD)
class CarrierQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts an empty carrier in the place of every rewritten weight, then lets transformers fill it."""

    def _process_model_before_weight_loading(
        self, model: nn.Module, checkpoint_files: Sequence[str] | None = None, **_: Any
    ) -> nn.Module:
        for file in checkpoint_files or ():
            _intact(Path(file))
        for name, tree in self.quantization_config.expressions.items():
            found = _module(model, name)
            if found is None and not hasattr(model, name.partition(".")[0]):
                continue  # part of a head that this class does not have
            if found is None:
                raise ModelError(f"The config rewrites {name}, which {type(model).__name__} does not have.")
            place, module = found
            with torch.device("meta"):  # a form may claim any size; nothing is taken before it is seen to fit
                expression = expressions.read(tree)
            _fitting(name, expression, module)
            bias = getattr(module, "bias", None)
            if bias is not None and len(bias) != expression.shape[0]:
                bias = nn.Parameter(bias.new_empty(expression.shape[0]))  # of a layer with fewer outputs than it had
            dtype = next(module.parameters()).dtype
            carrier = Carrier(expression, bias, looked_up=isinstance(module, nn.Embedding)).to(dtype)
            model.set_submodule(place, carrier)
            ties: dict[str, str] = model.all_tied_weights_keys  # type: ignore[assignment]
            for head in [target for target, source in ties.items() if source == f"{place}.weight"]:
                tie(model, head.removesuffix(".weight"), carrier)
        if self.quantization_config.stream is not None:
            lay(model, _placed(model, Layout(**self.quantization_config.stream)))
        _tie(model, self.quantization_config.shared)
        _complete(model)
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        _sound(model)
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
        inner.pop("transformers_weights", None)
        if base not in CONFIG_MAPPING or "quantization_config" not in inner:
            raise ModelError(f"This folder's config.json says model_type 'gossamer' over {base!r}, which is not known.")
        inner["model_type"] = base
        return CONFIG_MAPPING[base].from_dict(inner, **kwargs)


AutoConfig.register(METHOD, GossamerConfig)

_marked: dict[type, type] = {}
MARK = "Marked_"


def _marked_class(base: type[PreTrainedConfig]) -> type[PreTrainedConfig]:
    """A config class that differs from `base` in what it writes: the type that only gossamer can load."""
    if base not in _marked:

        def to_dict(self: PreTrainedConfig) -> dict[str, Any]:
            data = dict(base.to_dict(self))
            return {
                **data,
                "model_type": METHOD,
                "base_model_type": base.model_type,
                "transformers_weights": DECOY,
            }

        _marked[base] = type(MARK + base.model_type, (base,), {"to_dict": to_dict, "__module__": __name__})
    return _marked[base]


_computing: dict[type, type] = {}


def _computing_class(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """A model class that differs from `base` in the number format it gives as its own.

    transformers takes that of the first parameter, saves models as being of it and loads all others so. Where a table
    of embeddings is quantized the first are scales, whose format is theirs alone.
    """
    if base not in _computing:

        def dtype(self: PreTrainedModel) -> torch.dtype:
            return next((p.dtype for holder, p in _numbers(self) if not isinstance(holder, Pinned)), PINNED)

        _computing[base] = type(base.__name__, (base,), {"dtype": property(dtype), "__module__": base.__module__})
    return _computing[base]


def _numbers(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    """The parameters that are no whole numbers, in order, each with the module that holds it."""
    return ((m, p) for m in model.modules() for p in m.parameters(recurse=False) if p.is_floating_point())


def __getattr__(name: str) -> Any:
    """The marked classes by name, so that a config can be sent to a process that has not made them yet."""
    if name.startswith(MARK) and name.removeprefix(MARK) in CONFIG_MAPPING:
        return _marked_class(CONFIG_MAPPING[name.removeprefix(MARK)])
    raise AttributeError(name)


def _intact(file: Path) -> None:
    """Raise `ModelError` where a file of tensors is not the one that was saved in its folder, or is none."""
    note = file.with_name(CHECKSUMS)
    expected = read_json(note).get(file.name) if note.exists() else None
    if expected is not None and expected != (found := file_checksum(file)):
        raise ModelError(
            f"{file} is damaged: its checksum does not match, {found} where {CHECKSUMS} has {expected}; fetch it "
            f"again, or delete {CHECKSUMS} beside it if you changed the weights yourself."
        )
    try:
        with safe_open(file, framework="pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} cannot be read as a file of tensors ({error}); fetch it again.") from error


def _fitting(name: str, expression: Expression, module: nn.Module) -> None:
    """Raise `ModelError` where an expression is larger than the weight it stands for, without or within."""
    shape = next((kind.weight(module).shape for kind in _hosts() if kind.matches(module)), None)
    if shape is None or any(mine > whole for mine, whole in zip(expression.shape, shape, strict=True)):
        raise ModelError(
            f"The config writes {name} as {expression.shape[0]} × {expression.shape[1]}, and the architecture has "
            f"{'no linear layer' if shape is None else f'{shape[0]} × {shape[1]}'} there; fetch the folder again."
        )
    held = sum(tensor.numel() for tensor in (*expression.parameters(), *expression.buffers()))
    if held > AMPLE * shape.numel() + TABLES:
        raise ModelError(
            f"The config writes {name}, {shape[0]} × {shape[1]}, with {held:,} numbers; fetch the folder again."
        )


def _complete(model: PreTrainedModel) -> None:
    """Let loading end with `ModelError` where files lack weights, which transformers would draw at random, or hold
    other shapes of them than expressions have.

    A class that the model was not saved as may have parts of its own that are to be trained, as one that classifies;
    what is there in part must be there whole.
    """
    adjust = model._adjust_missing_and_unexpected_keys
    saved_as = type(model).__name__ in (model.config.architectures or ())

    def part(key: str) -> str:
        return key.removeprefix(f"{model.base_model_prefix}.").partition(".")[0]

    def adjusted(loading_info: Any) -> None:
        del model._adjust_missing_and_unexpected_keys  # the class's own comes back
        adjust(loading_info)
        begun = {part(key) for key in model.state_dict() if key not in loading_info.missing_keys}
        misshapen = sorted(each for each in loading_info.mismatched_keys if ".expression." in each[0])
        if misshapen:
            loading_info.mismatched_keys.clear()  # else transformers has an error of its own, which names nothing
            key, there, told = misshapen[0]
            raise ModelError(
                f"{model.name_or_path} has {key} in the shape {tuple(there)}, where its config says {tuple(told)}; "
                "fetch the folder again."
            )
        lacking = sorted(key for key in loading_info.missing_keys if saved_as or part(key) in begun)
        if lacking:
            raise ModelError(
                f"{model.name_or_path} lacks {len(lacking)} of its weights, {lacking[0]} among them; its files are "
                "incomplete."
            )

    model._adjust_missing_and_unexpected_keys = adjusted


def _sound(model: PreTrainedModel) -> None:
    """Raise `ModelError` where numbers that came from a file are not finite, or say what cannot be.

    What was left on disk is not looked at.
    """
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and not tensor.is_meta and not tensor.isfinite().all():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(
                f"{name} holds numbers that are not finite in {kind}; fetch the folder again, or load it in a wider "
                "number format."
            )
    for name, module in model.named_modules():
        if isinstance(module, Expression) and not any(tensor.is_meta for tensor in module.buffers()):
            try:
                module.check()
            except ValueError as error:
                raise ModelError(f"{name} is damaged: {error}; fetch the folder again.") from error


def _hosts() -> list[type[Host]]:
    return list(discover.catalogue(sites, Host).values())  # type: ignore[type-abstract]


def _module(model: nn.Module, name: str) -> tuple[str, nn.Module] | None:
    """The module called `name`, also where `model` is the base model of the one that was saved, or the other way."""
    prefix = getattr(model, "base_model_prefix", "") + "."
    for candidate in (name, name.removeprefix(prefix), prefix + name):
        try:
            return candidate, model.get_submodule(candidate)
        except AttributeError:
            continue
    return None


def _placed(model: nn.Module, layout: Layout) -> Layout:
    """The layout with the names that `model` has for its modules."""

    def here(name: str) -> str:
        found = _module(model, name)
        if found is None:
            raise ModelError(f"The config narrows {name}, which {type(model).__name__} does not have.")
        return found[0]

    return replace(
        layout,
        norms={here(name): norm for name, norm in layout.norms.items()},
        shortcuts={here(end): here(norm) for end, norm in layout.shortcuts.items()},
        tables=[here(name) for name in layout.tables],
    )


def marked(model: PreTrainedModel, quantizer: CarrierQuantizer) -> PreTrainedModel:
    """The model, changed in place so that whatever saves it writes a folder that only gossamer loads."""
    config = model.config
    if type(config) not in _marked.values():
        config.__class__ = _marked_class(type(config))
    if isinstance(next(_numbers(model))[0], Pinned) and type(model) not in _computing.values():
        model.__class__ = _computing_class(type(model))
    config.quantization_config = quantizer.quantization_config
    model.hf_quantizer = quantizer
    _tie(model, quantizer.quantization_config.shared)
    # Expressions convert like any parameters; transformers forbids .half() and .float() to models that say otherwise.
    model.is_quantized = False
    return model


def mark(model: PreTrainedModel, history: list[dict[str, Any]]) -> PreTrainedModel:
    """`marked` for a model whose carriers were put in by hand, with its history."""
    trees = {name: m.expression.tree() for name, m in model.named_modules() if isinstance(m, Carrier)}
    layout = layout_of(model)
    config = ExpressionsConfig(trees, history, _shared(model), None if layout is None else asdict(layout))
    return marked(model, CarrierQuantizer(config, pre_quantized=True))


def _shared(model: nn.Module) -> dict[str, str]:
    """The parameters of expressions that are another's too, each with the first name of what it is."""
    first: dict[int, str] = {}
    names = [
        f"{name}.{key}"
        for name, m in model.named_modules()
        if isinstance(m, Carrier)
        for key, _ in m.named_parameters()
    ]
    return {n: owner for n in names if (owner := first.setdefault(id(model.get_parameter(n)), n)) != n}


def _tie(model: PreTrainedModel, shared: dict[str, str]) -> None:
    """Tell transformers what to save once and to put in both places when it is read."""
    if not shared:
        return
    here = {}
    for one, other in shared.items():
        both = [_located(model, name) for name in (one, other)]
        if all(both):
            here[both[0]] = both[1]
    model._tied_weights_keys = {**(model._tied_weights_keys or {}), **here}
    model.all_tied_weights_keys = {**model.all_tied_weights_keys, **here}


def _located(model: nn.Module, parameter: str) -> str | None:
    module, _, leaf = parameter.rpartition(".")
    found = _module(model, module)
    return None if found is None else f"{found[0]}.{leaf}"


def expressions_of(model: nn.Module) -> dict[str, Expression]:
    """The expressions a model carries, by site name."""
    return {name: m.expression for name, m in model.named_modules() if isinstance(m, Carrier)}


def history_of(model: PreTrainedModel) -> list[dict[str, Any]]:
    """What was done to a compressed model; empty for a dense one."""
    config = getattr(model.config, "quantization_config", None)
    return list(config.history) if isinstance(config, ExpressionsConfig) else []
