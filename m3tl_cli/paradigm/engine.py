"""From episodes to one gradient: where model, task kinds, inner loop, head initialisation and balancer meet.

Every paradigm passes through here. A mini-batch is an episode without support; K = 0 inner steps leave phi's own tensors in place.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from m3tl_cli.balancing.base import Balancer
from m3tl_cli.core.contracts import Episode, Model, Name, Params, Part, Signal, TaskName, components, shared
from m3tl_cli.core.errors import ConfigError
from m3tl_cli.core.events import Emit, Said, silent
from m3tl_cli.head_init.base import HeadInit
from m3tl_cli.inner.base import InnerLoop, InnerSGD, OnStep, Reached
from m3tl_cli.paradigm.flops import FlopTable, Passes, Steps, shape
from m3tl_cli.paradigm.heads import start_heads
from m3tl_cli.paradigm.vectorised import Labelled, differentiate, has_vectors_only, why_not_stacked
from m3tl_cli.task.base import TaskKind

SMALL = 50_000
"""Parameters up to which `engine=auto` computes episodes at once. CPU time of the loop over that of vmap, of an MLP with two hidden
layers and 16 episodes (4): 5.6 (1.7) at 2,000 parameters, 1.5 (1.1) at 41,000, 1.0 (.7) at 162,000, .8 at 493,000."""


@dataclass(frozen=True)
class _Descent:
    """What came of an episode's support.

    Args:
        phi: Leaves. start: the same with the heads that the episode builds.
        reached: Points whose query loss counts.
        walks: Backward passes that led there, which a gradient in second order takes once more.
        key: What the operations of a walk back to phi depend on beside the query; None: on more than shapes.
    """

    phi: Params
    start: Params
    reached: list[Reached]
    walks: int
    key: Hashable | None

    @property
    def moved(self) -> bool:
        """Whether the points hang on more than leaves: on inner steps, or on closed forms."""
        return any(point.params is not self.phi for point in self.reached)


class Engine:
    """Turn the episodes of an update into a gradient of the parameters.

    How gradients are made (after the measurements in scripts/balancing_cost.py and scripts/maml_speed.py):

    * the balancer needs nothing: one backward pass a part, its graph freed before the next part; where parts share a graph (inner steps,
      fresh heads), one backward pass of their sum;
    * it needs losses: the same, where one shared batch is all there is; else rows;
    * it needs rows: `torch.autograd.grad` per task. With a batch per task each is a graph of its own, walked once; a shared batch has
      its trunk walked once per task;
    * small nets on vectors take all episodes of a step at once (`inner.engine`); see `vectorised`.

    Inside episodes BatchNorm keeps its running statistics: it normalises by those of earlier stages and does not move them, so that
    nothing leaks from one episode, or from one query sample, into the next. One that keeps none is refused. In second order attention
    runs in the kernel that can be differentiated twice.

    Args:
        model: Model.
        kinds: What to do with the outputs of each task.
        balancer: Weighs tasks.
        trainable: Names that an update may change; learned rates of theirs are added.
        inner: Inner loop; None where no episode has support.
        head_init: Builds the heads of an episode's fresh tasks; None where no episode has any.
        donors: Tasks whose heads a fresh one may start from.
        autocast: Makes a context in which losses are computed.
        emit: Told once why episodes are computed one by one.
        flops: Operations that other engines of the same network counted; None: a table of its own.

    Raises:
        ConfigError: If the inner loop has no gradient per task and the balancer needs one, or a BatchNorm keeps no statistics.
    """

    def __init__(
        self,
        *,
        model: Model,
        kinds: Mapping[TaskName, TaskKind],
        balancer: Balancer,
        trainable: frozenset[Name],
        inner: InnerLoop | None = None,
        head_init: HeadInit | None = None,
        donors: Sequence[TaskName] = (),
        autocast: Callable[[], torch.autocast] | None = None,
        emit: Emit = silent,
        flops: FlopTable | None = None,
    ) -> None:
        if inner is not None and inner.num_inner_steps and not inner.row_per_task and balancer.needs != "nothing":
            raise ConfigError(
                f"balancing must be one that needs no gradient per task with {type(inner).__name__}, whose outer gradient cannot be "
                f"split by task; found {type(balancer).__name__}",
                hint="balancing=sum",
                place="balancing",
            )
        self.model, self.kinds, self.balancer = model, kinds, balancer
        self.inner, self.head_init, self.donors, self.emit = inner, head_init, tuple(donors), emit
        self.autocast = autocast or (lambda: torch.autocast("cpu", enabled=False))
        self.passes, self._flops = Passes(), flops or FlopTable()
        self.weights: dict[TaskName, Tensor] = {}  # what each task counted for in the last update, for the log
        self._own: dict[Name, Tensor] | None = None
        self._phi: dict[Name, Tensor] = {}
        self._reads: dict[TaskName, frozenset[Name]] = {}
        self._groups: dict[tuple[TaskName, ...], list[tuple[TaskName, ...]]] = {}
        self._shared: dict[tuple[tuple[TaskName, ...], bool], tuple[Name, ...]] = {}
        self._wanted: dict[tuple[TaskName, ...], frozenset[Name]] = {}
        self._moving: dict[tuple[TaskName, ...], frozenset[Name]] = {}
        self._said: set[str] = set()
        self._not_vectorised = ""
        self._trainable = trainable
        phi = self.params()
        rates = inner.reads(trainable) if inner is not None else frozenset()
        self._trainable = trainable | (rates & phi.keys())
        if inner is not None and inner.num_inner_steps:
            self._refuse_batch_statistics()

    @property
    def trainable(self) -> frozenset[Name]:
        """Names that an update may change; may be set between updates."""
        return self._trainable

    @trainable.setter
    def trainable(self, names: frozenset[Name]) -> None:
        if names != self._trainable:
            self._trainable = names
            self._shared, self._wanted, self._moving = {}, {}, {}

    @property
    def coupled(self) -> bool:
        """Whether the query loss of one task depends on the head of another: second order through joint inner steps."""
        return self.inner is not None and self.inner.second_order and self.inner.num_inner_steps > 0

    def params(self) -> dict[Name, Tensor]:
        """Phi: the model's parameters and the learned inner rates. The same object until the model grows."""
        own = self.model.params()
        if own is not self._own:
            self._own, self._phi = own, own
            self._groups, self._shared, self._wanted, self._moving = {}, {}, {}, {}
            self._reads = {task: self.model.reads(task) for task in self.model.tasks}
            if self.inner is not None:
                self.inner.start(own, self._reads)
                rates = self.inner.params()
                self._reads = {task: read | self.inner.reads(read) for task, read in self._reads.items()}
                self._phi = own | rates if rates else own
        return self._phi

    def reads(self, task: TaskName) -> frozenset[Name]:
        """Names that the task's output depends on, and the learned rates of the modules that hold them."""
        self.params()
        return self._reads[task]

    def signal(self, episodes: Sequence[Episode]) -> Signal:
        """Losses and gradients of the episodes of one update.

        Losses of a task are averaged over the parts that hold it, and weighted over the points of the inner descent that count;
        gradients are weighted by the episodes' weights and summed.
        """
        with self._kept_statistics(any(e.support for e in episodes)):
            found = self._at_once(episodes)
            return found if found is not None else self._one_by_one(episodes)

    def gradient(self, signal: Signal) -> dict[Name, Tensor]:
        """Balance the rows; what was already summed is added. Changes the balancer's state: call it once per update."""
        gradient = dict(signal.common)
        tasks = tuple(signal.rows)
        if not tasks:
            return gradient
        losses_T = torch.stack([signal.losses[t] for t in tasks])
        if self.balancer.needs == "losses":
            weights_T = self.balancer.weights(losses_T, tasks)
            self.weights.update(zip(tasks, weights_T, strict=True))
            for i, task in enumerate(tasks):
                self._add(gradient, signal.rows[task], weights_T[i])
            return gradient
        phi = self.params()
        names = self._shared_names(tasks)
        sizes = [phi[n].numel() for n in names]
        rows_TP = losses_T.new_zeros(len(tasks), sum(sizes))
        for i, task in enumerate(tasks):
            for name, place in zip(names, rows_TP[i].split(sizes), strict=True):
                if name in signal.rows[task]:
                    place.copy_(signal.rows[task][name].reshape(-1))
        balanced = self.balancer.combine(rows_TP, losses_T, tasks)
        self.weights.update(zip(tasks, balanced.shown_T, strict=True))
        for name, flat in zip(names, balanced.gradient_P.split(sizes), strict=True):
            self._add(gradient, {name: flat.view_as(phi[name])}, 1.0)
        shared_names = set(names)
        for i, task in enumerate(tasks):
            private = {n: g for n, g in signal.rows[task].items() if n not in shared_names}
            self._add(gradient, private, balanced.weights_T[i])
        return gradient

    def losses(self, params: Params, part: Part, tasks: tuple[TaskName, ...] | None = None) -> dict[TaskName, Tensor]:
        """Loss per task of a part.

        Args:
            params: Where.
            part: Batch and tasks.
            tasks: Those that the part labels; None: look.
        """
        tasks = labelled_tasks(part) if tasks is None else tasks
        if not tasks:
            return {}
        self.passes.forward += len(self._networks(tasks))
        own = self.model.params() if params is self._phi else params  # the model is faster with its own
        key = ("forward", shape(part.batch), tasks, torch.is_grad_enabled(), len(self._phi))
        with self._flops.block(key, self.passes):
            with self.autocast():
                outputs = self.model.outputs(own, part.batch, tasks)
            return {t: self.kinds[t].loss(outputs[t], part.batch.targets[t], part.batch.labelled[t]) for t in tasks}

    def adapted(self, params: Params, parts: Sequence[Part], *, steps: int, on_step: OnStep | None = None) -> dict[Name, Tensor]:
        """Take inner steps on support without a graph, as at a target.

        Tasks that share no parameter descend each for itself, with a clip and a guard of its own.

        Args:
            params: Start.
            parts: Support.
            steps: 0 returns the tensors of `params`.
            on_step: Called with k = 1 ... `steps` and the parameters after step k. Tasks that share no parameter are shown together, when
                all have come down; else steps are shown as they are taken, from 1 again where a descent starts anew.

        Raises:
            ConfigError: Without an inner loop.
        """
        if self.inner is None:
            raise ConfigError("`inner` must be an inner loop to adapt with; found none.", hint="inner=maml", place="inner")
        with self._kept_statistics(True):
            reached = self._descend(params, _labelled(parts), steps=steps, differentiable=False, on_step=on_step)
        return dict(reached[-1].params)

    def adapted_to(self, episode: Episode) -> dict[Name, Tensor]:
        """Parameters after the inner loop's own number of steps on an episode's support, without a graph; fresh heads are built first."""
        with torch.no_grad():
            start, _ = self._start_heads(self.params(), episode)
        steps = self.inner.num_inner_steps if self.inner is not None else 0
        return self.adapted(start, episode.support, steps=steps) if steps else dict(start)

    def order_cosine(self, episodes: Sequence[Episode]) -> float:
        """Cosine between the outer gradients of first and second order, of the summed query losses; NaN where there is only one order.

        Costs both gradients, which are counted. Call it between updates: what is random in a network draws anew.
        """
        if not isinstance(self.inner, InnerSGD) or not self.inner.needs_query:
            return float("nan")
        chosen, flat = self.inner, []
        try:
            with self._kept_statistics(True):
                for second_order in (False, True):
                    self.inner = copy.copy(chosen)
                    self.inner.second_order = second_order
                    total: dict[Name, Tensor] = {}
                    for episode in episodes:
                        descent = self._reach(episode)
                        found = [(part, self._query(descent, part)) for part in episode.query]
                        losses = [loss for _, per_task in found for loss in per_task.values()]
                        if losses:
                            asked = _shapes([(part, tuple(per_task)) for part, per_task in found])
                            outer = self._outer(descent, torch.stack(losses).sum(), self._episode_wrt(episode), asked)
                            self._add(total, outer, episode.weight)
                            self.passes.backward += len(episode.query) * len(descent.reached)
                    flat.append(torch.cat([total.get(n, torch.zeros_like(p)).reshape(-1) for n, p in self.params().items()]))
        finally:
            self.inner = chosen
        return float(nn.functional.cosine_similarity(flat[0], flat[1], dim=0))

    def _one_by_one(self, episodes: Sequence[Episode]) -> Signal:
        signal = Signal()
        seen: dict[TaskName, list[Tensor]] = {}
        one_graph = len(episodes) == 1 and len(episodes[0].query) == 1
        for episode in episodes:
            descent = self._reach(episode)
            if self.inner is not None and descent.reached[-1].step and not self.inner.needs_query:
                # Phi holds no start of a head that the episode built.
                kept = frozenset(n for n in self.trainable if descent.start.get(n) is descent.phi.get(n))
                self._add(signal.common, self._outer(descent, None, kept, ()), episode.weight)
                for part in episode.support:
                    with torch.no_grad():
                        for task, loss in self.losses(descent.reached[-1].params, part).items():
                            seen.setdefault(task, []).append(loss)
                continue
            summed: list[Tensor] = []
            asked: list[Labelled] = []
            for p, part in enumerate(episode.query):
                losses = self._query(descent, part)
                tasks = tuple(losses)
                for task, loss in losses.items():
                    seen.setdefault(task, []).append(loss.detach())
                if not tasks:
                    continue
                if self.balancer.needs == "nothing" or (self.balancer.needs == "losses" and one_graph):
                    losses_T = torch.stack([losses[t] for t in tasks])
                    objective = (self._weigh(losses_T.detach(), tasks).to(losses_T) * losses_T).sum()
                    if descent.moved:
                        summed.append(objective)
                        asked.append((part, tasks))
                    else:
                        outer = self._outer(descent, objective, self._wrt(tasks), _shapes([(part, tasks)]))
                        self._add(signal.common, outer, episode.weight)
                    self.passes.backward += len(self._networks(tasks)) * len(descent.reached)
                    continue
                for i, task in enumerate(tasks):
                    wrt = self._episode_wrt(episode) if self.coupled or episode.fresh else self._wrt((task,))
                    keep = i + 1 < len(tasks) or (descent.moved and p + 1 < len(episode.query))
                    row = self._outer(descent, losses[task], wrt, _shapes([(part, (task,))]), keep=keep)
                    self._add(signal.rows.setdefault(task, {}), row, episode.weight)
                    self.passes.backward += len(descent.reached)
            if summed:
                outer = self._outer(descent, torch.stack(summed).sum(), self._episode_wrt(episode), _shapes(asked))
                self._add(signal.common, outer, episode.weight)
        signal.losses = {task: torch.stack(found).mean() for task, found in seen.items()}
        return signal

    def _at_once(self, episodes: Sequence[Episode]) -> Signal | None:
        """All episodes by one `vmap`; None where they are to be computed one by one."""
        inner = self.inner
        if not isinstance(inner, InnerSGD) or inner.engine == "loop" or not inner.num_inner_steps or not all(e.support for e in episodes):
            return None
        why = self._not_vectorised or why_not_stacked(episodes)
        if not why and inner.engine == "auto":
            if not has_vectors_only(episodes[0]):
                why = "inputs or targets are more than a vector per sample"
            elif sum(p.numel() for p in self.model.params().values()) > SMALL:
                why = f"the network has more than {SMALL:,} parameters"
        if not why:
            support = [_labelled(e.support) for e in episodes]
            query = [_labelled(e.query) for e in episodes]
            layouts = {tuple(tuple(tasks for _, tasks in parts) for parts in both) for both in zip(support, query, strict=True)}
            present = tuple(dict.fromkeys(t for _, tasks in support[0] for t in tasks))
            if len(layouts) > 1 or not support[0] or not query[0]:
                why = "episodes differ in which tasks they label"
            elif len(self._networks(present)) > 1:
                why = "its tasks share no parameter"
        if why:
            self._say(f"episodes are computed one by one: {why}", warning=inner.engine == "vmap")
            return None
        return self._vectorised(inner, episodes, support, query, present)

    def _vectorised(
        self,
        inner: InnerSGD,
        episodes: Sequence[Episode],
        support: Sequence[Sequence[Labelled]],
        query: Sequence[Sequence[Labelled]],
        present: tuple[TaskName, ...],
    ) -> Signal | None:
        phi = self.params()
        pairs = [(part, task) for part, (_, tasks) in enumerate(query[0]) for task in tasks]
        tasks = tuple(dict.fromkeys(t for _, t in pairs))
        like = next(iter(phi.values()))
        wanted = self._episode_wrt(episodes[0])
        wrt = [n for n in phi if n in wanted]
        if self.balancer.needs == "nothing":
            # Such a balancer does not look at losses.
            weights_EQ = [torch.cat([self._weigh(like.new_zeros(len(t)), t) for _, t in parts]) for parts in query]
            cotangents_ERQ = torch.stack(weights_EQ).to(like)[:, None]
        else:
            cotangents_TQ = like.new_tensor([[float(t == task) for _, t in pairs] for task in tasks])
            cotangents_ERQ = cotangents_TQ.expand(len(episodes), -1, -1)
        before, names = replace(self.passes), self._adapting(present)
        work = ("at once", _shapes(support[0]), _shapes(query[0]), cotangents_ERQ.shape, names, wanted, inner.second_order, len(phi))
        try:
            with self._flops.block(work, self.passes):
                found = differentiate(
                    inner,
                    phi,
                    support=support,
                    query=query,
                    names=names,
                    wrt=wrt,
                    cotangents_ERQ=cotangents_ERQ,
                    support_losses=self._support_losses,
                    query_losses=self.losses,
                )
        except RuntimeError as error:  # an operation that has no batching rule, or that looks at a number
            self.passes.forward, self.passes.backward = before.forward, before.backward
            self._not_vectorised = str(error).strip().splitlines()[0]
            self._say(f"episodes are computed one by one: {self._not_vectorised}", warning=True)
            return None
        # What was traced once ran for every episode.
        walks = self.passes.backward - before.backward
        points = 1 if inner.loss_weights is None else sum(w > 0 for w in inner.loss_weights)
        outer = cotangents_ERQ.shape[1] * (walks if inner.second_order else 0) + points * (
            len(pairs) if self.balancer.needs != "nothing" else sum(len(self._networks(t)) for _, t in query[0])
        )
        self.passes.forward = before.forward + len(episodes) * (self.passes.forward - before.forward)
        self.passes.backward = before.backward + len(episodes) * (walks + outer)
        if inner.diverged(found.support_EK):
            return None
        weights_E = like.new_tensor([e.weight for e in episodes])
        summed = {n: torch.tensordot(weights_E, g, dims=1) for n, g in found.gradients.items()}  # [R, ...]
        # torch.func gives zeros for what a loss does not reach; the rate of an absent task must get nothing, or decay would move it.
        rates = [n for n in summed if n not in self.model.params()]
        moved = torch.stack([summed[n].any() for n in rates]).tolist() if rates else []
        for name in (n for n, any_moved in zip(rates, moved, strict=True) if not any_moved):
            del summed[name]
        signal = Signal()
        if self.balancer.needs == "nothing":
            signal.common = {n: g[0] for n, g in summed.items()}
        else:
            for i, task in enumerate(tasks):
                reached = wanted if self.coupled else self._wrt((task,))
                signal.rows[task] = {n: g[i] for n, g in summed.items() if n in reached}
        losses_Q = found.losses_EQ.mean(0)
        for task in tasks:
            signal.losses[task] = torch.stack([losses_Q[q] for q, (_, t) in enumerate(pairs) if t == task]).mean()
        return signal

    def _reach(self, episode: Episode) -> _Descent:
        """Adapt to the episode's support; phi itself without support or steps."""
        phi = self.params()
        start, heads = self._start_heads(phi, episode)
        if self.inner is None or not episode.support:
            return _Descent(phi, start, [Reached(0, 1.0, start)], 0, heads)
        before, labelled = self.passes.backward, _labelled(episode.support)
        reached = self._descend(start, labelled, steps=self.inner.num_inner_steps, differentiable=True)
        steps = tuple(point.step for point in reached)
        # A descent that was taken back has moved nothing.
        moved = frozenset(n for n, tensor in reached[-1].params.items() if tensor is not start[n])
        key = None if heads is None else (heads, _shapes(labelled), steps, moved, self.inner.second_order)
        return _Descent(phi, start, reached, self.passes.backward - before, key)

    def _start_heads(self, phi: Params, episode: Episode) -> tuple[Params, Hashable | None]:
        """Phi with the heads that the episode builds, and what their operations depend on; None: on more than shapes."""
        if not episode.fresh:
            return phi, ()
        if self.head_init is None:
            raise ConfigError(
                f"`head_init` must be set where episodes build heads, here of {', '.join(sorted(episode.fresh))}; found none.",
                hint="head_init=closed_form, or episodes.fresh=0",
                place="head_init",
            )
        donors = tuple(t for t in self.donors if t not in episode.fresh)
        self.passes.forward += sum(task in episode.fresh for part in episode.support for task in part.tasks)
        shapes = _shapes([(part, part.tasks) for part in episode.support])
        key = ("heads", shapes, episode.fresh, torch.is_grad_enabled(), len(phi)) if self._all_known(episode) else None
        with self._flops.block(key, self.passes), self.autocast():
            return start_heads(self.model, phi, self.kinds, self.head_init, episode.support, episode.fresh, donors), key

    def _all_known(self, episode: Episode) -> bool:
        """Whether the support knows every label of the heads that it builds: else the size of a closed form depends on which."""
        asked = [(task, part.batch) for part in episode.support for task in part.tasks if task in episode.fresh]
        found = [self.kinds[task].ideal_output(batch.targets[task], batch.labelled[task])[1].all() for task, batch in asked]
        return not found or bool(torch.stack(found).all())

    def _descend(
        self, start: Params, labelled: Sequence[Labelled], *, steps: int, differentiable: bool, on_step: OnStep | None = None
    ) -> list[Reached]:
        groups = self._networks(tuple(dict.fromkeys(t for _, tasks in labelled for t in tasks)))
        if len(groups) <= 1:
            return self._descend_together(start, labelled, groups[0] if groups else (), steps, differentiable, on_step)
        found, shown = [], []
        for group in groups:
            own = [(part, kept) for part, tasks in labelled if (kept := tuple(t for t in tasks if t in group))]
            steps_shown: dict[int, Params] = {}
            shown.append(steps_shown)
            found.append(
                self._descend_together(start, own, group, steps, differentiable, steps_shown.__setitem__ if on_step is not None else None)
            )
        if on_step is not None:
            for k in range(1, steps + 1):
                on_step(k, self._merged(start, groups, [after[k] for after in shown]))
        return [
            Reached(points[0].step, points[0].weight, self._merged(start, groups, [p.params for p in points]))
            for points in zip(*found, strict=True)
        ]

    def _merged(self, start: Params, groups: Sequence[tuple[TaskName, ...]], params: Sequence[Params]) -> Params:
        changes: dict[Name, Tensor] = {}
        for group, theirs in zip(groups, params, strict=True):
            read = frozenset().union(*(self.model.reads(t) for t in group))
            changes.update({n: theirs[n] for n in read if theirs[n] is not start[n]})
        return {**start, **changes} if changes else start

    def _descend_together(
        self,
        start: Params,
        labelled: Sequence[Labelled],
        tasks: tuple[TaskName, ...],
        steps: int,
        differentiable: bool,
        on_step: OnStep | None,
    ) -> list[Reached]:
        assert self.inner is not None
        twice = differentiable and self.inner.second_order
        names, taken = self._adapting(tasks), Steps(self.inner)

        def objective(params: Params) -> Mapping[TaskName, Tensor]:
            step.done(taken.before(torch.is_grad_enabled()))
            kernel: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH) if twice else nullcontext()
            with kernel:
                return self._support_losses(params, labelled)

        def show(k: int, params: Params) -> None:
            assert on_step is not None
            with self._flops.aside():
                on_step(k, params)

        shown = None if on_step is None else show
        with self._flops.repeated(("inner step", _shapes(labelled), names, twice, len(self._phi)), self.passes) as step:
            reached = self.inner.adapt(objective, start, names, steps=steps, differentiable=differentiable, on_step=shown)
            step.done(taken.before(False))
        return reached

    def _support_losses(self, params: Params, labelled: Sequence[Labelled]) -> dict[TaskName, Tensor]:
        """Loss of each task, averaged over the parts that hold it."""
        found: dict[TaskName, list[Tensor]] = {}
        for part, tasks in labelled:
            for task, loss in self.losses(params, part, tasks).items():
                found.setdefault(task, []).append(loss)
            if torch.is_grad_enabled() and self.inner is not None:
                self.passes.backward += len(tasks) if self.inner.walks_per_task else len(self._networks(tasks))
        return {task: losses[0] if len(losses) == 1 else torch.stack(losses).mean() for task, losses in found.items()}

    def _query(self, descent: _Descent, part: Part) -> dict[TaskName, Tensor]:
        """Loss of each task that the part labels, weighted over the points reached."""
        tasks, reached = labelled_tasks(part), descent.reached
        if len(reached) == 1 and reached[0].weight == 1.0:
            return self.losses(reached[0].params, part, tasks)
        total: dict[TaskName, Tensor] = {}
        for point in reached:
            for task, loss in self.losses(point.params, part, tasks).items():
                total[task] = total[task] + point.weight * loss if task in total else point.weight * loss
        return total

    def _weigh(self, losses_T: Tensor, tasks: tuple[TaskName, ...]) -> Tensor:
        weights_T = self.balancer.weights(losses_T, tasks)
        self.weights.update(zip(tasks, weights_T, strict=True))
        return weights_T

    def _outer(
        self, descent: _Descent, loss: Tensor | None, wrt: Iterable[Name], asked: Hashable, *, keep: bool = False
    ) -> Mapping[Name, Tensor]:
        """Gradient of a loss on the query for phi; `asked` says of which tasks, and of batches of which shape."""
        wanted, phi = frozenset(wrt), descent.phi
        names = [n for n in phi if n in wanted]
        key = None if descent.key is None else ("outer", descent.key, asked, wanted, len(phi))
        with self._flops.block(key, self.passes):
            if self.inner is not None and descent.reached[-1].step:
                self.passes.backward += descent.walks if self.inner.second_order else 0
                return self.inner.outer(phi, descent.reached, loss, names, keep=keep)
            if loss is None or not loss.requires_grad:
                return {}
            names = [n for n in names if phi[n].requires_grad]
            found = torch.autograd.grad(loss, [phi[n] for n in names], retain_graph=keep, allow_unused=True)
            return {n: g for n, g in zip(names, found, strict=True) if g is not None}

    def _wrt(self, tasks: tuple[TaskName, ...]) -> frozenset[Name]:
        if tasks not in self._wanted:
            self._wanted[tasks] = self.trainable & frozenset().union(*(self.reads(t) for t in tasks))
        return self._wanted[tasks]

    def _episode_wrt(self, episode: Episode) -> frozenset[Name]:
        """What any query loss of the episode may depend on."""
        parts = (*episode.support, *episode.query)
        return self._wrt(tuple(dict.fromkeys((*(t for p in parts for t in p.tasks), *(self.donors if episode.fresh else ())))))

    def _adapting(self, tasks: tuple[TaskName, ...]) -> frozenset[Name]:
        """Names that the inner steps may change."""
        assert self.inner is not None
        if tasks not in self._moving:
            read = self.trainable & frozenset().union(*(self.model.reads(t) for t in tasks))
            self._moving[tasks] = frozenset(n for n in read if self.inner.adapts(n))
        return self._moving[tasks]

    def _networks(self, tasks: tuple[TaskName, ...]) -> list[tuple[TaskName, ...]]:
        """Groups of tasks that share parameters."""
        if tasks not in self._groups:
            self._groups[tasks] = components(self.model, tasks)
        return self._groups[tasks]

    def _shared_names(self, tasks: tuple[TaskName, ...]) -> tuple[Name, ...]:
        key = (tasks, self.coupled)
        if key not in self._shared:
            groups = self._networks(tasks)  # episodes couple what is linked already, and nothing else
            names = frozenset().union(*(shared(self, group, self.coupled) for group in groups)) & self.trainable
            self._shared[key] = tuple(n for n in self.params() if n in names)
        return self._shared[key]

    def _refuse_batch_statistics(self) -> None:
        modules = self.model.named_modules() if isinstance(self.model, nn.Module) else ()
        found = [name for name, module in modules if isinstance(module, _BatchNorm) and not module.track_running_stats]
        if found:
            raise ConfigError(
                f"batch normalisation must keep running statistics where episodes adapt, or query samples would see one another; "
                f"`{found[0]}` keeps none.",
                hint="use a network with group normalisation, such as encoder.image.norm=group",
                place=found[0],
            )

    @contextmanager
    def looking_on(self) -> Iterator[None]:
        """What is computed inside is no training: it is not counted, and moves no running statistics."""
        passes = replace(self.passes)
        with self._kept_statistics(True), self._flops.aside():
            try:
                yield
            finally:
                self.passes = passes

    @contextmanager
    def _kept_statistics(self, episodes: bool) -> Iterator[None]:
        """Hold what keeps running statistics in evaluation mode while episodes run."""
        modules = self.model.modules() if episodes and isinstance(self.model, nn.Module) else ()
        held = [m for m in modules if isinstance(m, _NormBase) and m.track_running_stats and m.training]
        for module in held:
            module.eval()
        try:
            yield
        finally:
            for module in held:
                module.train()

    def _say(self, text: str, *, warning: bool) -> None:
        if text not in self._said:
            self._said.add(text)
            self.emit(Said(text, "warning" if warning else "info"))

    @staticmethod
    def _add(total: dict[Name, Tensor], more: Mapping[Name, Tensor], factor: float | Tensor) -> None:
        plain = isinstance(factor, float) and factor == 1.0
        for name, gradient in more.items():
            scaled = gradient if plain else gradient * factor
            total[name] = total[name] + scaled if name in total else scaled


def labelled_tasks(part: Part) -> tuple[TaskName, ...]:
    """Tasks of the part that label at least one of its samples."""
    if not part.tasks:
        return ()
    found = torch.stack([part.batch.labelled[t].any() for t in part.tasks]).tolist()  # one wait for the device, not one a task
    return tuple(t for t, any_labelled in zip(part.tasks, found, strict=True) if any_labelled)


def _labelled(parts: Sequence[Part]) -> list[Labelled]:
    found = [(part, labelled_tasks(part)) for part in parts]
    return [(part, tasks) for part, tasks in found if tasks]


def _shapes(labelled: Sequence[Labelled]) -> Hashable:
    return tuple((shape(part.batch), tasks) for part, tasks in labelled)
