"""Answers to the exercises of appendix A2: right ones and mistakes. See tests/test_exercises.py."""
# ruff: noqa: F811, F821


# %% 1 right: the logits' largest, counted
def accuracy(bits):
    defended = al.defenses.BitReduction(bits=bits)(h)
    return int((defended(x).argmax(1) == y).sum()) / len(y) * 100


# %% 1 right: the reduction by hand
def accuracy(bits):
    levels = 2**bits - 1
    reduced = (x * levels).round() / levels
    with torch.no_grad():
        return 100.0 * (h(reduced).max(1).indices == y).double().mean().item()


# %% 1 wrong: the bits are ignored
def accuracy(bits):
    defended = al.defenses.BitReduction()(h)
    return 100 * (defended.predict(x) == y).float().mean().item()


# %% 1 wrong: no defence
def accuracy(bits):
    return 100 * (h(x).argmax(1) == y).float().mean().item()


# %% 1 wrong: errors
def accuracy(bits):
    defended = al.defenses.BitReduction(bits)(h)
    return 100 * (defended.predict(x) != y).float().mean().item()


# %% 1 wrong: a share, not percent
def accuracy(bits):
    defended = al.defenses.BitReduction(bits)(h)
    return (defended.predict(x) == y).float().mean().item()


# %% 1 wrong: the bits that are dropped
def accuracy(bits):
    defended = al.defenses.BitReduction(9 - bits)(h)
    return 100 * (defended.predict(x) == y).float().mean().item()


# %% 1 wrong: a bit more
def accuracy(bits):
    defended = al.defenses.BitReduction(min(bits + 1, 8))(h)
    return 100 * (defended.predict(x) == y).float().mean().item()


# %% 1 wrong: agreement with the network instead of the label
def accuracy(bits):
    defended = al.defenses.BitReduction(bits)(h)
    return 100 * (defended.predict(x) == h(x).argmax(1)).float().mean().item()


# %% 2 right: the cumulative distribution
def most_for_the_second(n, alpha):
    from scipy.stats import binom

    k = -1
    while 2 * (k + 1) < n and 2 * binom.cdf(k + 1, n, 0.5) <= alpha:
        k += 1
    return k


# %% 2 right: whole numbers
def most_for_the_second(n, alpha):
    from math import comb

    tail, best = 0, -1
    for k in range((n + 1) // 2):
        tail += comb(n, k)
        if 2 * tail / 2**n <= alpha:
            best = k
    return best


# %% 2 wrong: a one-sided test
def most_for_the_second(n, alpha):
    from scipy.stats import binomtest

    fine = [k for k in range(n // 2 + 1) if binomtest(k, n, alternative="less").pvalue <= alpha]
    return max(fine, default=-1)


# %% 2 wrong: the fewest with which it abstains
def most_for_the_second(n, alpha):
    from scipy.stats import binomtest

    fine = [k for k in range(n // 2 + 1) if binomtest(k, n).pvalue <= alpha]
    return max(fine, default=-1) + 1 if fine else -1


# %% 2 wrong: one fewer
def most_for_the_second(n, alpha):
    from scipy.stats import binomtest

    fine = [k for k in range(n // 2 + 1) if binomtest(k, n).pvalue <= alpha]
    return max(max(fine, default=-1) - 1, -1)


# %% 2 wrong: the votes for the first class
def most_for_the_second(n, alpha):
    from scipy.stats import binomtest

    fine = [k for k in range(n // 2 + 1) if binomtest(k, n).pvalue <= alpha]
    return n - max(fine) if fine else -1


# %% 2 wrong: 0 where it always abstains
def most_for_the_second(n, alpha):
    from scipy.stats import binomtest

    fine = [k for k in range(n // 2 + 1) if binomtest(k, n).pvalue <= alpha]
    return max(fine, default=0)


# %% 2 wrong: half of alpha twice
def most_for_the_second(n, alpha):
    from scipy.stats import binomtest

    fine = [k for k in range(n // 2 + 1) if binomtest(k, n).pvalue <= alpha / 2]
    return max(fine, default=-1)


# %% 2 wrong: the level that smoothing takes by itself
def most_for_the_second(n, alpha):
    from scipy.stats import binomtest

    fine = [k for k in range(n // 2 + 1) if binomtest(k, n).pvalue <= 0.001]
    return max(fine, default=-1)


# %% 2 wrong: where it does abstain
def most_for_the_second(n, alpha):
    return n // 2


# %% 3 right: a convolution of each channel
@dataclass(frozen=True)
class Blur(al.defenses.Defence):
    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "exact"
    size: int = 3

    def purified(self, x, draw):
        c, k = x.shape[1], self.size
        kernel = torch.full((c, 1, k, k), 1 / k**2).to(x)
        padded = torch.nn.functional.pad(x, (k // 2,) * 4, mode="reflect")
        return torch.nn.functional.conv2d(padded, kernel, groups=c)


# %% 3 right: rows and columns, one after the other
@dataclass(frozen=True)
class Blur(al.defenses.Defence):
    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "exact"
    size: int = 3

    def purified(self, x, draw):
        half = self.size // 2
        padded = torch.nn.functional.pad(x, (half, half, half, half), mode="reflect")
        return padded.unfold(3, self.size, 1).mean(-1).unfold(2, self.size, 1).mean(-1)


# %% 3 wrong: black beyond the border
@dataclass(frozen=True)
class Blur(al.defenses.Defence):
    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "exact"
    size: int = 3

    def purified(self, x, draw):
        return torch.nn.functional.avg_pool2d(x, self.size, stride=1, padding=self.size // 2)


# %% 3 wrong: the border repeated
@dataclass(frozen=True)
class Blur(al.defenses.Defence):
    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "exact"
    size: int = 3

    def purified(self, x, draw):
        padded = torch.nn.functional.pad(x, (self.size // 2,) * 4, mode="replicate")
        return torch.nn.functional.avg_pool2d(padded, self.size, stride=1)


# %% 3 wrong: the size is ignored
@dataclass(frozen=True)
class Blur(al.defenses.Defence):
    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "exact"
    size: int = 3

    def purified(self, x, draw):
        if self.size == 1:
            return x
        padded = torch.nn.functional.pad(x, (1,) * 4, mode="reflect")
        return torch.nn.functional.avg_pool2d(padded, 3, stride=1)


# %% 3 wrong: the largest for the mean
@dataclass(frozen=True)
class Blur(al.defenses.Defence):
    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "exact"
    size: int = 3

    def purified(self, x, draw):
        return torch.nn.functional.max_pool2d(x, self.size, stride=1, padding=self.size // 2)


# %% 3 wrong: rows only
@dataclass(frozen=True)
class Blur(al.defenses.Defence):
    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "exact"
    size: int = 3

    def purified(self, x, draw):
        half = self.size // 2
        padded = torch.nn.functional.pad(x, (half, half, 0, 0), mode="reflect")
        return padded.unfold(3, self.size, 1).mean(-1)


# %% 3 wrong: colours mixed
@dataclass(frozen=True)
class Blur(al.defenses.Defence):
    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "exact"
    size: int = 3

    def purified(self, x, draw):
        padded = torch.nn.functional.pad(x, (self.size // 2,) * 4, mode="reflect")
        return torch.nn.functional.avg_pool2d(padded, self.size, stride=1).mean(1, keepdim=True).expand_as(x)


# %% 3 wrong: no gradient
@dataclass(frozen=True)
class Blur(al.defenses.Defence):
    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "exact"
    size: int = 3

    def purified(self, x, draw):
        padded = torch.nn.functional.pad(x, (self.size // 2,) * 4, mode="reflect")
        return al.defenses.straight_through(x, torch.nn.functional.avg_pool2d(padded, self.size, stride=1))


# %% 3 wrong: a smaller image
@dataclass(frozen=True)
class Blur(al.defenses.Defence):
    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "exact"
    size: int = 3

    def purified(self, x, draw):
        return torch.nn.functional.avg_pool2d(x, self.size, stride=1)


# %% 3 wrong: the image as it was
@dataclass(frozen=True)
class Blur(al.defenses.Defence):
    kind: ClassVar[str] = "faithful"
    gradients: ClassVar[str] = "exact"
    size: int = 3

    def purified(self, x, draw):
        return x
