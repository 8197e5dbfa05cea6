"""Writes tests/golden/assignment_pool.safetensors: pooling by assignment in PyTorch, with both divisors, of soft and of
one-hot assignments; one group of each has no token, some have less than one.

    python tests/oracle/assignment_pool.py
"""
import torch
from recorder import Recorder

r = Recorder(42)
value = r.randn(2, 13, 5)
soft = torch.softmax(2 * r.randn(2, 13, 6), -1)
soft[:, :, 1] *= 0.02  # mass below 1
hard = torch.nn.functional.one_hot(torch.arange(26).reshape(2, 13) % 3 * 2, 6).double()  # odd groups stay empty
assert ((soft.sum(1) - 1).abs() > 0.05).all() and ((hard.sum(1) - 1).abs() > 0.05).all()


def at_least_one(value, assignment):
    return assignment.transpose(1, 2) @ value / assignment.sum(1).clamp(min=1)[..., None]


def plus_epsilon(value, assignment):
    weights = assignment / (assignment.sum(1, keepdim=True) + 0.5)
    return weights.transpose(1, 2) @ value


for name, assignment in (("soft", soft), ("hard", hard)):
    r.record(f"{name}.at_least_one", at_least_one, value=value, assignment=assignment)
    r.record(f"{name}.plus_epsilon", plus_epsilon, value=value, assignment=assignment)
r.save("assignment_pool")
