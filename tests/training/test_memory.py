import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from pinxit.training.memory import keep_freed_memory
assert keep_freed_memory()
def work():
    for _ in range(20):
        torch.empty(8_000_000).zero_()  # 32 MB, above every default threshold
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_blocks_are_not_fetched_again() -> None:
    """Fetched anew, the 20 blocks would cost 8,000 faults each."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 8_000
