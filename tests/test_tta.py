"""Proves that nets which look several times, and several nets, give the mean of the probabilities, pixel for pixel."""

import numpy as np
import pytest
import torch
from test_stitching import CPU, GREY, Opinionated
from torch import nn

import nets
from tools.base.errors import UserError
from tools.data.inputs import Input
from tools.inference import averages
from tools.inference.averages import Augmented, Ensemble
from tools.inference.forward import Forward


class Place(nn.Module):
    """Three classes; logits from the pixel and, unlike for each of the eight positions, from its place in the window."""

    classes, multiple = 3, 1

    def forward(self, x):
        rows, cols = torch.arange(x.shape[2])[:, None] / x.shape[2], torch.arange(x.shape[3]) / x.shape[3]
        return torch.stack([x[:, 0], x[:, 0] * rows + cols, x.mean((2, 3), keepdim=True)[:, 0] + 2 * rows - cols**2], 1)


def probabilities(net, image):
    return net(image).double().softmax(1).numpy()


def images(*shape):
    return torch.from_numpy(np.random.default_rng(1).normal(size=shape).astype(np.float32))


def numpy_probabilities(net, array):
    return probabilities(net, torch.from_numpy(np.ascontiguousarray(array)))


@pytest.mark.parametrize("size", [(6, 6), (4, 9)])
def test_flips_are_the_mean_of_the_four_mirror_images_put_back(size):
    image = images(2, 1, *size)
    expected = np.mean(
        [numpy_probabilities(Place(), image.numpy()[:, :, ::a, ::b])[:, :, ::a, ::b] for a in (1, -1) for b in (1, -1)], 0
    )
    np.testing.assert_allclose(probabilities(Augmented(Place(), "flips"), image), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(6, 6), (4, 9)])
def test_d4_is_the_mean_of_all_turns_and_mirror_images_put_back(size):
    image, found = images(2, 1, *size), []
    for turns in range(4):
        for mirrored in (False, True):
            seen = np.rot90(image.numpy(), turns, (2, 3))
            seen = seen[..., ::-1] if mirrored else seen
            back = numpy_probabilities(Place(), seen)
            back = back[..., ::-1] if mirrored else back
            found.append(np.rot90(back, -turns, (2, 3)))
    np.testing.assert_allclose(probabilities(Augmented(Place(), "d4"), image), np.mean(found, 0), atol=1e-6)


def test_scales_are_the_mean_of_three_sizes_brought_back_to_the_first():
    image, found = images(2, 1, 16, 32), []
    for size in ((12, 24), (16, 32), (20, 40)):
        seen = image if size == (16, 32) else nn.functional.interpolate(image, size, mode="bilinear")
        found.append(nn.functional.interpolate(Place()(seen).softmax(1), (16, 32), mode="bilinear"))
    np.testing.assert_allclose(
        probabilities(Augmented(Place(), "scales"), image), torch.stack(found).mean(0).numpy(), atol=1e-6
    )


@pytest.mark.parametrize("kind", averages.LOOKS)
def test_what_looks_do_is_undone_exactly_by_a_net_that_gives_back_what_it_sees(kind):
    """Each pixel's class is its own value: wherever a look puts it, it has to come back to its place."""

    class Same(nn.Module):
        classes, multiple = 4, 4

        def forward(self, x):
            return 50 * nn.functional.one_hot(x[:, 0].round().long(), 4).permute(0, 3, 1, 2).float()

    blocks = torch.arange(12).reshape(1, 1, 3, 4).remainder(4).float()
    image = blocks.repeat_interleave(16, 2).repeat_interleave(16, 3)
    found = Augmented(Same(), kind)(image).argmax(1, keepdim=True)
    rows, cols = ((torch.arange(n) % 16 > 1) & (torch.arange(n) % 16 < 14) for n in (48, 64))  # inside of the blocks
    there = rows[:, None] & cols if kind == "scales" else torch.ones(48, 64, dtype=bool)  # interpolation blurs their edges
    assert torch.equal(found[0, 0][there], image[0, 0][there].long())


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", averages.LOOKS)
def test_a_real_net_of_several_inputs_looks_too(kind, memory):
    torch.manual_seed(1)
    net = nets.build("fusenet_sum", {"irrg": 3, "composite": 3}, 5, planes=(8, 8, 8, 8, 8)).eval()
    given = [images(1, 3, 128, 96).contiguous(memory_format=memory) for _ in range(2)]
    with torch.inference_mode():
        if kind == "scales":
            with pytest.raises(UserError, match=r"multiples of 32: use windows of 128x128"):
                averages.check(kind, (64, 32), net.multiple)
        else:
            averages.check(kind, (128, 96), net.multiple)
        found = Augmented(net, kind)(*given).softmax(1)
    assert found.shape == (1, 5, 128, 96)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)


def test_an_ensemble_is_the_mean_of_its_nets_each_with_its_own_inputs():
    class Two(nn.Module):
        classes, multiple = 3, 4

        def forward(self, a, b):
            return torch.cat([a, b, a * b], 1)

    a, b, c = images(2, 1, 8, 8), images(2, 1, 8, 8) + 1, images(2, 1, 8, 8) * 2
    ensemble = Ensemble([Place(), Two()], [1, 2])
    expected = (Place()(a).softmax(1) + Two()(b, c).softmax(1)) / 2
    np.testing.assert_allclose(ensemble(a, b, c).softmax(1), expected, atol=1e-6)
    assert (ensemble.classes, ensemble.multiple) == (3, 4)


def test_the_nets_of_an_ensemble_see_the_same_pixels_in_their_own_normalisation():
    nets_ = [Opinionated(), Opinionated()]
    for net in nets_:
        net.multiple = 1
    inputs = [GREY, Input("grey", ("grey",), (1,), False, (100.0,), (2.0,))]
    raw = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = Forward(Ensemble(nets_, [1, 1]), inputs, CPU, 2, (8, 8))([raw, raw])
    seen = raw.float()
    expected = (nets_[0](seen).softmax(1) + nets_[1]((seen - 100) / 2).softmax(1)) / 2
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_looks_and_ensembles_go_together():
    image, other = images(2, 1, 8, 8), images(2, 1, 8, 8)
    together = Augmented(Ensemble([Place(), Place()], [1, 1]), "flips")
    apart = [Augmented(Place(), "flips")(x).softmax(1) for x in (image, other)]
    np.testing.assert_allclose(together(image, other).softmax(1), (apart[0] + apart[1]) / 2, atol=1e-6)
