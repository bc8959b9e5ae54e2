"""The ten settings of the cube, beside one another: mean error reduction per block, in percent, and what each cost.

    m3tl ablate 'seeds=[1]' name=cube
    python scripts/cube_table.py outputs/cube/*-ablation

One line per setting, means over the seeds that are there; a description, not a verdict: that takes six seeds or more and `m3tl compare`.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from m3tl_cli.comparison.cells import arm_order
from m3tl_cli.core.results import Results, block_order, mean, total_flops


def reduction(results: Results, block: str) -> float:
    """Mean over the tasks of the error reduction of the primary metric."""
    return 100 * mean(t.scores[t.primary].error_reduction for t in results.blocks[block].values())


def main() -> None:
    found: dict[str, list[Results]] = defaultdict(list)
    for folder in sys.argv[1:]:
        for file in sorted(Path(folder).glob("**/results.json")):
            results = Results.read(file)
            found[results.paradigm].append(results)
    blocks = sorted({b for runs in found.values() for r in runs for b in r.blocks if not b.startswith(("a@", "old"))}, key=block_order)
    print(f"| setting | seeds | {' | '.join(blocks)} | networks | parameters | TFLOP | minutes |")
    print("|---" * (len(blocks) + 6) + "|")
    for setting in sorted(found, key=lambda s: arm_order(s, {})):
        runs = found[setting]
        cells = [f"{mean(reduction(r, b) for r in runs if b in r.blocks):.1f}" for b in blocks]
        cost = runs[0].cost
        operations = sum(total_flops(r.stages) for r in runs) / len(runs)
        tera = f"{operations / 1e12:.1f}" if operations else ""
        # Pretrained encoders are made once and read by the others: everyone pays for them here.
        minutes = sum(s.seconds for r in runs for s in r.stages) / len(runs) / 60
        print(f"| `{setting}` | {len(runs)} | {' | '.join(cells)} | {cost.networks} | {cost.parameters:,} | {tera} | {minutes:.1f} |")


if __name__ == "__main__":
    main()
