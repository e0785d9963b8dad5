"""Answers to the exercises of chapter 3: right ones, differently written, and mistakes. See tests/test_exercises.py."""
# ruff: noqa: F811, F821


# %% 1 right: a named attack with the penalty around its gradient
def i_fgsm_gnp(x, y, beta):
    return al.attacks.i_fgsm(
        f, x, y, eps=8 / 255, steps=5, wrap=lambda g: al.norm_penalty(g, r=0.01, beta=beta, unit="l2")
    )


# %% 1 right: a loop of its own
def i_fgsm_gnp(x, y, beta):
    def gradient(z):
        z = z.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(f(z), y, reduction="sum")
        return torch.autograd.grad(loss, z)[0]

    adv = x.clone()
    for _ in range(5):
        g1 = gradient(adv)
        g2 = gradient(adv + 0.01 * g1 / al.norms.l2_norm(g1).clamp(min=1e-38))
        step = 8 / 255 / 5 * ((1 + beta) * g1 - beta * g2).sign()
        adv = torch.min(torch.max(adv + step, x - 8 / 255), x + 8 / 255).clamp(0, 1)
    return adv


# %% 1 wrong: the sign of beta
def i_fgsm_gnp(x, y, beta):
    g = al.norm_penalty(al.gradient(f), r=0.01, beta=-beta)
    return al.attack(x, y, g, eps=8 / 255, steps=5)


# %% 1 wrong: r = 0.1
def i_fgsm_gnp(x, y, beta):
    g = al.norm_penalty(al.gradient(f), r=0.1, beta=beta)
    return al.attack(x, y, g, eps=8 / 255, steps=5)


# %% 1 wrong: r and beta swapped
def i_fgsm_gnp(x, y, beta):
    g = al.norm_penalty(al.gradient(f), r=beta or 0.01, beta=0.01)
    return al.attack(x, y, g, eps=8 / 255, steps=5)


# %% 1 wrong: beta is ignored unless it is 0
def i_fgsm_gnp(x, y, beta):
    g = al.norm_penalty(al.gradient(f), r=0.01) if beta else al.gradient(f)
    return al.attack(x, y, g, eps=8 / 255, steps=5)


# %% 1 wrong: r in units of the mean
def i_fgsm_gnp(x, y, beta):
    g = al.norm_penalty(al.gradient(f), r=0.01, beta=beta, unit="mean")
    return al.attack(x, y, g, eps=8 / 255, steps=5)


# %% 1 wrong: MI-FGSM
def i_fgsm_gnp(x, y, beta):
    return al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=5, wrap=lambda g: al.norm_penalty(g, r=0.01, beta=beta))


# %% 1 wrong: g2 rescaled
def i_fgsm_gnp(x, y, beta):
    g = al.norm_penalty(al.gradient(f), r=0.01, beta=beta, rescale=True)
    return al.attack(x, y, g, eps=8 / 255, steps=5)


# %% 1 wrong: one step of five fifths
def i_fgsm_gnp(x, y, beta):
    return al.attack(x, y, al.norm_penalty(al.gradient(f), r=0.01, beta=beta), eps=8 / 255, steps=1)


# %% 1 wrong: the penalty's gradient at the clean image in every step (Algorithm 2 to the letter)
def i_fgsm_gnp(x, y, beta):
    g = al.norm_penalty(al.gradient(f), r=0.01, beta=beta)
    fixed = al.gradients.Gradient(lambda z, y, draw: g(x, y, draw), g.models, g.passes)
    return al.attack(x, y, fixed, eps=8 / 255, steps=5)


# %% 2 right: by cases
def growth(r, s, p_y):
    limit = 1 / (1 - p_y)
    return exp(r * s) if exp(r * s) < limit else limit


def safe_up_to(beta):
    return 1 - beta / (1 + beta)


# %% 2 right: in logarithms
def growth(r, s, p_y):
    from math import log1p

    return exp(min(r * s, -log1p(-p_y)))


def safe_up_to(beta):
    return (1 + beta) ** -1


# %% 2 wrong: the exponential alone
def growth(r, s, p_y):
    return exp(r * s)


# %% 2 wrong: the larger of the two
def growth(r, s, p_y):
    return max(exp(r * s), 1 / (1 - p_y))


# %% 2 wrong: divided by p_y
def growth(r, s, p_y):
    return min(exp(r * s), 1 / p_y)


# %% 2 wrong: r is ignored
def growth(r, s, p_y):
    return min(exp(s) if r else 1.0, 1 / (1 - p_y))


# %% 2 wrong: the complement
def safe_up_to(beta):
    return beta / (1 + beta)


# %% 2 wrong: the factor itself
def safe_up_to(beta):
    return (1 + beta) / beta


# %% 2 wrong: g2 compared with beta times g1
def safe_up_to(beta):
    return 1 - 1 / beta


# %% 2 wrong: the number for beta = 0.8
def safe_up_to(beta):
    return 1 / 1.8


# %% 3 right: by einsum and lerp
def penalised(g, x, y, draw, r, beta):
    here = g(x, y, draw)
    length = torch.linalg.vector_norm(here, dim=(1, 2, 3))
    ahead = g(x + torch.einsum("n,nchw->nchw", r / length, here), y, draw)
    return here.lerp(ahead, -beta)


# %% 3 right: image by image
def penalised(g, x, y, draw, r, beta):
    rows = []
    for i in range(len(x)):
        one = draw.at(index=draw.index[i : i + 1])
        first = g(x[i : i + 1], y[i : i + 1], one)
        second = g(x[i : i + 1] + r[i] * first / first.norm(), y[i : i + 1], one)
        rows.append(first + beta * (first - second))
    return torch.cat(rows)


# %% 3 wrong: one length for the whole batch
def penalised(g, x, y, draw, r, beta):
    first = g(x, y, draw)
    second = g(x + r[:, None, None, None] * first / first.norm(), y, draw)
    return (1 + beta) * first - beta * second


# %% 3 wrong: one r for the whole batch
def penalised(g, x, y, draw, r, beta):
    first = g(x, y, draw)
    second = g(x + r.mean() * first / al.norms.l2_norm(first), y, draw)
    return (1 + beta) * first - beta * second


# %% 3 wrong: a length for each channel
def penalised(g, x, y, draw, r, beta):
    first = g(x, y, draw)
    unit = first / first.flatten(2).norm(dim=2)[:, :, None, None]
    second = g(x + r[:, None, None, None] * unit, y, draw)
    return (1 + beta) * first - beta * second


# %% 3 wrong: r runs along the width
def penalised(g, x, y, draw, r, beta):
    first = g(x, y, draw)
    unit = first / al.norms.l2_norm(first)
    second = g(x + r.repeat(x.shape[3] // len(r)) * unit, y, draw)
    return (1 + beta) * first - beta * second


# %% 3 wrong: the norm is rewarded
def penalised(g, x, y, draw, r, beta):
    first = g(x, y, draw)
    second = g(x + r[:, None, None, None] * first / al.norms.l2_norm(first), y, draw)
    return (1 - beta) * first + beta * second


# %% 3 wrong: the second gradient behind the image
def penalised(g, x, y, draw, r, beta):
    first = g(x, y, draw)
    second = g(x - r[:, None, None, None] * first / al.norms.l2_norm(first), y, draw)
    return (1 + beta) * first - beta * second


# %% 3 wrong: along the signs
def penalised(g, x, y, draw, r, beta):
    first = g(x, y, draw)
    second = g(x + r[:, None, None, None] * first.sign(), y, draw)
    return (1 + beta) * first - beta * second


# %% 3 wrong: not divided by the length
def penalised(g, x, y, draw, r, beta):
    first = g(x, y, draw)
    second = g(x + r[:, None, None, None] * first, y, draw)
    return (1 + beta) * first - beta * second


# %% 3 wrong: another draw for the second gradient
def penalised(g, x, y, draw, r, beta):
    first = g(x, y, draw)
    unit = first / al.norms.l2_norm(first)
    second = g(x + r[:, None, None, None] * unit, y, draw.at(step=draw.step + 1))
    return (1 + beta) * first - beta * second
