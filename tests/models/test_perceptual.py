import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pinxit.checkpoints.from_lpips import lpips
from pinxit.models.clip import CLIP, SIZES
from pinxit.models.perceptual import LPIPS, CLIPDistance

A, B = (torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(seed)) * 2 - 1 for seed in (0, 1))


def clip_distance() -> CLIPDistance:
    torch.manual_seed(0)
    clip = CLIP(SIZES["tiny-32"])
    return CLIPDistance(clip.vision, clip.mean, clip.std)


@pytest.fixture(params=["lpips", "clip"])
def distance(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return LPIPS(((4, 4), (8,), (8,))) if request.param == "lpips" else clip_distance()


def far(distance: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    torch.manual_seed(5)  # where patches are cut
    found: Tensor = distance(a, b)
    return found


def test_a_distance_is_one(distance: nn.Module) -> None:
    with torch.no_grad():
        assert far(distance, A, B).shape == (3,)
        assert (far(distance, A, B) > 0).all()
        torch.testing.assert_close(far(distance, A, A), torch.zeros(3))
        torch.testing.assert_close(far(distance, A, B), far(distance, B, A))
        torch.testing.assert_close(far(distance, A[1:2], B[1:2]), far(distance, A, B)[1:2])
        near = far(distance, A, A + 0.02 * B)
        assert (near < far(distance, A, A + 0.3 * B)).all()


def test_it_pulls_pictures_together(distance: nn.Module) -> None:
    distance.requires_grad_(False)
    made = B.clone().requires_grad_()
    before = far(distance, made, A).mean()
    (gradient,) = torch.autograd.grad(before, made)
    assert gradient.abs().sum((1, 2, 3)).all()
    with torch.no_grad():
        assert far(distance, made - 0.01 * gradient / gradient.abs().mean(), A).mean() < before


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (96, 32), (40, 70), (16, 20)])
def test_pictures_of_every_size_are_seen_in_tiles(height: int, width: int) -> None:
    network = clip_distance()
    a, b = F.interpolate(A, (height, width)), F.interpolate(B, (height, width))
    with torch.no_grad():
        assert (far(network, a, b) > 0).all()


def test_a_large_picture_is_as_far_as_its_tiles() -> None:
    network = clip_distance()
    a, b = A[:1, :, :64, :64], B[:1, :, :64, :64]
    tiles = [tile.unfold(2, 32, 32).unfold(3, 32, 32).permute(0, 2, 3, 1, 4, 5).flatten(0, 2) for tile in (a, b)]
    with torch.no_grad():
        torch.testing.assert_close(network._tiles(a), tiles[0])
        patch = network.tower.patches.kernel_size[0]
        torch.manual_seed(5)
        shift = torch.randint(int(patch), (2,)).tolist()
        rolled = [picture.roll(shift, (2, 3)) for picture in (a, b)]
        whole = far(network, a, b)
        parts = [network._tiles(picture) for picture in rolled]
        features = [network.tower.embed((part - network.mean) / network.std) for part in parts]
        total = torch.zeros(4)
        for block in network.tower.transformer.blocks:
            features = [block(each) for each in features]
            x, y = (F.normalize(each[:, 1:], dim=-1) for each in features)
            total += (x - y).square().sum(-1).mean(1)
        torch.testing.assert_close(whole, (total / 2).mean()[None])


def test_lpips_is_its_equation_over_the_published_layout() -> None:
    """By the names of the package lpips: VGG16's features, their unit directions, learnt weights, means over places."""
    generator = torch.Generator().manual_seed(0)
    widths = (64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)
    places = (0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)
    state: dict[str, Tensor] = {}
    inputs = 3
    for group, (outputs, spots) in enumerate(zip(widths, places, strict=True), start=1):
        for output, spot in zip(outputs, spots, strict=True):
            fan = 9 * inputs
            state[f"net.slice{group}.{spot}.weight"] = (
                torch.randn(output, inputs, 3, 3, generator=generator) * (2 / fan) ** 0.5
            )
            state[f"net.slice{group}.{spot}.bias"] = torch.randn(output, generator=generator) * 0.1
            inputs = output
        state[f"lin{group - 1}.model.1.weight"] = torch.rand(1, inputs, 1, 1, generator=generator)

    network = LPIPS()
    network.load_state_dict(lpips(state))
    x = [(picture[:2] - torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)) for picture in (A, B)]
    x = [picture / torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1) for picture in x]
    expected = torch.zeros(2)
    for group, spots in enumerate(places, start=1):
        for index, spot in enumerate(spots):
            name = f"net.slice{group}.{spot}"
            x = [F.max_pool2d(h, 2) if group > 1 and index == 0 else h for h in x]
            x = [F.relu(F.conv2d(h, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)) for h in x]
        unit = [h / (h.norm(dim=1, keepdim=True) + 1e-10) for h in x]
        apart = F.conv2d((unit[0] - unit[1]).square(), state[f"lin{group - 1}.model.1.weight"])
        expected += apart.mean((1, 2, 3))
    with torch.no_grad():
        torch.testing.assert_close(network(A[:2], B[:2]), expected, atol=1e-5, rtol=1e-5)
