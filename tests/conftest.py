import os

# The tests' networks are tiny: on two busy cores, threads that wait for each other made one training step take 5 s, not
# 0.04 s. Set before torch is imported; the commands that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
