"""The nouns that travel between rooms: frozen, JSON both ways, no tensors and no torch."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import exp, inf
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gossamer.errors import BudgetError, ModelError, PlanError, TextError

T = TypeVar("T")
Unit = Literal["params", "bytes", "macs", "bits"]
Shape = tuple[int, int]
"""(outputs m, inputs n) of a weight, as `nn.Linear` stores it."""


Role = Literal["layer", "embedding", "head"]
"""What a weight does in its model: a table of token embeddings and an output head are only looked at when asked for."""


class Progress(Protocol):
    """Something that watches a loop: called as `progress(label, items, total)`, it hands the items on."""

    def __call__(self, label: str, items: Iterable[T], total: int) -> Iterator[T]: ...


def silent(label: str, items: Iterable[T], total: int) -> Iterator[T]:
    """The progress that shows nothing."""
    return iter(items)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an expression costs: stored numbers, serialized bytes, and multiply-adds for one token."""

    params: int
    bytes: int
    macs: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(params=self.params + other.params, bytes=self.bytes + other.bytes, macs=self.macs + other.macs)

    @property
    def bits(self) -> int:
        return 8 * self.bytes

    def of(self, unit: Unit) -> int:
        """The cost in one unit."""
        return int(getattr(self, unit))


NO_COST = Cost(params=0, bytes=0, macs=0)


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where one weight lives in a model.

    `name` is the module's path, `kind` the file in `sites/` that reads and replaces it, `reads` the name of the
    first site fed by the same input tensor (its own name where it shares with none). The table of token embeddings is
    (vocabulary × width) as it is stored; `tied` names the module at the model's other end that uses the very weight.
    """

    name: str
    kind: str
    shape: Shape
    bias: bool
    reads: str
    role: Role = "layer"
    tied: str = ""

    @property
    def applied(self) -> Shape:
        """(outputs, inputs) of what the module does: a table's inputs are tokens, each as good as a unit vector."""
        return self.shape[::-1] if self.role == "embedding" else self.shape

    @property
    def decided(self) -> bool:
        """Whether its weight is decided on here: a tied head goes with the table of embeddings."""
        return self.role != "head" or not self.tied


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to write one weight: a structure, its size (the rank, where it has one), its cost and its price.

    `error` is the predicted loss in the unit of the metric that priced it (nats per token for the Fisher metrics).
    `sensitivity` is the rise of the loss measured with this option in place and all other weights dense, in nats per
    token; None where it was not measured. For a model that predicts no next token it is a divergence as in `Score`.
    """

    structure: str
    size: int
    cost: Cost
    error: float
    sensitivity: float | None = None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """All options for one site, the dense weight among them.

    `influence` is that of the block it lies in, from 0, where the block changes nothing, to 2; it is 1 unless measured.
    """

    site: str
    options: tuple[Option, ...]
    influence: float = 1.0

    @cached_property
    def errors(self) -> NDArray[np.float64]:
        """The options' errors, in their order."""
        return np.array([option.error for option in self.options])

    def costs(self, unit: Unit) -> NDArray[np.int64]:
        """The options' costs in one unit, in their order."""
        return self._costs["bytes"] * 8 if unit == "bits" else self._costs[unit]

    @cached_property
    def _costs(self) -> dict[str, NDArray[np.int64]]:
        rows = np.array([(o.cost.params, o.cost.bytes, o.cost.macs) for o in self.options], dtype=np.int64)
        return dict(zip(("params", "bytes", "macs"), rows.T.copy(), strict=True))

    @property
    def dense(self) -> Option:
        """The option that leaves the weight as it is."""
        return next(o for o in self.options if o.structure == "dense")

    def find(self, structure: str, size: int) -> Option:
        """The option with this structure and size, dense having one; raises `PlanError` where the curve has none."""
        if structure == "dense":
            return self.dense
        for option in self.options:
            if (option.structure, option.size) == (structure, size):
                return option
        sizes = [o.size for o in self.options if o.structure == structure]
        if not sizes:
            known = ", ".join(sorted({o.structure for o in self.options}))
            raise PlanError(f"{self.site}: the plan asks for structure {structure!r}; these were priced: {known}.")
        near = min(sizes, key=lambda s: abs(s - size))
        raise PlanError(f"{self.site}: no {structure} of size {size} was priced; the nearest is {near}.")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much may be kept, in one unit.

    `params` and `macs` are fractions of the linear layers outside embeddings and head, or with these where the settings
    ask for them; `bits` are those that a dense weight of these layers may take on average, scales, indices and padding
    counted; `bytes` is the absolute size of the weights as saved, embeddings and all.
    """

    unit: Unit
    amount: float

    def __post_init__(self) -> None:
        if self.unit not in ("params", "bytes", "macs", "bits"):
            raise BudgetError(f"There is no unit {self.unit!r}; choose params, bytes, macs or bits.")
        if self.unit in ("bytes", "bits"):
            if not 0 < self.amount < inf:
                example = "a positive size, as 120MB" if self.unit == "bytes" else "a positive number a weight, as 3.5"
                raise BudgetError(f"A budget of {self.amount:g} {self.unit} is impossible; give {example}.")
        elif not self.amount > 0:
            raise BudgetError(f"Keeping {self.amount:g} of the {self.unit} is impossible; give a fraction such as 0.6.")
        elif self.amount >= 1:
            percent = f"; if {self.amount:g} % was meant, write {self.amount / 100:g}" if 1 < self.amount < 100 else ""
            raise BudgetError(
                f"Keeping {self.amount:g} of the {self.unit} needs no compression; give a fraction below 1, as 0.6"
                f"{percent}."
            )

    @staticmethod
    def check(given: object) -> None:
        """Raises `BudgetError` where a bare number, say, was given instead of a budget."""
        if not isinstance(given, Budget):
            raise BudgetError(f"{given!r} is no budget; give one as gossamer.Budget(unit='params', amount=0.6).")

    @property
    def label(self) -> str:
        """As a comparison heads its columns: 0.6, 0.5 macs, 4 bits, 120 MB; `labelled` reads the unit back."""
        if self.unit == "bytes":
            return f"{self.amount / 1e6:.12g} MB" if self.amount >= 1e6 else f"{self.amount / 1e3:.12g} kB"
        return f"{self.amount:g}" if self.unit == "params" else f"{self.amount:g} {self.unit}"

    def limit(self, dense: Cost, fixed: int) -> int:
        """How much of this unit the sites may use, where they cost `dense` now and what else counts takes `fixed`."""
        if self.unit == "bits":
            if self.amount >= dense.bits / dense.params:
                raise BudgetError(
                    f"A budget of {self.amount:g} bits a weight is needless: the dense layers take "
                    f"{dense.bits / dense.params:g}."
                )
            return int(self.amount * dense.params)
        if self.unit != "bytes":
            return int(self.amount * dense.of(self.unit))
        if self.amount >= dense.bytes + fixed:
            taken = (dense.bytes + fixed) / 1e6
            raise BudgetError(
                f"A budget of {self.amount / 1e6:.1f} MB is needless: the dense model takes {taken:.1f} MB."
            )
        return int(self.amount) - fixed


def labelled(label: str) -> Unit:
    """The unit of a budget with this label."""
    units: Mapping[str, Unit] = {"": "params", "macs": "macs", "bits": "bits", "MB": "bytes", "kB": "bytes"}
    return units[label.partition(" ")[2]]


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """What an allocator decided: an option for each site, and a bound that no allocation within the limit beats."""

    choices: Mapping[str, Option]
    bound: float

    @property
    def cost(self) -> Cost:
        return sum((o.cost for o in self.choices.values()), NO_COST)

    @property
    def error(self) -> float:
        return sum(o.error for o in self.choices.values())


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything but the budget that decides what comes out of a model.

    `text` is a file or a Hub data set, None the model's own writing; `tokens` how much of it to read, 0 for all;
    `metric`, `structures` and `allocator` name files of those rooms (a file of `methods` names all three); `dtype` is
    the number format to open and save in, "auto" the model's own; `tie` gives layers fed by the same input one rank;
    `embeddings` takes in the table of token embeddings and the output head, which else stay as they are and count
    towards no fraction.
    """

    text: str | None = None
    tokens: int = 16_384
    window: int = 512
    seed: int = 0
    metric: str = "kronecker_fisher"
    structures: tuple[str, ...] = ("pivoted_low_rank", "neurons")
    allocator: str = "knapsack"
    dtype: str = "auto"
    tie: bool = False
    embeddings: bool = False

    def __post_init__(self) -> None:
        if self.text is not None and not isinstance(self.text, str):
            raise TextError(f"The calibration text is named by a string, and {self.text!r} is none.")
        for name in ("tokens", "window", "seed"):
            if type(getattr(self, name)) is not int:
                raise TextError(f"The setting {name} is {getattr(self, name)!r}, which is no whole number.")
        for name in ("tie", "embeddings"):
            if type(getattr(self, name)) is not bool:
                raise PlanError(f"The setting {name} is {getattr(self, name)!r}, which is neither true nor false.")
        if not 0 <= self.seed < 2**32:
            raise TextError(f"A seed of {self.seed} is impossible; give a whole number from 0 to {2**32 - 1}.")
        if self.tokens < 0:
            raise TextError(f"Reading {self.tokens} tokens is impossible; give 0 for the whole text, or more.")
        if self.tokens == 0 and self.text is None:
            raise TextError("A model's own writing has no end to read to; say how many --tokens, or give --text FILE.")
        if self.window < 2:
            raise TextError(f"A window of {self.window} tokens predicts nothing; give windows of at least 2 tokens.")
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ModelError(f"There is no dtype {self.dtype!r}; choose auto, float32, bfloat16 or float16.")


def perplexity(nats: float) -> float:
    """exp of a mean loss in nats, as far as a float reaches."""
    return exp(min(nats, 700))


def counted(settings: Mapping[str, Any]) -> str:
    """What fractions are of under these settings (as JSON), in words."""
    return "linear layers and embeddings" if settings.get("embeddings") else "linear layers"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One option for each site of one model, readable and editable as JSON.

    `digest` is that of the model it was made for; `predicted` and `bound` are the total predicted loss and the least
    that any plan within the budget could have, both in `unit`.
    """

    model: str
    digest: str
    settings: Settings
    budget: Budget
    allocator: str
    unit: str
    predicted: float
    bound: float
    choices: Mapping[str, Option]

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        data["choices"] = {
            name: {"structure": o.structure, "size": o.size, "predicted": o.error} for name, o in self.choices.items()
        }
        return data


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """A plan as read from JSON: what to do, before it is looked up in the curves of its model."""

    model: str
    digest: str
    settings: Settings
    budget: Budget
    allocator: str
    choices: Mapping[str, tuple[str, int]]

    @classmethod
    def parse(cls, data: Any) -> "PlanFile":
        """Raises `PlanError` where the JSON is not a plan."""
        try:
            settings = {**data["settings"], "structures": tuple(data["settings"]["structures"])}
            return cls(
                model=str(data["model"]),
                digest=str(data["digest"]),
                settings=Settings(**settings),
                budget=Budget(**data["budget"]),
                allocator=str(data["allocator"]),
                choices={str(k): (str(v["structure"]), _whole(k, v["size"])) for k, v in data["choices"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why: object = f"it lacks {error}" if isinstance(error, KeyError) else error
            if not isinstance(data, dict) or isinstance(error, AttributeError):
                why = "it or its choices are no list of names and values"
            raise PlanError(f"The file is not a plan written by 'gossamer plan' ({why}).") from error


def _whole(what: str, size: Any) -> int:
    if not isinstance(size, int) or isinstance(size, bool):
        raise ValueError(f"the size of {what} is {size!r}, which is no whole number")
    return size


@dataclass(frozen=True, kw_only=True)
class Score:
    """How far a model is from its dense original on one text, with the identity of the measurement.

    `nats` and `dense_nats` are mean losses per scored token (None for a model that predicts no tokens), `divergence`
    the mean KL(dense ‖ compressed) in nats per position; `standard_error` is that of `nats − dense_nats` over windows,
    `by_window` the `nats` of every window, for comparisons in pairs.
    For an encoder `divergence` is the Gaussian analogue: half the squared output error over the outputs' variance.
    """

    nats: float | None
    dense_nats: float | None
    standard_error: float | None
    divergence: float
    protocol: Mapping[str, Any]
    by_window: tuple[float, ...] = ()

    @property
    def perplexity(self) -> float | None:
        """exp of the mean loss, None for a model that predicts no tokens."""
        return None if self.nats is None else perplexity(self.nats)

    @property
    def dense_perplexity(self) -> float | None:
        """The same of the dense model."""
        return None if self.dense_nats is None else perplexity(self.dense_nats)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Tokens a second that each model scores in windows of `window` tokens, measured in one run on one machine."""

    window: int
    dense: float
    compressed: float


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One weight as it is shown: for each structure that was priced some (size, share kept, predicted loss).

    What is narrowed jointly has the loss of the whole group.
    """

    name: str
    shape: Shape
    cost: Cost
    ways: Mapping[str, tuple[tuple[int, float, float], ...]]


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """What could be had and what was chosen, in few enough numbers to draw.

    `frontiers` has for each unit of a budget (amount, least predicted loss in `unit`) pairs, `dense` and `total` are
    the costs of the linear layers and of the whole model, and `predicted` is the loss of each plan that was considered.
    What is kept of a weight is counted in `kept_in`: bytes where numbers may become shorter, else parameters.
    """

    model: str
    digest: str
    unit: str
    dense: Cost
    total: Cost
    frontiers: Mapping[Unit, tuple[tuple[float, float], ...]]
    kept_in: Unit
    weights: tuple[Weight, ...]
    budget: Budget
    choices: Mapping[str, Option]
    predicted: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was asked and what came out; everything that is printed or drawn reads this and nothing else.

    `predicted` is the loss that the plan expected, and `paid` the same with what its solvers really lost, both in
    the metric's `unit`; `written` says how many weights became what.
    """

    model: str
    out: str
    asked: Mapping[str, Any]
    dense: Cost
    small: Cost
    dense_total: Cost
    small_total: Cost
    score: Score
    allocator: str
    predicted: float
    paid: float
    unit: str
    rivals: Mapping[str, float]
    rival_windows: int
    speed: Speed
    samples: Mapping[str, str]
    seconds: Mapping[str, float]
    peak_memory: int
    notes: tuple[str, ...] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    written: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
