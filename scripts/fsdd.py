"""Spoken digits of a speaker who was never heard: leave one speaker out over all six, 5 shots a digit.

One task, so the switch `joint` changes nothing: mtl is stl, mtl_handover is stl_handover and mtl_meta is meta; nothing is pretrained here.
The corners that differ are stl (from scratch on the shots), stl_handover and meta. Curves: accuracy on the speaker's held-out clips after
0, 1, 2 ... steps of adaptation, mean over the speakers, of the optimiser that meta-validation on another speaker chose.

    python scripts/fsdd.py [--updates 200] [--out outputs/fsdd.md]

Cost: about 1 minute of one core a run, 18 runs.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import m3tl_cli

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
CORNERS = ("stl", "stl_handover", "meta")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--out", type=Path, help="also write the table here")
    asked = parser.parse_args()
    curves: dict[str, list[list[float]]] = defaultdict(list)
    chosen: dict[str, list[float]] = defaultdict(list)
    steps: tuple[int, ...] = ()
    began = time.process_time()
    for i, speaker in enumerate(SPEAKERS):
        other = SPEAKERS[(i + 1) % len(SPEAKERS)]
        for corner in CORNERS:
            run = m3tl_cli.train(
                [
                    "experiment=fsdd", f"paradigm={corner}", f"data.target_domains=[{speaker}]", f"data.validation_domains=[{other}]",
                    f"trainer.updates={asked.updates}", "tracking=off", "target.baselines=[]",
                ]
            )  # fmt: skip
            curve = next(c for c in run.results.curves if c.chosen)
            steps = curve.steps
            curves[corner].append(list(curve.means))
            chosen[corner].append(run.results.blocks["b@5"]["digit"].scores["accuracy"].value)
            print(f"{speaker} {corner}: {chosen[corner][-1]:.3f}", flush=True)
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    lines = ["| corner | " + " | ".join(f"{s} steps" for s in steps) + " | chosen |", "|---" * (len(steps) + 2) + "|"]
    for corner in CORNERS:
        cells = [f"{mean([row[k] for row in curves[corner]]):.3f}" for k in range(len(steps))]
        lines.append(f"| `{corner}` | " + " | ".join(cells) + f" | {mean(chosen[corner]):.3f} |")
    lines += ["", "| corner | " + " | ".join(SPEAKERS) + " |", "|---" * (len(SPEAKERS) + 1) + "|"]
    lines += [f"| `{corner}` | " + " | ".join(f"{v:.3f}" for v in chosen[corner]) + " |" for corner in CORNERS]
    lines += ["", f"{time.process_time() - began:.0f} s of CPU"]
    print("\n".join(lines))
    if asked.out:
        asked.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
