"""Answers to the exercises of chapter 0: right ones, differently written, and mistakes. See tests/test_exercises.py."""
# ruff: noqa: F811, F821


# %% 1 right: from the parts of the module
def rates(steps):
    adv = al.attack(x, y, al.gradient(f), momentum=al.Elastic(mu=1.0), eps=8 / 255, steps=steps)
    white = (f(adv).argmax(1) == y).double().mean()
    black = (h(adv).argmax(1) == y).double().mean()
    return (1 - white.item()) * 100, (1 - black.item()) * 100


# %% 1 right: a loop of its own
def rates(steps):
    adv, m = x.clone(), torch.zeros_like(x)
    for _ in range(steps):
        z = adv.clone().requires_grad_()
        torch.nn.functional.cross_entropy(f(z), y, reduction="sum").backward()
        m = m + z.grad / z.grad.abs().mean(dim=(1, 2, 3), keepdim=True)
        adv = (adv + 8 / 255 / steps * m.sign()).clamp(x - 8 / 255, x + 8 / 255).clamp(0, 1)
    return [100.0 * int((net(adv).argmax(1) != y).sum()) / len(y) for net in (f, h)]


# %% 1 wrong: I-FGSM
def rates(steps):
    adv = al.attacks.i_fgsm(f, x, y, eps=8 / 255, steps=steps)
    return tuple(100 * (net(adv).argmax(1) != y).float().mean().item() for net in (f, h))


# %% 1 wrong: NI-FGSM
def rates(steps):
    adv = al.attacks.ni_fgsm(f, x, y, eps=8 / 255, steps=steps)
    return tuple(100 * (net(adv).argmax(1) != y).float().mean().item() for net in (f, h))


# %% 1 wrong: PGD
def rates(steps):
    adv = al.attacks.pgd(f, x, y, eps=8 / 255, steps=steps)
    return tuple(100 * (net(adv).argmax(1) != y).float().mean().item() for net in (f, h))


# %% 1 wrong: twice the budget
def rates(steps):
    adv = al.attacks.mi_fgsm(f, x, y, steps=steps)
    return tuple(100 * (net(adv).argmax(1) != y).float().mean().item() for net in (f, h))


# %% 1 wrong: steps is ignored
def rates(steps):
    adv = al.attacks.mi_fgsm(f, x, y, eps=8 / 255)
    return tuple(100 * (net(adv).argmax(1) != y).float().mean().item() for net in (f, h))


# %% 1 wrong: a step more
def rates(steps):
    adv = al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=steps + 1)
    return tuple(100 * (net(adv).argmax(1) != y).float().mean().item() for net in (f, h))


# %% 1 wrong: target and surrogate swapped
def rates(steps):
    adv = al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=steps)
    return tuple(100 * (net(adv).argmax(1) != y).float().mean().item() for net in (h, f))


# %% 1 wrong: the target is attacked too
def rates(steps):
    return tuple(
        100 * (net(al.attacks.mi_fgsm(net, x, y, eps=8 / 255, steps=steps)).argmax(1) != y).float().mean().item()
        for net in (f, h)
    )


# %% 1 wrong: accuracy
def rates(steps):
    adv = al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=steps)
    return tuple(100 * (net(adv).argmax(1) == y).float().mean().item() for net in (f, h))


# %% 1 wrong: shares, not percent
def rates(steps):
    adv = al.attacks.mi_fgsm(f, x, y, eps=8 / 255, steps=steps)
    return tuple((net(adv).argmax(1) != y).float().mean().item() for net in (f, h))


# %% 2 right: one minus what stays right
def asr_all(a, s):
    return 1 - a * (1 - s)


# %% 2 right: both kinds of wrong, added
def asr_all(a, s):
    wrong_before = 1 - a
    fooled = s * a
    return wrong_before + fooled


# %% 2 wrong: only those that were fooled
def asr_all(a, s):
    return a * s


# %% 2 wrong: the success rate itself
def asr_all(a, s):
    return s


# %% 2 wrong: the sign of s
def asr_all(a, s):
    return 1 - a * s


# %% 2 wrong: success counted over all images
def asr_all(a, s):
    return min(1.0, 1 - a + s)


# %% 2 wrong: a and 1 - a swapped
def asr_all(a, s):
    return a + (1 - a) * s


# %% 3 right: from the parts of the module
def from_two(first, second, x, y, eps):
    g = al.gradient(al.ensemble([first, second]))
    return al.attack(x, y, g, momentum=al.Elastic(mu=1.0, sigma=0.0), eps=eps)


# %% 3 right: the mean of the logits by hand
def from_two(first, second, x, y, eps):
    return al.attacks.mi_fgsm(lambda z: (first(z) + second(z)) / 2, x, y, eps, steps=10)


# %% 3 right: a loop of its own
def from_two(first, second, x, y, eps):
    adv, m = x.clone(), torch.zeros_like(x)
    for _ in range(10):
        z = adv.clone().requires_grad_()
        torch.nn.functional.cross_entropy(0.5 * first(z) + 0.5 * second(z), y, reduction="sum").backward()
        m = m + z.grad / z.grad.abs().mean(dim=(1, 2, 3), keepdim=True)
        adv = (adv + eps / 10 * m.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return adv


# %% 3 wrong: the first network only
def from_two(first, second, x, y, eps):
    return al.attacks.mi_fgsm(first, x, y, eps=eps, steps=10)


# %% 3 wrong: the second network only
def from_two(first, second, x, y, eps):
    return al.attacks.mi_fgsm(second, x, y, eps=eps, steps=10)


# %% 3 wrong: f and h whatever is asked
def from_two(first, second, x, y, eps):
    return al.attacks.mi_fgsm(al.ensemble([f, h]), x, y, eps=eps, steps=10)


# %% 3 wrong: I-FGSM
def from_two(first, second, x, y, eps):
    return al.attacks.i_fgsm(al.ensemble([first, second]), x, y, eps=eps, steps=10)


# %% 3 wrong: the mean of two attacks
def from_two(first, second, x, y, eps):
    return (al.attacks.mi_fgsm(first, x, y, eps=eps) + al.attacks.mi_fgsm(second, x, y, eps=eps)) / 2


# %% 3 wrong: the mean of the probabilities taken for logits
def from_two(first, second, x, y, eps):
    return al.attacks.mi_fgsm(lambda z: first(z).softmax(1) + second(z).softmax(1), x, y, eps=eps, steps=10)


# %% 3 wrong: the budget is ignored
def from_two(first, second, x, y, eps):
    return al.attacks.mi_fgsm(al.ensemble([first, second]), x, y, eps=4 / 255, steps=10)


# %% 3 wrong: five steps
def from_two(first, second, x, y, eps):
    return al.attacks.mi_fgsm(al.ensemble([first, second]), x, y, eps=eps, steps=5)


# %% 3 wrong: gradients divided by their mean over the batch
def from_two(first, second, x, y, eps):
    adv, m = x.clone(), torch.zeros_like(x)
    for _ in range(10):
        z = adv.clone().requires_grad_()
        torch.nn.functional.cross_entropy(0.5 * first(z) + 0.5 * second(z), y).backward()
        m = m + z.grad / z.grad.abs().mean()
        adv = (adv + eps / 10 * m.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return adv
