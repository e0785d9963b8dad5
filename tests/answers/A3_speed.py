"""Answers to the exercises of appendix A3: right ones and mistakes. See tests/test_exercises.py."""
# ruff: noqa: F811, F821


# %% 1 right: a hook
def shown(steps, copies):
    sizes = []
    hook = f.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    al.attacks.sim(f, x, y, steps=steps, copies=copies)
    hook.remove()
    return sum(sizes) / len(x)


# %% 1 right: a module around the network
def shown(steps, copies):
    class Counter(nn.Module):
        images = 0

        def __init__(self):
            super().__init__()
            self.net = f

        def forward(self, z):
            self.images += z.shape[0]
            return self.net(z)

    counter = Counter().eval()
    al.attacks.sim(counter, x, y, 8 / 255, steps=steps, copies=copies, chunk=2)
    return counter.images / x.shape[0]


# %% 1 wrong: calls instead of images
def shown(steps, copies):
    calls = 0

    def counted(z):
        nonlocal calls
        calls += 1
        return f(z)

    al.attacks.sim(counted, x, y, steps=steps, copies=copies)
    return calls


# %% 1 wrong: images of the whole batch
def shown(steps, copies):
    count = 0

    def counted(z):
        nonlocal count
        count += len(z)
        return f(z)

    al.attacks.sim(counted, x, y, steps=steps, copies=copies)
    return count


# %% 1 wrong: the copies are ignored
def shown(steps, copies):
    count = 0

    def counted(z):
        nonlocal count
        count += len(z)
        return f(z)

    al.attacks.sim(counted, x, y, steps=steps)
    return count / len(x)


# %% 1 wrong: the steps are ignored
def shown(steps, copies):
    count = 0

    def counted(z):
        nonlocal count
        count += len(z)
        return f(z)

    al.attacks.sim(counted, x, y, copies=copies)
    return count / len(x)


# %% 1 wrong: guessed, not measured
def shown(steps, copies):
    return steps * copies


# %% 1 wrong: MI-FGSM
def shown(steps, copies):
    count = 0

    def counted(z):
        nonlocal count
        count += len(z)
        return f(z)

    al.attacks.mi_fgsm(counted, x, y, steps=steps)
    return count / len(x)


# %% 2 right: a copy of the convolution
def folded(conv, norm):
    from copy import deepcopy

    one, scale = deepcopy(conv), norm.weight.detach() * torch.rsqrt(norm.running_var + norm.eps)
    one.weight.data = torch.einsum("o,oihw->oihw", scale, conv.weight.detach())
    one.bias = nn.Parameter(norm.bias.detach() - scale * norm.running_mean)
    return one


# %% 2 right: torch's own
def folded(conv, norm):
    return torch.nn.utils.fusion.fuse_conv_bn_eval(conv.eval(), norm)


# %% 2 wrong: the mean forgotten
def folded(conv, norm):
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    one = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    with torch.no_grad():
        one.weight.copy_(conv.weight * scale[:, None, None, None])
        one.bias.copy_(norm.bias)
    return one


# %% 2 wrong: the sign of the mean
def folded(conv, norm):
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    one = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    with torch.no_grad():
        one.weight.copy_(conv.weight * scale[:, None, None, None])
        one.bias.copy_(norm.bias + norm.running_mean * scale)
    return one


# %% 2 wrong: the mean not scaled
def folded(conv, norm):
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    one = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    with torch.no_grad():
        one.weight.copy_(conv.weight * scale[:, None, None, None])
        one.bias.copy_(norm.bias - norm.running_mean)
    return one


# %% 2 wrong: no root of the variance
def folded(conv, norm):
    scale = norm.weight / (norm.running_var + norm.eps)
    one = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    with torch.no_grad():
        one.weight.copy_(conv.weight * scale[:, None, None, None])
        one.bias.copy_(norm.bias - norm.running_mean * scale)
    return one


# %% 2 wrong: epsilon forgotten
def folded(conv, norm):
    scale = norm.weight / norm.running_var.sqrt()
    one = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    with torch.no_grad():
        one.weight.copy_(conv.weight * scale[:, None, None, None])
        one.bias.copy_(norm.bias - norm.running_mean * scale)
    return one


# %% 2 wrong: the stride forgotten
def folded(conv, norm):
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    one = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding)
    with torch.no_grad():
        one.weight.copy_(conv.weight * scale[:, None, None, None])
        one.bias.copy_(norm.bias - norm.running_mean * scale)
    return one


# %% 2 wrong: scaled along the input channels
def folded(conv, norm):
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    one = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    with torch.no_grad():
        one.weight.copy_(conv.weight * scale[: conv.in_channels, None, None])
        one.bias.copy_(norm.bias - norm.running_mean * scale)
    return one


# %% 2 wrong: the statistics of a batch
def folded(conv, norm):
    with torch.no_grad():
        out = conv(x)
        scale = norm.weight / (out.var((0, 2, 3)) + norm.eps).sqrt()
        one = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
        one.weight.copy_(conv.weight * scale[:, None, None, None])
        one.bias.copy_(norm.bias - out.mean((0, 2, 3)) * scale)
    return one


# %% 2 wrong: the convolution itself is changed
def folded(conv, norm):
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    with torch.no_grad():
        conv.weight.mul_(scale[:, None, None, None])
        conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
    return conv


# %% 2 wrong: the convolution as it was
def folded(conv, norm):
    return conv


# %% 3 right: a chain of transforms
def sim(x, y, chunk):
    return al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=3, transform=al.ScaleCopies(5), chunk=chunk)


# %% 3 right: from the parts of the module
def sim(x, y, chunk):
    g = al.gradient(f, [al.ScaleCopies()], chunk=chunk)
    return al.attack(x, y, g, momentum=al.Elastic(), eps=8 / 255, steps=3)


# %% 3 wrong: the chunk is ignored
def sim(x, y, chunk):
    return al.attacks.sim(f, x, y, eps=8 / 255, steps=3, copies=5)


# %% 3 wrong: all copies at once
def sim(x, y, chunk):
    return al.attacks.sim(f, x, y, eps=8 / 255, steps=3, copies=5, chunk=5)


# %% 3 wrong: as many copies as the chunk
def sim(x, y, chunk):
    return al.attacks.sim(f, x, y, eps=8 / 255, steps=3, copies=chunk, chunk=chunk)


# %% 3 wrong: so many images at once
def sim(x, y, chunk):
    parts = [al.attacks.sim(f, a, b, eps=8 / 255, steps=3) for a, b in zip(x.split(chunk), y.split(chunk), strict=True)]
    return torch.cat(parts)


# %% 3 wrong: ten steps
def sim(x, y, chunk):
    return al.attacks.sim(f, x, y, eps=8 / 255, copies=5, chunk=chunk)


# %% 3 wrong: twice the budget
def sim(x, y, chunk):
    return al.attacks.sim(f, x, y, steps=3, copies=5, chunk=chunk)


# %% 3 wrong: without momentum
def sim(x, y, chunk):
    return al.attacks.sim(f, x, y, eps=8 / 255, steps=3, copies=5, chunk=chunk, momentum=al.Elastic(mu=0.0))


# %% 3 wrong: no copies
def sim(x, y, chunk):
    return al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=3, chunk=chunk)
