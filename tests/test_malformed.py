"""Malformed calls over the public API: each is refused by a TypeError or ValueError that names the argument.

Every function stands in `CALLS` with arguments that it takes and the kind of each, "x:images eps:share";
`malformed.WRONG` holds what each kind must not be. Hypothesis draws a function, an argument and a wrong value for it,
always the same ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from malformed import DATA, WRONG, F, G, X, Y

import advlib as al
from advlib import attacks, gradients
from advlib.bench.evaluation import predictions, success_rates
from advlib.core import checks
from advlib.files.paths import PACKAGE
from advlib.layers import features, ila_plus_plus

EXAMPLES = 1500
DRAW = al.draws.Draw(0, torch.arange(3))
WEIGHTS = al.curvature.weights(F)
LOSS = al.curvature.mean_loss(F, DATA)
TUNED = {"train": DATA, "val": DATA, "epochs": 1, "batch_size": 1, "lr": 0.0, "bf16": False}
PARAMETERS = {"params": WEIGHTS, "lr": 0.1}


@dataclass(frozen=True)
class Call:
    """A function, the kinds of its arguments, arguments that it takes; names: what an error may call an argument, as a
    pattern, where that is not its name; then: what is done with the result, if an argument is looked at only there."""

    function: Callable
    kinds: str
    arguments: dict = field(default_factory=dict)
    names: dict = field(default_factory=dict)
    then: Callable = lambda made: made

    def run(self, **changed):
        return self.then(self.function(**{**self.arguments, **changed}))

    def spoiled(self):
        """(argument, its wrong value in words, the value)."""
        for argument, kind in (pair.split(":") for pair in self.kinds.split()):
            wrong = WRONG[kind]
            for what, value in wrong.items() if isinstance(wrong, dict) else ((checks.shown(v), v) for v in wrong):
                yield argument, what, value


ATTACKED = "model:attacked x:images y:labels eps:share "
LOOP = "seed:seed index:index target:target norm:word start:word alpha:optional-positive "
OPTIONS = "transform:transform loss:loss chunk:count wrap:wrap accelerate:accelerate "
ASKED = "model:model x:images y:labels target:target seed:seed index:index "
# What a transform or a loss does to the gradient is seen in that of the model.
NAMES = {"transform": "transform|model", "loss": "loss|model"}


def preset(function, kinds, **arguments):
    """A named attack."""
    return Call(
        function, ATTACKED + LOOP + OPTIONS + kinds, {"model": F, "x": X, "y": Y, "eps": 0.1, **arguments}, NAMES
    )


def called(transform):
    return gradients.gradient(F, transform)(X, Y, DRAW)


CALLS = {
    "fgsm": preset(attacks.fgsm, "kernel:odd"),
    "i_fgsm": preset(attacks.i_fgsm, "steps:count kernel:odd", steps=1),
    "pgd": preset(attacks.pgd, "steps:count", steps=1),
    "mi_fgsm": preset(attacks.mi_fgsm, "steps:count mu:not-negative", steps=1),
    "ni_fgsm": preset(attacks.ni_fgsm, "steps:count mu:not-negative", steps=1),
    "em_fgsm": preset(attacks.em_fgsm, "mu:not-negative sigma:not-negative normalize:word project:word", steps=1),
    "vmi_fgsm": preset(attacks.vmi_fgsm, "points:place radius:not-negative", steps=1, points=1),
    "vni_fgsm": preset(attacks.vni_fgsm, "points:place radius:not-negative", steps=1, points=1),
    "emi_fgsm": preset(attacks.emi_fgsm, "points:count interval:not-negative", steps=1, points=1),
    "svre": replace(
        preset(attacks.svre, "rounds:count", steps=1, model=al.ensemble([F]), rounds=1),
        names={**NAMES, "model": "model|momentum"},  # the rule says that it needs an ensemble
    ),
    "smoothed_gradient": preset(attacks.smoothed_gradient, "points:count radius:not-negative", steps=1, points=1),
    "pgn": preset(attacks.pgn, "points:count radius:not-negative beta:number", steps=1, points=1),
    "rdim": preset(attacks.rdim, "scale:positive momentum:rule", steps=1),
    "dim": preset(attacks.dim, "steps:count momentum:rule", steps=1),
    "tim": preset(attacks.tim, "kernel:odd momentum:rule", steps=1),
    "sim": preset(attacks.sim, "copies:count momentum:rule", steps=1),
    "re_fgsm": preset(attacks.re_fgsm, "momentum:rule", steps=1),
    "composite": preset(attacks.composite, "kernel:odd momentum:rule", steps=1),
    "admix": preset(attacks.admix, "pool:pool eta:not-negative mixed:count copies:count", steps=1, pool=X),
    "taig": preset(attacks.taig, "points:count noise:not-negative", steps=1, points=2),
    "rap": preset(attacks.rap, "steps:count late:place", steps=1),
    "aa": Call(
        attacks.aa,
        "model:module x:images y:labels eps:share layer:layer seed:seed index:index norm:word chunk:count wrap:wrap "
        "transform:transform kernel:odd momentum:rule alpha:optional-positive",
        {"model": F, "x": X, "y": Y, "eps": 0.1, "layer": "net.2", "steps": 1},
        NAMES,
    ),
    "ata": Call(
        attacks.ata,
        "model:module x:images y:labels eps:share target:target layers:layer weight:not-negative chunk:count "
        "transform:transform kernel:odd momentum:rule " + LOOP,
        {"model": F, "x": X, "y": Y, "eps": 0.1, "layers": "net.2", "steps": 1},
        NAMES,
    ),
    "aoa": Call(
        attacks.aoa,
        ATTACKED + LOOP + "weight:not-negative chunk:count transform:transform wrap:wrap kernel:odd momentum:rule",
        {"model": F, "x": X, "y": Y, "eps": 0.1, "steps": 1},
        NAMES,
    ),
    "activation": Call(
        al.activation,
        "model:module layer:layer images:pool transform:transform chunk:count",
        {"model": F, "layer": "net.2", "images": X},
        NAMES,
        then=lambda g: g(X, Y, DRAW),
    ),
    "attention": Call(
        al.attention,
        "model:module layers:layer images:pool y:labels weight:not-negative transform:transform chunk:count",
        {"model": F, "layers": "net.2", "images": X, "y": Y},
        NAMES,
        then=lambda g: g(X, Y, DRAW),
    ),
    "relevance": Call(
        al.relevance,
        "model:unseen-model weight:not-negative transform:transform chunk:count",
        {"model": F},
        NAMES,
        then=lambda g: g(X, Y, DRAW),
    ),
    "of_losses": Call(
        gradients.of_losses,
        "transform:transform chunk:count",
        {"losses": lambda x, y, draw: gradients.cross_entropy(F(x), y), "model": F},
        NAMES,
        then=lambda g: g(X, Y, DRAW),
    ),
    "dropout_erosion": Call(
        al.dropout_erosion, "model:module layers:layer rate:portion", {"model": F, "layers": "net.2"}
    ),
    "skip_erosion": Call(al.skip_erosion, "model:module layers:layer rate:portion", {"model": F, "layers": "net.2"}),
    "lgv": Call(attacks.lgv, "x:images y:labels eps:share " + LOOP, {"checkpoints": [F], "x": X, "y": Y, "steps": 1}),
    "attack": Call(
        al.attack,
        "x:images y:labels eps:share steps:count momentum:rule " + LOOP,
        {"x": X, "y": Y, "g": G, "eps": 0.1, "steps": 1},
    ),
    "captured": Call(
        lambda model, x, y, index=None: al.captured(attacks.fgsm, model, x, y, index)(x, y, index),
        "model:attacked x:images y:labels index:index",
        {"model": F, "x": X, "y": Y},
        NAMES,
    ),
    "carlini_wagner": Call(
        al.carlini_wagner,
        "model:attacked x:images y:labels steps:count searches:count c:positive kappa:not-negative lr:positive "
        "target:target",
        {"model": F, "x": X, "y": Y, "steps": 1, "searches": 1},
        NAMES,
    ),
    "lbfgs": Call(
        al.lbfgs,
        "model:attacked x:images y:labels steps:count searches:count c:positive memory:count target:target",
        {"model": F, "x": X, "y": Y, "steps": 1, "searches": 1},
        NAMES,
    ),
    "jsma": Call(
        al.jsma,
        "model:attacked x:images y:labels theta:other-than-0 gamma:share pairs:flag target:target",
        {"model": F, "x": X, "y": (Y + 7) % 10, "target": Y, "gamma": 0.02},
        NAMES,
    ),
    "nes": Call(
        al.queries.nes,
        "model:unseen-model sigma:positive pairs:count loss:unseen-value chunk:count",
        {"model": F, "pairs": 1},
        NAMES,
        then=lambda g: g(X, Y, DRAW),
    ),
    "nattack": Call(
        al.queries.nattack,
        ASKED + "eps:share steps:count population:several sigma:positive lr:positive chunk:count",
        {"model": F, "x": X, "y": Y, "steps": 1, "population": 4},
    ),
    "boundary": Call(
        al.decisions.boundary,
        ASKED + "steps:count sphere:positive toward:level start:start-images tries:count",
        {"model": F, "x": X, "y": Y, "steps": 1, "tries": 1},
    ),
    "sign_flip": Call(
        al.decisions.sign_flip,
        ASKED + "eps:share steps:count alpha:positive flip:level start:start-images tries:count",
        {"model": F, "x": X, "y": Y, "steps": 1, "tries": 1},
    ),
    "ila_plus_plus": Call(
        ila_plus_plus,
        "model:module x:images y:labels eps:share layer:layer steps:count refine:count ridge:positive seed:seed "
        "index:index",
        {"model": F, "x": X, "y": Y, "layer": "net.2", "steps": 1, "refine": 1},
    ),
    "gradient": Call(
        gradients.gradient,
        "model:unseen-model transform:transform loss:unseen-loss chunk:count",
        {"model": F},
        NAMES,
        then=lambda g: g(X, Y, DRAW),
    ),
    "smoothed": Call(gradients.smoothed, "g:gradient kernel:odd std:optional-positive", {"g": G}),
    "norm_penalty": Call(
        gradients.norm_penalty, "g:gradient r:positive beta:number unit:word rescale:flag difference:word", {"g": G}
    ),
    "integrated": Call(
        gradients.integrated, "g:gradient points:count reference:number noise:not-negative chunk:count", {"g": G}
    ),
    "reverse_perturbed": Call(gradients.reverse_perturbed, "g:gradient eps:share steps:count start:place", {"g": G}),
    "neighbours": Call(
        gradients.neighbours,
        "g:gradient radius:not-negative points:count noise:word chunk:count",
        {"g": G, "radius": 0.1},
    ),
    "averaged": Call(gradients.averaged, "gradients:gradients weights:weights-of-one", {"gradients": [G]}),
    "cycled": Call(gradients.cycled, "gradients:gradients", {"gradients": [G]}),
    "Elastic": Call(al.Elastic, "mu:not-negative sigma:not-negative normalize:word project:word"),
    "VarianceTuned": Call(al.VarianceTuned, "momentum:elastic points:place radius:not-negative"),
    "EnhancedMomentum": Call(al.EnhancedMomentum, "momentum:elastic points:count interval:not-negative"),
    "VarianceReduced": Call(al.VarianceReduced, "momentum:elastic rounds:count"),
    "InputDiversity": Call(al.InputDiversity, "p:share scale:positive copies:count"),
    "ScaleCopies": Call(al.ScaleCopies, "copies:count origin:number"),
    "MixedImages": Call(al.MixedImages, "pool:pool eta:not-negative copies:count", {"pool": X}, then=called),
    "RandomErasure": Call(al.RandomErasure, "copies:count p:share s_h:share aspect:aspect fill:fill"),
    "linear_backward": Call(al.linear_backward, "model:module layer:layer", {"model": F, "layer": "net.2"}),
    "skip_gradient": Call(al.skip_gradient, "model:module layers:layer gamma:share", {"model": F, "layers": "net.2"}),
    "features": Call(features, "model:module layer:layer", {"model": F, "layer": "net.2"}),
    "local_lipschitz": Call(
        al.lipschitz.local_lipschitz,
        "model:attacked x:images eps:radius steps:count norm:word seed:seed index:index",
        {"model": F, "x": X, "steps": 1},
        NAMES,
    ),
    "point": Call(
        al.lipschitz.point, "model:unseen-model x:seen y:any-labels curvature:flag", {"model": F, "x": X, "y": Y}
    ),
    "lrs1": Call(
        al.lipschitz.lrs1,
        "model:unseen-model x:seen y:any-labels h:positive direction:word form:word",
        {"model": F, "x": X, "y": Y},
    ),
    "lrs2": Call(
        al.lipschitz.lrs2,
        "model:unseen-model x:seen y:any-labels h:positive direction:word form:word",
        {"model": F, "x": X, "y": Y},
    ),
    "lrs_f": Call(
        al.lipschitz.lrs_f,
        "model:unseen-model x:seen y:any-labels lambda1:not-negative lambda2:not-negative h1:positive h2:positive "
        "form:word",
        {"model": F, "x": X, "y": Y},
    ),
    **{
        kind.__name__: Call(
            kind, "params:parameters base:function rho:not-negative lr:not-negative " + more, PARAMETERS
        )
        for kind, more in (
            (al.sam.SAM, "adaptive:flag same_draws:flag"),
            (al.sam.RandomSAM, "sigma:not-negative"),
            (al.sam.CRSAM, "alpha:not-negative beta:not-negative form:word"),
            (al.sam_family.LookSAM, "alpha:not-negative every:count"),
            (al.sam_family.ESAM, "beta:positive gamma:positive seed:seed"),
            (al.sam_family.SSAM, "sparsity:share every:count"),
            (al.sam_family.GSAM, "alpha:not-negative"),
        )
    },
    "AESAM": Call(
        al.sam_family.AESAM,
        "params:parameters base:function rho:not-negative low:number high:number delta:share total:count",
        {**PARAMETERS, "total": 9},
    ),
    "sparse_mask": Call(al.sam_family.sparse_mask, "sparsity:share", {"scores": WEIGHTS, "sparsity": 0.5}),
    "mean_loss": Call(
        al.curvature.mean_loss,
        "model:unseen-model data:data batch_size:count",
        {"model": F, "data": DATA},
        NAMES,
        then=lambda parts: list(parts()),
    ),
    "hutchinson_trace": Call(
        al.curvature.hutchinson_trace,
        "loss:function weights:weights probes:count tolerance:not-negative per_graph:count deflate:place seed:seed",
        {"loss": LOSS, "weights": WEIGHTS, "probes": 1, "deflate": 0},
    ),
    "top_eigenvalue": Call(
        al.curvature.top_eigenvalue,
        "loss:function weights:weights tolerance:not-negative steps:count seed:seed",
        {"loss": LOSS, "weights": WEIGHTS, "steps": 1},
    ),
    "approximation_ratio": Call(
        al.curvature.approximation_ratio,
        "losses:losses weights:weights rho:positive steps:count",
        {"losses": [LOSS], "weights": WEIGHTS, "steps": 1},
        {"losses": "loss|losses"},
    ),
    "quadrature": Call(
        al.curvature.quadrature,
        "loss:function weights:weights probes:count steps:count seed:seed",
        {"loss": LOSS, "weights": WEIGHTS, "probes": 1, "steps": 1},
    ),
    "epsilon_sharpness": Call(
        al.sharpness.epsilon_sharpness,
        "loss:function weights:weights eps:positive steps:count seed:seed",
        {"loss": LOSS, "weights": WEIGHTS, "steps": 1},
    ),
    "pac_bayes": Call(
        al.sharpness.pac_bayes,
        "loss:function weights:weights tolerance:positive draws:count relative:flag precision:positive seed:seed",
        {"loss": LOSS, "weights": WEIGHTS, "draws": 1, "precision": 1.0},
    ),
    "local_entropy": Call(
        al.sharpness.local_entropy,
        "loss:function weights:weights gamma:positive draws:count seed:seed",
        {"loss": LOSS, "weights": WEIGHTS, "gamma": 100.0, "draws": 1},
    ),
    "fisher_rao_norm": Call(
        al.sharpness.fisher_rao_norm, "model:module data:data batch_size:count labels:flag", {"model": F, "data": DATA}
    ),
    "output_entropy": Call(
        al.sharpness.output_entropy, "model:unseen-model data:data batch_size:count", {"model": F, "data": DATA}, NAMES
    ),
    "frobenius_norm": Call(
        al.sharpness.frobenius_norm,
        "loss:function weights:weights probes:count per_graph:count seed:seed",
        {"loss": LOSS, "weights": WEIGHTS, "probes": 1},
    ),
    "effective_dimension": Call(
        al.sharpness.effective_dimension,
        "loss:function weights:weights z:positive probes:count steps:count seed:seed",
        {"loss": LOSS, "weights": WEIGHTS, "probes": 1, "steps": 1},
    ),
    "Recipe": Call(
        al.recipes.Recipe,
        "epochs:count batch_size:count lr:not-negative weight_decay:not-negative bf16:flag seed:seed optimizer:word "
        "schedule:word ema:share compile:flag objective:function",
    ),
    "training.accuracy": Call(
        al.training.accuracy, "model:module data:data batch_size:count", {"model": F, "data": DATA}
    ),
    "training.collect": Call(
        al.training.collect, "model:module train:data val:data per_epoch:count", {"model": F, **TUNED, "per_epoch": 3}
    ),
    "training.posterior": Call(
        al.training.posterior, "model:module train:data val:data moments:count", {"model": F, **TUNED}
    ),
    "samples": Call(
        al.substitutes.Posterior(F, [p * 0 for p in F.parameters()]).samples,
        "n:count seed:seed scale:not-negative isotropic:not-negative",
        {"n": 1},
    ),
    "FlatMinimum": Call(
        al.substitutes.FlatMinimum, "params:parameters rho:positive weight:not-negative lr:not-negative", PARAMETERS
    ),
    "BitReduction": Call(al.defenses.BitReduction, "bits:bits"),
    "JPEG": Call(al.defenses.JPEG, "quality:quality colour:word"),
    "FeatureDistillation": Call(al.defenses.FeatureDistillation, "low:positive high:positive"),
    "RandomResizePad": Call(al.defenses.RandomResizePad, "draws:count"),
    "RandomizedSmoothing": Call(al.defenses.RandomizedSmoothing, "sigma:positive n:count alpha:level"),
    "TotalVariance": Call(al.defenses.TotalVariance, "drop:share-below-1 weight:positive iterations:count"),
    "RandomizedDiscretization": Call(
        al.defenses.RandomizedDiscretization, "sigma:not-negative colours:count draws:count"
    ),
    "RandomSelfEnsemble": Call(al.defenses.RandomSelfEnsemble, "first:not-negative inner:not-negative n:count"),
    "ModelEnsemble": Call(lambda model: al.defenses.ModelEnsemble()(model), "model:networks-in-a-list", {"model": [F]}),
    **{
        f"behind {defence}": Call(defence(F), "x:seen", {"x": X})
        for defence in (
            al.defenses.BitReduction(),
            al.defenses.JPEG(),
            al.defenses.FeatureDistillation(),
            al.defenses.RandomResizePad(),
            al.defenses.RandomizedSmoothing(),
            al.defenses.TotalVariance(),
            al.defenses.RandomizedDiscretization(),
            al.defenses.RandomSelfEnsemble(),
        )
    },
    "accelerate": Call(al.accelerate, "model:module fold_batchnorm:flag dtype:type compile:flag", {"model": F}),
    "ensemble": Call(al.ensemble, "members:members by:word weights:weights-of-one", {"members": [F]}),
    "create": Call(al.models.create, "family:word size:word dataset:dataset seed:seed", {"family": "resnet"}),
    "models.load": Call(al.models.load, "name:name", {"name": "shapes/resnet"}),
    "zoo": Call(al.models.zoo, "dataset:dataset", {"dataset": "shapes"}),
    "Images": Call(
        lambda images=DATA.images, labels=DATA.labels: al.datasets.Images(
            images, labels, DATA.index, DATA.classes, "shapes", "test"
        ),
        "images:pixels labels:labels",
    ),
    "batches": Call(lambda size=2: DATA.batches(size), "size:count"),
    "datasets.load": Call(
        al.datasets.load, "name:dataset split:word n:optional-count size:side download:flag", {"name": "shapes", "n": 2}
    ),
    "to_uint8": Call(al.pictures.to_uint8, "adv:pool x:pool eps:share", {"adv": X, "x": X, "eps": 0.1}),
    "wilson": Call(al.intervals.wilson, "successes:counts n:count level:level", {"successes": 3, "n": 10}),
    "predictions": Call(predictions, "model:model data:data batch_size:count", {"model": F, "data": DATA}, NAMES),
    "success_rates": Call(
        success_rates,
        "attacks:attacks surrogates:networks targets:networks data:data eps_255:budgets batch_size:count seed:seed "
        "ball:flag engine:word",
        {"attacks": {"a": attacks.fgsm}, "surrogates": {"f": F}, "targets": {"f": F}, "data": DATA, "eps_255": [8]},
        {"attacks": "attacks?", "surrogates": "surrogates|f", "targets": "targets|f"},
    ),
}
CASES = [(name, *wrong) for name, call in CALLS.items() for wrong in call.spoiled()]


@pytest.mark.parametrize("name", CALLS)
def test_the_call_that_is_then_spoiled_is_right(name):
    CALLS[name].run()


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(CASES))
def test_a_malformed_call_is_refused_by_the_name_of_its_argument(case):
    name, argument, what, value = case
    call = CALLS[name]
    named = call.names.get(argument, argument)
    with pytest.raises((TypeError, ValueError), match=rf"(?<![\w.])({named}|{argument})\b") as caught:
        call.run(**{argument: value})
    # Not in torch's own words, which know no argument of ours.
    assert PACKAGE in caught.traceback[-1].path.parents, f"{what}: {caught.value}"
