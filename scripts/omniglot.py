"""Error on Omniglot's 20 official one-shot runs after training on the two small background sets, checkpoint chosen on held-out characters.

    .venv/bin/python scripts/omniglot.py protonet                 # experiment=omniglot_protonet, seeds 1 2 3
    .venv/bin/python scripts/omniglot.py maml --seeds 1 --updates 200

Each run is 20-way 1-shot, 20 images to classify: 400 trials, so that one seed's error of 20 % has a standard error of 2 points.
References: modified Hausdorff distance 38.8 %, ProtoNet trained on 5 alphabets about 30, ConvNet 23, people 4.5 (Lake et al., Science 2015,
and "The Omniglot challenge: a 3-year progress report", 2019). Targets: ProtoNet at most 20 %, MAML at most 30 %, mean of 3 seeds.

Parts and numbers are those of the config. The choice of the checkpoint sees the held-out characters only, never the runs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from _timing import machine
from hydra import compose, initialize_config_dir
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from m3tl_cli.assembly import Experiment, make
from m3tl_cli.core.contracts import Episode
from m3tl_cli.episodes.base import EpisodeSampler
from m3tl_cli.head_init.base import HeadInit
from m3tl_cli.paradigm.engine import Engine
from m3tl_cli.paradigm.heads import start_heads

CONF = Path(__file__).resolve().parents[1] / "conf"
WAY = "way"


def error(engine: Engine, episodes: Sequence[Episode]) -> float:
    """Share of the queries that are wrong after adaptation, averaged over episodes."""
    wrong, steps = [], engine.inner.num_inner_steps if engine.inner else 0
    for episode in episodes:
        params = engine.params()
        if engine.head_init is not None:
            with torch.no_grad():
                params = start_heads(engine.model, params, engine.kinds, engine.head_init, episode.support, frozenset({WAY}))
        params = engine.adapted(params, episode.support, steps=steps)
        (part,) = episode.query
        with torch.no_grad():
            output = engine.model.outputs(params, part.batch, (WAY,))[WAY]
        wrong.append(float((output.argmax(1) != part.batch.targets[WAY]).float().mean()))
    return statistics.mean(wrong)


def train(method: str, seed: int, overrides: Sequence[str], every: int) -> tuple[float, float]:
    """Train one seed.

    Returns:
        Error on held-out characters and on the official runs, at the checkpoint where the former was the least.
    """
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[f"experiment=omniglot_{method}", f"seed={seed}", f"data.seed={seed}", *overrides])
    parts = Experiment.from_config(cfg, lambda data: data.prepare())
    torch.set_num_threads(cfg.trainer.threads)
    data, model = parts.data, parts.model
    task = data.tasks[WAY]
    engine = Engine(
        model=model,
        kinds=parts.kinds,
        balancer=parts.balancer,
        trainable=model.reads(WAY),
        inner=parts.inner,
        head_init=make(cfg.head_init, HeadInit) if cfg.episodes.fresh else None,
    )
    sampler = make(cfg.episodes, EpisodeSampler, pool=data.pool("train"), tasks=(task,), seed=seed, single=True)
    asked = {"num_shots": cfg.episodes.num_shots, "num_query": cfg.target.num_query, "per_class": True, "seed": seed}
    held_out = data.episodes("validation", [task], number=cfg.target.num_validation, **asked)
    official = data.episodes("target", [task], number=20, **asked)
    params = engine.params()
    optimizer = parts.optimizer.build(params)
    started, best, chosen = time.process_time(), (2.0, 2.0), 0
    for step in range(cfg.trainer.updates):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * parts.scheduler.factor(step, cfg.trainer.updates)
        signal = engine.signal(sampler.draw(step))
        gradient = engine.gradient(signal)
        for name, param in params.items():
            param.grad = gradient.get(name)
        if cfg.trainer.clip is not None:
            clip_grads_with_norm_(params.values(), cfg.trainer.clip, get_total_norm(list(gradient.values())))
        optimizer.step()
        if (step + 1) % every == 0 or step + 1 == cfg.trainer.updates:
            found = error(engine, held_out)
            if found < best[0]:
                best, chosen = (found, error(engine, official)), step + 1
            loss = float(signal.losses[WAY])
            print(
                f"  {step + 1:5d}  loss {loss:.3f}  held out {100 * found:5.1f} %  "
                f"best {100 * best[0]:5.1f} at {chosen}  CPU {time.process_time() - started:.0f} s",
                flush=True,
            )
    return best


def main() -> None:
    """Print the error of each seed, and their mean."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=["protonet", "maml"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--updates", type=int, help="of each seed, instead of the config's")
    parser.add_argument("--every", type=int, default=100, help="updates between looks at the held-out characters")
    parser.add_argument("overrides", nargs="*", default=[], help="of the config, such as inner.inner_lr=0.2")
    asked = parser.parse_intermixed_args()
    overrides = [*asked.overrides, *([f"trainer.updates={asked.updates}"] if asked.updates else [])]
    print(machine())
    errors = []
    for seed in asked.seeds:
        held_out, official = train(asked.method, seed, overrides, asked.every)
        errors.append(100 * official)
        print(f"{asked.method}, seed {seed}: {100 * official:.1f} % error on the 20 runs ({100 * held_out:.1f} held out)", flush=True)
    print(f"{asked.method}: mean {statistics.mean(errors):.1f} % of {len(errors)} seeds, {min(errors):.1f} to {max(errors):.1f}")


if __name__ == "__main__":
    main()
