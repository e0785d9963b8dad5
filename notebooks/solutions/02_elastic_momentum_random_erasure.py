# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Elastic momentum, random erasure: exercises
#
# They go with chapter 2, and take a few seconds on two cores.
#
# Each exercise asks for one function. Replace the line that raises, and run the cell below it: what it
# checks is a part of what is graded.

# %%
import torch

import advlib as al

f, h = al.models.load("shapes/resnet"), al.models.load("shapes/wrn")
data = al.datasets.load("shapes", "test", 20)
right = (f(data.x).argmax(1) == data.y) & (h(data.x).argmax(1) == data.y)
x, y = data.x[right], data.y[right]

# %% [markdown]
# ## 1. Turn one knob
#
# How many points of black-box success does the look-ahead gain, or lose? Write the function, and call it with 4, 8 and 16.


# %% nbgrader={"grade": false, "grade_id": "exercise-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def gain(eps_255):
    """Success (%) on h of EM-FGSM minus that of MI-FGSM, both from f with 10 steps at eps_255 / 255."""

    ### BEGIN SOLUTION
    def success(attack):
        return 100 * (h(attack(f, x, y, eps=eps_255 / 255, steps=10)).argmax(1) != y).float().mean().item()

    return success(al.attacks.em_fgsm) - success(al.attacks.mi_fgsm)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
points = gain(12)
assert 1 < abs(points) <= 100, "a difference of two success rates in percent, and at 12/255 they differ by some points"
### BEGIN HIDDEN TESTS
from unittest.mock import patch


def fooled_by(adv, never, labels, shown):
    """A forward hook: the network names the images `adv` wrongly and `never` rightly, and what it is shown is noted."""

    def answer(module, inputs, output):
        shown.append(inputs[0].detach())
        nearest = torch.cdist(inputs[0].flatten(1), torch.cat([adv, never]).flatten(1)).argmin(1)
        named = torch.cat([(labels + 1) % 10, labels])[nearest]
        return torch.nn.functional.one_hot(named, 10) + 1e-6 * output  # an attack on it finds a gradient

    return answer


few, shown = {"x": x[:4], "y": y[:4]}, []
em, mi = (a(f, **few, eps=4 / 255, steps=10) for a in (al.attacks.em_fgsm, al.attacks.mi_fgsm))
hook = h.register_forward_hook(fooled_by(em, mi, y[:4], shown))
try:
    points = patch.dict(globals(), few)(gain)(4)
finally:
    hook.remove()
assert shown, "h is shown no image"
for name, adv in (("EM-FGSM", em), ("MI-FGSM", mi)):
    other = ((torch.cat(shown)[:, None] - adv).abs() > 1e-4).float().mean((2, 3, 4)).amin(0).max()
    assert other < 0.05, f"h is not shown what {name} makes from f in 10 steps with this budget"
assert abs(points - 100) < 1e-3, f"a target that EM-FGSM always fools and MI-FGSM never: 100, not {points:.3g}"
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Derive
#
# Gradients point the same way in every step and are divided by their mean absolute value; $\mu = 1$, $\alpha = \epsilon / T$. How far is
# the look-ahead point (eq. 2.1) from the iterate before step $t = 0, 1, \ldots$, per pixel on average?


# %% nbgrader={"grade": false, "grade_id": "exercise-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def look_ahead(t, steps, sigma, eps):
    """Mean absolute distance per pixel between x_t^em and x_t, when t gradients have been accumulated."""
    ### BEGIN SOLUTION
    return eps / steps * sigma * t
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-2", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert look_ahead(0, 10, 2.0, 8 / 255) == 0, "nothing has been accumulated before step 0"
assert abs(look_ahead(1, 10, 1.0, 0.5) - 0.05) < 1e-9, "after one gradient, with sigma = 1: one step of eps / T"
### BEGIN HIDDEN TESTS
for mean_abs, steps, sigma, eps in ((1.8, 10, 2.0, 1.0), (1.35, 4, 3.0, 0.6)):
    t = steps - 1
    assert abs(look_ahead(t, steps, sigma, eps) - mean_abs) < 1e-9, f"T = {steps}: {mean_abs} at the end"
rule, m, g = al.Elastic(mu=1.0, sigma=3.0), torch.zeros(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
for t in range(1, 5):
    m = rule.accumulate(m, g)
    ahead = rule.look_ahead(torch.zeros_like(g), m, 0.5 / 5).abs().mean().item()
    assert abs(ahead - look_ahead(t, 5, 3.0, 0.5)) < 1e-5, f"al.Elastic looks {ahead:.3f} ahead before step {t}"
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Build
#
# A transform is a callable (images, draw, copy) -> images with a number `copies`. Erase *two* rectangles: let `al.RandomErasure` with
# its own defaults do it twice, so that each rectangle comes with probability $p = 0.5$, independently of the other. The second time needs
# draws of its own: `draw.at(stream=...)` (a `RandomErasure` uses the stream that it is given and the next few; 16 belong to this transform).


# %% nbgrader={"grade": false, "grade_id": "exercise-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
class TwoErasures:
    """al.RandomErasure twice: up to two rectangles are erased from each copy but the first."""

    copies = 5

    def __call__(self, x, draw, copy):
        ### BEGIN SOLUTION
        erase = al.RandomErasure(self.copies)
        return erase(erase(x, draw, copy), draw.at(stream=draw.stream + 8), copy)
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
draw, copy = al.draws.Draw(seed=0, index=torch.arange(4), stream=16), torch.tensor([0, 1, 2, 3])
out = TwoErasures()(x[:4], draw, copy)
assert out.shape == x[:4].shape and torch.equal(out[0], x[0]), "the first copy stays as it is"
assert torch.equal(out, TwoErasures()(x[:4], draw, copy)), "the same draw erases the same"
### BEGIN HIDDEN TESTS
n = 2000
blank, copy = torch.full((n, 1, 24, 24), -1.0), torch.ones(n, dtype=torch.int64)


def erased(transform, **where):
    draw = al.draws.Draw(**{"seed": 0, "index": torch.arange(n), "stream": 16, **where})
    return (transform(blank, draw, copy) != blank)[:, 0]


def looks(gone):
    """Shares of the pixels that are erased, of intact images, and of images in which it is no rectangle."""
    area = gone.sum((1, 2))
    rectangle = gone.any(1).sum(1) * gone.any(2).sum(1) == area
    return torch.stack([gone.double().mean(), (area == 0).double().mean(), (~rectangle).double().mean()])


gone = erased(TwoErasures())
off = (looks(gone) - looks(erased(al.RandomErasure(5), seed=1) | erased(al.RandomErasure(5), seed=2))).abs()
assert off[1] < 0.06, "each rectangle comes with probability 0.5: a quarter of the copies is to stay intact"
assert off[2] < 0.06, "what is erased is one rectangle, as a whole, more often or less often than with two of them"
assert off[0] < 0.03, "another share of the pixels is erased than two rectangles of al.RandomErasure erase"
for where in ({"step": 1}, {"seed": 1}, {"index": torch.arange(n) + n}):
    same = (erased(TwoErasures(), **where) == gone).all(2).all(1) & gone.any(2).any(1)
    assert same.float().mean() < 0.03, f"a rectangle does not follow the draw's {next(iter(where))}"
assert al.attacks.mi_fgsm(f, x[:2], y[:2], transform=TwoErasures(), steps=1).shape == x[:2].shape, "no transform"
### END HIDDEN TESTS
