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
# # Adversarial examples: exercises
#
# They go with chapter 1, and take a few seconds on two cores.
#
# Each exercise asks for one function. Replace the line that raises, and run the cell below it: what it
# checks is a part of what is graded.

# %%

import torch

import advlib as al

f = al.models.load("shapes/resnet")
data = al.datasets.load("shapes", "test", 4)
x, y = data.x, data.y

# %% [markdown]
# ## 1. Turn one knob
#
# The confidence $\kappa$ of C&W asks for a margin of $\kappa$ between the wrong logit and the right one. Write a function that
# returns the mean $L_2$ length of the change. How much longer is it at 5 than at 0?


# %% nbgrader={"grade": false, "grade_id": "exercise-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def length(kappa):
    """Mean L2 length of the changes of al.carlini_wagner on x, y from f, with searches=2, steps=20."""
    ### BEGIN SOLUTION
    adv = al.carlini_wagner(f, x, y, kappa=kappa, searches=2, steps=20)
    return (adv - x).flatten(1).norm(dim=1).mean().item()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-1", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
short, long = length(0.0), length(2.0)
assert 0 < short < long, "the larger the margin asked for, the longer the change"
### BEGIN HIDDEN TESTS
adv = al.carlini_wagner(f, x, y, kappa=2.0, searches=2, steps=20)
expected = (adv - x).square().sum((1, 2, 3)).sqrt().mean().item()
assert abs(long / expected - 1) < 1e-2, "not the mean over the images of the L2 length of C&W's change at this kappa"
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Derive
#
# For a linear loss with the gradient $w$ the loss rises by $w \cdot \delta$. Which $\delta$ with $\|\delta\|_p \le \epsilon$ raises it
# most, for $p = \infty$ and for $p = 2$? It raises it by $\epsilon \|w\|_q$, $1/p + 1/q = 1$ (Hölder).


# %% nbgrader={"grade": false, "grade_id": "exercise-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def steepest(w, eps, p):
    """The change of length eps in the norm p (2 or infinity) that raises w . delta most; w: one tensor of any shape."""
    ### BEGIN SOLUTION
    return eps * w.sign() if p == float("inf") else eps * w / w.norm()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-2", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
w = torch.tensor([3.0, -4.0])
assert torch.allclose(steepest(w, 0.1, float("inf")), torch.tensor([0.1, -0.1])), "L-inf: every entry moves by eps"
assert abs(steepest(w, 0.1, 2).norm() - 0.1) < 1e-6, "L2: the change is eps long"
### BEGIN HIDDEN TESTS
torch.manual_seed(0)
for w in (torch.randn(50), torch.randn(4, 6), torch.randn(3, 2, 5)):
    for p, q in ((2, 2), (float("inf"), 1)):
        delta = steepest(w, 0.3, p).flatten()
        assert abs(delta.norm(p=p).item() - 0.3) < 1e-5, f"p = {p}: the change of all of w together is not eps long"
        rise, most = (w.flatten() @ delta).item(), 0.3 * w.flatten().norm(p=q).item()
        assert abs(rise - most) < 1e-4, f"p = {p}: it raises w . delta by {rise:.3f}, but {most:.3f} is possible"
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Build
#
# A step rule has two methods: `init(x)` is its state before the first step, `update(state, g, x_t, y, draw, ball)` returns the
# direction to step along and the next state, where `g(x_t, y, draw)` is the gradient at the iterate. RMSProp divides each pixel's
# gradient by a running root mean square: write a rule whose state are the mean squares. What does the sign leave of it?


# %% nbgrader={"grade": false, "grade_id": "exercise-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
class RMSProp:
    """gradient / sqrt(running mean of its squares), per pixel, with a decay of 0.9; 0 where the gradient is 0."""

    def init(self, x):
        return torch.zeros_like(x)

    def update(self, squares, g, x_t, y, draw, ball):
        ### BEGIN SOLUTION
        grad = g(x_t, y, draw)
        squares = 0.9 * squares + 0.1 * grad.square()
        return grad / (squares.sqrt() + 1e-30), squares
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "check-3", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
def step_along(rule, state, grad):
    """The direction and the next state, where the gradient is `grad` wherever it is taken."""
    return rule.update(state, lambda x_t, y, draw: grad, torch.zeros(2), None, None, None)


rule = RMSProp()
first, state = step_along(rule, rule.init(torch.zeros(2)), torch.tensor([2.0, -4.0]))
assert torch.allclose(first, torch.tensor([1.0, -1.0]) / 0.1**0.5), "the first mean square is 0.1 of the square"
### BEGIN HIDDEN TESTS
second, _ = step_along(rule, state, torch.tensor([1.0, -1.0]))
expected = torch.tensor([1.0, -1.0]) / torch.tensor([0.46, 1.54]).sqrt()
assert torch.allclose(second, expected, atol=1e-4), "second step: 0.9 of the old mean square and 0.1 of the new square"
nothing, _ = step_along(rule, rule.init(torch.zeros(2)), torch.tensor([0.0, 1.0]))
assert torch.allclose(nothing, torch.tensor([0.0, 10**0.5])), "a gradient of 0 is to stay 0"
again, _ = step_along(rule, rule.init(torch.zeros(2)), torch.tensor([2.0, -4.0]))
assert torch.equal(again, first), "another attack is to start anew: what a rule remembers belongs into its state"
adv = al.attack(x, y, al.gradient(f), momentum=RMSProp(), eps=8 / 255, steps=5)
other = ((adv - al.attacks.i_fgsm(f, x, y, eps=8 / 255, steps=5)).abs() > 1e-4).float().mean()
assert other < 0.05, "a positive factor leaves the sign: the attack is I-FGSM, and this one is not"
### END HIDDEN TESTS
