"""Taming transformers and MaskGIT: a VQGAN, and a transformer over its codes, in turn or in any order.

pinxit train taming --data SRC --out runs/taming
pinxit train maskgit --data SRC --out runs/maskgit --part codec=runs/taming/codec
pinxit generate "a red apple" --model runs/maskgit --steps 8
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from pinxit.jobs.encode import Encoded
from pinxit.models import token_transformer
from pinxit.objectives.masked_tokens import MaskedTokensConfig
from pinxit.objectives.next_token import NextTokenConfig
from pinxit.recipes.clip import clip, clip_tiny
from pinxit.recipes.codecs import vqgan_recipe, vqgan_tiny
from pinxit.recipes.conditions import (
    CodesDataConfig,
    EmbeddingDataConfig,
    LabelDataConfig,
    TextDataConfig,
    ViewDataConfig,
)
from pinxit.recipes.model import ModelStage
from pinxit.recipes.pipeline import Pipeline
from pinxit.recipes.recipe import UNMEASURED, Context, DataConfig, Recipe, Stage
from pinxit.recipes.tokens import TokensStage, build_prior
from pinxit.training.loop import TrainingConfig
from pinxit.training.optimizers import OptimizerConfig

PARTS = ("codec", "clip", "transformer")
TOKENS = TokensStage(name="taming-tokens", data=DataConfig(), encoder="codec")


def taming_transformer(size: str = "small-64") -> Recipe:
    """The transformer over the codes of any codec, after texts."""
    return Recipe(
        name="taming-transformer",
        summary="The transformer of Taming: captions to the codes of a VQGAN.",
        hardware="2 cores",
        hours=None,
        expected=UNMEASURED,
        model=replace(token_transformer.SIZES[size], predicts_condition=False),
        objective=NextTokenConfig(keep=0.9),
        data=TextDataConfig(),
        optimizer=OptimizerConfig(lr=2e-3, betas=(0.9, 0.95), matrices="muon", weight_decay=0.01, warmup=300),
        training=TrainingConfig(steps=10_000, batch_size=64, ema_decay=0.999),
        learns_from=lambda recipe, context: Encoded.load(context.part("tokens")),  # noqa: ARG005
        build=partial(build_prior, codec="codec"),
        needs=("tokens",),
        captioned=True,
    )


def taming_transformer_tiny() -> Recipe:
    """The same in seconds."""
    recipe = taming_transformer("tiny-32")
    return replace(
        recipe,
        name="taming-transformer-tiny",
        summary="The recipe taming-transformer over 8x8 of 128 codes, in seconds.",
        hardware="1 core",
        data=TextDataConfig(captions={"short": 1.0}, bpe_dropout=0.0, validation=64),
        optimizer=replace(recipe.optimizer, lr=4e-3, warmup=20),
        training=replace(recipe.training, steps=800, batch_size=32, ema_decay=0.98),
    )


def maskgit_transformer(size: str = "small-64") -> Recipe:
    """The same transformer, which tells hidden codes from all others."""
    recipe = taming_transformer(size)
    return replace(
        recipe,
        name="maskgit-transformer",
        summary="The transformer of MaskGIT: hidden codes from captions and all other codes.",
        model=replace(recipe.model, order="masked"),
        objective=MaskedTokensConfig(),
    )


def maskgit_transformer_tiny() -> Recipe:
    """The same in seconds."""
    tiny, recipe = taming_transformer_tiny(), maskgit_transformer("tiny-32")
    return replace(
        tiny,
        name="maskgit-transformer-tiny",
        summary="The recipe maskgit-transformer over 8x8 of 128 codes, in seconds.",
        model=recipe.model,
        objective=recipe.objective,
    )


def taming() -> Pipeline:
    """All of it at 64 pixels, on pictures of your own."""
    return Pipeline(
        name="taming",
        summary="Taming transformers at 64 pixels: a VQGAN, and pictures from text over its codes.",
        hardware="2 cores",
        hours=None,
        expected=UNMEASURED,
        stages={
            "codec": vqgan_recipe(),
            "tokens": TOKENS,
            "clip": clip(),
            "transformer": taming_transformer(),
            "model": ModelStage(name="taming-model", kind="taming", parts=PARTS),
        },
    )


def taming_tiny() -> Pipeline:
    """All of it at 32 pixels, in about a minute."""
    return replace(
        taming(),
        name="taming-tiny",
        summary="Taming at 32 pixels in a minute, for tests and first tries.",
        hardware="1 core",
        stages={
            **taming().stages,
            "codec": vqgan_tiny(),
            "clip": clip_tiny(),
            "transformer": taming_transformer_tiny(),
        },
    )


ALONE = ("codec", "transformer")


def taming_unconditional() -> Pipeline:
    """Pictures like those of the source."""
    return _for(
        "unconditional",
        "Taming transformers for nothing: pictures like those of the source.",
        CodesDataConfig(),
        {},
        ALONE,
        condition_length=1,
    )


def taming_class() -> Pipeline:
    """Pictures of a class, by its name."""
    return _for(
        "class",
        "Taming transformers for classes, which the source tells beside captions.",
        LabelDataConfig(),
        {},
        ALONE,
    )


def taming_clip() -> Pipeline:
    """Learnt from pictures alone, painted from texts: embeddings of both lie in the same space."""
    return _for(
        "clip",
        "Taming transformers for CLIP's embeddings: learns from pictures' own, draws from those of texts.",
        EmbeddingDataConfig(),
        {"clip": clip(), "embeddings": replace(TOKENS, name="taming-embeddings", encoder="clip")},
        PARTS,
        condition_length=1,
    )


def taming_edges() -> Pipeline:
    """Pictures from their edges; with `--set views.view=low` or `lower` from another view of them."""
    return _for(
        "edges",
        "Taming transformers for another picture: its edges, itself at a low resolution, its lower half.",
        ViewDataConfig(),
        {"views": replace(TOKENS, name="taming-views", view="edges")},
        ALONE,
    )


def _for(
    condition: str,
    summary: str,
    data: CodesDataConfig,
    before: dict[str, Stage],
    parts: tuple[str, ...],
    **model: int,
) -> Pipeline:
    """The pipeline for another condition than texts; `before` are the stages that it needs besides."""
    whole, transformer, name = taming(), taming_transformer(), f"taming-{condition}"
    beside = next((name for name in ("embeddings", "views") if name in before), None)
    return replace(
        whole,
        name=name,
        summary=summary,
        stages={
            "codec": whole.stages["codec"],
            "tokens": TOKENS,
            **before,
            "transformer": replace(
                transformer,
                name=f"{name}-transformer",
                summary=f"The transformer of {name}, over the codes of a VQGAN.",
                model=replace(transformer.model, **model),
                data=data,
                learns_from=partial(_codes, beside),
                needs=("tokens",) if beside is None else ("tokens", beside),
                captioned=False,
            ),
            "model": ModelStage(name=f"{name}-model", kind="taming", parts=parts),
        },
    )


def _codes(beside: str | None, recipe: Recipe, context: Context) -> Encoded:  # noqa: ARG001
    """The codes, with those of another stage beside them."""
    encoded = Encoded.load(context.part("tokens"))
    return encoded if beside is None else encoded.beside(Encoded.load(context.part(beside)))


def taming_unconditional_tiny() -> Pipeline:
    """The same at 32 pixels."""
    return _tiny(taming_unconditional())


def taming_class_tiny() -> Pipeline:
    """The same at 32 pixels."""
    return _tiny(taming_class())


def taming_clip_tiny() -> Pipeline:
    """The same at 32 pixels."""
    return _tiny(taming_clip())


def taming_edges_tiny() -> Pipeline:
    """The same at 32 pixels."""
    return _tiny(taming_edges())


def _tiny(whole: Pipeline) -> Pipeline:
    """The tiny parts of `taming_tiny` in the place of the others."""
    small, transformer = taming_tiny(), whole.stages["transformer"]
    assert isinstance(transformer, Recipe)
    tiny = taming_transformer_tiny()
    length = min(tiny.model.condition_length, transformer.model.condition_length)
    return replace(
        whole,
        name=f"{whole.name}-tiny",
        summary=f"The recipe {whole.name} at 32 pixels in a minute, for tests and first tries.",
        hardware="1 core",
        stages={
            **whole.stages,
            **{name: small.stages[name] for name in ("codec", "clip") if name in whole.stages},
            "transformer": replace(
                tiny,
                name=f"{transformer.name}-tiny",
                summary=f"The recipe {transformer.name} over 8x8 of 128 codes, in seconds.",
                model=replace(tiny.model, condition_length=length),
                data=replace(transformer.data, validation=64),
                learns_from=transformer.learns_from,
                needs=transformer.needs,
                captioned=False,
            ),
        },
    )


def maskgit() -> Pipeline:
    """The same, drawn in a few steps."""
    return replace(
        taming(),
        name="maskgit",
        summary="MaskGIT at 64 pixels: pictures from text in a few steps over a VQGAN's codes, and parts anew.",
        stages={
            **taming().stages,
            "transformer": maskgit_transformer(),
            "model": ModelStage(name="maskgit-model", kind="maskgit", parts=PARTS),
        },
    )


def maskgit_tiny() -> Pipeline:
    """The same at 32 pixels, in about a minute."""
    return replace(
        taming_tiny(),
        name="maskgit-tiny",
        summary="MaskGIT at 32 pixels in a minute, for tests and first tries.",
        stages={
            **taming_tiny().stages,
            "transformer": maskgit_transformer_tiny(),
            "model": ModelStage(name="maskgit-model", kind="maskgit", parts=PARTS),
        },
    )
