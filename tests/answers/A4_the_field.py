"""Answers to the exercises of appendix A4: right ones and mistakes. See tests/test_exercises.py."""
# ruff: noqa: F811, F821


# %% 1 right: by its rule
def vmi(x, y, radius):
    rule = al.VarianceTuned(points=4, radius=radius)
    return al.attack(x, y, f, momentum=rule, eps=8 / 255, steps=4, seed=1)


# %% 1 right: on any model
def vmi(x, y, radius):
    options = {"eps": 8 / 255, "steps": 4, "seed": 1}
    return al.attacks.vmi_fgsm(lambda z: f(z), x, y, radius=radius, points=4, **options)


# %% 1 wrong: the radius in pixels
def vmi(x, y, radius):
    return al.attacks.vmi_fgsm(f, x, y, eps=8 / 255, points=4, radius=radius * 8 / 255, steps=4, seed=1)


# %% 1 wrong: twenty points
def vmi(x, y, radius):
    return al.attacks.vmi_fgsm(f, x, y, eps=8 / 255, radius=radius, steps=4, seed=1)


# %% 1 wrong: ten steps
def vmi(x, y, radius):
    return al.attacks.vmi_fgsm(f, x, y, eps=8 / 255, points=4, radius=radius, seed=1)


# %% 1 wrong: with a look-ahead
def vmi(x, y, radius):
    return al.attacks.vni_fgsm(f, x, y, eps=8 / 255, points=4, radius=radius, steps=4, seed=1)


# %% 1 wrong: the points alone
def vmi(x, y, radius):
    return al.attacks.pgn(f, x, y, eps=8 / 255, points=4, radius=radius, beta=0.0, steps=4, seed=1)


# %% 2 right: a sum
def variance(a, offsets):
    return sum(a @ r for r in offsets) / len(offsets)


# %% 2 right: rows
def variance(a, offsets):
    return (offsets @ a).mean(0)


# %% 2 wrong: always its limit
def variance(a, offsets):
    return torch.zeros(len(a))


# %% 2 wrong: summed
def variance(a, offsets):
    return a @ offsets.sum(0)


# %% 2 wrong: without the matrix
def variance(a, offsets):
    return offsets.mean(0)


# %% 2 wrong: half
def variance(a, offsets):
    return a @ offsets.mean(0) / 2


# %% 2 wrong: lengths
def variance(a, offsets):
    return a @ offsets.abs().mean(0)


# %% 3 right: a list
class AtTheMean:
    def init(self, x):
        return []

    def update(self, state, g, x_t, y, draw, ball):
        state = [*state, x_t]
        return g(torch.stack(state).mean(0), y, draw), state


# %% 3 right: a running mean, counted by the step
class AtTheMean:
    def init(self, x):
        return torch.zeros_like(x)

    def update(self, mean, g, x_t, y, draw, ball):
        mean = mean + (x_t - mean) / (draw.step + 1)
        return g(mean, y, draw), mean


# %% 3 wrong: remembers the last attack
class AtTheMean:
    def __init__(self):
        self.seen = []

    def init(self, x):
        return None

    def update(self, state, g, x_t, y, draw, ball):
        self.seen.append(x_t)
        return g(torch.stack(self.seen).mean(0), y, draw), None


# %% 3 wrong: at the iterate
class AtTheMean:
    def init(self, x):
        return x

    def update(self, state, g, x_t, y, draw, ball):
        return g(x_t, y, draw), x_t


# %% 3 wrong: the mean of this iterate and the mean before
class AtTheMean:
    def init(self, x):
        return x

    def update(self, mean, g, x_t, y, draw, ball):
        mean = (mean + x_t) / 2
        return g(mean, y, draw), mean


# %% 3 wrong: downhill
class AtTheMean:
    def init(self, x):
        return torch.zeros_like(x), 0

    def update(self, state, g, x_t, y, draw, ball):
        total, steps = state[0] + x_t, state[1] + 1
        return -g(total / steps, y, draw), (total, steps)


# %% 3 wrong: without this iterate
class AtTheMean:
    def init(self, x):
        return torch.zeros_like(x), 0

    def update(self, state, g, x_t, y, draw, ball):
        total, steps = state
        point = total / steps if steps else x_t
        return g(point, y, draw), (total + x_t, steps + 1)
