"""Every benchmark but those that train for hours, one after the other, each in its own process.

Takes about forty minutes. The others are time_to_quality.py and recipe_choices.py.
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
