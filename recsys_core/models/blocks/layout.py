"""What the rows and columns of a dense weight stand for, so that those that mean the same can be taken over.

A two-tower model that reads `city` (8 wide) and `age` (1 number) has a first layer of these columns, and with another
feature between them the columns of `age` are elsewhere:

    before  city city city city city city city city age
    now     city city city city city city city city brand … brand age
"""

from collections.abc import Iterable, Sequence

from torch import nn

from recsys_core.artifacts import Frozen
from recsys_core.features import NumberFeature, SparseFeature
from recsys_core.models.blocks.mlp import Mlp


class Block(Frozen):
    """Neighbouring rows or columns: `repeats` times `width` of them.

    `label` names them among those of their axis. They mean the same as long as the outputs of all `features` do.
    """

    label: str
    width: int
    repeats: int = 1
    features: tuple[str, ...] = ()


Axis = tuple[Block, ...]


class Weight(Frozen):
    """One weight: `place` is what it is in its model, whatever it is called; an axis for each of its dimensions.

    A bias means nothing without the weight `of` which it is. `after` is the place of the weight whose layer, activated
    by a ReLU, is all that this one reads; `is_hidden` says that such a layer may follow this one too.
    """

    place: str
    axes: tuple[Axis, ...]
    of: str | None = None
    after: str | None = None
    is_hidden: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes that the blocks of each axis add up to."""
        return tuple(sum(block.width * block.repeats for block in axis) for axis in self.axes)


Layout = dict[str, Weight]


def pooled(features: Iterable[SparseFeature], widths: Iterable[int]) -> Axis:
    """Return the columns of pooled features that stand side by side; a tile repeats its table's width."""
    made: list[Block] = []
    for feature, width in zip(features, widths, strict=True):
        repeats = max(feature.tile_length, 1)
        made.append(of_feature(feature.name, width // repeats, repeats))
    return tuple(made)


def numbers(features: Iterable[NumberFeature]) -> Axis:
    """Return the columns of features of numbers."""
    return tuple(of_feature(feature.name, feature.dim) for feature in features)


def of_feature(name: str, width: int, repeats: int = 1) -> Block:
    """Return the columns of one feature."""
    return Block(label=name, width=width, repeats=repeats, features=(name,))


def units(label: str, width: int) -> Axis:
    """Return the outputs of a layer."""
    return (Block(label=label, width=width),)


def of_mlp(name: str, layers: nn.Module, inputs: Axis) -> Layout:
    """Return the layout of an MLP that is called `name` in its model's state; `inputs` are what it reads."""
    assert isinstance(layers, Mlp)
    linear = [(number, layer) for number, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    found: Layout = {}
    after: str | None = None
    for place, (number, layer) in enumerate(linear):
        label = "output" if layer is linear[-1][1] else f"hidden {place}"
        made = of_linear(f"{name}.{number}", f"{name} {label}", layer, units(label, layer.out_features), inputs)
        weight = f"{name}.{number}.weight"
        made[weight] = made[weight].model_copy(update={"after": after, "is_hidden": label != "output"})
        found, after, inputs = found | made, made[weight].place, units(label, layer.out_features)
    return found


def of_linear(name: str, place: str, layer: nn.Linear, outputs: Axis, inputs: Axis) -> Layout:
    """Return the layout of one layer."""
    found = {f"{name}.weight": Weight(place=f"{place} weight", axes=(outputs, inputs))}
    if layer.bias is not None:
        found[f"{name}.bias"] = Weight(place=f"{place} bias", axes=(outputs,), of=f"{name}.weight")
    for key, weight in found.items():
        assert weight.shape == tuple(layer.get_parameter(key.rpartition(".")[2]).shape), (key, weight)
    return found


def chosen(blocks: Axis, names: Sequence[str]) -> Axis:
    """Return the blocks of these features, in this order."""
    by_name = {block.label: block for block in blocks}
    return tuple(by_name[name] for name in names)
