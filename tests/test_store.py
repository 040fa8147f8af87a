import pytest
import torch
from safetensors.torch import save_file

from leanlens.store import Store, content_key


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path):
    store, key = Store(tmp_path / "store"), content_key(a=1)
    tensors = {"x": torch.randn(3, 4).to(torch.bfloat16), "y": torch.randn(4, 4).T, "none": torch.zeros(1, 0, 4)}
    assert store.load(key) is None
    assert key not in store
    store.save(key, tensors)
    assert key in store
    loaded = store.load(key)
    assert set(loaded) == set(tensors)
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert [loaded[name].dtype for name in tensors] == [tensor.dtype for tensor in tensors.values()]


def test_keys_tell_everything_apart():
    keys = [content_key(), content_key(a=1), content_key(a=2), content_key(b=1), content_key(a="1"), content_key(a=[1])]
    assert len(set(keys)) == len(keys)
    assert content_key(a=1, b=2) == content_key(b=2, a=1)
    with pytest.raises(TypeError):
        content_key(a=torch.zeros(1))


def test_damaged_and_misnamed_files_count_as_absent(tmp_path, caplog):
    store, one, two = Store(tmp_path), content_key(a=1), content_key(a=2)
    store.save(one, {"x": torch.ones(4)})
    store.path(two).parent.mkdir(exist_ok=True)
    store.path(two).write_bytes(store.path(one).read_bytes())
    assert store.load(two) is None
    assert "another key" in caplog.text
    save_file({"x": torch.ones(4)}, store.path(two))
    assert store.load(two) is None
    store.path(one).write_bytes(store.path(one).read_bytes()[:-3])
    assert store.load(one) is None
    store.save(one, {"x": torch.zeros(4)})
    assert torch.equal(store.load(one)["x"], torch.zeros(4))


def test_no_file_stays_of_a_failed_write(tmp_path, monkeypatch):
    store, key = Store(tmp_path), content_key(a=1)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        store.save(key, {"x": torch.ones(4)})
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
