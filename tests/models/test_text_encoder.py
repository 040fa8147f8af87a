"""Features of language models: which layers, what is built, what is read."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BertConfig, BertModel, GptOssConfig, GptOssForCausalLM

from leanlens import LensGptOssEncoder
from leanlens.models.text_encoder import layer_features

SIZES = {
    "num_hidden_layers": 6, "num_local_experts": 4, "num_experts_per_tok": 2, "vocab_size": 64, "hidden_size": 32,
    "intermediate_size": 32, "head_dim": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 4,
    "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
IDS = torch.tensor([[5, 9, 11, 30, 7, 8, 20], [6, 2, 40, 0, 0, 0, 0]])
MASK = torch.tensor([[1] * 7, [1, 1, 1, 0, 0, 0, 0]])


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """A stock GPT-OSS checkpoint, as transformers writes it, and its model."""
    torch.manual_seed(0)
    model = GptOssForCausalLM(GptOssConfig(**SIZES)).eval()
    folder = tmp_path_factory.mktemp("stock")
    model.save_pretrained(folder)
    return folder, model


def streams(model, layers) -> list[torch.Tensor]:
    """The residual stream after each layer, caught by hooks on the stock model."""
    caught = {}
    hooks = [
        layer.register_forward_hook(lambda _, __, output, index=index: caught.__setitem__(index, output))
        for index, layer in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        model(input_ids=IDS, attention_mask=MASK)
    for hook in hooks:
        hook.remove()
    return [caught[index] for index in layers]


def test_a_stock_checkpoint_gives_its_residual_streams(stock):
    folder, model = stock
    encoder, info = LensGptOssEncoder.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert encoder.selected_layers == (2, 3, 4, 5)
    with torch.no_grad():
        features = encoder(IDS, MASK)
    for feature, expected in zip(features, streams(model, (2, 3, 4, 5)), strict=True):
        assert torch.allclose(feature[MASK.bool()], expected[MASK.bool()], rtol=1e-4, atol=1e-4)


def test_the_last_feature_is_not_the_normalised_last_hidden_state(stock):
    folder, model = stock
    with torch.no_grad():
        last = LensGptOssEncoder.from_pretrained(folder)(IDS, MASK)[-1]
        normalised = model.model(input_ids=IDS, attention_mask=MASK).last_hidden_state
    assert not torch.allclose(last[0], normalised[0], atol=0.1)


def test_nothing_past_the_last_selected_layer_is_built_or_run(stock):
    folder, model = stock
    encoder = LensGptOssEncoder.from_pretrained(folder, lens_selected_layers=[0, 2])
    assert len(encoder.model.layers) == 3
    assert not encoder.has_head
    assert not [name for name in encoder.state_dict() if name.startswith(("lm_head", "model.norm", "model.layers.3"))]
    with torch.no_grad():
        features = encoder(IDS, MASK)
    assert torch.allclose(features[1][0], streams(model, (2,))[0][0], rtol=1e-4, atol=1e-4)
    calls = []
    encoder.model.layers[2].register_forward_hook(lambda *_: calls.append(1))
    encoder.set_selected_layers([1])
    encoder(IDS, MASK)
    assert not calls


def test_padding_on_the_right_changes_nothing(stock):
    encoder = LensGptOssEncoder.from_pretrained(stock[0])
    with torch.no_grad():
        padded, alone = encoder(IDS, MASK), encoder(IDS[1:, :3], None)
    for a, b in zip(padded, alone, strict=True):
        assert torch.allclose(a[1:, :3], b, rtol=1e-4, atol=1e-4)


def test_the_head_is_there_when_asked_for_and_writes_the_stock_text(stock):
    folder, model = stock
    encoder = LensGptOssEncoder.from_pretrained(folder, lens_keep_head=True)
    assert encoder.has_head
    options = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(encoder.generate(IDS[:1], **options), model.generate(IDS[:1], **options))
    with torch.no_grad():
        assert torch.allclose(encoder(IDS, MASK)[0][0], LensGptOssEncoder.from_pretrained(folder)(IDS, MASK)[0][0])
    with pytest.raises(ValueError, match="without its language-model head; open it with lens_keep_head=True"):
        LensGptOssEncoder.from_pretrained(folder).generate(IDS[:1])


def test_a_stock_state_dict_loads_strictly(stock):
    encoder = LensGptOssEncoder(GptOssConfig(**SIZES))
    encoder.load_state_dict(load_file(stock[0] / "model.safetensors"))


def test_saved_and_reopened(stock, tmp_path):
    encoder = LensGptOssEncoder.from_pretrained(stock[0])
    encoder.set_selected_layers([1, 3])
    encoder.save_pretrained(tmp_path)
    again = LensGptOssEncoder.from_pretrained(tmp_path)
    assert again.selected_layers == (1, 3)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(encoder(IDS, MASK), again(IDS, MASK), strict=True))
    assert isinstance(AutoModelForCausalLM.from_pretrained(stock[0]), GptOssForCausalLM)  # nothing was re-registered


@pytest.mark.parametrize("layers", [[], [6], [-1], [0, 99]])
def test_layers_that_do_not_exist_are_named(stock, layers):
    encoder = LensGptOssEncoder.from_pretrained(stock[0])
    with pytest.raises(ValueError, match="this encoder has layers 0 to 5"):
        encoder.set_selected_layers(layers)


def test_any_other_language_model():
    torch.manual_seed(0)
    config = BertConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, vocab_size=64)
    model = BertModel(config).eval()
    caught = []
    model.encoder.layer[1].register_forward_hook(lambda _, __, output: caught.append(output))
    with torch.no_grad():
        features = layer_features(model, (0, 1, 2), IDS, MASK)
    expected = caught[0] if torch.is_tensor(caught[0]) else caught[0][0]
    assert torch.equal(features[1], expected)
    with pytest.raises(ValueError, match="BertModel has layers 0 to 2"):
        layer_features(model, (3,), IDS, MASK)
