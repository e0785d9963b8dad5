"""Answers to the exercises of chapter 2: right ones, differently written, and mistakes. See tests/test_exercises.py."""
# ruff: noqa: F811, F821


# %% 1 right: from the parts of the module
def gain(eps_255):
    eps, fooled = eps_255 / 255, []
    for sigma in (2.0, 0.0):
        adv = al.attack(x, y, al.gradient(f), momentum=al.Elastic(mu=1.0, sigma=sigma), eps=eps, steps=10)
        fooled.append((h(adv).argmax(1) != y).sum().item())
    return (fooled[0] - fooled[1]) / len(y) * 100


# %% 1 right: what the accuracy loses
def gain(eps_255):
    def accuracy(sigma):
        return (h(al.attacks.em_fgsm(f, x, y, eps_255 / 255, sigma=sigma)).argmax(1) == y).double().mean().item()

    return 100 * (accuracy(0.0) - accuracy(2.0))


# %% 1 wrong: the sign
def gain(eps_255):
    def success(attack):
        return 100 * (h(attack(f, x, y, eps=eps_255 / 255, steps=10)).argmax(1) != y).float().mean().item()

    return success(al.attacks.mi_fgsm) - success(al.attacks.em_fgsm)


# %% 1 wrong: NI-FGSM for EM-FGSM
def gain(eps_255):
    def success(attack):
        return 100 * (h(attack(f, x, y, eps=eps_255 / 255, steps=10)).argmax(1) != y).float().mean().item()

    return success(al.attacks.ni_fgsm) - success(al.attacks.mi_fgsm)


# %% 1 wrong: I-FGSM for MI-FGSM
def gain(eps_255):
    def success(attack):
        return 100 * (h(attack(f, x, y, eps=eps_255 / 255, steps=10)).argmax(1) != y).float().mean().item()

    return success(al.attacks.em_fgsm) - success(al.attacks.i_fgsm)


# %% 1 wrong: white-box
def gain(eps_255):
    def success(attack):
        return 100 * (f(attack(f, x, y, eps=eps_255 / 255, steps=10)).argmax(1) != y).float().mean().item()

    return success(al.attacks.em_fgsm) - success(al.attacks.mi_fgsm)


# %% 1 wrong: from h to f
def gain(eps_255):
    def success(attack):
        return 100 * (f(attack(h, x, y, eps=eps_255 / 255, steps=10)).argmax(1) != y).float().mean().item()

    return success(al.attacks.em_fgsm) - success(al.attacks.mi_fgsm)


# %% 1 wrong: the budget is ignored
def gain(eps_255):
    def success(attack):
        return 100 * (h(attack(f, x, y, eps=8 / 255, steps=10)).argmax(1) != y).float().mean().item()

    return success(al.attacks.em_fgsm) - success(al.attacks.mi_fgsm)


# %% 1 wrong: shares, not points
def gain(eps_255):
    def success(attack):
        return (h(attack(f, x, y, eps=eps_255 / 255, steps=10)).argmax(1) != y).float().mean().item()

    return success(al.attacks.em_fgsm) - success(al.attacks.mi_fgsm)


# %% 1 wrong: one step only
def gain(eps_255):
    def success(attack):
        return 100 * (h(attack(f, x, y, eps=eps_255 / 255, steps=1)).argmax(1) != y).float().mean().item()

    return success(al.attacks.em_fgsm) - success(al.attacks.mi_fgsm)


# %% 2 right: by a sum
def look_ahead(t, steps, sigma, eps):
    momentum = sum(1.0 for _ in range(t))
    return (eps / steps) * sigma * momentum


# %% 2 right: one product
def look_ahead(t, steps, sigma, eps):
    return sigma * t * eps / steps


# %% 2 wrong: a gradient more
def look_ahead(t, steps, sigma, eps):
    return eps / steps * sigma * (t + 1)


# %% 2 wrong: sigma forgotten
def look_ahead(t, steps, sigma, eps):
    return eps / steps * t


# %% 2 wrong: the steps forgotten
def look_ahead(t, steps, sigma, eps):
    return eps * sigma * t


# %% 2 wrong: momentum that does not grow
def look_ahead(t, steps, sigma, eps):
    return eps / steps * sigma if t else 0.0


# %% 2 wrong: a random walk
def look_ahead(t, steps, sigma, eps):
    return eps / steps * sigma * t**0.5


# %% 2 wrong: cut to the ball
def look_ahead(t, steps, sigma, eps):
    return min(eps, eps / steps * sigma * t)


# %% 3 right: masks first
class TwoErasures:
    copies = 5

    def __call__(self, x, draw, copy):
        erase = al.RandomErasure(5)
        again = draw.at(stream=draw.stream + 4)
        once = torch.where(erase.mask(x.shape[2], x.shape[3], draw, copy), draw.uniform(*x.shape[1:]), x)
        return torch.where(erase.mask(x.shape[2], x.shape[3], again, copy), again.uniform(*x.shape[1:]), once)


# %% 3 right: a loop, with black fill
class TwoErasures:
    copies = 5

    def __call__(self, x, draw, copy):
        for stream in (draw.stream, draw.stream + 8):
            x = al.RandomErasure(self.copies, fill=0.0)(x, draw.at(stream=stream), copy)
        return x


# %% 3 wrong: one rectangle
class TwoErasures:
    copies = 5

    def __call__(self, x, draw, copy):
        return al.RandomErasure(self.copies)(x, draw, copy)


# %% 3 wrong: one rectangle, always
class TwoErasures:
    copies = 5

    def __call__(self, x, draw, copy):
        return al.RandomErasure(self.copies, p=1.0)(x, draw, copy)


# %% 3 wrong: one large rectangle
class TwoErasures:
    copies = 5

    def __call__(self, x, draw, copy):
        return al.RandomErasure(self.copies, s_h=0.9)(x, draw, copy)


# %% 3 wrong: the same rectangle twice
class TwoErasures:
    copies = 5

    def __call__(self, x, draw, copy):
        erase = al.RandomErasure(self.copies)
        return erase(erase(x, draw, copy), draw, copy)


# %% 3 wrong: three rectangles
class TwoErasures:
    copies = 5

    def __call__(self, x, draw, copy):
        erase = al.RandomErasure(self.copies)
        for k in range(3):
            x = erase(x, draw.at(stream=draw.stream + 4 * k), copy)
        return x


# %% 3 wrong: the first copy is erased too
class TwoErasures:
    copies = 5

    def __call__(self, x, draw, copy):
        erase = al.RandomErasure(self.copies)
        return erase(erase(x, draw, copy + 1), draw.at(stream=draw.stream + 8), copy + 1)


# %% 3 wrong: the second rectangle is that of image 0 for the whole batch
class TwoErasures:
    copies = 5

    def __call__(self, x, draw, copy):
        erase = al.RandomErasure(self.copies)
        again = draw.at(stream=draw.stream + 8, index=draw.index[:1].expand_as(draw.index))
        return erase(erase(x, draw, copy), again, copy)


# %% 3 wrong: torch's own random numbers the second time
class TwoErasures:
    copies = 5

    def __call__(self, x, draw, copy):
        erase = al.RandomErasure(self.copies)
        return erase(erase(x, draw, copy), draw.at(seed=int(torch.randint(1000, ()))), copy)


# %% 3 wrong: the same second rectangle in every step
class TwoErasures:
    copies = 5

    def __call__(self, x, draw, copy):
        erase = al.RandomErasure(self.copies)
        return erase(erase(x, draw, copy), al.draws.Draw(7, draw.index), copy)
