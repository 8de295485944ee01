"""Hold the names, shapes and kinds of numbers in a file against those of a model, before the first tensor is read."""

from collections.abc import Collection, Iterable

from .errors import CheckpointError
from .source import TensorSource

MOST_PARTS = 256  # of a model, such as blocks: what claims more is never built


def check_keys(
    source: TensorSource, expected: dict[str, tuple[int, ...]], *, what: str, prefix: str = "", packed: Collection[str] = ()
) -> None:
    """Compare names, shapes and dtypes with what the architecture needs.

    Args:
        packed: names that need not be floating point, such as quantised weights.

    Raises:
        CheckpointError: naming the first missing, extra, wrongly shaped or wrongly typed keys.
    """
    require(source, expected, what=what, prefix=prefix)
    extra = [name for name in source.shapes if name not in expected]
    if extra:
        raise CheckpointError(f"{source.file(extra[0])} holds {_some(source, extra, prefix)}, which the {what} does not have. It may be of another architecture.")
    for name, shape in expected.items():
        if source.shapes[name] != shape:
            raise CheckpointError(
                f"{source.file(name)}: {source.written(name, prefix)} has the shape {list(source.shapes[name])}, but the {what} expects {list(shape)}. "
                "The weights and the config are not of one model."
            )
        if not source.dtypes[name].is_floating_point and name not in packed:
            raise CheckpointError(
                f"{source.file(name)}: {source.written(name, prefix)} holds {str(source.dtypes[name]).removeprefix('torch.')}, but the {what} expects "
                "floating-point numbers. Save or download the file again."
            )


def require(source: TensorSource, names: Iterable[str], *, what: str, prefix: str = "") -> None:
    """Refuse a file that lacks any of some tensors.

    Raises:
        CheckpointError: naming the first of those.
    """
    missing = [name for name in names if name not in source]
    if missing:
        raise CheckpointError(f"{source.path} lacks {_some(source, missing, prefix)} of the {what}. It may be incomplete, or another kind of file.")


def check_sizes(config_name: str, source: TensorSource, sizes: dict[str, tuple[int, int | None]]) -> None:
    """Hold a config against the tensors before a model is built: with a wrong size in it, building might never end."""
    for name, (said, found) in sizes.items():
        if found is not None and said != found:
            raise CheckpointError(f"{config_name}: {name} is {said}, but the weights of {source.path} have {found}. They are not of one model.")


def count_parts(source: TensorSource, prefix: str) -> int:
    """How many numbered parts there are under a prefix.

    Raises:
        CheckpointError: more than any model has.
    """
    count = len({name.removeprefix(prefix).split(".")[0] for name in source.shapes if name.startswith(prefix)})
    if count > MOST_PARTS:
        raise CheckpointError(f"{source.path} has {count:,} parts under {prefix}, but no model known here has more than {MOST_PARTS}. Download it again.")
    return count


def size_of(source: TensorSource, name: str, axis: int) -> int | None:
    """A tensor's size along an axis; None where the file lacks the tensor.

    Raises:
        CheckpointError: the tensor has no such axis, or is empty.
    """
    if name not in source:
        return None
    shape = source.shapes[name]
    if len(shape) <= axis or 0 in shape:
        raise CheckpointError(f"{source.file(name)}: {source.written(name)} has the shape {list(shape)}, which fits no model known here. Download it again.")
    return shape[axis]


def _some(source: TensorSource, names: list[str], prefix: str) -> str:
    shown = ", ".join(source.written(name, prefix) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
