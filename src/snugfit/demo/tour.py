"""`make demo`: the main path on a real model, with the commands a user would type."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

# demo-moe is 15.6 MiB in bfloat16; this is what it is to fit into.
BUDGET = "6MiB"


def steps(out: Path) -> list[list[str]]:
    return [
        ["inspect", "demo-moe"],
        ["fit", "demo-moe", "-o", str(out), "--size", BUDGET],
        ["run", str(out), "import os\nimport sys\n\ndef main(", "-n", "48", "--temperature", "0"],
    ]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        for step in steps(Path(folder) / "demo-moe-fitted.gguf"):
            shown = " ".join(repr(word) if " " in word or "\n" in word else word for word in step)
            print(f"\n$ snugfit {shown}", flush=True)
            status = subprocess.run([sys.executable, "-m", "snugfit.cli.main", *step]).returncode
            if status:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
