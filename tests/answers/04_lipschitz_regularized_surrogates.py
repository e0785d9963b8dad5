"""Answers to the exercises of chapter 4: right ones, differently written, and mistakes. See tests/test_exercises.py."""
# ruff: noqa: F811, F821


# %% 1 right: image by image
def constant(net, radius_255):
    total = 0.0
    for i in range(len(x)):
        total += al.lipschitz.local_lipschitz(
            net, x[i : i + 1], eps=radius_255 / 255, steps=5, index=torch.tensor([i])
        ).item()
    return total / len(x)


# %% 1 right: positional, summed in double precision
def constant(net, radius_255):
    found = al.lipschitz.local_lipschitz(net, x, radius_255 / 255, 5)
    return float(found.double().sum()) / found.numel()


# %% 1 wrong: the largest
def constant(net, radius_255):
    return al.lipschitz.local_lipschitz(net, x, radius_255 / 255, steps=5, seed=0).max().item()


# %% 1 wrong: the sum
def constant(net, radius_255):
    return al.lipschitz.local_lipschitz(net, x, radius_255 / 255, steps=5, seed=0).sum().item()


# %% 1 wrong: the radius is ignored
def constant(net, radius_255):
    return al.lipschitz.local_lipschitz(net, x, 8 / 255, steps=5, seed=0).mean().item()


# %% 1 wrong: the network is ignored
def constant(net, radius_255):
    return al.lipschitz.local_lipschitz(f, x, radius_255 / 255, steps=5, seed=0).mean().item()


# %% 1 wrong: the L2 ball
def constant(net, radius_255):
    return al.lipschitz.local_lipschitz(net, x, radius_255 / 255, steps=5, seed=0, norm="l2").mean().item()


# %% 1 wrong: as many steps as the function takes by itself
def constant(net, radius_255):
    return al.lipschitz.local_lipschitz(net, x, radius_255 / 255).mean().item()


# %% 1 wrong: the radius in units of 256
def constant(net, radius_255):
    return al.lipschitz.local_lipschitz(net, x, radius_255 / 25.5, steps=5, seed=0).mean().item()


# %% 2 right: sums by hand
def lrs1_of_linear(w, direction):
    return float((w * w).sum()) if direction == "l2" else float(w.abs().sum() * w.abs().sum())


def mean_lrs2(hessian):
    return (torch.linalg.norm(hessian) ** 2).item() / hessian.shape[0]


# %% 2 right: by the difference itself, and by eigenvalues
def lrs1_of_linear(w, direction):
    d = w / w.norm() if direction == "l2" else w.sign()
    return torch.dot(w, d) ** 2


def mean_lrs2(hessian):
    return torch.linalg.eigvalsh(hessian).square().mean()


# %% 2 wrong: not squared
def lrs1_of_linear(w, direction):
    return (w.norm() if direction == "l2" else w.abs().sum()).item()


# %% 2 wrong: L2 in both directions
def lrs1_of_linear(w, direction):
    return w.square().sum().item()


# %% 2 wrong: the sum without absolute values
def lrs1_of_linear(w, direction):
    return (w.norm() if direction == "l2" else w.sum()).item() ** 2


# %% 2 wrong: along unit signs
def lrs1_of_linear(w, direction):
    return (w.norm() if direction == "l2" else w.abs().sum() / len(w) ** 0.5).item() ** 2


# %% 2 wrong: Frobenius, not over m
def mean_lrs2(hessian):
    return hessian.square().sum().item()


# %% 2 wrong: the mean over all entries
def mean_lrs2(hessian):
    return hessian.square().mean().item()


# %% 2 wrong: the square of the mean eigenvalue
def mean_lrs2(hessian):
    return (hessian.trace() / len(hessian)).item() ** 2


# %% 2 wrong: the mean of |H d|, squared nowhere
def mean_lrs2(hessian):
    return (hessian.norm() / len(hessian) ** 0.5).item()


# %% 2 wrong: the diagonal alone
def mean_lrs2(hessian):
    return (hessian.diagonal().square().sum() / len(hessian)).item()


# %% 3 right: two graphs
def margin_slope(net, x, y, h):
    leaf = x.clone().requires_grad_()
    d = torch.autograd.grad(al.gradients.margin(net(leaf), y).sum(), leaf)[0]
    d = d / torch.linalg.vector_norm(d, dim=(1, 2, 3), keepdim=True)
    slope = (al.gradients.margin(net(x + h * d), y) - al.gradients.margin(net(x), y)) / h
    return slope**2


# %% 3 right: by the module's own direction, with the margin by hand
def margin_slope(net, x, y, h):
    def margin(z):
        logits = net(z)
        label = torch.nn.functional.one_hot(y, logits.shape[1]).bool()
        return logits.masked_fill(label, -torch.inf).max(1).values - logits[label]

    z = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(margin(z).sum(), z)
    d = al.lipschitz.unit_direction(gradient, "l2")
    return (margin(x + h * d) - margin(x)).square() / h**2


# %% 3 wrong: the slope of the cross-entropy
def margin_slope(net, x, y, h):
    return al.lipschitz.lrs1(net, x, y, h, form="text")


# %% 3 wrong: along the signs
def margin_slope(net, x, y, h):
    z = x.detach().requires_grad_()
    here = al.gradients.margin(net(z), y)
    (gradient,) = torch.autograd.grad(here.sum(), z, retain_graph=True)
    return ((al.gradients.margin(net(x + h * gradient.sign()), y) - here) / h).square()


# %% 3 wrong: not squared
def margin_slope(net, x, y, h):
    z = x.detach().requires_grad_()
    here = al.gradients.margin(net(z), y)
    (gradient,) = torch.autograd.grad(here.sum(), z, retain_graph=True)
    d = gradient / al.norms.l2_norm(gradient)
    return (al.gradients.margin(net(x + h * d), y) - here) / h


# %% 3 wrong: not over h
def margin_slope(net, x, y, h):
    z = x.detach().requires_grad_()
    here = al.gradients.margin(net(z), y)
    (gradient,) = torch.autograd.grad(here.sum(), z, retain_graph=True)
    d = gradient / al.norms.l2_norm(gradient)
    return (al.gradients.margin(net(x + h * d), y) - here).square()


# %% 3 wrong: one length for the whole batch
def margin_slope(net, x, y, h):
    z = x.detach().requires_grad_()
    here = al.gradients.margin(net(z), y)
    (gradient,) = torch.autograd.grad(here.sum(), z, retain_graph=True)
    return ((al.gradients.margin(net(x + h * gradient / gradient.norm()), y) - here) / h).square()


# %% 3 wrong: the direction is no constant
def margin_slope(net, x, y, h):
    z = x.detach().requires_grad_()
    here = al.gradients.margin(net(z), y)
    (gradient,) = torch.autograd.grad(here.sum(), z, create_graph=True)
    d = gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    return ((al.gradients.margin(net(x + h * d), y) - here) / h).square()


# %% 3 wrong: the margin at x is a constant
def margin_slope(net, x, y, h):
    z = x.detach().requires_grad_()
    here = al.gradients.margin(net(z), y)
    (gradient,) = torch.autograd.grad(here.sum(), z, retain_graph=True)
    d = gradient / al.norms.l2_norm(gradient)
    return ((al.gradients.margin(net(x + h * d), y) - here.detach()) / h).square()


# %% 3 wrong: no gradient for the weights
def margin_slope(net, x, y, h):
    z = x.detach().requires_grad_()
    here = al.gradients.margin(net(z), y)
    (gradient,) = torch.autograd.grad(here.sum(), z)
    d = gradient / al.norms.l2_norm(gradient)
    with torch.no_grad():
        return ((al.gradients.margin(net(x + h * d), y) - here) / h).square()


# %% 3 wrong: backwards
def margin_slope(net, x, y, h):
    z = x.detach().requires_grad_()
    here = al.gradients.margin(net(z), y)
    (gradient,) = torch.autograd.grad(here.sum(), z, retain_graph=True)
    d = gradient / al.norms.l2_norm(gradient)
    return ((here - al.gradients.margin(net(x - h * d), y)) / h).square()


# %% 3 wrong: the mean of the batch
def margin_slope(net, x, y, h):
    z = x.detach().requires_grad_()
    here = al.gradients.margin(net(z), y)
    (gradient,) = torch.autograd.grad(here.sum(), z, retain_graph=True)
    d = gradient / al.norms.l2_norm(gradient)
    return ((al.gradients.margin(net(x + h * d), y) - here) / h).square().mean().expand(len(x))
