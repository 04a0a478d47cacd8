"""What a person can ask of CLIP: embeddings, labels for pictures, and the pictures nearest to a text or a picture.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision"; zero-shot labels are 3.1.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pinxit.atomic import write_atomically
from pinxit.checkpoints import catalogue
from pinxit.checkpoints.files import from_config, load_network, read_config
from pinxit.data.images import fit, opaque, to_tensor
from pinxit.data.pairs import BadSample, Pairs, open_pairs, source_name
from pinxit.errors import PinxitError
from pinxit.models.clip import CLIP, CLIPConfig
from pinxit.progress import Progress
from pinxit.systems.system import System, choose_device
from pinxit.text.captions import clean
from pinxit.text.tokenizer import Tokenizer, frame

BATCH = 64
"""Pictures or texts that go through the network at once."""

TEMPLATE = "a photo of a {}."
"""The prompt that the paper puts labels into, where a checkpoint names none of its own."""

LAYOUT = "1"

T = TypeVar("T")

logger = logging.getLogger(__name__)


class CLIPSystem(System):
    """A trained CLIP with its tokenizer. Embeddings come back on the CPU as float32 unit rows."""

    kind = "clip"

    def __init__(
        self, clip: CLIP, tokenizer: Tokenizer, device: torch.device | None = None, template: str = TEMPLATE
    ) -> None:
        known = clip.config.text.vocab_size
        if tokenizer.vocab_size != known:
            raise PinxitError(f"The tokenizer has {tokenizer.vocab_size} ids, but the text tower knows {known}.")
        self.device = device or torch.device("cpu")
        self.clip = clip.to(self.device).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.template = template
        """What labels are put into, so that they are like the captions that it has learnt from."""

    @classmethod
    def from_checkpoint(cls, folder: Path, device: torch.device) -> Self:
        """Reads config.json, clip.safetensors and tokenizer.json."""
        said = read_config(folder)
        clip = CLIP(from_config(CLIPConfig, said.get("config", {})))
        load_network(folder, "clip", clip)
        return cls(clip, Tokenizer.load(folder / "tokenizer.json"), device, said.get("template", TEMPLATE))

    @property
    def fingerprint(self) -> str:
        """A name for these weights, the same in half precision; embeddings by others must not be compared."""
        digest = hashlib.blake2b(digest_size=8)
        for projection in (self.clip.vision.projection, self.clip.text.projection):
            digest.update(projection.weight.detach().half().cpu().numpy().tobytes())
        return digest.hexdigest()

    @property
    def size(self) -> int:
        """Pixels a side that it looks at."""
        return self.clip.config.vision.size

    @property
    def shape(self) -> tuple[int]:
        """Of an embedding, d."""
        return (self.clip.config.width,)

    codes = None
    """Embeddings are numbers."""

    batch = BATCH
    """Pictures to pass at once."""

    def encode(self, images: Image.Image | Sequence[Image.Image]) -> Tensor:
        """As `encode_image`, by the name that it has in codecs."""
        return self.encode_image(images)

    @torch.no_grad()
    def encode_image(self, images: Image.Image | Sequence[Image.Image], *, unit: bool = True) -> Tensor:
        """Pictures, scaled and cropped to the network's square -> b d; one picture gives one row.

        Rows are `unit` vectors or, as some priors know them, as they come.
        """
        size = self.clip.config.vision.size
        parts = []
        for batch in _batches([images] if isinstance(images, Image.Image) else images):
            pixels = torch.stack([to_tensor(fit(opaque(image), size)) for image in batch])
            parts.append(self.clip.encode_image(pixels.to(self.device), unit=unit))
        return self._rows(parts)

    @torch.no_grad()
    def encode_text(self, texts: str | Sequence[str], *, unit: bool = True) -> Tensor:
        """Texts, cut to the network's length -> b d as of pictures; one text gives one row."""
        batches = _batches([texts] if isinstance(texts, str) else texts)
        return self._rows([self.clip.encode_text(self.ids_of(batch), unit=unit) for batch in batches])

    def ids_of(self, texts: Sequence[str]) -> Tensor:
        """Texts, cut to the network's length -> framed ids b l on its device."""
        ids = [self.tokenizer.encode_ids(clean(text)) for text in texts]
        framed = frame(ids, self.clip.config.text.length, self.tokenizer.start_id, self.tokenizer.end_id)
        return torch.from_numpy(framed).to(self.device)

    def score(self, images: Sequence[Image.Image], text: str | Sequence[str]) -> Tensor:
        """How well each picture fits the text, or its own text of as many -> b cosines in [-1, 1]."""
        texts = self.encode_text(text)
        if len(texts) not in (1, len(images)):
            raise PinxitError(f"{len(texts)} texts do not fit {len(images)} pictures; give one text, or one for each.")
        return (self.encode_image(images) * texts).sum(dim=1)

    def classify(
        self, images: Image.Image | Sequence[Image.Image], labels: Sequence[str], template: str | None = None
    ) -> list[dict[str, float]]:
        """The probability of each label, for each picture; `{}` in the template stands for the label.

        Without a template, the model's own.
        """
        template = template or self.template
        if not labels or len(set(labels)) < len(labels):
            raise PinxitError(f"Give at least one label, and each once; given: {', '.join(labels) or 'none'}.")
        if "{}" not in template:
            raise PinxitError(f"The template {template!r} has no {{}} to put the label into.")
        texts = self.encode_text([template.replace("{}", label) for label in labels])
        logits = self.clip.logit_scale.exp().cpu() * self.encode_image(images) @ texts.T  # b k
        return [dict(zip(labels, row, strict=True)) for row in logits.softmax(dim=1).tolist()]

    def build_index(self, pairs: Pairs, *, source: str = "", progress: Progress | None = None) -> Index:
        """Embeds every picture of a source. Unusable samples are left out and counted in the log.

        `source` is what the person typed to name the pairs; the index keeps it, so that its pictures can be shown.
        """
        keys: list[str] = []
        positions: list[int] = []
        faults: Counter[str] = Counter()

        def pictures() -> Iterator[Image.Image]:
            for position in range(len(pairs)):
                try:
                    sample = pairs[position]
                except BadSample as fault:
                    faults[fault.reason] += 1
                    continue
                keys.append(sample.key)
                positions.append(position)
                yield sample.image
                if progress is not None:
                    progress(position + 1, len(pairs))

        parts = [self.encode_image(batch) for batch in _batches(pictures())]
        if faults:
            listed = ", ".join(f"{reason} {count}" for reason, count in faults.most_common())
            logger.warning("Left out %d of %d samples (%s).", faults.total(), len(pairs), listed)
        if not keys:
            raise PinxitError(f"{pairs.name} has no picture that could be indexed.")
        return Index(
            keys=tuple(keys),
            positions=torch.tensor(positions),
            rows=torch.cat(parts),
            model=self.fingerprint,
            source=source or pairs.name,
            data=pairs.fingerprint,
        )

    def _rows(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts).float().cpu() if parts else torch.empty(0, self.clip.config.width)


class Match(NamedTuple):
    """A picture found: its key, its position in the source, and its cosine with the query."""

    key: str
    position: int
    score: float


@dataclass(frozen=True, eq=False)
class Index:
    """The embeddings of a source's pictures, to be searched and kept."""

    keys: tuple[str, ...]
    positions: Tensor
    """Where each picture is in its source, int64 n."""
    rows: Tensor
    """Float32 n d, unit rows."""
    model: str
    """Fingerprint of the CLIP that made the rows."""
    source: str
    """What names the source, as `open_pairs` takes it; of a saved index the name without its folders."""
    data: str
    """Fingerprint of the source."""

    def pictures(self, matches: Sequence[Match]) -> list[Image.Image]:
        """The pictures of matches, read from the source again; refused where it is no longer the same."""
        try:
            pairs = open_pairs(self.source, captioned=False)
        except PinxitError as fault:
            raise PinxitError(
                f"The pictures of the index, {self.source!r}, cannot be opened here. An index keeps their name and not "
                f"their path: go to the folder that holds them, or build the index again."
            ) from fault
        if pairs.fingerprint != self.data:
            raise PinxitError(f"{self.source!r} has changed since it was indexed. Build the index again.")
        return [pairs[match.position].image for match in matches]

    def search(self, query: Tensor, k: int = 5) -> list[Match]:
        """The k pictures nearest to a query embedding (d, or 1 d), best first."""
        scores, places = (self.rows @ query.reshape(-1)).topk(min(k, len(self.keys)))
        return [
            Match(self.keys[place], int(self.positions[place]), score)
            for place, score in zip(places.tolist(), scores.tolist(), strict=True)
        ]

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file, whole or not at all."""
        path = Path(path)
        keys = torch.frombuffer(bytearray(json.dumps(self.keys).encode()), dtype=torch.uint8)
        tensors = {"rows": self.rows.contiguous(), "positions": self.positions, "keys": keys}
        told = {"layout": LAYOUT, "model": self.model, "source": source_name(self.source), "data": self.data}
        try:
            write_atomically(path, save(tensors, metadata=told))
        except (OSError, SafetensorError) as fault:
            raise PinxitError(f"Could not write {path}: {fault}.") from fault

    @classmethod
    def load(cls, path: str | Path) -> Index:
        """Reads what `save` wrote."""
        try:
            with safe_open(path, framework="pt") as file:
                told = file.metadata() or {}
                rows, positions, keys = (file.get_tensor(name) for name in ("rows", "positions", "keys"))
            names = tuple(json.loads(keys.numpy().tobytes()))
            if told.get("layout") != LAYOUT or not len(names) == len(rows) == len(positions):
                raise ValueError("it has another layout")
            return cls(names, positions, rows, told["model"], told["source"], told["data"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as fault:
            raise PinxitError(f"{path} cannot be read as a search index: {fault}. Build it again.") from fault


def load_clip(name: str | Path, device: str | torch.device | None = None) -> CLIPSystem:
    """Opens a CLIP, a checkpoint of its own or the `clip` part of a system, by the names that `pinxit.load` takes."""
    found = catalogue.find(name)
    folder = found.folder
    kind = read_config(folder)["kind"]
    if kind != CLIPSystem.kind:
        folder = catalogue.part(folder, CLIPSystem.kind)
        if not (folder / "config.json").is_file():
            raise PinxitError(f"{found.name} is of kind {kind} and has no CLIP in it. Give a model that has one.")
    system = CLIPSystem.from_checkpoint(folder, choose_device(device))
    system.name = found.name
    return system


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Lists of at most `BATCH` items, in order."""
    rest = iter(items)
    while batch := list(itertools.islice(rest, BATCH)):
        yield batch
