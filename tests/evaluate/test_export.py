import json

from leanlens.evaluate.export import write_prompts
from tests.evaluate.stub import stub_suite


def test_every_image_has_a_name_and_a_seed(tmp_path):
    write_prompts(stub_suite(2), tmp_path / "prompts.jsonl", seed=7)
    rows = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert rows[2] == {"file_name": "00001_0.png", "prompt": "prompt 1", "id": "00001", "seed": 8, "size": [8, 8]}
    assert [row["seed"] for row in rows] == [7, 1_000_007, 8, 1_000_008]
    write_prompts(stub_suite(2), tmp_path / "one.jsonl", seeds=1)
    assert len((tmp_path / "one.jsonl").read_text().splitlines()) == 2
