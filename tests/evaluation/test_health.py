import contextlib
import logging
import re
from collections.abc import Iterator

import pytest
import torch
from tests.systems.test_diffusion_system import CPU, UNET

from pinxit.diffusion.process import ProcessConfig
from pinxit.diffusion.schedules import DiscreteConfig
from pinxit.evaluation.health import health, warnings
from pinxit.models.denoiser import Conditioning, Denoiser, DenoiserConfig
from pinxit.systems.noise_drawing import NoiseDrawer

WELL = {"ddim_roughness": 1.1, "ddpm_roughness": 0.9, "ddim_brightness": 0.02, "ddpm_brightness": -0.03}


def test_a_network_that_tells_of_no_noise_draws_noise(caplog: pytest.LogCaptureFixture) -> None:
    network = Denoiser(DenoiserConfig(UNET, ProcessConfig(DiscreteConfig("cosine"))))  # its last layer is zero yet
    smooth = torch.linspace(-1, 1, 16).expand(4, 3, 16, 16)
    with caplog.at_level(logging.WARNING):
        numbers = health(NoiseDrawer.ready(network, CPU), Conditioning(), smooth, lag=2.0)
    assert numbers["ddim_roughness"] > 5
    assert "they still show noise" in caplog.text
    assert "err 2.0 times as much as the weights themselves" in caplog.text


def test_samples_by_the_weights_themselves_are_seen_beside() -> None:
    network = Denoiser(DenoiserConfig(UNET, ProcessConfig(DiscreteConfig("cosine"), target="x0")))
    bias = list(network.unet.head.parameters())[-1]

    @contextlib.contextmanager
    def raw() -> Iterator[None]:
        bias.fill_(0.5)
        yield
        bias.zero_()

    with torch.no_grad():
        numbers = health(NoiseDrawer.ready(network, CPU), Conditioning(), torch.zeros(4, 3, 16, 16), raw=raw)
    assert numbers["ddim_brightness"] == pytest.approx(0, abs=1e-4)
    assert numbers["raw_ddim_brightness"] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"ddim_roughness": 2.5, "ddpm_roughness": 2.2}, r"Samples are 2\.2 times as rough"),
        ({"ddim_roughness": 0.3, "ddpm_roughness": 0.1}, r"Samples are 0\.30 times as rough .* flat colours"),
        ({"ddpm_roughness": 1.8}, "DDIM and DDPM disagree: their samples are 1.10 and 1.80 times as rough"),
        ({"ddpm_brightness": 0.4}, "DDIM and DDPM disagree"),
        ({"raw_ddim_roughness": 1.3}, None),
        ({"raw_ddim_roughness": 2.2}, r"1\.10 times as rough .* averaged weights, and 2\.20 by the weights themselves"),
        ({"averaged_error_over_raw": 1.2}, None),
        ({"averaged_error_over_raw": 1.5}, r"err 1\.5 times as much"),
    ],
)
def test_what_is_wrong_is_told_in_words(change: dict[str, float], message: str | None) -> None:
    told = warnings({**WELL, **change}, "v")
    assert len(told) == bool(message)
    assert not message or re.search(message, told[0])
