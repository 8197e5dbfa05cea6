"""Writes tests/golden/reduce.safetensors: PyTorch's sum, mean and max.

    python tests/oracle/reduce.py
"""
from recorder import Recorder

r = Recorder(5)
for axis in range(3):
    r.record(f"sum{axis}", lambda x: x.sum(axis), x=r.randn(3, 4, 5))
    r.record(f"mean{axis}", lambda x: x.mean(axis), x=r.randn(3, 4, 5))
    r.record(f"max{axis}", lambda x: x.amax(axis), x=r.randn(3, 4, 5))
r.record("sum", lambda x: x.sum(), x=r.randn(3, 4, 5))
r.record("mean", lambda x: x.mean(), x=r.randn(3, 4, 5))
r.save("reduce")
