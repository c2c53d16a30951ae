"""What tests of weights share: nets whose batch norms have statistics of their own, and what their layers write."""

import torch
from torch import nn


def lively(net, seed=1):
    """A net whose batch norms have statistics of their own, so that a tensor in the wrong place shows; as small signals."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.running_var):
                nn.init.uniform_(value, 0.7, 1.3)
            for value in (module.bias, module.running_mean):
                nn.init.normal_(value, 0, 0.1)
    return net.eval()


def written(net, blobs, image):
    """What the layers of these names write for an image."""
    found = {}
    hooks = [
        getattr(net, name).register_forward_hook(lambda module, args, out, name=name: found.update({name: out}))
        for name in blobs
    ]
    with torch.no_grad():
        net(image)
    for hook in hooks:
        hook.remove()
    return [found[name] for name in blobs]
