"""Files of other authors: read as what they are, or refused with a reason, and never run."""

import numpy as np
import pytest
import torch
from conftest import grid_images
from torch import nn

from advlib.defenses import authors
from advlib.zoo.purifiers import CompressionPair, DenoisingUNet, NRPNet
from advlib.zoo.weights import WeightsError

PUBLISHED = (16, 32, 64, 128, 256, 128, 64, 32)


def arrays(chain):
    """The convolutions of a chain as the authors' file holds them."""
    found = np.empty(len(chain.state_dict()), dtype=object)
    for i, value in enumerate(chain.state_dict().values()):
        found[i] = value.permute(2, 3, 1, 0).numpy() if value.ndim == 4 else value.numpy()
    return found


@pytest.fixture
def comdefend(tmp_path):
    torch.manual_seed(0)
    pair, files = CompressionPair(PUBLISHED), [tmp_path / "enc20_0.0001.npy", tmp_path / "dec20_0.0001.npy"]
    np.save(files[0], arrays(pair.encoder), allow_pickle=True)
    np.save(files[1], arrays(pair.decoder), allow_pickle=True)
    return pair, files


def test_comdefend_from_lists_of_arrays(comdefend):
    pair, files = comdefend
    defence, x = authors.purifier("comdefend", files), grid_images(2, 16, 16)
    assert defence.kind == "faithful" and defence.gradients == "straight-through"
    assert torch.equal(defence.purified(x, None), pair(x).clamp(0, 1))


def test_hgd_is_the_denoiser_of_the_checkpoint_and_sees_what_inception_sees(tmp_path):
    torch.manual_seed(0)
    net = DenoisingUNet((64, 128, 256, 256, 256), (2, 3, 3, 3, 3)).eval()
    nn.init.normal_(net.final.weight, std=0.01)
    state = {f"net.denoise.{k}": v for k, v in net.state_dict().items() if "num_batches" not in k}  # as torch 0.2 did
    torch.save({"state_dict": state | {"net.conv1.weight": torch.zeros(3)}}, tmp_path / "denoise.ckpt")
    defence, x = authors.purifier("hgd", tmp_path / "denoise.ckpt"), grid_images(1, 32, 32)
    with torch.no_grad():
        wanted = (net(2 * x - 1) + 1) / 2
        assert torch.allclose(defence.purified(x, None), wanted.clamp(0, 1), atol=1e-6)
    assert (wanted - x).abs().max() > 1e-3 and defence.kind == "faithful" and defence.gradients == "exact"


@pytest.fixture
def nrp(tmp_path, monkeypatch):
    monkeypatch.setattr(authors, "NRPNet", lambda blocks, width, growth: NRPNet(2, 8, 4))
    net = NRPNet(2, 8, 4)
    torch.save(net.state_dict(), tmp_path / "NRP.pth")
    return net, tmp_path / "NRP.pth"


def test_nrp(nrp):
    net, file = nrp
    defence, x = authors.purifier("nrp", file), grid_images(2)
    assert torch.equal(defence.purified(x, None), net(x).clamp(0, 1)) and defence.kind == "faithful"


def test_noise_trained_resnet(tmp_path):
    import torchvision

    torch.manual_seed(0)
    net, file = torchvision.models.resnet50().eval(), tmp_path / "checkpoint.pth.tar"
    torch.save({"arch": "resnet50", "state_dict": {f"1.module.{k}": v for k, v in net.state_dict().items()}}, file)
    found, x = authors.noise_trained(file), grid_images(1, 224, 224)
    with torch.no_grad():
        assert torch.allclose(found(x), net((x - found.mean) / found.std), atol=1e-5)
    torch.save({"state_dict": {}}, file)
    with pytest.raises(WeightsError, match="not the weights"):
        authors.noise_trained(file)


@pytest.mark.parametrize("kind", ["hgd", "nrp"])
def test_what_is_wrong_with_a_file_is_said(kind, tmp_path, comdefend, nrp):
    with pytest.raises(WeightsError, match="missing; .* of github.com"):
        authors.purifier(kind, tmp_path / "none.pth")
    torch.save(CompressionPair().state_dict(), tmp_path / "other.pth")
    for other in (tmp_path / "other.pth", comdefend[1][0]):
        with pytest.raises(WeightsError, match=f"not the weights of the published {kind}"):
            authors.purifier(kind, other)
    with pytest.raises(WeightsError, match="sha256"):
        authors.purifier("nrp", nrp[1], sha256="0" * 64)
    with pytest.raises(ValueError, match="expected one of hgd, comdefend, nrp"):
        authors.purifier("vgg", nrp[1])
    with pytest.raises(ValueError, match="enc20_0.0001.npy and dec20_0.0001.npy"):
        authors.purifier("comdefend", comdefend[1][0])


def test_comdefend_files_in_the_wrong_order_or_shape_do_not_fit(comdefend):
    encoder, decoder = comdefend[1]
    for files in ([decoder, encoder], [encoder, encoder]):
        with pytest.raises(WeightsError, match="not the weights"):
            authors.purifier("comdefend", files)


def test_a_file_that_would_run_something_is_refused(comdefend, tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    held = np.empty(1, dtype=object)
    held[0] = Harmful()
    np.save(comdefend[1][0], held, allow_pickle=True)
    with pytest.raises(WeightsError, match="asks for"):
        authors.purifier("comdefend", comdefend[1])
    torch.save(Harmful(), tmp_path / "harmful.pth")
    with pytest.raises(WeightsError, match="not the weights"):
        authors.purifier("nrp", tmp_path / "harmful.pth")
    assert not (tmp_path / "written").exists()


DAMAGED = {
    "empty": b"",
    "text": b"abc",
    "zip header": b"PK\x03\x04",
    "pickle of nothing": b"\x80\x02.",
    "pickle of a dict": b"\x80\x02}q\x00.",
    "pickle of a number": b"\x80\x02K\x01.",
    "huge frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    "zeros": bytes(64),
    "none": None,
    "list": [1],
    "number": 3,
    "no tensors": {"a": 1},
    "no state": {"state_dict": None},
    "list of states": {"state_dict": []},
    "keys that are numbers": {1: torch.zeros(1)},
    "state of numbers": {"state_dict": {1: torch.zeros(1)}},
    "none inside": {"state_dict": {"denoise.a": None}},
    "other names": {"denoise.x": torch.zeros(2)},
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("kind", ["hgd", "nrp", "rs"])
def test_a_damaged_file_is_named(kind, content, tmp_path):
    file = tmp_path / "published.pth"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(WeightsError, match="published.pth: not the weights of the published"):
        authors.noise_trained(file) if kind == "rs" else authors.purifier(kind, file)


def test_any_flipped_byte_of_a_file_is_an_error_with_its_name_or_changes_numbers_alone(nrp):
    _, file = nrp
    whole, generator = file.read_bytes(), np.random.default_rng(0)
    for at in generator.integers(0, len(whole), 60):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            found = authors.purifier("nrp", file)
        except WeightsError as error:
            assert "NRP.pth" in str(error)
        else:
            assert all(value.isfinite().all() for value in found.net.state_dict().values())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(nrp, value):
    net, file = nrp
    net.conv_first.weight.data[0, 0, 0, 0] = value
    torch.save(net.state_dict(), file)
    with pytest.raises(WeightsError, match="NRP.pth: .*conv_first.weight holds numbers that are not finite"):
        authors.purifier("nrp", file)


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff", np.zeros(3), np.zeros(3, object), np.zeros((3, 2, 1))]
)
def test_damaged_lists_of_arrays_are_named(comdefend, content):
    _, files = comdefend
    files[0].write_bytes(content) if isinstance(content, bytes) else np.save(files[0], content, allow_pickle=True)
    with pytest.raises(WeightsError, match="enc20_0.0001.npy.*: not the weights"):
        authors.purifier("comdefend", files)


def test_arrays_of_whole_numbers_are_no_weights(comdefend):
    pair, files = comdefend
    whole = arrays(pair.encoder)
    whole[0] = np.zeros(whole[0].shape, np.int8)
    np.save(files[0], whole, allow_pickle=True)
    with pytest.raises(WeightsError, match="torch.int8, expected torch.float32"):
        authors.purifier("comdefend", files)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: authors.purifier("nrp", None), "files"),
        (lambda: authors.purifier("comdefend", ["a", 3]), "files"),
        (lambda: authors.purifier(None, "a"), "kind"),
        (lambda: authors.purifier("nrp", "a", 3), "sha256"),
        (lambda: authors.noise_trained(None), "files"),
    ],
)
def test_what_is_no_path_is_refused_by_name(call, named):
    with pytest.raises(TypeError, match=named):
        call()
