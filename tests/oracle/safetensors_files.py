"""Writes tests/golden/safetensors/: files of the reference library (pip install safetensors torch) that the C++
reader must understand, and that the C++ writer must reproduce byte for byte.

    python tests/oracle/safetensors_files.py [folder]
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file

folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "golden" / "safetensors")
folder.mkdir(parents=True, exist_ok=True)

DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I64": torch.int64,
          "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U64": torch.uint64, "U32": torch.uint32,
          "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool}


def values(name):
    """0, 1, 2, … 5 (booleans: odd or even), shifted down by 2.5 where the type is floating, by 3 where it is signed."""
    counting = torch.arange(6)
    if name[0] in "FB" and name != "BOOL":
        return (counting.double() - 2.5).to(DTYPES[name])
    if name == "BOOL":
        return counting % 2 == 1
    return (counting - 3 if name[0] == "I" else counting).to(DTYPES[name])


tensors = {}
for name in DTYPES:
    tensors[name + ".matrix"] = values(name).reshape(2, 3).contiguous()
    tensors[name + ".scalar"] = values(name)[5].clone()
    tensors[name + ".empty"] = values(name)[:0].reshape(0, 4).clone()
save_file(tensors, folder / "all_dtypes.safetensors", metadata={"format": "pt"})

shards = {"model-00001-of-00002.safetensors": {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3, dtype=torch.int32)},
          "model-00002-of-00002.safetensors": {"c": torch.tensor([[4.0], [5.0]], dtype=torch.float16)}}
(folder / "sharded").mkdir(exist_ok=True)
weight_map = {}
for file, content in shards.items():
    save_file(content, folder / "sharded" / file, metadata={"format": "pt"})
    weight_map.update({name: file for name in content})
index = {"metadata": {"total_size": 16}, "weight_map": weight_map}
(folder / "sharded" / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
