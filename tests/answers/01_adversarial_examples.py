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
    def init(self, x):
        return torch.zeros_like(x)

    def update(self, squares, g, x_t, y, draw, ball):
        grad = g(x_t, y, draw)
        squares = squares.clone().mul_(0.9).addcmul_(grad, grad, value=0.1)
        return grad / squares.sqrt().clamp(min=1e-30), squares


# %% 3 right: without a small number
class RMSProp:
    def init(self, x):
        return torch.zeros_like(x)

    def update(self, squares, g, x_t, y, draw, ball):
        grad = g(x_t, y, draw)
        squares = torch.lerp(grad**2, squares, 0.9)
        root = torch.sqrt(squares)
        return torch.where(grad == 0, torch.zeros_like(grad), grad / root), squares


# %% 3 right: the usual small number
class RMSProp:
    def init(self, x):
        return torch.zeros_like(x)

    def update(self, squares, g, x_t, y, draw, ball):
        grad = g(x_t, y, draw)
        squares = squares * 0.9 + (1 - 0.9) * grad * grad
        return grad / (squares**0.5 + 1e-8), squares


# %% 3 wrong: the weights of old and new swapped
class RMSProp:
    def init(self, x):
        return torch.zeros_like(x)

    def update(self, squares, g, x_t, y, draw, ball):
        grad = g(x_t, y, draw)
        squares = 0.1 * squares + 0.9 * grad.square()
        return grad / (squares.sqrt() + 1e-30), squares


# %% 3 wrong: the squares are not kept
class RMSProp:
    def init(self, x):
        return torch.zeros_like(x)

    def update(self, squares, g, x_t, y, draw, ball):
        grad = g(x_t, y, draw)
        now = 0.9 * squares + 0.1 * grad.square()
        return grad / (now.sqrt() + 1e-30), squares


# %% 3 wrong: no root
class RMSProp:
    def init(self, x):
        return torch.zeros_like(x)

    def update(self, squares, g, x_t, y, draw, ball):
        grad = g(x_t, y, draw)
        squares = 0.9 * squares + 0.1 * grad.square()
        return grad / (squares + 1e-30), squares


# %% 3 wrong: one mean square for all pixels
class RMSProp:
    def init(self, x):
        return torch.zeros_like(x)

    def update(self, squares, g, x_t, y, draw, ball):
        grad = g(x_t, y, draw)
        squares = 0.9 * squares + 0.1 * grad.square().mean()
        return grad / (squares.sqrt() + 1e-30), squares


# %% 3 wrong: the squares of the direction
class RMSProp:
    def init(self, x):
        return torch.zeros_like(x)

    def update(self, squares, g, x_t, y, draw, ball):
        grad = g(x_t, y, draw)
        squares = 0.9 * squares + 0.1 * grad.square()
        direction = grad / (squares.sqrt() + 1e-30)
        return direction, direction.square()


# %% 3 wrong: zero over zero
class RMSProp:
    def init(self, x):
        return torch.zeros_like(x)

    def update(self, squares, g, x_t, y, draw, ball):
        grad = g(x_t, y, draw)
        squares = 0.9 * squares + 0.1 * grad.square()
        return grad / squares.sqrt(), squares


# %% 3 wrong: kept in the rule, into the next attack
class RMSProp:
    def init(self, x):
        self.squares = getattr(self, "squares", torch.zeros_like(x))
        return self.squares

    def update(self, squares, g, x_t, y, draw, ball):
        grad = g(x_t, y, draw)
        self.squares = 0.9 * squares + 0.1 * grad.square()
        return grad / (self.squares.sqrt() + 1e-30), self.squares


# %% 3 wrong: downhill from the second step on
class RMSProp:
    def init(self, x):
        return torch.zeros_like(x)

    def update(self, squares, g, x_t, y, draw, ball):
        grad = g(x_t, y, draw)
        sign = 1 if not squares.any() else -1
        squares = 0.9 * squares + 0.1 * grad.square()
        return sign * grad / (squares.sqrt() + 1e-30), squares
