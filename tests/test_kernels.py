"""The kernels, with or without a GPU: what they compute (`kernels_against_pytorch.py`), what they are compiled to for
an H100, and where they run by themselves."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

import advlib as al
from advlib import kernels
from advlib.core.draws import Draw
from advlib.files.paths import ROOT

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="no Triton for this platform")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
TESTS = Path(__file__).parent

# --- what they compute -----------------------------------------------------------------------------------------------


@needs_triton
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_the_kernels_compute_what_the_pytorch_code_does(device):
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TESTS / "kernels_against_pytorch.py"]
    env = os.environ | {"KERNELS_DEVICE": device, "TRITON_INTERPRET": str(int(device == "cpu"))}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
        pytest.skip(done.stdout.strip().splitlines()[-2])
    assert done.returncode == 0, done.stdout + done.stderr


# --- where they run --------------------------------------------------------------------------------------------------


def on_a_gpu():
    """Every tensor says that it is on a GPU."""
    return patch.object(torch.Tensor, "is_cuda", True)


def test_kernels_run_on_gpus_alone_and_only_if_there_is_triton(x):
    assert not kernels.run_on(x) and kernels.INSTALLED is (find_spec("triton") is not None)
    with on_a_gpu(), patch.object(kernels, "INSTALLED", True):
        assert kernels.run_on(x)
    with on_a_gpu(), patch.object(kernels, "INSTALLED", False):
        assert not kernels.run_on(x)


def test_compilers_and_functional_transformations_get_the_pytorch_code(x):
    seen = []

    def looked(z):
        seen.append(kernels.run_on(z))
        return z.sum()

    with on_a_gpu(), patch.object(kernels, "INSTALLED", True):
        torch.func.grad(looked)(x)
        torch.func.vmap(looked)(x)
        with patch.object(torch.compiler, "is_compiling", lambda: True):
            looked(x)
    assert seen == [False, False, False]


def test_without_triton_a_gpu_computes_with_the_pytorch_code(x):
    """On the processor, which stands in for the GPU: the numbers are there, and no kernel is asked for."""
    with on_a_gpu(), patch.object(kernels, "INSTALLED", False), patch.dict(sys.modules, {"triton": None}):
        draw = Draw(0, torch.arange(4))
        assert draw.normal(3).shape == draw.uniform(3).shape == (4, 3)
        for transform in (al.RandomErasure(), al.InputDiversity()):
            assert transform(x, draw, torch.arange(4)).shape == x.shape
        ball = al.balls.BALLS["linf"].around(x, 0.1)
        assert al.loop.step(x, x, None, lambda *args: x, draw, al.Elastic(), ball)[0].shape == x.shape


# --- what they are compiled to ---------------------------------------------------------------------------------------


class H100:
    """What Triton asks of a GPU before it launches something there."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """The kernels that a function launches, compiled as for an H100 and not launched."""
    triton = pytest.importorskip("triton", reason="no Triton for this platform")
    from advlib.kernels import draws, erasure, resizing, update

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton.runtime.driver, "_active", H100())
    made = []

    class Compiled:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            return lambda *args, **options: made.append(self.kernel.warmup(*args, grid=grid, **options))

    for module in (erasure, resizing):
        monkeypatch.setattr(module, "wrap_triton", Compiled)
    for module in (draws, update):
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            monkeypatch.setattr(module, name, Compiled(getattr(module, name)))

    def run(function):
        made.clear()
        function()
        return list(made)

    return run


def used(kernel, folder):
    """Registers of a thread, and its bytes in memory: its stack and what was spilled."""
    from triton import knobs

    (folder / "kernel.cubin").write_bytes(kernel.asm["cubin"])
    words = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", folder / "kernel.cubin"]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return [int(re.search(rf"{what}:(\d+)", told)[1]) for what in ("REG", "STACK", "LOCAL")]


def wide(kernel):
    """How many loads and stores of 16 bytes there are, and how many in all of images: not of one number for a row."""
    ptx = kernel.asm["ptx"]
    return [len(re.findall(rf"{what}\.global\.v4", ptx)) for what in ("ld", "st")]


INDEX = torch.arange(8)


def drawn(kind, count=3 * 224 * 224, index=INDEX, seed=3, step=2, stream=16):
    from advlib.kernels import draws

    return getattr(draws, kind)(index, index, seed, step, stream, count)


def erased(dtype=torch.float32, layout=torch.channels_last, side=224, **options):
    """Random erasure and back."""
    x = torch.rand(2, 3, side, side, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    rows = torch.arange(2).repeat(5)
    out = al.RandomErasure(**options)._fused(x, Draw(3, rows, 2, rows, 16), rows)
    torch.autograd.grad(out, x, torch.empty_like(out))


def resized(dtype=torch.float32, layout=torch.channels_last, side=224):
    """Input diversity and back."""
    from advlib.kernels.resizing import resize

    x = torch.rand(2, 3, side, side, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    out = resize(x, INDEX[:2], INDEX[:2], 3, 2, 16, 0.5, 1.1, False)
    torch.autograd.grad(out, x, torch.empty_like(out))


def stepped(norm="linf", side=224, **options):
    """A step of an attack, back into its ball."""
    x = torch.rand(2, 3, side, side)
    ball = al.balls.BALLS[norm].around(x, 8 / 255)
    al.loop._fused(x, x, x, al.Elastic(**options), ball)


NCHW = torch.contiguous_format
COMPILED = {
    "uniform": (lambda: drawn("uniform"), [24]),
    "uniform of int32": (lambda: drawn("uniform", index=INDEX.int()), [24]),
    "normal": (lambda: drawn("normal"), [40]),
    "five numbers": (lambda: drawn("uniform", 5), [16]),
    "erase": (lambda: erased(), [40, 48]),
    "erase, small": (lambda: erased(side=32), [48, 48]),
    "erase, contiguous": (lambda: erased(layout=NCHW), [40, 48]),
    "erase, odd": (lambda: erased(side=31), [48, 64]),
    "erase, bfloat16": (lambda: erased(torch.bfloat16), [40, 48]),
    "erase, as the text": (lambda: erased(aspect=0.3, fill=0.5), [40, 48]),
    "resize": (lambda: resized(), [40, 40]),
    "resize, small": (lambda: resized(side=32), [40, 40]),
    "resize, contiguous": (lambda: resized(layout=NCHW), [40, 56]),
    "resize, odd": (lambda: resized(side=31), [40, 40]),
    "resize, bfloat16": (lambda: resized(torch.bfloat16), [40, 40]),
    "step": (lambda: stepped(), [24, 32]),
    "step, small": (lambda: stepped(side=32), [24, 32]),
    "step, odd": (lambda: stepped(side=31), [24, 48]),
    "step, no decay": (lambda: stepped(mu=0.0), [24, 32]),
    "step, by the L2 norm": (lambda: stepped(normalize="l2"), [32, 32]),
    "step, L2": (lambda: stepped("l2"), [24, 40, 40, 40]),
}
"""What is launched, and the most registers that each kernel may take: as measured with Triton 3.6 and 3.8, rounded up
to the next 8, by which they are handed out. At 64 an H100 holds half of the threads that it could."""


@pytest.mark.parametrize("name", COMPILED)
def test_an_h100_has_room_for_the_kernels(compiled, tmp_path, name):
    launch, most = COMPILED[name]
    # The cosine keeps 32 bytes for arguments of 1e5 and more, which do not occur.
    spilled = 32 if name == "normal" else 0
    for i, (kernel, limit) in enumerate(zip(compiled(launch), most, strict=True)):
        registers, stack, local = used(kernel, tmp_path)
        assert (registers <= limit, stack, local) == (True, spilled, 0), (registers, limit)
        by_four = "odd" not in name and "resize" not in name and name != "five numbers"
        loads, stores = wide(kernel)
        # The first and the third kernel of a step write one number a block, and no image.
        assert (stores > 0) == (by_four and not ("step" in name and i in (0, 2)))
        assert (loads > 0) == (by_four and any(word in name for word in ("erase", "step")))


def test_another_place_compiles_no_other_kernel(compiled):
    places = [(seed, step, stream) for seed in (0, 1, 7) for step in (-1, 0, 1, 16) for stream in (1, 16)]
    made = compiled(lambda: [drawn("uniform", 3, seed=s, step=t, stream=z) for s, t, z in places])
    assert len({kernel.hash for kernel in made}) == 1 and len(made) == len(places)


@needs_triton
def test_numbers_may_be_compiled_in():
    """As compilers do where one is 1, whatever a kernel asks for."""
    import triton

    from advlib.kernels.draws import _uniform_kernel as kernel

    types = dict.fromkeys(kernel.arg_names, "i32") | {"out": "*fp32", "index": "*i64", "copy": "*i64"}
    given = {"seed": -7, "step": 1, "stream": 16, "BLOCK": 1024}
    constants = {(kernel.arg_names.index(name),): value for name, value in given.items()}
    source = triton.compiler.ASTSource(kernel, types | dict.fromkeys(given, "constexpr"), constants)
    assert triton.compile(source, H100().get_current_target()).asm["cubin"]


@pytest.mark.parametrize("function", [erased, resized])
def test_bfloat16_is_rounded_to_nearest(compiled, function):
    """Which the interpreter does not do, and the test with it cannot see."""
    for kernel in compiled(lambda: function(torch.bfloat16)):
        casts = set(re.findall(r"cvt\.\w+\.bf16\w*\.f32", kernel.asm["ptx"]))
        assert casts and all(cast.startswith("cvt.rn.") for cast in casts)
