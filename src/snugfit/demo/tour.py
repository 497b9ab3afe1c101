"""`make demo`: the main path on a real model, with the commands a user would type."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# demo-moe is 15.6 MiB in bfloat16; this is what it is to fit into.
BUDGET = "6MiB"
PROMPT = 'def read(path):\n    """Return the contents of the file."""\n    with open('
OUT = Path("build") / "demo-moe-fitted.gguf"


STEPS = (
    ("inspect", "demo-moe"),
    ("fit", "demo-moe", "-o", str(OUT), "--size", BUDGET),
    ("run", str(OUT), PROMPT, "-n", "56", "--seed", "1"),
)


def main() -> int:
    OUT.parent.mkdir(exist_ok=True)
    for step in STEPS:
        shown = " ".join(repr(word) if " " in word or "\n" in word else word for word in step)
        print(f"\n$ snugfit {shown}", flush=True)
        status = subprocess.run([sys.executable, "-m", "snugfit.cli.main", *step]).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
