"""`pinxit convert`: finds out what public weights are, and writes them as a checkpoint of ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pinxit.checkpoints import (
    catalogue,
    from_clip,
    from_compvis,
    from_diffusers,
    from_guided,
    from_karlo,
    from_lpips,
    from_openai,
    from_taming,
)
from pinxit.checkpoints.files import (
    PICKLES,
    from_config,
    read_config,
    replace_folder,
    to_config,
    write_config,
    write_tensors,
)
from pinxit.checkpoints.pickles import read_pickle, read_tensors
from pinxit.errors import PinxitError
from pinxit.models.clip import CLIP
from pinxit.models.denoiser import Denoiser
from pinxit.models.dvae import DVAE
from pinxit.models.noised_classifier import NoisedClassifier
from pinxit.models.perceptual import LPIPS
from pinxit.models.prior import Prior
from pinxit.models.token_transformer import TokenTransformer
from pinxit.models.vae import VAE
from pinxit.models.vqgan import VQGAN
from pinxit.text.tokenizer import ForeignTokenizer

NETWORKS: dict[str, Any] = {
    "dvae": DVAE,
    "vae": VAE,
    "vqgan": VQGAN,
    "lpips": LPIPS,
    "token_transformer": TokenTransformer,
    "denoiser": Denoiser,
    "noised_classifier": NoisedClassifier,
    "clip": CLIP,
    "prior": Prior,
}
"""What can come out: kind -> network."""

LAYOUTS = (
    "OpenAI's dVAE (a folder with encoder.pkl and decoder.pkl)",
    "VQGANs and KL autoencoders of taming-transformers and latent-diffusion (.ckpt, .safetensors), also inside a "
    "Stable Diffusion file",
    "folders of diffusers' AutoencoderKL and VQModel, also inside a pipeline's",
    "transformers of taming-transformers with their VQGAN (beside the yaml that they came with)",
    "minDALL-E (its folder, unpacked)",
    "guided-diffusion and GLIDE: a base, or a folder of it with its upsampler and its classifier or noised CLIP "
    "(GLIDE's beside its encoder.json and vocab.bpe)",
    "CLIPs with vision transformers: folders of transformers' CLIPModel, weights of open_clip and OpenAI (beside "
    "open_clip_config.json where there is one)",
    "Karlo: its own files in a folder, or diffusers' unCLIP pipeline (with image_encoder/ of the one for variations)",
    "LPIPS with its VGG16 (of the package lpips, or inside a VQGAN: --part lpips)",
)

PARTS = ("codec", "lpips")
"""What can be taken out of more: a system's codec, and the perceptual distance inside a VQGAN's checkpoint."""

HUB_FILES = (
    ["*.json", "*.yaml", "merges.txt", "tokenizer/*.txt", "vae/*.safetensors", "vqvae/*.safetensors"],
    ["*.safetensors"],
    [f"*{suffix}" for suffix in PICKLES],
)
"""What is fetched from the hub, until there are weights: the codec of a pipeline before all of it, pickles last."""

MINDALLE = ("stage1_last.ckpt", "stage2_last.ckpt")
"""The codec and the transformer of minDALL-E, in one folder."""


class Converted(NamedTuple):
    """What was found."""

    kind: str
    layout: str
    parameters: int


class Network(NamedTuple):
    """One of ours, and what lies beside it in its folder."""

    kind: str
    config: Any
    state: Mapping[str, Tensor]
    beside: Mapping[str, Any] = {}
    """What config.json says besides."""
    tokenizer: str | None = None

    @property
    def file(self) -> str:
        """What its weights are called."""
        return "transformer" if self.kind == "token_transformer" else self.kind


class Found(NamedTuple):
    """What a layout held: a network by itself, called "", or the parts of a system by their names."""

    layout: str
    networks: dict[str, Network]
    defaults: Mapping[str, Any] | None = None
    """Of sampling by the system."""
    system: str = "taming"
    """Its kind, where there are parts."""


def convert(source: str, out: Path, *, part: str | None = None, size: int | None = None) -> Converted:
    """Writes what `source`, a file, a folder or hf:owner/name, holds into the checkpoint folder `out`.

    `part` is one of `PARTS`. `size` is the side of the pictures it was trained on, where the weights do not tell.
    Raises PinxitError for what is unknown.
    """
    _refuse_to_replace(out)
    path = _local(source)
    try:
        layout, networks, defaults, system = _recognise(path, part, size)
        for network in networks.values():
            _check_fit(path, network)
    except (LookupError, ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError) as fault:
        raise PinxitError(
            f"{path} is like a layout that is known here, but not quite: {type(fault).__name__} at {fault}. Known are: "
            f"{'; '.join(LAYOUTS)}."
        ) from fault
    kind = networks[""].kind if "" in networks else system
    said = {
        "converted_from": {"source": source if source.startswith("hf:") else path.name, "layout": layout},
        "licence": "that of the original weights",
    }
    with replace_folder(out) as partial:
        if "" not in networks:
            write_config(partial, {"kind": kind, "parts": list(networks), "defaults": defaults, **said})
        for name, network in networks.items():
            _write(partial / name, network, said)
        (partial / "README.md").write_text(_card(source, layout, kind), encoding="utf-8")
    parameters = sum(value.numel() for network in networks.values() for value in network.state.values())
    return Converted(kind, layout, parameters)


def _write(folder: Path, network: Network, said: Mapping[str, Any]) -> None:
    """A network's checkpoint into a folder that `replace_folder` gave, or into one inside it."""
    folder.mkdir(exist_ok=True)
    config = {} if network.config is None else to_config(network.config)
    write_config(folder, {"kind": network.kind, "config": config, **network.beside, **said})
    write_tensors(folder, network.file, network.state)
    if network.tokenizer is not None:
        (folder / "tokenizer.json").write_text(network.tokenizer, encoding="utf-8")


def _refuse_to_replace(out: Path) -> None:
    """Raises PinxitError where `out` holds anything but an earlier conversion, which the new one would replace."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        earlier = "converted_from" in read_config(out)
    except PinxitError:
        earlier = False
    if not earlier:
        raise PinxitError(f"{out} holds other things, which would be lost. Give an empty folder or a new one.")


def _check_fit(path: Path, found: Network) -> None:
    """Raises PinxitError where the weights are not those of the network that the config describes."""
    config = [] if found.config is None else [from_config(type(found.config), to_config(found.config))]
    with torch.device("meta"):
        network = NETWORKS[found.kind](*config)
    wanted, state = network.state_dict(), found.state
    odd = sorted(wanted.keys() ^ state.keys()) or sorted(
        name for name, value in wanted.items() if value.shape != state[name].shape
    )
    if odd:
        raise PinxitError(f"{path} is not whole, or of another shape than its layout: {odd[0]!r} does not fit.")


def _recognise(path: Path, part: str | None, size: int | None) -> Found:
    """What a file or folder holds."""
    if part is not None and part not in PARTS:
        raise PinxitError(
            f"There is no part {part!r} to convert. Allowed is {' or '.join(PARTS)}, or none for the model itself."
        )
    if not part and _json(path / "model_index.json").get("_class_name") in from_diffusers.UNCLIP:
        return _unclip(path)
    if path.is_dir() and not part and (files := from_karlo.files_in(path)):
        return _karlo(path, files)
    if path.is_dir() and part != "lpips":
        for folder in (path, path / "vae", path / "vqvae"):
            if (described := _diffusers(folder)) is not None:
                found = from_diffusers.codec(described, read_state(_weights_in(folder)))
                return Found("diffusers", {"": _codec(found, size)})
        if not part and (described := from_clip.described(path)) is not None:
            return _clip("transformers", from_clip.transformers(described, read_state(_weights_in(path)), path, path))
        halves = [path / "encoder.pkl", path / "decoder.pkl"]
        if all(half.is_file() for half in halves):
            encoder, decoder = (read_state(half) for half in halves)
            if from_openai.is_half(encoder) and from_openai.is_half(decoder):
                return Found("openai", {"": _codec(from_openai.dvae(encoder, decoder, size=256), size)})
        if all((path / stage).is_file() for stage in MINDALLE):
            codec = _codec(from_compvis.codec(read_state(path / MINDALLE[0])), size)
            return Found("mindalle", {"": codec}) if part else _mindalle(path, codec)
        if not part and (guided := _guided((file, read_state(file)) for file in _all_weights_in(path))):
            return guided
    file = _weights_in(path) if path.is_dir() else path
    state = read_state(file)
    if not part and (guided := _guided([(file, state)])):
        return guided
    if not part and from_clip.is_openai(state):
        return _clip("open_clip", from_clip.openai(state, file.parent))
    if part != "lpips" and (held := from_compvis.codec_state(state)):
        codec = _codec(from_compvis.codec(held, from_compvis.scale_of(state)), size)
        return (
            _taming(file, state, codec) if not part and from_taming.is_taming(state) else Found("compvis", {"": codec})
        )
    if part != "codec" and (held := from_lpips.lpips_state(state)):
        return Found("lpips", {"": Network("lpips", None, from_lpips.lpips(held))})
    if from_openai.is_half(state):
        raise PinxitError(
            f"{path} is one half of OpenAI's dVAE. Give the folder that holds encoder.pkl and decoder.pkl."
        )
    if from_taming.is_mindalle(state):
        raise PinxitError(f"{path} is one half of minDALL-E. Give the folder that holds {' and '.join(MINDALLE)}.")
    names = ", ".join(sorted(state)[:3]) or "none"
    raise PinxitError(
        f"{path} is of no layout that is known here (its first tensors: {names}). Known are: {'; '.join(LAYOUTS)}."
    )


def _codec(found: tuple[str, Any, dict[str, Tensor]], size: int | None) -> Network:
    kind, config, state = found
    return Network(kind, config if size is None else _sized(config, size), state)


def _taming(file: Path, state: Mapping[str, Tensor], codec: Network) -> Found:
    """taming's codec, and the transformer in the same file."""
    described = _read_yaml(_yaml_beside(file))
    trained = described["model"]["params"].get("first_stage_config", {}).get("params", {}).get("ddconfig", {})
    if trained.get("resolution", codec.config.pyramid.size) != codec.config.pyramid.size:
        raise PinxitError(
            f"The transformer of {file} draws pictures of {trained['resolution']} pixels alone. Give that --size."
        )
    config, weights, labels = from_taming.taming(state, described, codec.config.codes, codec.config.pyramid.grid)
    transformer = Network("token_transformer", config, weights, {"labels": list(labels)} if labels else {})
    return Found("compvis", {"codec": codec, "transformer": transformer}, from_taming.TAMING_DEFAULTS)


def _mindalle(folder: Path, codec: Network) -> Found:
    """minDALL-E's first stage, its second and its tokenizer."""
    texts = folder / "tokenizer"
    tokenizer = ForeignTokenizer.over_characters(texts / "bpe-16k-vocab.json", texts / "bpe-16k-merges.txt")
    state, described = read_state(folder / MINDALLE[1]), _read_yaml(folder / "config.yaml")
    config, weights = from_taming.mindalle(state, described, tokenizer, codec.config.pyramid.grid)
    transformer = Network("token_transformer", config, weights, tokenizer=tokenizer.to_json())
    return Found("mindalle", {"codec": codec, "transformer": transformer}, from_taming.MINDALLE_DEFAULTS)


def _guided(files: Iterable[tuple[Path, Mapping[str, Tensor]]]) -> Found | None:
    """guided-diffusion's or GLIDE's networks, each known by what it is; None where there is another."""
    networks: dict[str, Network] = {}
    clip: dict[str, Mapping[str, Tensor]] = {}
    for file, state in files:
        folder = file.parent
        if half := from_clip.is_noised(state):
            if half in clip:
                raise PinxitError(f"{folder} holds more than one half of GLIDE's CLIP for {half}. Give one of each.")
            clip[half] = state
            continue
        own = file.with_suffix(".yaml")
        flags = _read_yaml(own) if own.is_file() else None
        if from_guided.is_denoiser(state):
            config, weights = from_guided.denoiser(state, flags)
            text = None if config.text is None else _glide_tokenizer(file.parent).to_json()
            said = {"enlarging": from_guided.ENLARGING} if config.low and not text else {}
            name = "upsampler" if config.low else "base"
            network = Network("denoiser", config, weights, said, text)
        elif from_guided.is_classifier(state):
            judged, weights = from_guided.classifier(state, flags)
            name, network = "noised_classifier", Network("noised_classifier", judged, weights)
        else:
            return None
        if name in networks:
            raise PinxitError(f"{folder} holds more than one {name}. Give a folder of those that belong together.")
        networks[name] = network
    if clip:
        networks["noised_clip"] = _noised_clip(clip, folder)
    if not networks:
        return None
    if "base" not in networks:
        raise PinxitError(f"{' and '.join(networks)} alone draw nothing. Give a folder that holds the base as well.")
    base = networks["base"].config
    led = "noised_classifier" in networks
    kind = "glide" if base.text else "adm" if base.classes or led else "ddpm"
    defaults = from_guided.DEFAULTS[kind]
    if led and kind == "adm" and not base.classes:
        defaults = {**defaults, "gradient_guidance": from_guided.LED}
    return Found("guided-diffusion", networks, defaults, kind)


def _noised_clip(halves: Mapping[str, Mapping[str, Tensor]], folder: Path) -> Network:
    """GLIDE's CLIP, out of its halves."""
    if len(halves) < 2:
        raise PinxitError(
            f"{folder} holds one half of GLIDE's CLIP, that for {' '.join(halves)}. Put the other one beside it."
        )
    found = from_clip.noised(halves["vision"], halves["text"], folder)
    return _clip_network(found, process=to_config(from_guided.CLIP_NOISE))


def _clip_network(found: from_clip.Found, **beside: Any) -> Network:
    return Network("clip", found.config, found.state, beside, found.tokenizer.to_json())


def _unclip(folder: Path) -> Found:
    """A pipeline of diffusers' for Karlo: from texts, for variations, or both in one folder."""
    if not (folder / "image_encoder").is_dir():
        raise PinxitError(
            f"{folder} has no image_encoder, without which pictures cannot be varied or blended. The pipeline for "
            "variations has one, as has CLIP ViT-L/14; put it beside the decoder, with feature_extractor."
        )
    described, states = {}, {}
    for name in ("decoder", "text_proj", "super_res_first", "super_res_last", "text_encoder", "image_encoder", "prior"):
        if name != "prior" or (folder / name).is_dir():
            described[name] = _json(folder / name / "config.json")
            states[name] = read_state(_weights_in(folder / name))
    clip = from_clip.transformers(
        {"vision_config": described["image_encoder"], "text_config": described["text_encoder"]},
        states["text_encoder"] | states["image_encoder"],
        folder / "tokenizer",
        folder / "feature_extractor",
    )
    networks = {"clip": _clip_network(clip)}
    schedulers = {
        name: _json(folder / name / "scheduler_config.json")
        for name in from_diffusers.SCHEDULERS
        if name != "prior_scheduler" or "prior" in states
    }
    bound = from_diffusers.check_schedulers(schedulers)
    if "prior" in states:
        prior = from_diffusers.prior(described["prior"], states["prior"], bound)
        networks["prior"] = Network("prior", *prior)
    decoder = from_diffusers.decoder(described["decoder"], states["decoder"], states["text_proj"])
    networks["decoder"] = Network("denoiser", *decoder)
    for name, theirs in (("upsampler", "super_res_first"), ("upsampler/last", "super_res_last")):
        larger = from_diffusers.upsampler(described[theirs], states[theirs], low=decoder[0].unet.size)
        networks[name] = Network("denoiser", *larger, {"enlarging": from_diffusers.ENLARGING})
    return Found("diffusers", networks, from_diffusers.UNCLIP_DEFAULTS, "dalle2")


def _karlo(folder: Path, files: Mapping[str, Path]) -> Found:
    """Karlo as its setup fetches it, with the merges of CLIP's tokenizer beside."""
    clip = from_clip.openai(read_state(files["clip"]), folder)
    config, first, last = from_karlo.upsamplers(read_state(files["upsampler"]))
    drawn = {"enlarging": from_diffusers.ENLARGING}
    networks = {
        "clip": _clip_network(clip),
        "prior": Network("prior", *from_karlo.prior(read_state(files["prior"]), read_pickle(files["stats"]))),
        "decoder": Network("denoiser", *from_karlo.decoder(read_state(files["decoder"]))),
        "upsampler": Network("denoiser", config, first, drawn),
        "upsampler/last": Network("denoiser", config, last, drawn),
    }
    return Found("karlo", networks, from_diffusers.UNCLIP_DEFAULTS, "dalle2")


def _clip(layout: str, found: from_clip.Found) -> Found:
    """A CLIP by itself."""
    return Found(layout, {"": _clip_network(found)})


def _glide_tokenizer(folder: Path) -> ForeignTokenizer:
    """GLIDE's vocabulary and merges, which lie in its package's folder tokenizer/."""
    found = [
        next((file for end in ("", ".gz") if (file := folder / f"{name}{end}").is_file()), None)
        for name in ("encoder.json", "vocab.bpe")
    ]
    if found[0] is None or found[1] is None:
        raise PinxitError(
            f"GLIDE's texts are read by encoder.json and vocab.bpe, which are not in {folder}. They are in the folder "
            "tokenizer of its package; put them beside the weights."
        )
    return ForeignTokenizer.over_bytes(found[0], found[1])


def _all_weights_in(folder: Path) -> list[Path]:
    """Every file of weights in a folder."""
    return sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", *PICKLES))


def _yaml_beside(file: Path) -> Path:
    """The yaml of weights: of their name, or else the only one with them, or where taming's training puts it."""
    own = file.absolute().with_suffix(".yaml")
    around = [*own.parent.glob("*.yaml"), *own.parent.parent.glob("configs/*project.yaml")]
    found = [own] if own.is_file() else around
    if len(found) != 1:
        raise PinxitError(
            f"{file} does not tell how many heads its transformer has, nor what it draws for; the yaml that it came "
            f"with does. Put that beside it as {own.name}, or take the codec alone by --part codec."
        )
    return found[0]


def _read_yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as fault:
        told = " ".join(str(fault).split())
        raise PinxitError(f"{file} cannot be read as yaml: {told.rstrip('.')}.") from fault


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a pickle, by name."""
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (OSError, SafetensorError, ValueError) as fault:
            raise PinxitError(f"{file} is damaged or no safetensors file: {fault}.") from fault
    return read_tensors(file)


def _weights_in(folder: Path) -> Path:
    """The one file with weights in a folder, or in checkpoints/ as taming's training leaves it; safetensors first."""
    folder = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    for suffixes in ((".safetensors",), PICKLES):
        files = sorted(file for file in folder.iterdir() if file.suffix in suffixes)
        plain = [file for file in files if ".fp16." not in file.name] or files
        if len(plain) == 1:
            return plain[0]
        if plain:
            raise PinxitError(
                f"{folder} holds several weights: {', '.join(file.name for file in plain)}. Give one of them."
            )
    raise PinxitError(f"{folder} holds no weights. Known are: {'; '.join(LAYOUTS)}.")


def _diffusers(folder: Path) -> Mapping[str, Any] | None:
    """The config.json of a model of diffusers that is known here."""
    config = _json(folder / "config.json")
    return config if config.get("_class_name") in ("AutoencoderKL", "VQModel") else None


def _json(file: Path) -> Mapping[str, Any]:
    """What a config says; nothing where there is none."""
    said = from_clip.read_json(file)
    return said if isinstance(said, dict) else {}


def _local(source: str) -> Path:
    if source.startswith("hf:"):
        folder = catalogue.fetch(source, HUB_FILES[0])
        for files in HUB_FILES[1:]:
            if any(file.suffix in (".safetensors", *PICKLES) for file in folder.rglob("*")):
                break
            folder = catalogue.fetch(source, files)
        return folder
    path = Path(source).expanduser()
    if not path.exists():
        raise PinxitError(f"{source!r} is no file and no folder. Give one, or hf:owner/name.")
    return path


def _sized(config: Any, size: int) -> Any:
    """The config for pictures of another size: everything is convolutional, but attention is told by sides."""
    pyramid = getattr(config, "pyramid", None)
    if pyramid is None:
        return replace(config, size=size)
    attention = tuple(side * size // pyramid.size for side in pyramid.attention)
    return replace(config, pyramid=replace(pyramid, size=size, attention=attention))


def _card(source: str, layout: str, kind: str) -> str:
    return f"""# {Path(source.removeprefix("hf:")).name}

A {kind}, converted by pinxit from the layout of {layout}. The licence of the original weights holds.
"""
