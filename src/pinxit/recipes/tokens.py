"""Systems that draw tokens, stage by stage: the codes of all pictures, a network over them, a folder of all parts.

The codec before them is trained by `recipes.codecs`; the recipes themselves are those of each system.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from pinxit.checkpoints.files import to_config
from pinxit.data.augment import moved
from pinxit.data.images import Colour, fit, grid
from pinxit.data.recolour import recolour, recolourable
from pinxit.data.sample import BadSample, Captions, Pairs, Sample
from pinxit.data.views import VIEWS, View
from pinxit.errors import PinxitError
from pinxit.jobs import encode
from pinxit.jobs.encode import Encoded
from pinxit.models.token_transformer import TokenTransformerConfig
from pinxit.objectives.masked_tokens import MaskedTokens, MaskedTokensConfig
from pinxit.objectives.next_token import NextToken, NextTokenConfig
from pinxit.objectives.objective import Objective
from pinxit.progress import shown, silent
from pinxit.recipes.codecs import VALIDATION_BATCH
from pinxit.recipes.conditions import asked_by
from pinxit.recipes.recipe import Context, DataConfig, Recipe, Run, held_batches
from pinxit.systems.codec import Codec, read_codec_config
from pinxit.systems.encoder import open_encoder, read_size
from pinxit.systems.system import Settings
from pinxit.systems.token_drawing import DEFAULTS, PRIORS, CodesNetworkConfig, TokenDrawer, prior_kind

# The codes, once.


@dataclass(frozen=True)
class Versions:
    """Each of the pairs as it is, then `moves` times moved, and where it can be recoloured `colours` times so as well.

    A version is always the same one.
    """

    pairs: Pairs
    moves: int
    colours: int
    background: Colour
    places: tuple[tuple[int, int], ...]
    """Position in the pairs, and the number of the version."""
    view: View | None = None
    """What is shown in the place of each, once it is scaled to `size`."""
    size: int = 0

    @classmethod
    def of(cls, pairs: Pairs, moves: int, colours: int, background: Colour) -> Versions:
        """Looks through the captions for what can be recoloured."""

        def count(index: int) -> int:
            try:
                return 1 + moves + (colours if colours and recolourable(pairs.captions_at(index)) else 0)
            except BadSample:
                return 1

        places = tuple((i, version) for i in range(len(pairs)) for version in range(count(i)))
        return cls(pairs, moves, colours, background, places)

    @property
    def name(self) -> str:
        return self.pairs.name

    @property
    def fingerprint(self) -> str:
        return self.pairs.fingerprint

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        sample = self._varied(*self.places[index])
        return replace(sample, image=VIEWS[self.view](fit(sample.image, self.size))) if self.view else sample

    def _varied(self, position: int, version: int) -> Sample:
        sample = self.pairs[position]
        if version == 0:
            return sample
        rng = np.random.default_rng([position, version])
        if version > self.moves:
            sample = recolour(sample, rng)
        if self.moves:
            image = moved(sample.image, rng, scale=SCALE, shift=SHIFT, background=self.background)
            sample = replace(sample, image=image)
        return replace(sample, key=f"{sample.key}#{version}")

    def captions_at(self, index: int) -> Captions:
        return self[index].captions

    def meta_at(self, index: int) -> Mapping[str, Any]:
        return self[index].meta


SCALE, SHIFT = 0.08, 0.06
"""How far a version is moved: by a few pixels, which changes all its codes."""


@dataclass(frozen=True)
class TokensStage:
    """The codes of all pictures, and of varied versions of them."""

    name: str
    data: DataConfig
    moves: int = 0
    """How many more times a picture is encoded a little moved and scaled; for drawings on a plain ground."""
    colours: int = 0
    """How many more times it is encoded in other colours, where its captions allow that (`data.recolour`)."""
    view: View | None = None
    """What is taken from each picture and encoded in its place (`data.views`)."""
    encoder: str = "dvae"
    """The stage before that makes the codes: a codec, or a CLIP for embeddings."""
    summary: str = "Encode the pictures once and keep the codes."

    settings: ClassVar[tuple[str, ...]] = ("data", "moves", "colours", "view")

    def done(self, context: Context) -> bool:
        """Whether all codes are there, from this source, these settings and this encoder."""
        try:
            made_from = encode.source_of(context.out)
            return made_from is not None and made_from == self._said(context, self._pairs(context))
        except PinxitError:
            return False

    def run(self, context: Context) -> None:
        """Encodes with the pipeline's encoder; the processes share out the parts."""
        world = context.world
        pairs = self._pairs(context)
        encoder = open_encoder(context.model(self.encoder), world.device)
        versions = Versions.of(pairs, self.moves, self.colours, self.data.background)
        if self.view:
            versions = replace(versions, view=self.view, size=encoder.size)
        said = self._said(context, pairs)
        with shown("encoding") if world.leads else silent("encoding") as progress:
            encode.encode_parts(versions, encoder, context.out, said, progress, rank=world.rank, size=world.size)
        world.wait()
        if world.leads:
            encode.conclude(versions, encoder, context.out, said)
        world.wait()

    def _pairs(self, context: Context) -> Pairs:
        folder = context.model(self.encoder)
        if self.encoder != "clip":
            read_codec_config(folder)  # which refuses a CLIP that was given for the codec
        return context.pairs(self.data, read_size(folder))

    def _said(self, context: Context, pairs: Pairs) -> dict[str, Any]:
        recipe = {"data": to_config(self.data), "moves": self.moves, "colours": self.colours}
        if self.view:
            recipe["view"] = self.view
        return {"data": context.describe(pairs), "recipe": recipe, "codec": context.fingerprint(self.encoder)}


# The network over them.


def build_prior(recipe: Recipe, context: Context, encoded: Encoded, *, codec: str = "dvae") -> Run:
    """The network over the codes that the stage before has kept; `codec` is the stage that made them."""
    model, wanted = recipe.model, recipe.objective
    assert isinstance(model, CodesNetworkConfig)
    if (model.image_vocabulary, model.shape) != (encoded.codes, encoded.shape):
        sides = "grid" if isinstance(model, TokenTransformerConfig) else "grids"
        raise PinxitError(
            f"The codes are {encoded.shape} of {encoded.codes}, the network expects {model.shape} of "
            f"{model.image_vocabulary}. Set model.{sides} and model.image_vocabulary to fit."
        )
    if (model.order == "masked") != isinstance(wanted, MaskedTokensConfig):
        raise PinxitError(
            f"model.order={model.order} does not go with {type(wanted).__name__}: the network would be shown what it "
            "is to tell. The recipes maskgit-transformer and taming-transformer have what goes together."
        )
    draws = Codec.from_checkpoint(context.model(codec), torch.device("cpu"))
    training, held = encoded.hold_back(recipe.data.validation)
    asked = asked_by(model, recipe.data, context, training, held)
    kind = prior_kind(asked.config)
    network = PRIORS[kind].network(asked.config)

    def paint() -> Image.Image:
        # On a plain ground the pixel that begins a thing is always among the least likely, so a palette needs all.
        settings = Settings(**{**DEFAULTS, "top_p": None if draws.kind == "palette" else 0.95})
        codes = TokenDrawer(network).draw(asked.previews, range(len(asked.previews)), settings)
        return grid(draws.decode(codes.cpu()), 8)

    objective: Objective
    if isinstance(wanted, MaskedTokensConfig):
        objective = MaskedTokens(network, wanted, paint)
    else:
        assert isinstance(wanted, NextTokenConfig)
        objective = NextToken(network, wanted, paint, PRIORS[kind].file)
    return Run(
        objective=objective,
        samples=training,
        transform=asked.training,
        config={"kind": kind, "config": to_config(asked.config), **asked.said},
        validation=held_batches(held, asked.validation, VALIDATION_BATCH),
        tokenizer=asked.tokenizer,
    )
