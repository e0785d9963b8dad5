"""Answers to the exercises of chapter 1: right ones, differently written, and mistakes. See tests/test_exercises.py."""
# ruff: noqa: F811, F821


# %% 1 right: the sum of squares by hand
def length(kappa):
    change = al.carlini_wagner(f, x, y, searches=2, steps=20, kappa=kappa) - x
    return float((change**2).sum(dim=(1, 2, 3)).sqrt().mean())


# %% 1 right: image by image
def length(kappa):
    adv = al.carlini_wagner(f, x, y, kappa=kappa, searches=2, steps=20)
    return sum(torch.dist(a, b).item() for a, b in zip(adv, x, strict=True)) / len(x)


# %% 1 wrong: kappa is ignored
def length(kappa):
    adv = al.carlini_wagner(f, x, y, searches=2, steps=20)
    return (adv - x).flatten(1).norm(dim=1).mean().item()


# %% 1 wrong: the length of the whole batch
def length(kappa):
    adv = al.carlini_wagner(f, x, y, kappa=kappa, searches=2, steps=20)
    return (adv - x).norm().item()


# %% 1 wrong: a norm for each row of pixels
def length(kappa):
    adv = al.carlini_wagner(f, x, y, kappa=kappa, searches=2, steps=20)
    return (adv - x).norm(dim=-1).mean().item()


# %% 1 wrong: the largest change of a pixel
def length(kappa):
    adv = al.carlini_wagner(f, x, y, kappa=kappa, searches=2, steps=20)
    return (adv - x).abs().amax((1, 2, 3)).mean().item()


# %% 1 wrong: squared lengths
def length(kappa):
    adv = al.carlini_wagner(f, x, y, kappa=kappa, searches=2, steps=20)
    return (adv - x).square().sum((1, 2, 3)).mean().item()


# %% 1 wrong: half the margin
def length(kappa):
    adv = al.carlini_wagner(f, x, y, kappa=kappa / 2, searches=2, steps=20)
    return (adv - x).flatten(1).norm(dim=1).mean().item()


# %% 2 right: unit directions first
def steepest(w, eps, p):
    direction = w / w.square().sum().sqrt() if p == 2 else torch.sign(w)
    return direction * eps


# %% 2 right: one formula for every p, by Hoelder's equality
def steepest(w, eps, p):
    q = 1 if p == float("inf") else p / (p - 1)
    delta = w.sign() * w.abs() ** (q - 1)
    return eps * delta / torch.linalg.vector_norm(delta, p)


# %% 2 wrong: signs in both norms
def steepest(w, eps, p):
    return eps * w.sign()


# %% 2 wrong: downhill
def steepest(w, eps, p):
    return -eps * w.sign() if p == float("inf") else -eps * w / w.norm()


# %% 2 wrong: the gradient divided by its largest entry
def steepest(w, eps, p):
    return eps * w / w.norm(p=p)


# %% 2 wrong: signs of length eps in L2
def steepest(w, eps, p):
    return eps * w.sign() if p == float("inf") else eps * w.sign() / w.sign().norm()


# %% 2 wrong: every row has a length of its own
def steepest(w, eps, p):
    return eps * w.sign() if p == float("inf") else eps * w / w.norm(dim=-1, keepdim=True)


# %% 2 wrong: eps forgotten in L2
def steepest(w, eps, p):
    return eps * w.sign() if p == float("inf") else w / w.norm()


# %% 3 right: in place
class RMSProp:
    def __init__(self):
        self.squares = 0.0

    def look_ahead(self, adv, m, alpha):
        return adv

    def update(self, m, grad):
        if isinstance(self.squares, float):
            self.squares = torch.zeros_like(grad)
        self.squares.mul_(0.9).addcmul_(grad, grad, value=0.1)
        return grad / self.squares.sqrt().clamp(min=1e-30)


# %% 3 right: without a small number
class RMSProp:
    def __init__(self):
        self.squares = 0.0

    def look_ahead(self, adv, m, alpha):
        return adv

    def update(self, m, grad):
        self.squares = torch.lerp(grad**2, torch.as_tensor(self.squares).to(grad).expand_as(grad), 0.9)
        root = torch.sqrt(self.squares)
        return torch.where(grad == 0, torch.zeros_like(grad), grad / root)


# %% 3 right: the usual small number
class RMSProp:
    def __init__(self):
        self.squares = 0.0

    def look_ahead(self, adv, m, alpha):
        return adv

    def update(self, m, grad):
        self.squares = self.squares * 0.9 + (1 - 0.9) * grad * grad
        return grad / (self.squares**0.5 + 1e-8)


# %% 3 wrong: the weights of old and new swapped
class RMSProp:
    def __init__(self):
        self.squares = 0.0

    def look_ahead(self, adv, m, alpha):
        return adv

    def update(self, m, grad):
        self.squares = 0.1 * self.squares + 0.9 * grad.square()
        return grad / (self.squares.sqrt() + 1e-30)


# %% 3 wrong: the squares are not kept
class RMSProp:
    def __init__(self):
        self.squares = 0.0

    def look_ahead(self, adv, m, alpha):
        return adv

    def update(self, m, grad):
        squares = 0.9 * self.squares + 0.1 * grad.square()
        return grad / (squares.sqrt() + 1e-30)


# %% 3 wrong: no root
class RMSProp:
    def __init__(self):
        self.squares = 0.0

    def look_ahead(self, adv, m, alpha):
        return adv

    def update(self, m, grad):
        self.squares = 0.9 * self.squares + 0.1 * grad.square()
        return grad / (self.squares + 1e-30)


# %% 3 wrong: one mean square for all pixels
class RMSProp:
    def __init__(self):
        self.squares = 0.0

    def look_ahead(self, adv, m, alpha):
        return adv

    def update(self, m, grad):
        self.squares = 0.9 * self.squares + 0.1 * grad.square().mean()
        return grad / (self.squares.sqrt() + 1e-30)


# %% 3 wrong: the gradient is accumulated as well
class RMSProp:
    def __init__(self):
        self.squares = 0.0

    def look_ahead(self, adv, m, alpha):
        return adv

    def update(self, m, grad):
        self.squares = 0.9 * self.squares + 0.1 * grad.square()
        return m + grad / (self.squares.sqrt() + 1e-30)


# %% 3 wrong: downhill from the second step on
class RMSProp:
    def __init__(self):
        self.squares = 0.0

    def look_ahead(self, adv, m, alpha):
        return adv

    def update(self, m, grad):
        sign = 1 if isinstance(self.squares, float) else -1
        self.squares = 0.9 * self.squares + 0.1 * grad.square()
        return sign * grad / (self.squares.sqrt() + 1e-30)


# %% 3 wrong: zero over zero
class RMSProp:
    def __init__(self):
        self.squares = 0.0

    def look_ahead(self, adv, m, alpha):
        return adv

    def update(self, m, grad):
        self.squares = 0.9 * self.squares + 0.1 * grad.square()
        return grad / self.squares.sqrt()
