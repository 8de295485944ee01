"""A model in training: its loss, its optimisers with their learning rates, the moving average of its weights."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .distributed import World, parallel


class Learner:
    """Call it for the loss of a batch, then ``update`` with that.

    Args:
        model: on its device.
        loss: function of the model and a batch; called in every process with its own batch, it gives the mean that this process minimises.
        optimizers: with the peak learning rates.
        rate: share of the peak at a step, of all optimisers; see ``falling`` and ``stepped``. A checkpoint does not hold it.
        ema: decay of the weights' average, smaller in the first steps, where there is little to average; None for no average.
        clip: largest norm of the gradients; 0 for any.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., object],
        optimizers: Sequence[Optimizer],
        rate: Callable[[int], float],
        *,
        ema: float | None = None,
        clip: float = 0.0,
        world: World = World(),
    ):
        self.model, self.optimizers, self.clip, self.world = model, list(optimizers), clip, world
        self._loss = loss
        self.average = None if ema is None else AveragedModel(model, multi_avg_fn=self._move_average).requires_grad_(False)
        self._ema = ema
        self.schedulers = [LambdaLR(optimizer, rate) for optimizer in optimizers]
        self.wrap()

    def wrap(self) -> None:
        """Find out anew which parameters learn: after some were frozen."""
        self._parallel = parallel(self.model, self._loss, self.world)

    def __call__(self, *args, **kw):
        return self._parallel(*args, **kw)

    def update(self, loss: Tensor) -> None:
        """One step down the loss's gradient."""
        loss.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        for optimizer, scheduler in zip(self.optimizers, self.schedulers):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.model)

    @property
    def averaged(self) -> nn.Module:
        """The model with averaged weights; before the first step, and without an average, with its own."""
        return self.model if self.average is None else self.average.module

    def _move_average(self, averaged: list[Tensor], current: list[Tensor], _: object) -> None:
        """Exponential, of a decay that rises to ``ema``: at the n-th update it averages over some n / 9. The count that torch gives is on the device."""
        count = int(self.average.n_averaged)
        get_ema_multi_avg_fn(min(self._ema, (1 + count) / (10 + count)))(averaged, current, count)

    def state_dict(self) -> dict:
        return {name: part.state_dict() for name, part in self._parts()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state. Learning rates and the optimisers' other options stay as they were asked for now, whatever they were before.

        Raises:
            ValueError: an optimiser's numbers are of other parameters than those that it has. It tells these by their order alone.
        """
        asked = [[{name: value for name, value in group.items() if name != "params"} for group in each.param_groups] for each in self.optimizers]
        for name, part in self._parts():
            part.load_state_dict(state[name])
            if isinstance(part, Optimizer):
                _check_shapes(part)
        for optimizer, scheduler, of_groups in zip(self.optimizers, self.schedulers, asked):
            scheduler.base_lrs = [options["initial_lr"] for options in of_groups]
            for group, options, rate in zip(optimizer.param_groups, of_groups, scheduler.lr_lambdas):
                group.update(options, lr=options["initial_lr"] * rate(scheduler.last_epoch))

    def _parts(self):
        yield "model", self.model
        if self.average is not None:
            yield "average", self.average
        for k, (optimizer, scheduler) in enumerate(zip(self.optimizers, self.schedulers)):
            yield f"optimizer.{k}", optimizer
            yield f"scheduler.{k}", scheduler


def _check_shapes(optimizer: Optimizer) -> None:
    for parameter, of_parameter in optimizer.state.items():
        for name, value in of_parameter.items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:  # a count of steps has no axes
                raise ValueError(f"an optimiser's {name} has the shape {list(value.shape)}, but its parameter {list(parameter.shape)}")


def falling(progress: float, step: int, *, level: float, warm_up: int = 100, floor: float = 0.0) -> float:
    """Share of the peak learning rate: up over the first ``warm_up`` steps, level, and from the share ``level`` of the run on down to ``floor``."""
    return min(1.0, (step + 1) / warm_up, floor + (1 - floor) * max(0.0, (1 - progress) / (1 - level)))


def stepped(step: int, *, lr: float, min_lr: float, decay_steps: int, warm_up: int = 50) -> float:
    """Share of the peak ``lr``: all of it for ``decay_steps`` steps, then that of ``min_lr``; the first ``warm_up`` steps go up."""
    return (1.0 if step < decay_steps else min_lr / lr) * min(1.0, (step + 1) / warm_up)
