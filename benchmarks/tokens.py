# mypy: ignore-errors
# (peers are optional here, and untyped)
"""Image tokens a second, and training samples a second, beside public peers of the same size.

    python benchmarks/tokens.py [--quick] [--json FILE] [--dalle-python OTHER-VENV/bin/python]

Width 512, depth 8, 8 heads, 64 text and 256 image tokens, 2,832 text entries and 8,192 codes, random weights. Every
contender lives in a process of its own, with the same threads and environment, and runs while the others wait; they
take turns, so that other load on the machine meets them alike. Ratios are medians over the turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

WIDTH, DEPTH, HEADS = 512, 8, 8
TEXT, SIDE = 64, 16
IMAGE = SIDE * SIDE
WORDS, CODES = 2_832, 8_192
VOCABULARY = WORDS + TEXT + CODES  # of peers, which have one for all, with a pad for each text position
TRAINING_BATCH = 16
WEIGHTS = DEPTH * 12 * WIDTH * WIDTH + CODES * WIDTH
"""What one step reads at the least, at any batch size: the blocks' matrices and the head over codes."""

KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""As `pinxit.training.memory` sets them while training; here for every contender."""


Precision = Literal["float32", "bf16", "int8"]


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    work: Literal["sample", "train"]
    batch: int
    precision: Precision
    tokens: int = IMAGE
    """Image tokens to sample."""

    @property
    def dtype(self) -> torch.dtype:
        """Of weights where they are sampled from; training keeps float32 weights under autocast."""
        return {"float32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[self.precision]


Run = Callable[[], object]


# The contenders. Their imports are inside: each environment has some of them.


def pinxit(case: Case) -> Run:
    """Ours, as its systems sample and its loop trains. Packing weights belongs to loading and is not counted."""
    from pinxit.models.token_transformer import Continuation, TokenTransformer, TokenTransformerConfig
    from pinxit.nn.packing import packed
    from pinxit.objectives.next_token import NextToken, NextTokenConfig
    from pinxit.tokens.sampler import Choice, sample, uniforms

    network = TokenTransformer(TokenTransformerConfig(WORDS, TEXT, CODES, (SIDE, SIDE), WIDTH, DEPTH, HEADS))
    text, image = torch.randint(WORDS, (case.batch, TEXT)), torch.randint(CODES, (case.batch, IMAGE))
    if case.work == "train":
        objective = NextToken(network.train(), NextTokenConfig())
        return training(network, lambda: objective.loss({"condition": text, "image": image}, "", 0)[0], case)
    ready = packed(network, case.dtype)
    return lambda: sample(Continuation(ready, text), uniforms(range(case.batch), case.tokens), Choice())


def gpt2(case: Case) -> Run:
    """GPT-2 of transformers, by its forward pass and the quicker of its caches, without the cost of `generate`."""
    from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, StaticCache

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=TEXT + IMAGE, n_embd=WIDTH, n_layer=DEPTH, n_head=HEADS,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model: Any = GPT2LMHeadModel(config)
    if case.work == "train":
        ids = torch.randint(VOCABULARY, (case.batch, TEXT + IMAGE))
        model.train()
        return training(model, lambda: model(ids, labels=ids).loss, case)
    if case.precision == "int8":
        raise NotImplementedError("no weights of 8 bits without other packages")
    model.to(case.dtype).train(False)
    prompt = torch.randint(WORDS, (case.batch, TEXT))

    @torch.inference_mode()
    def run(static: bool) -> None:
        cache = StaticCache(config, max_cache_len=TEXT + IMAGE) if static else DynamicCache(config=config)
        ids = prompt
        for _ in range(case.tokens):
            logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            ids = torch.multinomial(logits.float().softmax(-1), 1)

    run(static=True)
    return partial(run, min((True, False), key=lambda static: timed(partial(run, static))[0]))


def dalle_pytorch(case: Case) -> Run:
    """DALLE-pytorch 1.6.6, its cache handed through by hand: as called by users it leaves the cache unused."""
    with as_it_expects():
        from dalle_pytorch import DALLE, DiscreteVAE  # type: ignore[import-not-found]
        from dalle_pytorch.dalle_pytorch import gumbel_sample  # type: ignore[import-not-found]

    vae = DiscreteVAE(image_size=SIDE * 4, num_layers=2, num_tokens=CODES, codebook_dim=64, hidden_dim=8)
    size = {"dim": WIDTH, "depth": DEPTH, "heads": HEADS, "dim_head": WIDTH // HEADS}
    model = DALLE(vae=vae, num_text_tokens=WORDS, text_seq_len=TEXT, **size)
    text, image = torch.randint(1, WORDS, (case.batch, TEXT)), torch.randint(CODES, (case.batch, IMAGE))
    if case.work == "train":
        model.train()
        return training(model, lambda: model(text, image, return_loss=True), case)
    if case.precision == "int8":
        raise NotImplementedError("no weights of 8 bits")
    model.to(case.dtype).train(False)

    @torch.inference_mode()
    def run() -> None:
        ids, cache = text, {}  # type: ignore[var-annotated]
        for _ in range(case.tokens):
            logits = model(ids[:, :TEXT], ids[:, TEXT:], cache=cache)[:, -1]
            ids = torch.cat([ids, (gumbel_sample(logits.float()) - model.num_text_tokens)[:, None]], 1)

    return run


def memory(case: Case) -> Run:  # noqa: ARG001
    """Reading 1 GiB, as a sum does: what bounds a step, whose weights pass once."""
    return torch.ones(2**28).sum


CONTENDERS: dict[str, Callable[[Case], Run]] = {
    "pinxit": pinxit,
    "gpt2": gpt2,
    "dalle-pytorch": dalle_pytorch,
    "memory": memory,
}


def training(network: nn.Module, loss: Callable[[], Tensor], case: Case) -> Run:
    """A step: forward, backward, fused AdamW. The same for everyone."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bf16"):
            value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


@contextmanager
def as_it_expects() -> Iterator[None]:
    """What DALLE-pytorch's imports want of years ago: torchvision's operators and a module of lightning's."""
    import types

    for name in ("nms", "qnms"):  # the torchvision for this torch is one for CUDA, whose operators do not load here
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from pytorch_lightning.utilities.rank_zero import rank_zero_only  # type: ignore[import-not-found]

    moved: Any = types.ModuleType("pytorch_lightning.utilities.distributed")
    moved.rank_zero_only = rank_zero_only
    sys.modules[moved.__name__] = moved
    yield


# The worker: says what it is, then runs the cases it is sent, one at a time.


def timed(run: Run) -> tuple[float, float]:
    """Seconds by the clock, and of this process's processor time."""
    clock, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock, time.process_time() - used


def work(name: str, threads: int) -> None:
    """Reads cases from stdin as JSON, one a line, and answers each with its times or with an error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    current: Case | None = None
    for line in sys.stdin:
        case = Case(**json.loads(line))
        try:
            if case != current:
                current = None
                run = CONTENDERS[name](case)
                run()  # warm
                current = case
            answer: dict[str, object] = dict(zip(("seconds", "processor"), timed(run), strict=True))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


class Worker:
    """A contender in a process of its own."""

    def __init__(self, name: str, python: str, threads: int, environment: Mapping[str, str]) -> None:
        self.name = name
        command = [python, str(Path(__file__).resolve()), "--worker", name, "--threads", str(threads)]
        settings = {"OMP_NUM_THREADS": str(threads), "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, **settings, **environment},
        )  # fmt: skip

    def run(self, case: Case) -> dict[str, Any]:
        """What the worker answers, and as `others` the share of all cores that other processes had meanwhile."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        busy, clock = busy_seconds(), time.perf_counter()
        print(json.dumps(asdict(case)), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "ended"}
        if "processor" in answer:
            elsewhere = busy_seconds() - busy - answer["processor"]
            passed = (time.perf_counter() - clock) * (os.cpu_count() or 1)
            answer["others"] = max(0.0, elsewhere / passed)
        return answer

    def end(self) -> None:
        """Lets the process go."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def busy_seconds() -> float:
    """Processor seconds that the machine has spent so far, on everything; 0 where Linux does not tell."""
    told = Path("/proc/stat")
    if not told.exists():
        return 0.0
    user, nice, system, _, _, *rest = map(int, told.read_text().splitlines()[0].split()[1:])
    return (user + nice + system + sum(rest[:3])) / os.sysconf("SC_CLK_TCK")


# The parent: sends every case to the workers in turn.


def measure(case: Case, workers: list[Worker], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """The answers of each contender, `rounds` of them; a contender that cannot do the case has none."""
    answers: dict[str, list[dict[str, Any]]] = {}
    able = []
    for worker in workers:
        first = worker.run(case)  # builds and warms
        if "error" in first:
            print(f"# {worker.name} {case.work} {case.precision}: {first['error'][:200]}", flush=True)
        else:
            able.append(worker)
    for _ in range(rounds):
        for worker in able:
            answers.setdefault(worker.name, []).append(worker.run(case))
    return answers


def summary(case: Case, name: str, found: dict[str, list[dict[str, Any]]], label: str) -> dict[str, Any]:
    """A row of the table: medians, and ratios to GPT-2 turn by turn."""
    amount = case.batch * (case.tokens if case.work == "sample" else 1)
    rates = [amount / answer["seconds"] for answer in found[name]]
    row: dict[str, Any] = {
        "work": case.work + label, "batch": case.batch, "precision": case.precision, "contender": name,
        "unit": "tokens/s" if case.work == "sample" else "samples/s",
        "median": statistics.median(rates), "min": min(rates), "max": max(rates), "turns": len(rates),
        "processor_seconds": statistics.median(answer["processor"] for answer in found[name]),
        "others": statistics.median(answer["others"] for answer in found[name]),
    }  # fmt: skip
    if peer := found.get("gpt2"):
        for key in ("seconds", "processor"):
            ratios = [theirs[key] / ours[key] for theirs, ours in zip(peer, found[name], strict=True)]
            row["over_gpt2" if key == "seconds" else "over_gpt2_by_processor_time"] = statistics.median(ratios)
    if case.work == "sample" and name == "pinxit":
        row["bytes_per_second"] = 2**30 / statistics.median(answer["seconds"] for answer in found["memory"])
        row["of_bandwidth_limit"] = row["median"] / case.batch * WEIGHTS * case.dtype.itemsize / row["bytes_per_second"]
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| work | batch | precision | contender | median (min to max) | beside GPT-2 | of the bandwidth limit |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        beside = f"{row['over_gpt2']:.2f}" if "over_gpt2" in row and row["contender"] != "gpt2" else ""
        share = f"{row['of_bandwidth_limit']:.0%}" if "of_bandwidth_limit" in row else ""
        rate = f"{row['median']:.3g} ({row['min']:.3g} to {row['max']:.3g}) {row['unit']}"
        what = f"{row['work']} | {row['batch']} | {row['precision']} | {row['contender']}"
        lines.append(f"| {what} | {rate} | {beside} | {share} |")
    return "\n".join(lines)


def machine(threads: int) -> str:
    """Processor, threads and versions."""
    told = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in told.read_text().splitlines() if line.startswith("model name")]
    versions = [f"Python {platform.python_version()}"]
    for package in ("torch", "transformers", "pinxit"):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    waiting = os.environ.get("OMP_WAIT_POLICY", "default")
    return f"{names[0] if names else platform.processor()}, {threads} threads, waiting {waiting}; {', '.join(versions)}"


def main() -> None:
    """Measure all, print JSON lines as they come and the table at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="turns of each contender")
    parser.add_argument("--quick", action="store_true", help="2 turns, 64 of the 256 tokens")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for every contender")
    parser.add_argument("--work", choices=["sample", "train"], help="only this")
    parser.add_argument("--dalle-python", help="the Python of an environment with dalle-pytorch")
    parser.add_argument("--json", type=Path, help="also write the JSON lines here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.threads)
        return
    rounds, tokens = (2, 64) if options.quick else (options.rounds, IMAGE)
    began = time.perf_counter()
    print(f"# {machine(options.threads)}", flush=True)

    def gather(environment: Mapping[str, str]) -> list[Worker]:
        pythons = dict.fromkeys(CONTENDERS, sys.executable) | {"dalle-pytorch": options.dalle_python}
        return [Worker(name, path, options.threads, environment) for name, path in pythons.items() if path]

    rows: list[dict[str, Any]] = []

    def report(case: Case, workers: list[Worker], turns: int, label: str = "") -> None:
        found = measure(case, workers, turns)
        for name in [name for name in found if name != "memory"]:
            rows.append(summary(case, name, found, label))
            print(json.dumps(rows[-1]), flush=True)

    workers = gather({})
    if options.work != "train":
        for batch in (1, 8):
            for precision in get_args(Precision):
                report(Case("sample", batch, precision, tokens), workers, rounds)
    for worker in workers:
        worker.end()
    for label, environment, turns in ((", memory kept", KEPT_MEMORY, 3), (", memory handed back", {}, 2)):
        if options.work == "sample":
            break
        workers = gather(environment)
        for precision in get_args(Precision)[:2]:
            report(Case("train", TRAINING_BATCH, precision), workers, min(rounds, turns), label)
        for worker in workers:
            worker.end()
    print(f"\n{table(rows)}\n\n# {time.perf_counter() - began:.0f} s", flush=True)
    if options.json:
        options.json.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
