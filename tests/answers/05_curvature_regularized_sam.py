"""Answers to the exercises of chapter 5: right ones, differently written, and mistakes. See tests/test_exercises.py."""
# ruff: noqa: F811, F821


# %% 1 right: SAM by hand
def ends_at(rho):
    def slope(w):
        w = w.detach().requires_grad_()
        return torch.autograd.grad(landscape(w), w)[0]

    w = torch.tensor(0.02)
    for _ in range(1000):
        w = w - 0.008 * slope(w + rho * slope(w).sign())
    return w.item()


# %% 1 right: a closure that returns autograd's gradient
def ends_at(rho):
    w = torch.nn.Parameter(torch.tensor([0.02]))
    optimizer = al.sam.SAM([w], torch.optim.SGD, rho=rho, lr=0.008)

    def closure():
        loss = landscape(w).sum()
        (w.grad,) = torch.autograd.grad(loss, w)
        return loss

    for _ in range(1000):
        optimizer.step(closure)
    return float(w.detach())


# %% 1 wrong: SGD
def ends_at(rho):
    w = torch.tensor(0.02, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.008)
    for _ in range(1000):
        optimizer.zero_grad()
        landscape(w).backward()
        optimizer.step()
    return w.item()


# %% 1 wrong: the radius that SAM takes by itself
def ends_at(rho):
    w = torch.tensor(0.02, requires_grad=True)
    optimizer = al.sam.SAM([w], torch.optim.SGD, lr=0.008)

    def closure():
        optimizer.zero_grad()
        loss = landscape(w)
        loss.backward()
        return loss

    for _ in range(1000):
        optimizer.step(closure)
    return w.item()


# %% 1 wrong: a hundred steps
def ends_at(rho):
    w = torch.tensor(0.02, requires_grad=True)
    optimizer = al.sam.SAM([w], torch.optim.SGD, lr=0.008, rho=rho)

    def closure():
        optimizer.zero_grad()
        loss = landscape(w)
        loss.backward()
        return loss

    for _ in range(100):
        optimizer.step(closure)
    return w.item()


# %% 1 wrong: the start in the wide valley
def ends_at(rho):
    w = torch.tensor(2.0, requires_grad=True)
    optimizer = al.sam.SAM([w], torch.optim.SGD, lr=0.008, rho=rho)

    def closure():
        optimizer.zero_grad()
        loss = landscape(w)
        loss.backward()
        return loss

    for _ in range(1000):
        optimizer.step(closure)
    return w.item()


# %% 1 wrong: a rate of 0.08
def ends_at(rho):
    w = torch.tensor(0.02, requires_grad=True)
    optimizer = al.sam.SAM([w], torch.optim.SGD, lr=0.08, rho=rho)

    def closure():
        optimizer.zero_grad()
        loss = landscape(w)
        loss.backward()
        return loss

    for _ in range(1000):
        optimizer.step(closure)
    return w.item()


# %% 1 wrong: the perturbation downhill
def ends_at(rho):
    def slope(w):
        w = w.detach().requires_grad_()
        return torch.autograd.grad(landscape(w), w)[0]

    w = torch.tensor(0.02)
    for _ in range(1000):
        w = w - 0.008 * slope(w - rho * slope(w).sign())
    return w.item()


# %% 1 wrong: adaptive
def ends_at(rho):
    w = torch.tensor(0.02, requires_grad=True)
    optimizer = al.sam.SAM([w], torch.optim.SGD, lr=0.008, rho=rho, adaptive=True)

    def closure():
        optimizer.zero_grad()
        loss = landscape(w)
        loss.backward()
        return loss

    for _ in range(1000):
        optimizer.step(closure)
    return w.item()


# %% 2 right: sorted by gradient
def on_a_quadratic(g0, plus, alpha, beta):
    return (1 + 2 * beta) * plus - 2 * beta * g0


# %% 2 right: with the gradient that is left out put back
def on_a_quadratic(g0, plus, alpha, beta):
    minus = 2 * g0 - plus
    return al.sam.crsam_gradient([g0], [plus], [minus], alpha=alpha, beta=beta)[0]


# %% 2 wrong: SAM
def on_a_quadratic(g0, plus, alpha, beta):
    return plus


# %% 2 wrong: the factor 2 forgotten
def on_a_quadratic(g0, plus, alpha, beta):
    return plus + beta * (plus - g0)


# %% 2 wrong: the sign
def on_a_quadratic(g0, plus, alpha, beta):
    return plus - 2 * beta * (plus - g0)


# %% 2 wrong: from g0 on
def on_a_quadratic(g0, plus, alpha, beta):
    return g0 + 2 * beta * (plus - g0)


# %% 2 wrong: alpha for beta
def on_a_quadratic(g0, plus, alpha, beta):
    return plus + 2 * alpha * (plus - g0)


# %% 2 wrong: the curvature's bracket is kept
def on_a_quadratic(g0, plus, alpha, beta):
    return plus + alpha * (plus - g0) + 2 * beta * (plus - g0)


# %% 3 right: all directions at once
def trace(loss, w, rho, directions, seed=0):
    generator = torch.Generator().manual_seed(seed)
    signs = torch.bernoulli(torch.full((directions, len(w)), 0.5), generator=generator).to(w) * 2 - 1
    along = [(loss(w + rho * v) + loss(w - rho * v) - 2 * loss(w)) / rho**2 for v in signs / len(w) ** 0.5]
    return len(w) * float(torch.stack(along).mean())


# %% 3 right: torch's generator, and the lengths cancelled
def trace(loss, w, rho, directions, seed=0):
    torch.manual_seed(seed)
    m, found = len(w), []
    for _ in range(directions):
        signs = torch.randn_like(w).sign()
        step = rho / m**0.5 * signs
        found.append(float(loss(w + step) - loss(w) - (loss(w) - loss(w - step))) * m / rho**2)
    return sum(found) / len(found)


# %% 3 wrong: the mean eigenvalue
def trace(loss, w, rho, directions, seed=0):
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(directions):
        v = (2 * torch.randint(0, 2, w.shape, generator=generator) - 1).to(w) / len(w) ** 0.5
        total += (loss(w + rho * v) + loss(w - rho * v) - 2 * loss(w)) / rho**2
    return (total / directions).item()


# %% 3 wrong: the sum over the directions
def trace(loss, w, rho, directions, seed=0):
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(directions):
        v = (2 * torch.randint(0, 2, w.shape, generator=generator) - 1).to(w) / len(w) ** 0.5
        total += (loss(w + rho * v) + loss(w - rho * v) - 2 * loss(w)) / rho**2
    return (len(w) * total).item()


# %% 3 wrong: not over rho squared
def trace(loss, w, rho, directions, seed=0):
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(directions):
        v = (2 * torch.randint(0, 2, w.shape, generator=generator) - 1).to(w) / len(w) ** 0.5
        total += loss(w + rho * v) + loss(w - rho * v) - 2 * loss(w)
    return (len(w) * total / directions / rho).item()


# %% 3 wrong: the loss at w taken away once
def trace(loss, w, rho, directions, seed=0):
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(directions):
        v = (2 * torch.randint(0, 2, w.shape, generator=generator) - 1).to(w) / len(w) ** 0.5
        total += (loss(w + rho * v) + loss(w - rho * v) - loss(w)) / rho**2
    return (len(w) * total / directions).item()


# %% 3 wrong: at 0 instead of w
def trace(loss, w, rho, directions, seed=0):
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(directions):
        v = (2 * torch.randint(0, 2, w.shape, generator=generator) - 1).to(w) / len(w) ** 0.5
        total += (loss(rho * v) + loss(-rho * v) - 2 * loss(0 * v)) / rho**2
    return (len(w) * total / directions).item()


# %% 3 wrong: normal directions
def trace(loss, w, rho, directions, seed=0):
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(directions):
        v = torch.randn(w.shape, generator=generator).to(w)
        v = v / v.norm()
        total += (loss(w + rho * v) + loss(w - rho * v) - 2 * loss(w)) / rho**2
    return (len(w) * total / directions).item()


# %% 3 wrong: zeros and ones for signs
def trace(loss, w, rho, directions, seed=0):
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(directions):
        v = torch.randint(0, 2, w.shape, generator=generator).to(w) / len(w) ** 0.5
        total += (loss(w + rho * v) + loss(w - rho * v) - 2 * loss(w)) / rho**2
    return (len(w) * total / directions).item()


# %% 3 wrong: the same direction every time
def trace(loss, w, rho, directions, seed=0):
    total = 0.0
    for _ in range(directions):
        generator = torch.Generator().manual_seed(seed)
        v = (2 * torch.randint(0, 2, w.shape, generator=generator) - 1).to(w) / len(w) ** 0.5
        total += (loss(w + rho * v) + loss(w - rho * v) - 2 * loss(w)) / rho**2
    return (len(w) * total / directions).item()


# %% 3 wrong: no random signs at all
def trace(loss, w, rho, directions, seed=0):
    v = torch.ones_like(w) / len(w) ** 0.5
    return (len(w) * (loss(w + rho * v) + loss(w - rho * v) - 2 * loss(w)) / rho**2).item()


# %% 3 wrong: the seed is ignored
def trace(loss, w, rho, directions, seed=0):
    total = 0.0
    for _ in range(directions):
        v = (2 * torch.randint(0, 2, w.shape) - 1).to(w) / len(w) ** 0.5
        total += (loss(w + rho * v) + loss(w - rho * v) - 2 * loss(w)) / rho**2
    return (len(w) * total / directions).item()


# %% 3 wrong: the seed is always 0
def trace(loss, w, rho, directions, seed=0):
    generator = torch.Generator().manual_seed(0)
    total = 0.0
    for _ in range(directions):
        v = (2 * torch.randint(0, 2, w.shape, generator=generator) - 1).to(w) / len(w) ** 0.5
        total += (loss(w + rho * v) + loss(w - rho * v) - 2 * loss(w)) / rho**2
    return (len(w) * total / directions).item()
