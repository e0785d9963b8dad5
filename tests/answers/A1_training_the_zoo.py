"""Answers to the exercises of appendix A1: right ones and mistakes. See tests/test_exercises.py."""
# ruff: noqa: F811, F821


# %% 1 right: the recipe written out
def weights_after(seed):
    net = al.models.create("resnet", "small", "shapes", 0)
    recipe = al.recipes.Recipe(epochs=1, batch_size=64, lr=0.1, augment=("flip",), seed=seed)
    al.training.fit(net, train, val, recipe)
    return list(net.parameters())[0].data


# %% 1 right: by the recipe's name, and the state's first entry
def weights_after(seed):
    net = al.models.create("resnet", "small", "shapes")
    al.training.fit(net, train, val, replace(al.recipes.recipe_for("shapes/resnet"), epochs=1, seed=seed))
    return next(p for p in net.parameters() if p.dim() == 4).detach().clone()


# %% 1 wrong: the seed of the weights
def weights_after(seed):
    model = al.models.create("resnet", "small", "shapes", seed)
    al.training.fit(model, train, val, replace(al.recipes.RECIPES["shapes"], epochs=1))
    return next(model.parameters()).detach()


# %% 1 wrong: both seeds
def weights_after(seed):
    model = al.models.create("resnet", "small", "shapes", seed)
    al.training.fit(model, train, val, replace(al.recipes.RECIPES["shapes"], epochs=1, seed=seed))
    return next(model.parameters()).detach()


# %% 1 wrong: the seed is ignored
def weights_after(seed):
    model = al.models.create("resnet", "small", "shapes", 0)
    al.training.fit(model, train, val, replace(al.recipes.RECIPES["shapes"], epochs=1))
    return next(model.parameters()).detach()


# %% 1 wrong: not trained
def weights_after(seed):
    return next(al.models.create("resnet", "small", "shapes", 0).parameters()).detach()


# %% 1 wrong: two epochs
def weights_after(seed):
    model = al.models.create("resnet", "small", "shapes", 0)
    al.training.fit(model, train, val, replace(al.recipes.RECIPES["shapes"], epochs=2, seed=seed))
    return next(model.parameters()).detach()


# %% 1 wrong: trained on the validation images
def weights_after(seed):
    model = al.models.create("resnet", "small", "shapes", 0)
    al.training.fit(model, val, train, replace(al.recipes.RECIPES["shapes"], epochs=1, seed=seed))
    return next(model.parameters()).detach()


# %% 1 wrong: torch's seed
def weights_after(seed):
    torch.manual_seed(seed)
    model = al.models.create("resnet", "small", "shapes", 0)
    al.training.fit(model, train, val, replace(al.recipes.RECIPES["shapes"], epochs=1))
    return next(model.parameters()).detach()


# %% 1 wrong: random numbers of the right shape
def weights_after(seed):
    return torch.randn(16, 3, 3, 3, generator=torch.Generator().manual_seed(seed))


# %% 2 right: by the half width, with 1.96
def images_needed(a, width):
    import math

    return math.ceil(a * (1 - a) * (1.96 / (width / 2)) ** 2)


# %% 2 right: a search
def images_needed(a, width):
    n = 1
    while 2 * 1.96 * (a * (1 - a) / n) ** 0.5 > width:
        n += 1
    return n


# %% 2 wrong: width taken for half of it
def images_needed(a, width):
    from math import ceil

    return ceil(1.96**2 * a * (1 - a) / width**2)


# %% 2 wrong: a 90 % interval
def images_needed(a, width):
    from math import ceil

    return ceil(4 * 1.645**2 * a * (1 - a) / width**2)


# %% 2 wrong: rounded down
def images_needed(a, width):
    return int(4 * 1.96**2 * a * (1 - a) / width**2)


# %% 2 wrong: one too many
def images_needed(a, width):
    return int(4 * 1.96**2 * a * (1 - a) / width**2) + 2


# %% 2 wrong: the worst accuracy
def images_needed(a, width):
    from math import ceil

    return ceil(1.96**2 / width**2)


# %% 2 wrong: the variance of a network that is wrong
def images_needed(a, width):
    from math import ceil

    return ceil(4 * 1.96**2 * (1 - a) / width**2)


# %% 2 wrong: the width not squared
def images_needed(a, width):
    from math import ceil

    return ceil(4 * 1.96**2 * a * (1 - a) / width)


# %% 2 wrong: two standard deviations, rounded
def images_needed(a, width):
    return round(16 * a * (1 - a) / width**2)


# %% 3 right: a perceptron with one hidden layer
def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 128), nn.ReLU(), nn.Linear(128, 10))


# %% 3 right: a small MLP-Mixer
def mlp():
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Linear(48, 64), nn.Linear(64, 10)
            self.tokens = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64))
            self.channels = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64))

        def forward(self, x):
            patches = x.reshape(-1, 3, 8, 4, 8, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 64, 48)
            z = self.embed(patches)
            z = z + self.tokens(z.transpose(1, 2)).transpose(1, 2)
            z = z + self.channels(z)
            return self.head(z.mean(1))

    return Mixer()


# %% 3 wrong: a convolution
def mlp():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10)
    )


# %% 3 wrong: a convolution of one dimension
def mlp():
    return nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 16, 9, stride=8), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 127, 10))


# %% 3 wrong: too many weights
def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 256), nn.ReLU(), nn.Linear(256, 10))


# %% 3 wrong: probabilities
def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 128), nn.ReLU(), nn.Linear(128, 10), nn.Softmax(1))


# %% 3 wrong: a ReLU after the last layer
def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 128), nn.ReLU(), nn.Linear(128, 10), nn.ReLU())


# %% 3 wrong: layers with nothing between them
def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 128), nn.Linear(128, 10))


# %% 3 wrong: the same logits for every image
def mlp():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.randn(10))

        def forward(self, x):
            return self.logits.expand(len(x), 10)

    return Constant()


# %% 3 wrong: weights that no optimizer moves
def mlp():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 128), nn.ReLU(), nn.Linear(128, 10))
    for p in net[1].parameters():
        p.requires_grad_(False)
    return net


# %% 3 wrong: a batch in one row
def mlp():
    return nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (-1, 3072)), nn.Linear(3072, 128), nn.ReLU(), nn.Softmax(0))
