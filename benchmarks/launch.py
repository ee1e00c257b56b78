"""Run a command and print its time, its processors' time and its peak memory as JSON.

    python -S benchmarks/launch.py COMMAND...

A process of its own: what the system reports as a command's peak memory includes that of the
process that started it.
"""

import json
import os
import subprocess
import sys
import time

start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
wall = time.perf_counter() - start
process.returncode = os.waitstatus_to_exitcode(status)
values = {
    "wall_ms": round(1e3 * wall, 1),
    "cpu_ms": round(1e3 * (used.ru_utime + used.ru_stime), 1),
    "peak_mb": round(used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3), 1),
}
print(json.dumps(values))
sys.exit(process.returncode)
