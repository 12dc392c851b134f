"""Importers of labelled tables, on sources small enough to read."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from recsys_core.datasets.labelled import criteo_kaggle, deepctr, frappe, taobao_ad
from recsys_core.progress import silent

DAY = datetime.date(2024, 1, 1)


def _read(path):
    return pq.read_table(path).to_pylist()


def _criteo_line(label, first):
    return "\t".join([str(label), str(first), "-2", *[""] * 11, "68fd1e64", *[""] * 25])


def test_criteo_s_train_txt_is_cut_in_its_order(tmp_path):
    source, root = tmp_path / "source", tmp_path / "root"
    source.mkdir()
    # No newline at the end: the last row counts all the same.
    (source / "train.txt").write_text("\n".join(_criteo_line(n % 2, n) for n in range(14)))
    config = criteo_kaggle.Config(source=str(source), day=DAY, held_out_share=0.3)
    assert criteo_kaggle.write(config, root, silent) == {"train": 10, "valid": 2, "test": 2}
    rows = [_read(root / split) for split in ("train", "valid", "test")]
    assert [row["int_1"] for part in rows for row in part] == list(range(14))
    first = rows[0][0]
    assert (first["label"], first["int_2"], first["int_3"], first["cat_1"]) == (0, -2, None, "68fd1e64")
    assert first["cat_26"] is None


def test_criteo_s_own_splits_are_taken_as_they_are(recsys_data, tmp_path):
    files = {"train": "train.csv", "valid": "dev.csv", "test": "test.csv"}
    config = criteo_kaggle.Config(source=str(recsys_data("criteo-sample")), day=DAY, files=files)
    assert criteo_kaggle.write(config, tmp_path / "root", silent) == {"train": 7200, "valid": 409, "test": 391}


@pytest.mark.parametrize(
    ("lines", "files", "message"),
    [
        (["1\t2"], None, "train.txt has 1 rows, too few to part"),
        (["1\t2"] * 5, None, "is it the published file"),
        (["1\t2"] * 5, {"test": "train.txt"}, "data.files: names no file for train"),
    ],
)
def test_criteo_refuses_what_is_not_the_published_file(tmp_path, lines, files, message):
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    config = criteo_kaggle.Config(source=str(tmp_path), day=DAY, files=files)
    with pytest.raises(ValueError, match=message):
        criteo_kaggle.write(config, tmp_path / "root", silent)


def test_frappe_s_splits_keep_their_columns_and_need_them_all(tmp_path):
    columns = {name: ["x"] for name in frappe._COLUMNS[1:]} | {"label": [1], "other": [0]}
    for split in ("train", "valid", "test"):
        pq.write_table(pa.table(columns), tmp_path / f"{split}.parquet")
    config = frappe.Config(source=str(tmp_path), day=DAY)
    assert frappe.write(config, tmp_path / "root", silent) == {"train": 1, "valid": 1, "test": 1}
    assert set(_read(tmp_path / "root" / "test")[0]) == set(frappe._COLUMNS)
    pq.write_table(pa.table(columns).drop_columns(["city"]), tmp_path / "valid.parquet")
    with pytest.raises(ValueError, match="no column 'city'"):
        frappe.write(config, tmp_path / "again", silent)


@pytest.fixture(scope="module")
def taobao(tmp_path_factory):
    """Rows of the importer over 40 users, each with up to 6 clicks before the last day and up to 2 on it."""
    source, root = (tmp_path_factory.mktemp("taobao") / name for name in ("source", "root"))
    source.mkdir()
    rng = np.random.default_rng(3)
    clicks = {
        "train": [(u, i) for u in range(40) for i in rng.choice(30, rng.integers(1, 7), replace=False)],
        "test": [(u, i) for u in range(0, 40, 2) for i in rng.choice(30, rng.integers(1, 3), replace=False)],
    }
    for split, pairs in clicks.items():
        users, items = zip(*pairs, strict=True)
        pq.write_table(pa.table({"user_id": users, "adgroup_id": items}), source / f"{split}.parquet")
    fields = {name: np.arange(40) % 3 for name in taobao_ad.taobao_ad._USER_FIELDS}
    pq.write_table(pa.table({"user_id": np.arange(40)} | fields), source / "users.parquet")
    items = {"adgroup_id": np.arange(30), "cate_id": np.arange(30) % 5, "brand": np.arange(30) % 7}
    pq.write_table(pa.table(items | {"price_level": np.arange(30) % 4}), source / "items.parquet")
    config = taobao_ad.Config(source=str(source), day=DAY, num_negatives=2, max_length=3, valid_share=0.3)
    counts = taobao_ad.write(config, root, silent)
    assert sorted(path.name for path in root.iterdir()) == ["test", "train", "valid"]
    return clicks, counts, {split: _read(root / split) for split in counts}


def test_taobao_has_a_row_for_each_click_and_its_negatives(taobao):
    clicks, counts, rows = taobao
    positives = {s: {(r["user_id"], r["item_id"]) for r in rows[s] if r["label"]} for s in rows}
    assert positives["test"] == set(clicks["test"])
    assert positives["train"] | positives["valid"] == set(clicks["train"])
    assert counts["train"] + counts["valid"] == 3 * len(clicks["train"])
    assert not {user for user, _ in positives["train"]} & {user for user, _ in positives["valid"]}


def test_taobao_s_negatives_were_never_clicked_by_the_user(taobao):
    clicks, _, rows = taobao
    clicked = {*clicks["train"], *clicks["test"]}
    early = {item for _, item in clicks["train"]}
    for row in (row for split in rows.values() for row in split if not row["label"]):
        assert (row["user_id"], row["item_id"]) not in clicked
        assert row["item_id"] in early


def test_taobao_s_sequences_are_the_other_earlier_clicks_and_do_not_leak_the_label(taobao):
    clicks, _, rows = taobao
    for split, part in rows.items():
        for position, row in enumerate(part):
            positive = part[position - position % 3]
            assert row["clicked_item_id"] == positive["clicked_item_id"]
            others = {i for u, i in clicks["train"] if u == row["user_id"]} - {positive["item_id"]}
            assert set(row["clicked_item_id"]) <= others, split
            # On the last day an ad may be clicked again; it leaves the kept ones.
            assert len(row["clicked_item_id"]) in ({min(len(others), 3)} | ({2} if split == "test" else set()))
            assert row["item_id"] not in row["clicked_item_id"]
            assert row["clicked_cate_id"] == [item % 5 for item in row["clicked_item_id"]]


def _deepctr(**keys):
    sizes = {"num_files": 2, "rows_per_file": 300, "max_length": 9, "num_texts": 20}
    return deepctr.Config.model_validate({"day": DAY} | sizes | keys)


def test_deepctr_s_rows_have_the_example_s_shape(tmp_path):
    assert deepctr.write(_deepctr(), tmp_path, silent) == {"train": 600, "test": 300}
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.orc"))
    assert files == ["test/part-00000.orc", "train/part-00000.orc", "train/part-00001.orc"]
    rows = orc.ORCFile(tmp_path / "train" / "part-00001.orc").read().to_pylist()
    assert [row["sparse1"] for row in rows] == [row["sparse3"] for row in rows] == [[n] for n in range(300)]
    assert {len(row["dense1"]) for row in rows} == {8}
    assert {len(row["dense2"]) for row in rows} == {1}
    assert {len(row["sparse4"]) for row in rows} == {len(row["sparse5"]) for row in rows} == set(range(1, 10))
    assert all(0 <= id_ < 1_000_000 for row in rows for id_ in row["sparse4"])
    texts = {text for row in rows for text in row["sparse5"]}
    assert len(texts) == 20
    assert all(len(text) == 10 and text.isalnum() and text.isascii() for text in texts)
    assert {row["label"] for row in rows} == {0, 1}


def test_deepctr_s_files_do_not_depend_on_each_other_and_follow_the_seed():
    assert [*deepctr.parts(_deepctr(), 1)] == [*deepctr.parts(_deepctr(num_files=7, num_test_files=0), 1)]
    assert [*deepctr.parts(_deepctr(), 1)] != [*deepctr.parts(_deepctr(), 0)]
    assert [*deepctr.parts(_deepctr(), 1)] != [*deepctr.parts(_deepctr(seed=1), 1)]


def test_deepctr_s_labels_follow_from_the_columns_as_far_as_the_signal_says():
    def correlation(signal):
        rows = pa.concat_tables(deepctr.parts(_deepctr(rows_per_file=5_000, signal=signal), 0))
        above = rows["dense2"].combine_chunks().flatten().to_numpy() >= 0.5
        return np.corrcoef(above, rows["label"].to_numpy())[0, 1]

    assert abs(correlation(0)) < 0.05
    assert 0.1 < correlation(1) < 0.4
    assert correlation(50) > correlation(1)
