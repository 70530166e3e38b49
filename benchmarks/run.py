"""Run all benchmarks in sequence, each in its own process, except those that train for hours.

This takes about forty minutes. The long ones are time_to_quality.py and recipe_choices.py.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BENCHMARKS = [
    ["network_speed.py"],
    ["data_feed.py"],
    ["checkpoint_cost.py"],
    ["memory.py"],
    ["memory_of_attention.py"],
    ["evaluation.py"],
    ["quality.py", "--recipe", "digits"],
    ["quality.py", "--recipe", "digits-long"],
    ["table.py"],
]

for command in BENCHMARKS:
    print(f"\n{' '.join(command)}", flush=True)
    subprocess.run([sys.executable, str(HERE / command[0]), *command[1:]], check=True)
