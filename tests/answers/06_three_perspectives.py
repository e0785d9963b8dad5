"""Answers to the exercises of chapter 6: right ones, differently written, and mistakes. See tests/test_exercises.py."""
# ruff: noqa: F811, F821


# %% 1 right: passes counted one after the other
def plain_at_the_cost_of(erasures, scales, penalty):
    passes = erasures * scales
    if penalty:
        passes *= 2
    return al.attacks.mi_fgsm(f, x, y, 8 / 255, steps=passes * 10)


# %% 1 right: as the gradient function counts them
def plain_at_the_cost_of(erasures, scales, penalty):
    g = al.gradient(f, transform=[al.RandomErasure(erasures), al.ScaleCopies(scales)])
    g = al.norm_penalty(g) if penalty else g
    return al.attack(x, y, f, momentum=al.Elastic(1.0), eps=8 / 255, steps=10 * g.passes)


# %% 1 wrong: copies added
def plain_at_the_cost_of(erasures, scales, penalty):
    return al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=10 * (erasures + scales - 1) * (2 if penalty else 1))


# %% 1 wrong: the penalty adds a pass to the step
def plain_at_the_cost_of(erasures, scales, penalty):
    return al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=10 * (erasures * scales + penalty))


# %% 1 wrong: the penalty costs nothing
def plain_at_the_cost_of(erasures, scales, penalty):
    return al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=10 * erasures * scales)


# %% 1 wrong: scales cost nothing
def plain_at_the_cost_of(erasures, scales, penalty):
    return al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=10 * erasures * (2 if penalty else 1))


# %% 1 wrong: always with the penalty
def plain_at_the_cost_of(erasures, scales, penalty):
    return al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=10 * erasures * scales * 2)


# %% 1 wrong: I-FGSM
def plain_at_the_cost_of(erasures, scales, penalty):
    return al.attacks.i_fgsm(f, x, y, eps=8 / 255, steps=10 * erasures * scales * (2 if penalty else 1))


# %% 1 wrong: the combination itself
def plain_at_the_cost_of(erasures, scales, penalty):
    chain = [al.RandomErasure(erasures), al.ScaleCopies(scales)]
    return al.attacks.mi_fgsm(f, x, y, eps=8 / 255, transform=chain, wrap=al.norm_penalty if penalty else None)


# %% 2 right: one minus both fail
def best_of_both(p, q):
    return 1 - (1 - p) * (1 - q), max(p, q), min(p + q, 1)


# %% 2 right: both, either, neither
def best_of_both(p, q):
    both = p * q
    only_first, only_second = p - both, q - both
    overlap = max(0.0, p + q - 1)
    return [both + only_first + only_second, p if p > q else q, p + q - overlap]


# %% 2 wrong: both at once
def best_of_both(p, q):
    return p * q, max(0.0, p + q - 1), min(p, q)


# %% 2 wrong: exactly one of the two
def best_of_both(p, q):
    return p + q - 2 * p * q, max(p, q), min(1.0, p + q)


# %% 2 wrong: more than all images
def best_of_both(p, q):
    return p + q - p * q, max(p, q), p + q


# %% 2 wrong: the least is the smaller one
def best_of_both(p, q):
    return p + q - p * q, min(p, q), min(1.0, p + q)


# %% 2 wrong: the most is everything
def best_of_both(p, q):
    return p + q - p * q, max(p, q), 1.0


# %% 2 wrong: least and most swapped
def best_of_both(p, q):
    return p + q - p * q, min(1.0, p + q), max(p, q)


# %% 2 wrong: no gain at all
def best_of_both(p, q):
    return max(p, q), max(p, q), max(p, q)


# %% 3 right: a named attack
def together(x, y, eps, steps):
    return al.attacks.em_fgsm(
        al.ensemble([f, h]), x, y, eps, steps=steps, transform=al.RandomErasure(copies=3), wrap=al.norm_penalty
    )


# %% 3 right: the mean of the logits by hand, all copies at once
def together(x, y, eps, steps):
    g = al.gradient(lambda z: (f(z) + h(z)) / 2, transform=[al.RandomErasure(3)], chunk=3)
    g = al.norm_penalty(g, r=0.01, beta=0.8)
    return al.attack(x, y, g, momentum=al.Elastic(1.0, 2.0), eps=eps, steps=steps)


# %% 3 wrong: without the penalty
def together(x, y, eps, steps):
    g = al.gradient(al.ensemble([f, h]), transform=al.RandomErasure(3))
    return al.attack(x, y, g, momentum=al.Elastic(mu=1.0, sigma=2.0), eps=eps, steps=steps)


# %% 3 wrong: without the erasure
def together(x, y, eps, steps):
    g = al.norm_penalty(al.gradient(al.ensemble([f, h])))
    return al.attack(x, y, g, momentum=al.Elastic(mu=1.0, sigma=2.0), eps=eps, steps=steps)


# %% 3 wrong: without the momentum
def together(x, y, eps, steps):
    g = al.norm_penalty(al.gradient(al.ensemble([f, h]), transform=al.RandomErasure(3)))
    return al.attack(x, y, g, eps=eps, steps=steps)


# %% 3 wrong: MI, without the look-ahead
def together(x, y, eps, steps):
    g = al.norm_penalty(al.gradient(al.ensemble([f, h]), transform=al.RandomErasure(3)))
    return al.attack(x, y, g, momentum=al.Elastic(mu=1.0), eps=eps, steps=steps)


# %% 3 wrong: NI, one step ahead
def together(x, y, eps, steps):
    g = al.norm_penalty(al.gradient(al.ensemble([f, h]), transform=al.RandomErasure(3)))
    return al.attack(x, y, g, momentum=al.Elastic(mu=1.0, sigma=1.0), eps=eps, steps=steps)


# %% 3 wrong: one network
def together(x, y, eps, steps):
    g = al.norm_penalty(al.gradient(f, transform=al.RandomErasure(3)))
    return al.attack(x, y, g, momentum=al.Elastic(mu=1.0, sigma=2.0), eps=eps, steps=steps)


# %% 3 wrong: five copies
def together(x, y, eps, steps):
    g = al.norm_penalty(al.gradient(al.ensemble([f, h]), transform=al.RandomErasure()))
    return al.attack(x, y, g, momentum=al.Elastic(mu=1.0, sigma=2.0), eps=eps, steps=steps)


# %% 3 wrong: ten steps whatever is asked
def together(x, y, eps, steps):
    g = al.norm_penalty(al.gradient(al.ensemble([f, h]), transform=al.RandomErasure(3)))
    return al.attack(x, y, g, momentum=al.Elastic(mu=1.0, sigma=2.0), eps=eps)


# %% 3 wrong: twice the penalty
def together(x, y, eps, steps):
    g = al.norm_penalty(al.norm_penalty(al.gradient(al.ensemble([f, h]), transform=al.RandomErasure(3))))
    return al.attack(x, y, g, momentum=al.Elastic(mu=1.0, sigma=2.0), eps=eps, steps=steps)
