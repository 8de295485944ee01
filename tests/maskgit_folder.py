"""The tiny published files of a MaskGIT, in folders as users have them."""

import json
import shutil
from pathlib import Path

import torch

DATA = Path(__file__).parent / "data" / "maskgit"
BASE, HEAD = DATA / "MaskGIT_ImageNet_tiny.pth", DATA / "maskgit-shortcut.pth"
N_HEADS = json.loads((DATA / "meta.json").read_text())["config"]["n_heads"]


def published(folder: Path, base: str = ".", vqgan: str = "VQGAN") -> Path:
    """A folder as the published files lie in it, and the config.json that tells the number of heads."""
    (folder / base).mkdir(parents=True, exist_ok=True)
    shutil.copy(BASE, folder / base)
    shutil.copytree(DATA / "vqgan", folder / vqgan)
    (folder / base / "config.json").write_text(json.dumps({"model_type": "maskgit", "n_heads": N_HEADS}))
    return folder


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
