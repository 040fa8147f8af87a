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


def test_json_values_are_kept_beside_tensors(tmp_path):
    store, key = Store(tmp_path), content_key(a=1)
    value = {"text": "ja, é \u2028 \U0001f986", "list": [1, 2.5, None, True], "empty": ""}
    assert store.load_json(key) is None
    store.save_json(key, value)
    assert store.load_json(key) == value
    assert store.load(key) is None
    store.save(key, {"x": torch.ones(2)})
    store.save_json(key, ["other"])
    assert store.load_json(key) == ["other"]
    assert torch.equal(store.load(key)["x"], torch.ones(2))


def test_damaged_and_misnamed_json_counts_as_absent(tmp_path, caplog):
    store, one, two = Store(tmp_path), content_key(a=1), content_key(a=2)
    store.save_json(one, 1)
    path = store.path(two, ".json")
    path.parent.mkdir(exist_ok=True)
    for content in (store.path(one, ".json").read_bytes(), b"{", b"[]", b'{"key": "%s"}' % two.encode(), b"\xff"):
        path.write_bytes(content)
        assert store.load_json(two) is None
    assert "another key" in caplog.text
    with pytest.raises(TypeError):
        store.save_json(two, {1, 2})
    with pytest.raises(TypeError, match="value None"):
        store.save_json(two, None)
    with pytest.raises(ValueError, match="JSON"):
        store.save_json(two, float("nan"))
    assert sorted(path.name for path in tmp_path.rglob("*.json")) == sorted([f"{one}.json", path.name])
